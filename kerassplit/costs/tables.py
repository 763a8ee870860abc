"""Prints profiles as tables."""

from typing import Literal

from rich.console import Group
from rich.table import Column
from rich.text import Text

from kerassplit.costs.figures import Figures
from kerassplit.costs.records import BlockCost
from kerassplit.display.rich_table import right
from kerassplit.display.table import FittedTable
from kerassplit.display.units import format_count
from kerassplit.files.sizes import format_bytes
from kerassplit.text import listed

Rows = Literal["blocks", "calls"]

_UNITS = (("s", 1), ("ms", 1_000), ("µs", 1_000_000))


def format_seconds(seconds: float | None) -> str:
    """Formats seconds in a suitable unit; empty for `None`.

    >>> format_seconds(0.00235)
    '2.35 ms'
    """
    if seconds is None:
        return ""
    rounded = float(f"{seconds:.3g}")
    unit, factor = next((one for one in _UNITS if rounded * one[1] >= 1), _UNITS[-1])
    return f"{rounded * factor:.3g} {unit}" if rounded < 1000 else f"{seconds:,.0f} {unit}"


_TRUSTED = 0.15
"""Largest discrepancy between the blocks and the whole model without a warning in the table."""


def format_flops(flops: int | None, known: int = 0) -> str:
    """Formats FLOPs with a decimal prefix; if some are unknown, the known ones as a lower bound.

    >>> format_flops(None, 1_200_000), format_flops(None)
    ('> 1.2 M', 'unknown')
    """
    if flops is not None:
        return format_count(flops)
    return f"> {format_count(known)}" if known else "unknown"


def profile_tables(profile: Figures, of: Rows = "blocks") -> Group:
    """Returns the table of the blocks, or of the calls, with remarks below."""
    if of == "calls":
        return Group(calls_table(profile), *map(Text, remarks_on_flops(profile)))
    remarks = [*remarks_on_flops(profile), *remarks_on_seconds(profile), *remarks_on_wire(profile)]
    return Group(blocks_table(profile), *map(Text, remarks))


def blocks_table(profile: Figures) -> FittedTable:
    """Returns a table with one row per block, and the model's totals in the footer."""
    measured = profile.whole is not None
    samples = "1 sample" if profile.batch_size == 1 else f"batches of {profile.batch_size}"
    headings = [*(["time", "±"] if measured else []), "FLOPs", "crosses\nafter"]
    headings += [f"as\n{profile.wire}", "pack", "unpack", "same\nclass", "largest\ndifference"] if profile.wire else []
    headings += ["parameters", "peak\nlive", "weights", "calls"]
    feet = [*([format_seconds(profile.seconds), ""] if measured else []), *_figures(profile, _sent(profile))]
    table = FittedTable(
        f"{profile.model}, {samples}",
        right("#"),
        Column("block up to", "whole model"),
        *(right(heading, footer=foot) for heading, foot in zip(headings, feet, strict=True)),
        whole=2,
        show_footer=True,
    )
    for index, block in enumerate(profile.blocks):
        last = index == len(profile.blocks) - 1
        figures = _figures(block, _sent(profile, None if last else block))
        if measured and block.time is not None:
            spread = (block.time.high - block.time.low) / 2
            figures = [format_seconds(block.seconds), format_seconds(spread), *figures]
        table.add_row(str(index), block.name, *figures)
    return table


def _figures(one: Figures | BlockCost, sent: list[str]) -> list[str]:
    """Returns the table cells of the model or of one of its blocks; `sent` are those about what crosses after it."""
    return [
        format_flops(one.flops, one.known_flops),
        *sent,
        format_count(one.parameters),
        format_bytes(one.peak_live_bytes),
        format_bytes(one.parameter_bytes),
        str(len(one.calls)),
    ]


def _sent(profile: Figures, block: BlockCost | None = None) -> list[str]:
    """Returns the table cells about what crosses after a block; empty ones without a block."""
    if block is None:
        return [""] * (6 if profile.wire else 1)
    cells = [format_bytes(block.crossing_bytes)]
    if profile.wire:
        cells += ["" if block.wire_bytes is None else format_bytes(block.wire_bytes)]
        cells += [format_seconds(block.pack_seconds), format_seconds(block.unpack_seconds)]
        cells += ["" if block.agreement is None else f"{block.agreement:.0%}"]
        cells += ["" if block.difference is None else f"{block.difference:.1e}"]
    return cells


def calls_table(profile: Figures) -> FittedTable:
    """Returns a table with one row per call."""
    table = FittedTable(
        f"{profile.model}: {len(profile.calls)} calls",
        *(right("block"), "call", "kind", right("FLOPs"), right("parameters"), right("makes"), "counted by"),
        whole=2,
    )
    for call in profile.calls:
        figures = format_flops(call.flops), format_count(call.parameters), format_bytes(call.activation_bytes)
        table.add_row(str(call.block), call.name, call.kind, *figures, call.counted_by)
    return table


def remarks_on_flops(profile: Figures) -> list[str]:
    """Returns sentences about unknown FLOPs and about multiply-adds."""
    lines = []
    if profile.unknown:
        calls = "call" if len(profile.unknown) == 1 else "calls"
        lines.append(
            f"FLOPs of {len(profile.unknown)} {calls} are unknown, so the totals are too ('>' marks the known part): "
            f"{listed(profile.unknown)}."
        )
    if profile.flops is not None and profile.multiply_adds is not None:
        lines.append(f"Multiply-adds of matrix products and convolutions: {format_count(profile.multiply_adds)}.")
    return lines


def remarks_on_seconds(profile: Figures) -> list[str]:
    """Returns sentences about the measurement and its reliability; none if nothing was measured."""
    if profile.whole is None or profile.overhead is None:
        return []
    apart, doubtful = profile.discrepancy, "The whole model is too short to tell"
    whole = f"The whole model takes {format_seconds(profile.whole_seconds)}"
    if apart is not None:
        how = "as long" if f"{apart:.0%}" in ("0%", "-0%") else f"{abs(apart):.0%} {'more' if apart > 0 else 'less'}"
        why = ": apart, they cannot be compiled as one" if apart > 0 and how != "as long" else ""
        whole += f"; the blocks together {format_seconds(profile.seconds)}, {how}{why}"
        doubtful = "The whole model and its blocks disagree" if abs(apart) > _TRUSTED else ""
    lines = [
        f"Measured on {profile.device} with {profile.backend}. {whole}. Each call of a stage adds "
        f"{format_seconds(profile.overhead.median)}; ± is half the interquartile range."
    ]
    lost = sum(block.seconds == 0 for block in profile.blocks)
    if lost > 1 and not doubtful:
        doubtful = f"{lost} blocks are too short to tell"
    if doubtful:
        lines.append(f"{doubtful}, or the machine was busy: measure again on an idle one, or with a larger batch.")
    return lines


def remarks_on_wire(profile: Figures) -> list[str]:
    """Returns a sentence about what was packed; none if nothing was."""
    if profile.wire is None:
        return []
    rows = "1 row" if profile.batch_size == 1 else f"{profile.batch_size} rows"
    lines = [
        f"Packed as {profile.wire}: what crosses when the sample ({rows}) runs. Same class: the share of rows whose "
        "largest score stays that of the same class; largest difference: in any output."
    ]
    lost = [block.name for block in profile.blocks if block.crossing and block.wire_bytes is None]
    if lost:
        lines.append(f"{profile.wire} cannot hold what crosses after {listed(lost)}: infinities, NaN or large numbers.")
    return lines
