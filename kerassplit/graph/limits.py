"""Limits on the size of a model, set by environment variables so that child processes inherit them."""

import os

from kerassplit.errors import SplitError

CALLS = "KERASSPLIT_MOST_CALLS"
BYTES = "KERASSPLIT_MOST_BYTES"
_CALLS = 100_000


def most_bytes(usual: int) -> int:
    """Maximum bytes of variables and states in a model.

    Args:
        usual: Bytes that are always allowed, given the size of the model's file.
    """
    return max(usual, _given(BYTES, 0))


def too_many_calls(count: int) -> str | None:
    """Explains why a model with `count` calls is not read; `None` if it is within the limit."""
    most = _given(CALLS, _CALLS)
    if count <= most:
        return None
    number = f"{count:,}" if count < 10**30 else "more than 10**30"  # it may have hundreds of digits
    return (
        f"it makes {number} calls, those in nested models counted once per call of the nested model, and the limit is "
        f"{most:,}. If this is intended, set the environment variable {CALLS} to that number"
    )


def _given(variable: str, otherwise: int) -> int:
    text = os.environ.get(variable, str(otherwise))
    if not text.isascii() or not text.isdecimal() or len(text) > 30:
        raise SplitError(f"The environment variable {variable} must be a whole number; got {text[:50]!r}.")
    return int(text)
