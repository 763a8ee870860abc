"""Definition of placement problems.

Nodes of an acyclic graph are assigned to devices. The nodes of one device are a stage: the difference of two sets of
nodes that are closed under predecessors, so that the stages run one after another (Tarnawski, Phanishayee, Devanur,
Mahajan and Nina Paravecino, "Efficient Algorithms for Device Placement of DNN Graph Operators", NeurIPS 2020).

All times are in seconds and all memory in bytes, but nothing depends on that: any consistent units will do.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

Objective = Literal["throughput", "latency", "energy"]


@dataclass(frozen=True)
class Node:
    """A node, which runs on one device.

    Attributes:
        seconds: Its time on each device type; `math.inf` where it cannot run.
        memory: Bytes that it keeps on its device, such as parameters.
        workspace: Bytes that it needs only while it runs. A stage needs the most that any of its nodes needs.
        idle: Whether nothing has to be called for it, as for an input of a model. A stage of idle nodes alone has no
            overhead, and with `use_all`, there is none.
    """

    seconds: tuple[float, ...]
    memory: float = 0.0
    workspace: float = 0.0
    idle: bool = False


@dataclass(frozen=True)
class Tensor:
    """A tensor that one node produces and others use.

    Attributes:
        producer: The node that produces it.
        consumers: The nodes that use it.
        seconds: Time to move it, before the factors of devices and links.
        memory: Bytes that it occupies on a device that receives or sends it.
        counts: Whether it counts toward the limit on crossing tensors (`CutRules.max_tensors`).
        packing: With links: time of computing on the device that sends it, for each move.
        unpacking: With links: time of computing on the device that receives it, for each move.
    """

    producer: int
    consumers: tuple[int, ...]
    seconds: float = 0.0
    memory: float = 0.0
    counts: bool = True
    packing: float = 0.0
    unpacking: float = 0.0


@dataclass(frozen=True)
class Weight:
    """Memory shared by several nodes: a stage with any of them holds it once."""

    nodes: tuple[int, ...]
    memory: float


@dataclass(frozen=True)
class DeviceType:
    """A type of identical devices.

    Attributes:
        name: Name of the type.
        count: Number of devices.
        memory: Bytes of memory of one device.
        send: Without links: the factor on the time to move a tensor out of a device; 0 if that is free.
        receive: Without links: the factor on the time to move a tensor into a device.
        overhead: Additional time of each stage with a node that is not idle, such as to call it.
        watts: Power while it computes.
        sending_watts: Power while it sends.
    """

    name: str
    count: int = 1
    memory: float = math.inf
    send: float = 1.0
    receive: float = 1.0
    overhead: float = 0.0
    watts: float = 0.0
    sending_watts: float = 0.0


@dataclass(frozen=True)
class Link:
    """A link between two device types.

    The tensors of a cut take `latency` + `factor` × the sum of their `seconds` + `packing` × the sum of their `packing`
    + `unpacking` × the sum of their `unpacking`. If nothing crosses, there is no latency either. A latency of
    `math.inf` means that there is no link.
    """

    latency: float = 0.0
    factor: float = 1.0
    packing: float = 1.0
    unpacking: float = 1.0

    @cached_property
    def sending(self) -> "Link":
        """The link as it loads the device that sends."""
        return replace(self, unpacking=0.0)

    @cached_property
    def receiving(self) -> "Link":
        """The link as it loads the device that receives."""
        return replace(self, packing=0.0)


@dataclass(frozen=True)
class CutRules:
    """Rules for the allowed cuts. A cut is given by the closed set of all nodes before it.

    Attributes:
        max_tensors: The most counted tensors that may cross a cut.
        max_memory: The most bytes that may cross a cut.
        first: Nodes that must be in the first stage.
        last: Nodes that must be in the last stage.
        required: Closed sets that must be among the cuts.
        forbidden: Closed sets that must not be among the cuts.
    """

    max_tensors: int | None = None
    max_memory: float = math.inf
    first: frozenset[int] = frozenset()
    last: frozenset[int] = frozenset()
    required: tuple[frozenset[int], ...] = ()
    forbidden: tuple[frozenset[int], ...] = ()


@dataclass(frozen=True)
class Problem:
    """A graph, devices, and the objective of the placement.

    Without `links`, the device that produces a tensor pays once to send it, if it is used elsewhere, and each device
    that uses it pays once to receive it, however many of its nodes use it. With `links`, all tensors that cross a cut
    go over the link between the two stages at the cut, once, including those that only a later stage needs.

    The load of a stage is the time of its nodes with the overhead of its device, of receiving and of sending: the sum,
    or with `overlap` the largest of the three. Over a link, sending includes packing, and receiving unpacking.
    "throughput" minimizes the largest load, "latency" the time of all stages and all moves one after another (a move
    over a link counts once, with packing and unpacking), "energy" the sum of the times of computing, packing and
    unpacking included, and of sending, each multiplied by the power of the device.

    Attributes:
        nodes: The nodes. They are referred to by their indices in this tuple.
        tensors: The edges.
        devices: The device types.
        classes: Sets of nodes, each of which must stay in one stage.
        weights: Memory that nodes share.
        links: `links[a][b]` is the link from type a to type b; or `None`.
        objective: "throughput", "latency" or "energy".
        budget: For latency the most energy, for energy the most latency.
        overlap: Whether devices receive, compute and send at the same time.
        in_order: Whether the stages use the devices in the order of `devices`; some may be left out. Otherwise in any
            order.
        use_all: Whether every device must have a stage, with a node that is not idle. Otherwise some may stay without.
        replicas: For throughput: whether a stage may have several devices of a type, which take turns, so that its load
            is divided by their number (Narayanan et al., "PipeDream: Generalized Pipeline Parallelism for DNN
            Training", SOSP 2019). Each needs the memory of the stage.
        rules: Rules for the allowed cuts.

    Numbers are 0 or more, and finite except for times, memories and latencies. Each node can run on some device type,
    not all are idle, the graph has no cycle, and required cuts are closed sets: `graph_problem` ensures all of this.

    Example:

    >>> problem = Problem(
    ...     nodes=(Node((1.0,)), Node((2.0,)), Node((3.0,))),
    ...     tensors=(Tensor(0, (1,), seconds=0.5), Tensor(1, (2,), seconds=0.1)),
    ...     devices=(DeviceType("accelerator", count=2),),
    ... )
    """

    nodes: tuple[Node, ...]
    tensors: tuple[Tensor, ...]
    devices: tuple[DeviceType, ...]
    classes: tuple[tuple[int, ...], ...] = ()
    weights: tuple[Weight, ...] = ()
    links: tuple[tuple[Link, ...], ...] | None = None
    objective: Objective = "throughput"
    budget: float = math.inf
    overlap: bool = False
    in_order: bool = False
    use_all: bool = False
    replicas: bool = False
    rules: CutRules = field(default_factory=CutRules)


def links_differ(problem: Problem) -> bool:
    """Checks if links differ between types of devices."""
    return problem.links is not None and len({link for row in problem.links for link in row}) > 1


def memory_binds(problem: Problem) -> bool:
    """Checks if some device could not hold everything."""
    everything = sum(one.memory for one in (*problem.nodes, *problem.weights, *problem.tensors))
    everything += max(node.workspace for node in problem.nodes)
    return everything > min(device.memory for device in problem.devices)


def successors_of(count: int, tensors: Iterable[Tensor]) -> list[list[int]]:
    """Returns the direct successors of each node, each once, in increasing order."""
    after: list[set[int]] = [set() for _ in range(count)]
    for tensor in tensors:
        after[tensor.producer].update(tensor.consumers)
    return [sorted(users) for users in after]


def predecessors_of(count: int, tensors: Iterable[Tensor]) -> list[list[int]]:
    """Returns the direct predecessors of each node, each once, in increasing order."""
    before: list[set[int]] = [set() for _ in range(count)]
    for tensor in tensors:
        for consumer in tensor.consumers:
            before[consumer].add(tensor.producer)
    return [sorted(makers) for makers in before]


def topological_order(count: int, tensors: Sequence[Tensor]) -> list[int]:
    """Returns the nodes in topological order: depth first, so that branches stay together.

    Shorter than `count` if the graph has a cycle: nodes on the cycle and after it are missing.
    """
    after = successors_of(count, tensors)
    waits = [len(makers) for makers in predecessors_of(count, tensors)]
    ready = [node for node in reversed(range(count)) if not waits[node]]
    order = []
    while ready:
        node = ready.pop()
        order.append(node)
        for user in reversed(after[node]):
            waits[user] -= 1
            if not waits[user]:
                ready.append(user)
    return order
