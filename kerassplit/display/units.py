"""Formats and parses numbers the way people write them."""

from collections.abc import Sequence

from kerassplit.files.sizes import BYTES, DECIMAL, parse_quantity, scaled

_BANDWIDTHS = {
    **{f"{unit}/s": size for unit, size in BYTES.items()},
    **{f"{prefix}{unit}": size / 8 for prefix, size in DECIMAL.items() for unit in ("bit/s", "bps")},
}
_SECONDS = {"s": 1.0, "ms": 1e-3, "µs": 1e-6, "μs": 1e-6, "us": 1e-6, "ns": 1e-9}  # both signs for micro
_WATTS = {"W": 1.0, "mW": 1e-3, "kW": 1e3}
_JOULES = {"J": 1.0, "mJ": 1e-3, "µJ": 1e-6, "μJ": 1e-6, "uJ": 1e-6, "kJ": 1e3, "Wh": 3600.0, "mWh": 3.6}
_BIT_UNITS = (("Gbit/s", 1e9), ("Mbit/s", 1e6), ("kbit/s", 1e3), ("bit/s", 1.0))
_JOULE_UNITS = (("kJ", 1e3), ("J", 1.0), ("mJ", 1e-3), ("µJ", 1e-6))
_RATES = {f"{prefix}{unit}": size for prefix, size in DECIMAL.items() for unit in ("FLOPS", "FLOP/s", "FLOPs/s")}


def format_count(count: int) -> str:
    """Formats a count with a decimal prefix.

    >>> format_count(5217344)
    '5.2 M'
    """
    if count < 1000:
        return str(count)
    return scaled(count, 1000, ("k", "M", "G", "T"))


def format_shape(shape: Sequence[int | None]) -> str:
    """Formats the shape of one sample: without the batch dimension, `?` for unknown dimensions.

    >>> format_shape((None, 28, 28, 512))
    '28×28×512'
    """
    return "×".join("?" if side is None else str(side) for side in shape[1:]) or "scalar"


def format_samples(shape: tuple[int, ...]) -> str:
    """Formats the shape of an array of samples.

    >>> format_samples((2, 14, 14, 1024))
    '2 of 14×14×1024'
    """
    return f"{shape[0]} of {format_shape(shape)}" if shape else "scalar"


def format_bandwidth(count: float) -> str:
    """Formats bytes per second as bits per second, the usual unit of links.

    >>> format_bandwidth(2_500_000)
    '20 Mbit/s'
    """
    return "any" if count == float("inf") else _with_unit(8 * count, _BIT_UNITS)


def parse_bandwidth(value: str | float, what: str) -> float:
    """Parses a bandwidth in bytes per second: a number, or a text such as `"20 Mbit/s"` (10^6 bits) or `"1 GB/s"`.

    Raises:
        SplitError: The value is neither, or not above 0.

    >>> parse_bandwidth("20 Mbit/s", "bandwidth")
    2500000.0
    """
    return parse_quantity(
        value, what, _BANDWIDTHS, "bytes per second, or a text with a unit such as '20 Mbit/s'", least=None
    )


def parse_seconds(value: str | float, what: str) -> float:
    """Parses seconds: a number, or a text such as `"10 ms"`.

    Raises:
        SplitError: The value is neither, or below 0.

    >>> parse_seconds("10 ms", "latency")
    0.01
    """
    return parse_quantity(value, what, _SECONDS, "seconds, or a text with a unit such as '10 ms'")


def parse_watts(value: str | float, what: str) -> float:
    """Parses watts: a number, or a text such as `"2.5 W"`.

    Raises:
        SplitError: The value is neither, or below 0.

    >>> parse_watts("800 mW", "power")
    0.8
    """
    return parse_quantity(value, what, _WATTS, "watts, or a text with a unit such as '2.5 W'")


def parse_joules(value: str | float, what: str) -> float:
    """Parses joules: a number, or a text such as `"0.5 J"`.

    Raises:
        SplitError: The value is neither, or below 0.

    >>> parse_joules("20 mJ", "energy")
    0.02
    """
    return parse_quantity(value, what, _JOULES, "joules, or a text with a unit such as '0.5 J'")


def format_joules(joules: float) -> str:
    """Formats joules in a suitable unit.

    >>> format_joules(0.02), format_joules(1234.5)
    ('20 mJ', '1.23 kJ')
    """
    return _with_unit(joules, _JOULE_UNITS)


def _with_unit(number: float, units: Sequence[tuple[str, float]]) -> str:
    """Formats a number with three digits, in the largest of these units that it reaches."""
    unit, factor = next((one for one in units if float(f"{number:.3g}") >= one[1]), units[-1])
    count = number / factor
    return f"{count:.3g} {unit}" if count < 1000 else f"{count:,.0f} {unit}"


def parse_flops_per_second(value: str | float, what: str) -> float:
    """Parses FLOPs per second: a number, or a text such as `"5 GFLOPS"`.

    Raises:
        SplitError: The value is neither, or not above 0.

    >>> parse_flops_per_second("5 GFLOPS", "speed")
    5000000000.0
    """
    return parse_quantity(value, what, _RATES, "FLOPs per second, or a text with a unit such as '5 GFLOPS'", least=None)
