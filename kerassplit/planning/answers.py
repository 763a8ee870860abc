"""Turns a placement of a model's graph into a plan."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from kerassplit.cutting.frontiers import leaving
from kerassplit.planning.devices import device_names
from kerassplit.planning.graph_problem import GraphProblem
from kerassplit.planning.plan import Plan
from kerassplit.planning.results import PlannedStage, PossibleCut
from kerassplit.planning.solver.stages import Placement, Stage
from kerassplit.planning.task import Task

_METHODS = {
    "closed sets": "dynamic programming over closed sets",
    "bounded path": "shortest path within a bottleneck",
}
"""Readable names of methods whose names in the solver are short."""


@dataclass(frozen=True)
class _Part:
    """A stage that runs calls of the model.

    Attributes:
        device: Name of its device.
        stage: Its costs.
        energy: Joules, with those of stages before it that run no calls; `None` if unknown.
        calls: Its calls, as indices into the profile.
        crossing: The tensors that cross the cut after it, as indices into the graph.
        also: Tensors that cross in addition: inputs of the model that both sides use, and masks.
    """

    device: str
    stage: Stage
    energy: float | None
    calls: Sequence[int]
    crossing: tuple[int, ...]
    also: tuple[int, ...]


def plan_of(graph: GraphProblem, found: Placement) -> Plan:
    """Builds the plan of a placement."""
    task, parts = graph.task, _parts(graph, found.stages)
    return Plan(
        model=task.profile.model,
        batch_size=task.profile.batch_size,
        objective=task.objective,
        unit=task.work.unit,
        overlap=task.overlap,
        stages=tuple(_stage(task, part) for part in parts),
        value=float(found.value),
        lower_bound=float(found.lower_bound),
        optimal=bool(found.optimal),
        method=_METHODS.get(found.method, found.method),
        cuts=_possible_cuts(task, parts[:-1]),
        inputs=task.sent_inputs,
        compression=task.transport.compression,
    )


def _parts(graph: GraphProblem, placed: Sequence[Stage]) -> list[_Part]:
    """Returns the stages that run calls; identical devices are numbered in order of use."""
    task, parts = graph.task, []
    numbered = iter(device_names(task.devices))
    names = [[next(numbered) for _ in range(device.count)] for device in task.devices]
    before: list[int] = []
    spent = list[float | None]()
    masks: list[int] = []
    for index, stage in enumerate(placed):
        device = task.devices[graph.devices[stage.device][1]]
        named = names[graph.devices[stage.device][1]]
        spent.append(None if device.watts is None or device.sending_watts is None else stage.energy)
        calls = [*masks, *sorted(call for node in stage.nodes for call in graph.members[node])]
        if not calls or (not task.in_blocks and all(task.calls[call] in task.sides.calls for call in calls)):
            masks = calls  # only inputs and masks: the next stage receives them
            continue
        before += calls
        masks = []
        crossing, also = ((), ()) if index == len(placed) - 1 else _crossing_after(graph, stage, before)
        name = _name([named.pop(0) for _ in range(stage.replicas)])
        energy = None if None in spent else math.fsum(one for one in spent if one is not None)
        parts.append(_Part(name, stage, energy, calls, crossing, also))
        spent = []
    return parts


def _name(devices: Sequence[str]) -> str:
    """Returns a name for identical devices: of several, the first number and the last."""
    return devices[0] if len(devices) == 1 else f"{devices[0]}-{devices[-1].rpartition(' ')[2]}"


def _crossing_after(graph: GraphProblem, stage: Stage, calls: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns the tensors that cross after these calls, which end with this stage, and those that cross in addition."""
    task = graph.task
    if task.in_blocks:
        block = task.profile.blocks[stage.nodes[-1] - graph.first_call]
        return block.crossing, block.also
    before = {task.calls[call] for call in calls}
    crossing = leaving(task.sides.main, before)
    return tuple(crossing), tuple(task.sides.along(before.__contains__, crossing))


def _stage(task: Task, part: _Part) -> PlannedStage:
    profile, stage = task.profile, part.stage
    calls = [profile.calls[call] for call in part.calls]
    variables = {variable for call in calls for variable in call.variables}
    known = all(call.activation_bytes is not None for call in calls)
    return PlannedStage(
        device=part.device,
        calls=tuple(call.name for call in calls),
        crossing=tuple(task.graph.names(part.crossing)),
        crossing_bytes=_bytes(task, (*part.crossing, *part.also)),
        work=float(stage.compute),
        receive=float(stage.receive),
        send=float(stage.send),
        load=float(stage.load),
        parameter_bytes=sum(profile.variables[variable].bytes for variable in variables),
        memory=float(stage.memory) if known else None,
        also=tuple(task.graph.names(part.also)),
        energy=None if part.energy is None else float(part.energy),
        replicas=stage.replicas,
        packing=float(stage.packing),
    )


def _possible_cuts(task: Task, chosen: Sequence[_Part]) -> tuple[PossibleCut, ...]:
    """Returns the cuts of one tensor and the chosen ones, ordered by the work before them."""
    calls, blocks = task.work.calls[0], task.work.blocks[0]
    # For a device that cannot run everything, the work that it can run.
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
    """Returns the bytes of a message with these tensors; `None` if some are unknown."""
    sizes = [size for size in map(task.known_size, crossing) if size is not None]
    if len(sizes) < len(crossing):
        return None
    return float(sum(sizes) + task.transport.message_bytes) if crossing else 0.0
