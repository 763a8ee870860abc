"""A profile as tables for people."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from kerassplit.names import listed
from kerassplit.units import format_bytes, format_count

if TYPE_CHECKING:
    from kerassplit.costs.profiles import Profile
    from kerassplit.costs.records import BlockCost, CallCost


def format_seconds(seconds: float | None) -> str:
    """Seconds in a unit that fits; empty where there are none.

    >>> format_seconds(0.00235)
    '2.35 ms'
    """
    if seconds is None:
        return ""
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if seconds * factor >= 1 or unit == "µs":
            return f"{seconds * factor:.3g} {unit}" if seconds * factor < 1000 else f"{seconds * factor:,.0f} {unit}"
    return ""


def format_flops(flops: int | None, known: int = 0) -> str:
    """FLOPs with a decimal prefix; where some are not known, those that are, and that there are more.

    >>> format_flops(None, 1_200_000), format_flops(None)
    ('> 1.2 M', 'unknown')
    """
    if flops is not None:
        return format_count(flops)
    return f"> {format_count(known)}" if known else "unknown"


def profile_tables(profile: "Profile") -> Group:
    """The blocks, then the totals and what is to be said about them."""
    return Group(blocks_table(profile), *(Text(line) for line in remarks(profile)))


def blocks_table(profile: "Profile") -> Table:
    """One row for each block, and the model's totals at the foot."""
    measured = profile.whole is not None
    samples = "1 sample" if profile.batch_size == 1 else f"batches of {profile.batch_size}"
    table = Table(title=f"{profile.model}, {samples}", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_footer=True)
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("block up to", "whole model", overflow="fold")
    figures: list[tuple[str, str]] = [
        ("calls", str(len(profile.calls))),
        ("parameters", format_count(profile.parameters)),
        ("weights", format_bytes(profile.parameter_bytes)),
        ("FLOPs", format_flops(profile.flops, profile.known_flops)),
        ("peak live", format_bytes(profile.peak_live_bytes)),
        ("crosses\nbehind", ""),
    ]
    if measured:
        figures += [("time", format_seconds(profile.seconds)), ("±", "")]
    for heading, foot in figures:
        table.add_column(heading, foot, justify="right", no_wrap=True)
    for index, block in enumerate(profile.blocks):
        last = index == len(profile.blocks) - 1
        table.add_row(str(index), block.name, *_figures(block, last, measured))
    return table


def _figures(block: "BlockCost", last: bool, measured: bool) -> Sequence[str]:
    figures = [
        str(len(block.calls)),
        format_count(block.parameters),
        format_bytes(block.parameter_bytes),
        format_flops(block.flops, block.known_flops),
        format_bytes(block.peak_live_bytes),
        "" if last else format_bytes(block.crossing_bytes),
    ]
    if measured and block.time is not None:
        figures += [format_seconds(block.seconds), format_seconds((block.time.high - block.time.low) / 2)]
    return figures


def calls_table(profile: "Profile") -> Table:
    """One row for each call."""
    table = Table(title=f"{profile.model}: {len(profile.calls)} calls", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("block", justify="right", no_wrap=True)
    table.add_column("call", overflow="fold")
    table.add_column("kind", no_wrap=True)
    for heading in ("parameters", "makes", "FLOPs"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("counted by", no_wrap=True)
    for call in profile.calls:
        table.add_row(str(call.block), call.name, call.kind, *_call_figures(call), call.counted_by)
    return table


def _call_figures(call: "CallCost") -> Sequence[str]:
    return format_count(call.parameters), format_bytes(call.activation_bytes), format_flops(call.flops)


def remarks(profile: "Profile") -> list[str]:
    """What the figures leave open, and what measuring found, in sentences."""
    lines = []
    if profile.unknown:
        calls = "call" if len(profile.unknown) == 1 else "calls"
        lines.append(
            f"FLOPs of {len(profile.unknown)} {calls} are unknown, so the totals are too ('>' tells those that are "
            f"known): {listed(profile.unknown)}."
        )
    if profile.flops is not None and profile.multiply_adds is not None:
        lines.append(f"Multiply-adds of matrix products and convolutions: {format_count(profile.multiply_adds)}.")
    if profile.whole is not None and profile.overhead is not None and profile.discrepancy is not None:
        more = "more" if profile.discrepancy >= 0 else "less"
        lines.append(
            f"Measured on {profile.device} with {profile.backend}. The whole model takes "
            f"{format_seconds(profile.whole_seconds)}; the blocks together {format_seconds(profile.seconds)}, "
            f"{abs(profile.discrepancy):.0%} {more}: apart, they cannot be compiled as one. To each call of a stage "
            f"add {format_seconds(profile.overhead.median)}; ± is half of what lies between the quartiles."
        )
    return lines
