"""The stages that an algorithm found, as a plan describes them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from kerassplit.cutting.frontiers import leaving
from kerassplit.planning.devices import device_names
from kerassplit.planning.plan import Plan
from kerassplit.planning.results import PlannedStage, PossibleCut
from kerassplit.planning.task import Task

_METHODS = {"closed sets": "dynamic programming over closed sets"}
"""Names for people of the methods that have shorter ones in the planner."""


@dataclass(frozen=True)
class StageParts:
    """A stage as an algorithm found it.

    Attributes:
        device: Index of the device, or of the kind of devices.
        calls: Its calls, as indices into the profile.
        crossing: The tensors that cross the cut behind it, as indices into the graph.
        also: What comes along with these: inputs of the model that both sides use, and masks.
        work: What its calls take.
        receive: What receiving takes.
        send: What sending takes.
        load: What counts.
        memory: Bytes that it needs; `None` where that was not asked.
    """

    device: int
    calls: tuple[int, ...]
    crossing: tuple[int, ...]
    also: tuple[int, ...]
    work: float
    receive: float
    send: float
    load: float
    memory: float | None


@dataclass(frozen=True)
class Answer:
    """What an algorithm found.

    Attributes:
        value: The largest load, or the latency.
        lower_bound: No plan has less.
        optimal: Whether that is proved to be the best.
        method: The algorithm.
        stages: In the order in which they run.
    """

    value: float
    lower_bound: float
    optimal: bool
    method: str
    stages: Sequence[StageParts]


def crossing_behind(task: Task, calls: Iterable[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The tensors that cross behind these calls of the profile, and what comes along with them."""
    before = {task.calls[call] for call in calls}
    crossing = leaving(task.sides.main, before)
    return tuple(crossing), tuple(task.sides.along(before.__contains__, crossing))


def describe(task: Task, answer: Answer) -> Plan:
    """The plan that an answer makes."""
    parts = answer.stages
    names = names_of(task, [part.device for part in parts])
    return Plan(
        model=task.profile.model,
        batch_size=task.profile.batch_size,
        objective=task.objective,
        unit=task.work.unit,
        overlap=task.overlap,
        stages=tuple(_stage(task, part, name) for part, name in zip(parts, names, strict=True)),
        value=float(answer.value),
        lower_bound=float(answer.lower_bound),
        optimal=bool(answer.optimal),
        method=_METHODS.get(answer.method, answer.method),
        cuts=_possible_cuts(task, parts[:-1]),
    )


def names_of(task: Task, devices: Sequence[int]) -> list[str]:
    """Names of the devices of stages, given their kinds; equal ones are numbered as they are used."""
    numbered = iter(device_names(task.devices))
    by_kind = [[next(numbered) for _ in range(device.count)] for device in task.devices]
    return [by_kind[device].pop(0) for device in devices]


def _stage(task: Task, part: StageParts, name: str) -> PlannedStage:
    profile = task.profile
    calls = [profile.calls[call] for call in part.calls]
    variables = {variable for call in calls for variable in call.variables}
    known = all(call.activation_bytes is not None for call in calls)
    return PlannedStage(
        device=name,
        calls=tuple(call.name for call in calls),
        crossing=tuple(task.graph.names(part.crossing)),
        crossing_bytes=_bytes(task, (*part.crossing, *part.also)),
        work=float(part.work),
        receive=float(part.receive),
        send=float(part.send),
        load=float(part.load),
        parameter_bytes=sum(profile.variables[variable].bytes for variable in variables),
        memory=float(part.memory) if known and part.memory is not None else None,
        also=tuple(task.graph.names(part.also)),
    )


def _possible_cuts(task: Task, chosen: Sequence[StageParts]) -> tuple[PossibleCut, ...]:
    """The cuts of one tensor, and the chosen ones, by the work before them."""
    calls, blocks = task.work.calls[0], task.work.blocks[0]
    # On a device that cannot run everything, what it can run.
    calls, blocks = np.where(np.isinf(calls), 0.0, calls), np.where(np.isinf(blocks), 0.0, blocks)
    total = float(blocks.sum()) or 1.0
    part_before: dict[tuple[int, ...], float] = {}
    along: dict[tuple[int, ...], tuple[int, ...]] = {}
    for block, amount in zip(task.profile.blocks[:-1], accumulate(blocks.tolist()), strict=False):
        if len(block.crossing) == 1:
            part_before[tuple(block.crossing)] = amount / total
            along[tuple(block.crossing)] = block.also
    made = {part.crossing for part in chosen}
    before: list[int] = []
    for one in chosen:
        before += one.calls
        part_before.setdefault(one.crossing, float(calls[before].sum()) / total)
        along.setdefault(one.crossing, one.also)
    return tuple(
        PossibleCut(
            tuple(task.graph.names(crossing)),
            _bytes(task, (*crossing, *along[crossing])),
            min(part, 1.0),
            crossing in made,
        )
        for crossing, part in sorted(part_before.items(), key=lambda item: (item[1], item[0]))
    )


def _bytes(task: Task, crossing: Sequence[int]) -> float | None:
    sizes = [size for size in map(task.known_size, crossing) if size is not None]
    return float(sum(sizes)) if len(sizes) == len(crossing) else None
