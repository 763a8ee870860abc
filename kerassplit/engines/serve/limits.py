"""Limits of a request, and the error for a refused one."""

from dataclasses import dataclass
from typing import Any

from kerassplit.cutting.crossing import CrossingTensor
from kerassplit.errors import restored, without_terminal_codes


class Refused(Exception):  # noqa: N818 (an answer rather than an error)
    """A refused request. Its text goes to the client, so it never includes the text of an unknown exception.

    Attributes:
        status: The HTTP status.
    """

    def __init__(self, status: int, message: str):
        super().__init__(without_terminal_codes(message))
        self.status = status

    def __reduce__(self) -> tuple[Any, ...]:
        return restored, (type(self), self.args), vars(self)


@dataclass(frozen=True)
class Limits:
    """Limits of a request body.

    Attributes:
        body: Bytes, before and after decompression.
        json: Bytes of a JSON body; parsing one takes up to 30 times its size in memory.
        rows: Rows per request; `None` for models with a fixed batch size.
    """

    body: int
    json: int
    rows: int | None = None


def shown(taken: CrossingTensor) -> str:
    """Describes a tensor in a message: name, shape and dtype."""
    sides = ", ".join("any" if side is None else str(side) for side in taken.shape)
    return f"'{taken.name}' ({sides}) {taken.dtype}"
