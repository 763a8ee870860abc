"""Costs of the stages of a placement, directly from the definitions; all returned figures are computed here."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kerassplit.planning.solver.problem import Link, Problem, Tensor

Method = Literal["closed sets", "local search", "minimum cut", "bounded path"]


@dataclass(frozen=True)
class Stage:
    """A stage: the nodes of one device and their costs.

    Attributes:
        device: Index of the device's type in `Problem.devices`.
        nodes: Its nodes, in increasing order.
        compute: Seconds of its nodes, with the overhead of its device.
        receive: Seconds to receive tensors, and to unpack them.
        send: Seconds to send tensors, and to pack them.
        load: The sum of the three, with `overlap` the largest; divided by `replicas`.
        memory: Bytes that it needs.
        energy: Energy of computing and sending.
        replicas: Number of devices that share its load.
        packing: Seconds to pack what it receives: part of `send` of the stage before it.
    """

    device: int
    nodes: tuple[int, ...]
    compute: float
    receive: float
    send: float
    load: float
    memory: float
    energy: float = 0.0
    replicas: int = 1
    packing: float = 0.0


def stages_of(
    problem: Problem, parts: Sequence[tuple[int, Iterable[int]]], replicas: Sequence[int] = ()
) -> tuple[Stage, ...]:
    """Computes the stages for pairs of a device type and its nodes, in the order in which they run.

    Args:
        problem: The problem.
        parts: The pairs.
        replicas: The number of devices of each stage; by default one.
    """
    place = {node: index for index, (_, nodes) in enumerate(parts) for node in nodes}
    moved = [(place[tensor.producer], [place[user] for user in tensor.consumers], tensor) for tensor in problem.tensors]
    stages = []
    for index, (device, members) in enumerate(parts):
        nodes = sorted(members)
        received = [tensor for made, used, tensor in moved if made < index and index in used]
        sent = [tensor for made, used, tensor in moved if made == index and max(used, default=index) > index]
        kept = received + sent
        if problem.links is not None:
            over = [tensor for made, used, tensor in moved if made < index <= max(used, default=made)]
            onward = [tensor for made, used, tensor in moved if made <= index < max(used, default=made)]
            into = _over_link(problem.links[parts[index - 1][0]][device], over) if over else _Move()
            out = _over_link(problem.links[device][parts[index + 1][0]], onward) if onward else _Move()
            kept = over + sent
        else:
            into = _Move(problem.devices[device].receive * math.fsum(tensor.seconds for tensor in received))
            out = _Move(problem.devices[device].send * math.fsum(tensor.seconds for tensor in sent))
        receive, send = into.seconds + into.unpacking, out.seconds + out.packing
        overhead = 0.0 if all(problem.nodes[node].idle for node in nodes) else problem.devices[device].overhead
        compute = math.fsum([overhead, *(problem.nodes[node].seconds[device] for node in nodes)])
        held = math.fsum(problem.nodes[node].memory for node in nodes)
        shared = math.fsum(weight.memory for weight in problem.weights if not set(weight.nodes).isdisjoint(nodes))
        workspace = max((problem.nodes[node].workspace for node in nodes), default=0.0)
        memory = math.fsum([held, shared, workspace, *(tensor.memory for tensor in kept)])
        number = replicas[index] if replicas else 1
        load = (max(compute, receive, send) if problem.overlap else math.fsum([compute, receive, send])) / number
        energy = math.fsum([compute, into.unpacking, out.packing]) * problem.devices[device].watts
        energy += out.seconds * problem.devices[device].sending_watts
        stages.append(Stage(device, tuple(nodes), compute, receive, send, load, memory, energy, number, into.packing))
    return tuple(stages)


def stages_of_two(problem: Problem, first: NDArray[np.bool_], second: int = 1) -> tuple[Stage, ...]:
    """Computes the stages with some nodes on the first type of device, and the others on another."""
    sides = (0, np.flatnonzero(first)), (second, np.flatnonzero(~first))
    return stages_of(problem, [(device, nodes.tolist()) for device, nodes in sides if len(nodes)])


def value_of(problem: Problem, stages: Sequence[Stage]) -> float:
    """Returns the largest load; for latency the time of all stages and moves one after another; or the energy."""
    if problem.objective == "throughput":
        return max(stage.load for stage in stages)
    if problem.objective == "energy":
        return math.fsum(stage.energy for stage in stages)
    moves = [stage.receive + (stage.send if problem.links is None else stage.packing) for stage in stages]
    return math.fsum([stage.compute for stage in stages] + moves)


@dataclass(frozen=True)
class Placement:
    """Assignment of the nodes to devices.

    Attributes:
        value: For "throughput" the largest load of a stage, for "latency" the time of all stages and moves, or the
            energy.
        lower_bound: No placement has a lower value; equals `value` if the placement is optimal.
        optimal: Whether it is proved that no placement is better.
        method: The method that found it. "closed sets", "minimum cut" and "bounded path" (see `Listed.front`) are
            exact; "local search" comes with a bound, which is proved by a partition of the closed sets (`partition`),
            or for more than 4,000 nodes by the total work.
        stages: The stages, in the order in which they run.
        closed_sets: Number of closed sets to choose from; `None` if there were too many to list.
    """

    value: float
    lower_bound: float
    optimal: bool
    method: Method
    stages: tuple[Stage, ...]
    closed_sets: int | None = None

    @classmethod
    def exact(
        cls, problem: Problem, stages: tuple[Stage, ...], method: Method, closed_sets: int | None = None
    ) -> "Placement":
        """Returns a placement that is proved to be the best one."""
        value = value_of(problem, stages)
        return cls(value, value, True, method, stages, closed_sets)


@dataclass(frozen=True)
class _Move:
    """Seconds of a move: on the way, to pack on the device that sends, and to unpack on the one that receives."""

    seconds: float = 0.0
    packing: float = 0.0
    unpacking: float = 0.0


def _over_link(link: Link, tensors: Sequence[Tensor]) -> _Move:
    return _Move(
        link.latency + link.factor * math.fsum(tensor.seconds for tensor in tensors),
        link.packing * math.fsum(tensor.packing for tensor in tensors),
        link.unpacking * math.fsum(tensor.unpacking for tensor in tensors),
    )
