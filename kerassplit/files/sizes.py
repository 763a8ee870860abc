"""Bytes as people write and read them."""

import re
from collections.abc import Mapping, Sequence
from numbers import Real

from kerassplit.errors import SplitError

_QUANTITY = re.compile(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*([^\d\s].*?)?\s*")
DECIMAL = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
BYTES = {"byte": 1.0, "bytes": 1.0, **{f"{prefix}B": float(size) for prefix, size in {**DECIMAL, **_BINARY}.items()}}


def format_bytes(count: int | None) -> str:
    """Bytes in binary units; `?` where they are not known.

    >>> format_bytes(1605632)
    '1.5 MiB'
    """
    if count is None:
        return "?"
    if count < 1024:
        return f"{count} B"
    return scaled(count, 1024, ("KiB", "MiB", "GiB", "TiB"))


def parse_bytes(value: str | float, what: str) -> float:
    """Bytes out of a number of bytes, or a text such as `"512 MB"` (10^6 bytes each) or `"2 GiB"` (2^30 each).

    Args:
        value: The number or text.
        what: What it is, for messages.

    Raises:
        SplitError: It is neither, or below 0.

    >>> parse_bytes("1.5 MiB", "memory")
    1572864.0
    """
    return parse_quantity(value, what, BYTES, "bytes, or a text with a unit such as '512 MB' or '2 GiB'")


def scaled(count: int, step: int, units: Sequence[str]) -> str:
    """Formats a count with one decimal, in the first unit in which it stays below a step."""
    power = 1
    while power < len(units) and round(count / step**power, 1) >= step:
        power += 1
    return f"{count / step**power:.1f} {units[power - 1]}"


def parse_quantity(
    value: str | float, what: str, units: Mapping[str, float], expected: str, *, least: float | None = 0.0
) -> float:
    """A number in the base unit; without `least` it must be more than 0."""
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
