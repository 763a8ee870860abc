"""How much a model may ask for; environment variables set it, for processes that are started, too."""

import os

from kerassplit.errors import SplitError

CALLS = "KERASSPLIT_MOST_CALLS"
BYTES = "KERASSPLIT_MOST_BYTES"
_CALLS = 100_000


def most_calls() -> int:
    """Calls in a model, those in its nested models each time that these are called."""
    return _given(CALLS, _CALLS)


def most_bytes(usual: int) -> int:
    """Bytes of variables and states in a model.

    Args:
        usual: What is always allowed, by the size of its file.
    """
    return max(usual, _given(BYTES, 0))


def too_many_calls(count: int) -> str | None:
    """Why a model with so many calls is not read, or `None`."""
    if count <= most_calls():
        return None
    so_many = f"{count:,}" if count < 10**30 else "more than 10**30"  # it may have hundreds of digits
    return (
        f"it makes {so_many} calls, those in nested models counted each time that these are called, and "
        f"{most_calls():,} is the most. If it is meant so, set the environment variable {CALLS} to that number"
    )


def _given(variable: str, otherwise: int) -> int:
    text = os.environ.get(variable, str(otherwise))
    if not text.isascii() or not text.isdecimal() or len(text) > 30:
        raise SplitError(f"The environment variable {variable} is a whole number; got {text[:50]!r}.")
    return int(text)
