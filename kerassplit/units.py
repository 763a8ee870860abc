"""Numbers as people read and write them."""

import re
from collections.abc import Mapping, Sequence
from numbers import Real

from kerassplit.errors import SplitError

_QUANTITY = re.compile(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*([^\d\s].*?)?\s*")
_DECIMAL = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_BYTES = {"byte": 1.0, "bytes": 1.0, **{f"{prefix}B": float(size) for prefix, size in {**_DECIMAL, **_BINARY}.items()}}
_BANDWIDTHS = {
    **{f"{unit}/s": size for unit, size in _BYTES.items()},
    **{f"{prefix}{unit}": size / 8 for prefix, size in _DECIMAL.items() for unit in ("bit/s", "bps")},
}
_SECONDS = {"s": 1.0, "ms": 1e-3, "µs": 1e-6, "μs": 1e-6, "us": 1e-6, "ns": 1e-9}  # both signs for micro
_RATES = {f"{prefix}{unit}": size for prefix, size in _DECIMAL.items() for unit in ("FLOPS", "FLOP/s", "FLOPs/s")}


def format_bytes(count: int | None) -> str:
    """Bytes in binary units; `?` where they are not known.

    >>> format_bytes(1605632)
    '1.5 MiB'
    """
    if count is None:
        return "?"
    if count < 1024:
        return f"{count} B"
    return _scaled(count, 1024, ("KiB", "MiB", "GiB", "TiB"))


def format_count(count: int) -> str:
    """A count with a decimal prefix.

    >>> format_count(5217344)
    '5.2 M'
    """
    if count < 1000:
        return str(count)
    return _scaled(count, 1000, ("k", "M", "G", "T"))


def format_shape(shape: Sequence[int | None]) -> str:
    """The shape of one sample: without the batch dimension, `?` for open ones.

    >>> format_shape((None, 28, 28, 512))
    '28×28×512'
    """
    return "×".join("?" if side is None else str(side) for side in shape[1:]) or "scalar"


def format_samples(shape: tuple[int, ...]) -> str:
    """The shape of an array of samples.

    >>> format_samples((2, 14, 14, 1024))
    '2 of 14×14×1024'
    """
    return f"{shape[0]} of {format_shape(shape)}" if shape else "scalar"


def _scaled(count: int, step: int, units: Sequence[str]) -> str:
    """With one decimal, in the first unit in which it stays below a step."""
    power = 1
    while power < len(units) and round(count / step**power, 1) >= step:
        power += 1
    return f"{count / step**power:.1f} {units[power - 1]}"


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
    return _parse(value, what, _BYTES, "bytes, or a text with a unit such as '512 MB' or '2 GiB'")


def parse_bandwidth(value: str | float, what: str) -> float:
    """Bytes per second out of such a number, or a text such as `"20 Mbit/s"` (10^6 bits) or `"1 GB/s"`.

    Raises:
        SplitError: It is neither, or 0 or below.

    >>> parse_bandwidth("20 Mbit/s", "bandwidth")
    2500000.0
    """
    return _parse(value, what, _BANDWIDTHS, "bytes per second, or a text with a unit such as '20 Mbit/s'", least=None)


def parse_seconds(value: str | float, what: str) -> float:
    """Seconds out of a number of seconds, or a text such as `"10 ms"`.

    Raises:
        SplitError: It is neither, or below 0.

    >>> parse_seconds("10 ms", "latency")
    0.01
    """
    return _parse(value, what, _SECONDS, "seconds, or a text with a unit such as '10 ms'")


def parse_flops_per_second(value: str | float, what: str) -> float:
    """FLOPs per second out of such a number, or a text such as `"5 GFLOPS"`.

    Raises:
        SplitError: It is neither, or 0 or below.

    >>> parse_flops_per_second("5 GFLOPS", "speed")
    5000000000.0
    """
    return _parse(value, what, _RATES, "FLOPs per second, or a text with a unit such as '5 GFLOPS'", least=None)


def _parse(
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
