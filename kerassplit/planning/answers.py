"""Turns a placement of a model's graph into a plan."""

import math
from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from kerassplit.cutting.frontiers import leaving
from kerassplit.graph.sizes import total
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


Crossing = tuple[tuple[int, ...], tuple[int, ...]]
"""Tensors that cross a cut, as indices into the graph; and those that cross in addition: inputs of the model that both
sides use, and masks."""


def plan_of(graph: GraphProblem, found: Placement) -> Plan:
    """Builds the plan of a placement."""
    task = graph.task
    stages, cuts = _stages_and_cuts(graph, found.stages)
    return Plan(
        model=task.profile.model,
        batch_size=task.profile.batch_size,
        objective=task.objective,
        unit=task.work.unit,
        overlap=task.overlap,
        stages=tuple(stages),
        value=float(found.value),
        lower_bound=float(found.lower_bound),
        optimal=bool(found.optimal),
        method=_METHODS.get(found.method, found.method),
        cuts=_possible_cuts(task, cuts),
        inputs=task.sent_inputs,
        compression=task.transport.compression,
    )


def _stages_and_cuts(
    graph: GraphProblem, placed: Sequence[Stage]
) -> tuple[list[PlannedStage], list[tuple[Crossing, list[int]]]]:
    """Returns the stages that run calls, and the cuts between them, each with all calls before it.

    Identical devices are numbered in order of use.
    """
    task = graph.task
    numbered = iter(device_names(task.devices))
    names = [[next(numbered) for _ in range(device.count)] for device in task.devices]
    stages: list[PlannedStage] = []
    cuts: list[tuple[Crossing, list[int]]] = []
    before: list[int] = []
    spent = list[float | None]()  # by this stage, and by those before it that run no calls
    masks: list[int] = []
    for index, stage in enumerate(placed):
        kind = graph.devices[stage.device][1]
        device = task.devices[kind]
        spent.append(None if device.watts is None or device.sending_watts is None else stage.energy)
        calls = [*masks, *sorted(call for node in stage.nodes for call in graph.members[node])]
        if not calls or (not task.in_blocks and all(task.calls[call] in task.sides.calls for call in calls)):
            masks = calls  # only inputs and masks: the next stage receives them
            continue
        before, masks = [*before, *calls], []
        crossing = ((), ()) if index == len(placed) - 1 else _crossing_after(graph, stage, before)
        name = _name([names[kind].pop(0) for _ in range(stage.replicas)])
        stages.append(_stage(task, stage, name, calls, crossing, spent))
        cuts.append((crossing, before))
        spent = []
    return stages, cuts[:-1]


def _name(devices: Sequence[str]) -> str:
    """Returns a name for identical devices: of several, the first number and the last."""
    return devices[0] if len(devices) == 1 else f"{devices[0]}-{devices[-1].rpartition(' ')[2]}"


def _crossing_after(graph: GraphProblem, stage: Stage, calls: Sequence[int]) -> Crossing:
    """Returns what crosses after these calls, which end with this stage."""
    task = graph.task
    if task.in_blocks:
        block = task.profile.blocks[stage.nodes[-1] - graph.first_call]
        return block.crossing, block.also
    before = {task.calls[call] for call in calls}
    crossing = leaving(task.sides.main, before)
    return tuple(crossing), tuple(task.sides.along(before.__contains__, crossing))


def _stage(
    task: Task, stage: Stage, device: str, calls: Sequence[int], after: Crossing, spent: Sequence[float | None]
) -> PlannedStage:
    costs, variables = [task.profile.calls[call] for call in calls], task.profile.variables
    crossing, also = after
    return PlannedStage(
        device=device,
        calls=tuple(call.name for call in costs),
        crossing=tuple(task.graph.names(crossing)),
        crossing_bytes=_bytes(task, after),
        work=float(stage.compute),
        receive=float(stage.receive),
        send=float(stage.send),
        load=float(stage.load),
        parameter_bytes=sum(variables[one].bytes for one in {one for call in costs for one in call.variables}),
        memory=None if any(call.activation_bytes is None for call in costs) else float(stage.memory),
        also=tuple(task.graph.names(also)),
        energy=None if None in spent else math.fsum(one for one in spent if one is not None),
        replicas=stage.replicas,
        packing=float(stage.packing),
    )


def _possible_cuts(task: Task, chosen: Sequence[tuple[Crossing, list[int]]]) -> tuple[PossibleCut, ...]:
    """Returns the cuts of one tensor and the chosen ones, ordered by the work before them."""
    # For a device that cannot run everything, the work that it can run.
    calls, blocks = (np.where(np.isinf(work[0]), 0.0, work[0]) for work in (task.work.calls, task.work.blocks))
    whole = float(blocks.sum()) or 1.0
    ends = zip(task.profile.blocks[:-1], accumulate(blocks.tolist()), strict=False)
    work: dict[tuple[int, ...], tuple[tuple[int, ...], float]]
    work = {block.crossing: (block.also, amount) for block, amount in ends if len(block.crossing) == 1}
    for (crossing, also), before in chosen:
        work.setdefault(crossing, (also, float(calls[before].sum())))
    made = {crossing for (crossing, _), _ in chosen}
    return tuple(
        PossibleCut(
            tuple(task.graph.names(crossing)),
            _bytes(task, (crossing, also)),
            min(amount / whole, 1.0),
            crossing in made,
        )
        for crossing, (also, amount) in sorted(work.items(), key=lambda item: (item[1][1] / whole, item[0]))
    )


def _bytes(task: Task, crossing: Crossing) -> float | None:
    """Returns the bytes of a message with these tensors; `None` if some are unknown."""
    sizes = [task.known_size(tensor) for tensors in crossing for tensor in tensors]
    size = total([task.transport.message_bytes, *sizes]) if sizes else 0.0
    return None if size is None else float(size)
