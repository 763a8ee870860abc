"""Options of `kerassplit.engines.serve.application.app`, validated."""

import hashlib
import os
import re
from collections.abc import Mapping
from typing import Any

import pydantic

from kerassplit.engines.serve.limits import Limits
from kerassplit.errors import SplitError
from kerassplit.files.sizes import parse_bytes
from kerassplit.text import listed

TOKEN_VARIABLE = "KERASSPLIT_SERVE_TOKEN"
_TOKEN = re.compile(r"[A-Za-z0-9\-._~+/]{16,1000}=*")  # RFC 6750; long enough not to be guessed


class Options(pydantic.BaseModel, extra="forbid", hide_input_in_errors=True):
    """Options of `app`.

    Attributes:
        folder: Folder that `Split.save` wrote.
        stages: Names of the stages to serve, consecutive in the model (comma-separated, or a list); all by default.
            The stages of a tail take the crossing tensors, by name.
        architecture: Such as `"ResNet50"`: its own preprocessing is applied to images.
        max_batch_size: Maximum rows per batch.
        batch_wait_timeout_s: Seconds a request waits for others to fill its batch.
        max_rows: Maximum rows per request; `max_batch_size` by default.
        max_body: Maximum size of a request body, such as `"16 MiB"`.
        max_json: Maximum size of a JSON body; parsing one takes up to 30 times its size in memory.
        max_connections: Maximum concurrent requests, including those whose body is still arriving. When the server
            is full, a new request displaces the one whose body has been arriving longest.
        body_timeout: Seconds for a body to arrive.
        run_timeout: Seconds for the stages to answer, restarts of dead processes included.
        token: Secret that clients send as `Authorization: Bearer TOKEN`. Defaults to the environment variable
            `KERASSPLIT_SERVE_TOKEN`; with neither, requests need no token.
        replicas: Number of processes of each stage: one number for all, or by stage name.
        num_cpus: CPUs for each process of a stage.
        num_gpus: GPUs, likewise. Stages without a GPU see none.
        safe_mode: As in `kerassplit.load`.
    """

    folder: str
    stages: list[str] | str | None = None
    architecture: str | None = None
    max_batch_size: int = pydantic.Field(32, ge=1)
    batch_wait_timeout_s: float = pydantic.Field(0.01, ge=0)
    max_rows: int | None = pydantic.Field(None, ge=1)
    max_body: str | int = "32 MiB"
    max_json: str | int = "4 MiB"
    max_connections: int = pydantic.Field(128, ge=1)
    body_timeout: float = pydantic.Field(30, gt=0)
    run_timeout: float = pydantic.Field(120, gt=0)
    token: pydantic.SecretStr | None = None
    replicas: int | dict[str, int] = 1
    num_cpus: float = pydantic.Field(1, ge=0)
    num_gpus: float = pydantic.Field(0, ge=0)
    safe_mode: bool = True

    def limits(self, stackable: bool) -> Limits:
        """Returns the limits of a request body."""
        body = int(parse_bytes(self.max_body, "max_body"))
        rows = self.max_batch_size if self.max_rows is None else self.max_rows
        json = min(body, int(parse_bytes(self.max_json, "max_json")))
        return Limits(body, json, rows if stackable else None)


def options_in(args: Mapping[str, Any]) -> tuple[Options, bytes | None]:
    """Validates options; returns them without the token, and the token's digest (`None` without a token).

    Raises:
        SplitError: An option is unknown or invalid.
    """
    try:
        options = Options.model_validate(dict(args))
    except pydantic.ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        known = listed(Options.model_fields)
        raise SplitError(f"These options cannot be used: {problems}. The options are {known}.") from error
    token = os.environ.get(TOKEN_VARIABLE) if options.token is None else options.token.get_secret_value()
    options = options.model_copy(update={"token": None})
    if token is None:
        return options, None
    if not _TOKEN.fullmatch(token):
        raise SplitError(
            f"`token` (or {TOKEN_VARIABLE}) is invalid: use at least 16 characters out of A-Z, a-z, 0-9 and -._~+/. "
            'To generate one: python -c "import secrets; print(secrets.token_urlsafe(32))".'
        )
    return options, digest(token)


def digest(token: str) -> bytes:
    """Returns the SHA-256 of a token, the form in which it is stored and compared."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
