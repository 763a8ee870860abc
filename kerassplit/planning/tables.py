"""Prints plans and sweeps as tables."""

from collections.abc import Sequence

from rich.console import Group
from rich.text import Text

from kerassplit.costs.tables import format_seconds
from kerassplit.display.rich_table import right
from kerassplit.display.table import FittedTable
from kerassplit.display.units import format_bandwidth, format_count, format_joules
from kerassplit.files.sizes import format_bytes
from kerassplit.planning.results import PlanData, SentInput, SweepData, SweepRange
from kerassplit.text import listed


def format_amount(amount: float, unit: str) -> str:
    """Formats an amount in the unit of a plan.

    >>> format_amount(0.0125, "seconds"), format_amount(7.7e9, "FLOPs")
    ('12.5 ms', '7.7 G')
    """
    if unit == "seconds":
        return format_seconds(amount)
    return format_bytes(round(amount)) if unit == "bytes" else format_count(round(amount))


def format_value(plan: PlanData, amount: float) -> str:
    """Formats the value of a plan, or its lower bound, with the unit."""
    if plan.objective == "energy":
        return format_joules(amount)
    return format_amount(amount, plan.unit) + ("" if plan.unit in ("seconds", "bytes") else f" {plan.unit}")


def plan_tables(plan: PlanData) -> Group:
    """Returns the table of the stages, with the minimized value and its quality below."""
    return Group(_stages_table(plan), *(Text(line) for line in _remarks(plan)))


def _stages_table(plan: PlanData) -> FittedTable:
    stages = f"{len(plan.stages)} stage{'s' * (len(plan.stages) != 1)}"
    samples = "1 sample" if plan.batch_size == 1 else f"batches of {plan.batch_size}"
    timed = plan.unit == "seconds"
    work = ("load", "computes", "moves") if timed else (plan.unit,)
    known = any(stage.energy is not None for stage in plan.stages)
    work = (*work, "energy") if known else work
    table = FittedTable(
        f"{plan.model}: {stages}, {samples}",
        *("device", "cut after it at"),
        *map(right, (*work, "crosses", "memory", "weights", "calls")),
        whole=2,
    )
    for place, stage in enumerate(plan.stages):
        last = place == len(plan.stages) - 1
        amounts = [stage.load, stage.work, stage.receive + stage.send] if timed else [stage.work]
        spent = ["?" if stage.energy is None else format_joules(stage.energy)] if known else []
        along = [f"with {name}" for name in stage.also]
        table.add_row(
            stage.device,
            "\n".join([*_joined(stage.crossing), *along]),
            *(format_amount(amount, plan.unit) for amount in amounts),
            *spent,
            "" if last else _size(stage.crossing_bytes),
            "?" if stage.memory is None else format_bytes(round(stage.memory)),
            format_bytes(stage.parameter_bytes),
            str(len(stage.calls)),
        )
    return table


def _joined(names: Sequence[str]) -> list[str]:
    """Returns the names of one crossing, one per line."""
    return [f"{name} +" for name in names[:-1]] + list(names[-1:])


def _size(count: float | None) -> str:
    return "?" if count is None else format_bytes(round(count))


def _remarks(plan: PlanData) -> Sequence[str]:
    sample = "sample" if plan.batch_size == 1 else "batch"
    what = f"The {'energy' if plan.objective == 'energy' else 'time'} of one {sample} through all stages"
    what = "The largest load" if plan.objective == "throughput" else what
    value, bound = (format_value(plan, amount) for amount in (plan.value, plan.lower_bound))
    if plan.optimal:
        how_good = "no plan within the limits has less"
    else:
        how_good = f"no plan has less than {bound}, so at most {plan.gap:.1%} could be gained"
    lines = [f"{what}: {value}; {how_good} ({plan.method})."]
    if len(plan.stages) == 1:
        where = "one device" if plan.replicas == [1] else f"each of {plan.replicas[0]} devices, which take turns"
        lines.append(f"There is nothing to cut: everything runs on {where}.")
    else:
        lines.append(f"Cut at {listed(cut if isinstance(cut, str) else ' + '.join(cut) for cut in plan.at)}.")
    return [*lines, *as_sent(plan), *_as_files(plan), *plan.hints]


def as_sent(data: PlanData | SweepData) -> list[str]:
    """Returns a sentence on how tensors are sent, and one on each input that is a file, or may be one."""
    found = []
    if isinstance(data.compression, str):
        found.append(f"Tensors are sent as {data.compression}.")
    elif data.compression is not None:
        found.append(f"Tensors are sent {data.compression:g} times smaller than they are.")
    return found + [_input_as_sent(one, data.batch_size) for one in data.inputs if one.given or one.jpeg_bytes]


def _input_as_sent(one: SentInput, samples: int) -> str:
    times = "" if samples == 1 else f"{samples} × "
    sent = f"{times}{round(one.bytes / samples):,} bytes"
    tensor = "" if one.tensor_bytes is None else f"{one.tensor_bytes // samples:,}"
    if tensor and one.bytes == one.tensor_bytes:
        sent += f" of {one.dtype}"
    elif tensor:
        sent += f" ({tensor} as {one.dtype})"
    return f"The input '{one.name}' travels as {sent}."


def _as_files(data: PlanData | SweepData) -> list[str]:
    """Returns hints at the size of each input as a file, where the size of its tensor was taken."""
    hints = []
    for one in data.inputs:
        if one.jpeg_bytes:
            size = f"{float(f'{one.jpeg_bytes / data.batch_size / 1000:.2g}'):g} KB"
            named = len(data.inputs) > 1
            argument, option = (f"{{'{one.name}': '{size}'}}", f"{one.name}: {size}") if named else (f"'{size}'", size)
            hints.append(
                f"A JPEG of '{one.name}' takes about {size}: if photographs arrive as files, say "
                f"input_bytes={argument} (--input-bytes '{option}')."
            )
    return hints


def sweep_tables(sweep: SweepData) -> Group:
    """Returns the table of the ranges, then the front."""
    lines = []
    for place, one in enumerate(sweep.ranges):
        start = "From" if place else "Below" if len(sweep.ranges) > 1 else "At every bandwidth"
        if place:
            start += f" {format_bandwidth(one.low)}"
            start += f" to {format_bandwidth(one.high)}" if place < len(sweep.ranges) - 1 else " on"
        elif len(sweep.ranges) > 1:
            start += f" {format_bandwidth(one.high)}"
        times = [format_seconds(one.value(bandwidth)) for bandwidth in (one.low, one.high)]
        lines.append((start, place_of(one, ",\n"), " → ".join(dict.fromkeys(times)), format_bytes(round(one.moved))))
    what = "latency" if sweep.objective == "latency" else "bottleneck"
    table = FittedTable(
        f"{sweep.model}: the best cut at every bandwidth",
        *("bandwidth", "best", right(what), right("moved")),
        whole=2,
    )
    for line in lines:
        table.add_row(*line)
    parts: list[FittedTable | Text] = [table]
    if not all(one.optimal for one in sweep.ranges):
        parts.append(Text("Not all of these are proved to be the best: some may have better cuts."))
    parts += map(Text, [*as_sent(sweep), *_as_files(sweep)])
    if sweep.front:
        parts.append(_front_table(sweep))
    return Group(*parts)


def _front_table(sweep: SweepData) -> FittedTable:
    table = FittedTable(
        f"Latency against throughput at {format_bandwidth(sweep.front_bandwidth)}",
        *(right("latency"), right("bottleneck"), "device", "cut after it at"),
        whole=4,
    )
    for plan in sweep.front:
        rows = [(stage.device, _joined(stage.crossing)) for stage in plan.stages]
        devices = "\n".join(device + "\n" * (len(names) - 1) for device, names in rows)
        cuts = "\n".join(name for _, names in rows for name in names)
        table.add_row(format_seconds(plan.latency), format_seconds(plan.bottleneck), devices, cuts)
    return table


def place_of(one: SweepRange, separator: str = ", ") -> str:
    """Describes the cuts of a range in words.

    >>> place_of(SweepRange(0.0, 1.0, (), ("phone",), 1.0, 0.0, 0.0, True))
    "all on 'phone'"
    """
    if not one.at:
        return f"all on '{one.devices[0]}'"
    return "cut at " + separator.join(_cut(cut) for cut in one.at)


def _cut(cut: str | Sequence[str]) -> str:
    return f"'{cut}'" if isinstance(cut, str) else " + ".join(f"'{name}'" for name in cut)
