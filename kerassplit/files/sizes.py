"""Formats and parses numbers of bytes."""

import re
from collections.abc import Mapping, Sequence
from numbers import Real

from kerassplit.errors import SplitError

_QUANTITY = re.compile(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*([^\d\s].*?)?\s*")
DECIMAL = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
BYTES = {
    "byte": 1.0,
    "bytes": 1.0,
    "KB": 1e3,
    **{f"{prefix}B": float(size) for prefix, size in {**DECIMAL, **_BINARY}.items()},
}


def format_bytes(count: int | None) -> str:
    """Formats bytes in binary units; `?` if unknown.

    >>> format_bytes(1605632)
    '1.5 MiB'
    """
    if count is None:
        return "?"
    if count < 1024:
        return f"{count} B"
    return scaled(count, 1024, ("KiB", "MiB", "GiB", "TiB"))


def parse_bytes(value: str | float, what: str) -> float:
    """Parses a number of bytes, or a text such as `"512 MB"` (10^6 bytes each) or `"2 GiB"` (2^30 each).

    Args:
        value: The number or text.
        what: Noun for messages, such as "memory".

    Raises:
        SplitError: It is neither, or is negative.

    >>> parse_bytes("1.5 MiB", "memory")
    1572864.0
    """
    return parse_quantity(value, what, BYTES, "bytes, or a text with a unit such as '512 MB' or '2 GiB'")


def scaled(count: int, step: int, units: Sequence[str]) -> str:
    """Formats a count with one decimal, in the smallest unit that keeps it below `step`."""
    power = 1
    while power < len(units) and round(count / step**power, 1) >= step:
        power += 1
    return f"{count / step**power:.1f} {units[power - 1]}"


def parse_quantity(
    value: str | float, what: str, units: Mapping[str, float], expected: str, *, least: float | None = 0.0
) -> float:
    """Parses a quantity and returns it in the base unit; if `least` is None, it must be positive."""
    number: float | None = None
    if isinstance(value, Real) and not isinstance(value, bool):
        number = float(value)
    elif isinstance(value, str) and (found := _QUANTITY.fullmatch(value)):
        unit = found[2] or ""
        if not unit:
            raise SplitError(f"The {what} '{value}' has no unit. Expected {expected}.")
        if unit not in units:
            close = [name for name in units if name.lower() == unit.lower()]
            meant = f" Did you mean {' or '.join(repr(name) for name in close)}?" if close else ""
            raise SplitError(f"The {what} {value!r} has the unit '{unit}'. Expected {expected}.{meant}")
        number = float(found[1]) * units[unit]
    if number is None:
        raise SplitError(f"The {what} is {value!r}. Expected {expected}.")
    if not (number > 0 if least is None else number >= least) or number == float("inf"):
        more = "more than 0" if least is None else "0 or more"
        raise SplitError(f"The {what} is {value!r}. It must be {more}, and finite.")
    return number
