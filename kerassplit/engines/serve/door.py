"""HTTP ingress of a served application: checks requests, runs them, and answers."""

import asyncio
import contextlib
import hmac
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ray import serve
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from kerassplit.engines.route import Route
from kerassplit.engines.serve.batches import Batches, is_stackable
from kerassplit.engines.serve.bodies import GIVEN, JSON, TAKEN, read, wanted, write
from kerassplit.engines.serve.health import Health
from kerassplit.engines.serve.limits import Refused
from kerassplit.engines.serve.options import Options, digest
from kerassplit.engines.serve.stage import LOGGER, Pinned

_READERS = 4  # bodies parsed at a time: parsing takes several times their size in memory
_SLOW = 1.0  # seconds after which an incomplete body can be displaced by a new request


class Door:
    """Serve deployment that answers HTTP requests.

    Args:
        route: Order and tensors of the stages.
        options: Limits and timeouts.
        token: Digest of the token that clients must send; `None` for no token.
        pinned: Folder of the stages.
        wanted: Expected number of processes per stage.
        stages: Handles of the stages.
    """

    def __init__(
        self,
        route: Route,
        options: Options,
        token: bytes | None,
        pinned: Pinned,
        wanted: Mapping[str, int],
        *stages: Any,
    ):
        self.route, self.options, self.token = route, options, token
        self.limits = options.limits(is_stackable(route))
        self.health = Health(serve.get_replica_context().app_name, wanted, pinned)
        self.batches = Batches(route, options, self.health, stages)
        self.readers = ThreadPoolExecutor(_READERS)
        self.open = 0
        self.arriving: dict[asyncio.Timeout, float] = {}  # bodies still arriving, with their start times; oldest first

    async def __call__(self, request: Request) -> Response:
        path = request.scope["path"].removeprefix(request.scope.get("root_path", "")) or "/"
        try:
            known = self.is_known(request)
            if request.method in ("GET", "HEAD") and path == "/health":
                return await self.healthy(known)
            if not known:
                raise Refused(401, "Missing or wrong token. Send `Authorization: Bearer TOKEN`.")
            if request.method == "POST" and path == "/":
                return await self.answer(request)
            if request.method in ("GET", "HEAD") and path == "/":
                return JSONResponse(self.description())
            if path in ("/", "/health"):
                raise Refused(405, f"{request.method} is not for {path}. Use POST /, GET / or GET /health.")
            raise Refused(404, f"There is nothing at {path[:200]}. POST / runs the stages, GET / describes them.")
        except Refused as refusal:
            return _refusal(refusal, "authorization" in request.headers)
        except ClientDisconnect:
            return Response(status_code=400)  # the client is gone
        except Exception:
            LOGGER.exception("Request failed.")
            return JSONResponse({"error": "Internal error; see the server log."}, 500)

    def is_known(self, request: Request) -> bool:
        """True if a request carries the token, or none is needed."""
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        token = given.strip() if scheme.lower() == "bearer" else ""
        return self.token is None or hmac.compare_digest(digest(token), self.token)

    async def healthy(self, known: bool) -> Response:
        """Returns the health: the status for everyone, the reason only with the token."""
        state = await self.health.state()
        reason = {"reason": state.reason} if known and state.reason else {}
        return JSONResponse({"status": state.status, **reason}, 503 if state.status == "down" else 200)

    async def answer(self, request: Request) -> Response:
        """Runs the stages on the body of a request."""
        kind = wanted(request.headers.get("accept", ""))
        content_type = request.headers.get("content-type", "")
        with self.place():
            body = await self.body(request)
            loop, limits, architecture = asyncio.get_running_loop(), self.limits, self.options.architecture
            tensors = await loop.run_in_executor(
                self.readers, read, content_type, body, self.route.takes, limits, architecture
            )
            del body
            results = await self.batches.run(tensors)
            try:
                return Response(await asyncio.to_thread(write, results, kind), media_type=kind)
            except ValueError as error:  # strings, which the array formats cannot hold
                raise Refused(406, f"The results cannot be encoded as {kind}. Accept {JSON}.") from error

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """Counts a request against `max_connections`; when full, displaces the slowest incomplete body."""
        if self.open >= self.options.max_connections:
            now, slowest = asyncio.get_running_loop().time(), next(iter(self.arriving), None)
            if slowest is None or now - self.arriving[slowest] < _SLOW:
                raise Refused(
                    503, f"The server is at its limit of {self.options.max_connections} concurrent requests. Try again."
                )
            del self.arriving[slowest]
            slowest.reschedule(now)
        self.open += 1
        try:
            yield
        finally:
            self.open -= 1

    async def body(self, request: Request) -> bytes:
        """Receives the body within the size and time limits."""
        try:
            async with asyncio.timeout(self.options.body_timeout) as limit:
                self.arriving[limit] = asyncio.get_running_loop().time()
                try:
                    return await self.received(request)
                finally:
                    self.arriving.pop(limit, None)
        except TimeoutError as error:
            most = f"{self.options.body_timeout:g} seconds, less when the server is full"
            raise Refused(408, f"The body did not arrive in time: the limit is {most}.") from error

    async def received(self, request: Request) -> bytes:
        """Receives the body; reads somewhat past the limit, so that the client gets to see the refusal."""
        length, most = request.headers.get("content-length", ""), self.limits.body
        parts, size = [], 0
        announced = int(length) if length.isdecimal() and len(length) < 20 else 0
        async for part in request.stream():
            size += len(part)
            if size > 2 * most:
                break
            if max(size, announced) <= most:
                parts.append(part)
            else:
                parts.clear()
        if max(size, announced) > most:
            raise Refused(413, f"The body has {max(size, announced)} bytes or more; up to {most} are accepted.")
        return b"".join(parts)

    def description(self) -> dict[str, Any]:
        """Returns the answer to `GET /`."""
        return {
            "model": self.route.model,
            "stages": [step.name for step in self.route.steps],
            "takes": {one.name: {"shape": one.shape, "dtype": one.dtype} for one in self.route.takes},
            "gives": self.route.outputs,
            "content_types": TAKEN,
            "accepts": GIVEN,
            "max_rows": self.limits.rows or self.route.batch,
            "max_body_bytes": self.limits.body,
            "max_json_bytes": self.limits.json,
            **({} if self.route.preprocessor is None else {"preprocessor": self.route.preprocessor}),
        }


def _refusal(refusal: Refused, tried: bool) -> Response:
    """Turns a refusal into a response; `tried`: the request carried some token."""
    wrong = ', error="invalid_token"' if tried else ""
    headers = {
        401: {"WWW-Authenticate": f'Bearer realm="kerassplit"{wrong}'},
        408: {"Connection": "close"},
        413: {"Connection": "close"},
        503: {"Retry-After": "1"},
    }
    text = str(refusal).encode("utf-8", "backslashreplace").decode()  # names can contain lone surrogates
    return JSONResponse({"error": text}, refusal.status, headers.get(refusal.status))
