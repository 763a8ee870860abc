"""What a placement problem is.

Nodes of a graph without cycles are put on devices. The nodes of one device are a stage: the difference of two sets of
nodes that are closed under predecessors, so that the stages run one after another (Tarnawski, Phanishayee, Devanur,
Mahajan and Nina Paravecino, "Efficient Algorithms for Device Placement of DNN Graph Operators", NeurIPS 2020).

All times are in seconds and all memory in bytes, but nothing depends on that: any units that agree will do.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

Objective = Literal["throughput", "latency"]


@dataclass(frozen=True)
class Node:
    """Something that runs on one device.

    Attributes:
        seconds: Its time on each type of device; `math.inf` where it cannot run.
        memory: Bytes that it keeps on its device, such as parameters.
        workspace: Bytes that it needs only while it runs. A stage needs the most that any of its nodes needs.
    """

    seconds: tuple[float, ...]
    memory: float = 0.0
    workspace: float = 0.0


@dataclass(frozen=True)
class Tensor:
    """What one node makes and others use.

    Attributes:
        producer: The node that makes it.
        consumers: The nodes that use it.
        seconds: Time to move it, before the factors of devices and links.
        memory: Bytes of room that it takes on a device that receives it or sends it.
        counts: Whether it is among the tensors of which only so many may cross a cut.
    """

    producer: int
    consumers: tuple[int, ...]
    seconds: float = 0.0
    memory: float = 0.0
    counts: bool = True


@dataclass(frozen=True)
class Weight:
    """Memory that several nodes share: a stage with any of these nodes holds it once."""

    nodes: tuple[int, ...]
    memory: float


@dataclass(frozen=True)
class DeviceType:
    """Devices that are alike.

    Attributes:
        name: What to call them.
        count: How many there are.
        memory: Bytes that one of them has.
        send: Without links: the factor on the time to move a tensor out of one of them; 0 where that is free.
        receive: Without links: the factor on the time to move a tensor in.
    """

    name: str
    count: int = 1
    memory: float = math.inf
    send: float = 1.0
    receive: float = 1.0


@dataclass(frozen=True)
class Link:
    """A link between two types of devices. What crosses a cut takes `latency` + `factor` × the sum of its seconds.

    Where nothing crosses, there is no latency either. A latency of `math.inf` stands for a link that is not there.
    """

    latency: float = 0.0
    factor: float = 1.0


@dataclass(frozen=True)
class CutRules:
    """Which cuts may be made. A cut is the closed set of all nodes before it.

    Attributes:
        max_tensors: The most tensors that may cross a cut, of those that count.
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
    """A graph, devices, and what the placement should be good at.

    Without `links`, the device that makes a tensor that is used elsewhere pays once to send it, and each device that
    uses it pays once to receive it, however many of its nodes use it. With `links`, all that crosses a cut goes over
    the link between the two stages beside the cut, once, also what a later stage needs.

    The load of a stage is the time of its nodes, of what it receives and of what it sends: their sum, or with
    `overlap` the largest of the three. For "throughput" the largest load counts, for "latency" the time of all stages
    and all moves one after another (a move over a link counts once).

    Attributes:
        nodes: The nodes. Indices into this tuple stand for them everywhere.
        tensors: The edges.
        devices: The types of devices.
        classes: Sets of nodes, each of which must stay in one stage.
        weights: Memory that nodes share.
        links: `links[a][b]` is the link from type a to type b; or `None`.
        objective: "throughput" or "latency".
        overlap: Devices receive, compute and send at the same time.
        in_order: The stages take the devices in the order of `devices`; some may be left out. Otherwise in any order.
        use_all: Every device must have a stage. Otherwise some may stay without.
        rules: Which cuts may be made.

    Numbers are 0 or more, and finite but for times, memories and latencies. Each node can run on some type of device,
    the graph has no cycle, and required cuts are closed sets: all this is so for what `graph_problem` makes.

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
    overlap: bool = False
    in_order: bool = False
    use_all: bool = False
    rules: CutRules = field(default_factory=CutRules)


def successors_of(count: int, tensors: Iterable[Tensor]) -> list[list[int]]:
    """For each node the nodes that use what it makes, each once, in increasing order."""
    after: list[set[int]] = [set() for _ in range(count)]
    for tensor in tensors:
        after[tensor.producer].update(tensor.consumers)
    return [sorted(users) for users in after]


def predecessors_of(count: int, tensors: Iterable[Tensor]) -> list[list[int]]:
    """For each node the nodes that make what it uses, each once, in increasing order."""
    before: list[set[int]] = [set() for _ in range(count)]
    for tensor in tensors:
        for consumer in tensor.consumers:
            before[consumer].add(tensor.producer)
    return [sorted(makers) for makers in before]


def topological_order(count: int, tensors: Sequence[Tensor]) -> list[int]:
    """The nodes in an order in which all that a node uses comes before it: depth first, so branches stay together.

    Shorter than `count` where the graph has a cycle: nodes on it and behind it are not in it.
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
