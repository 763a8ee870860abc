"""Minimizes the latency of a graph on two devices, with tensors going one way only: a minimum cut.

The construction is from DADS (Hu, Bao, Wang and Liu, "Dynamic adaptive DNN surgery for inference acceleration on the
edge", INFOCOM 2019). The source side runs on the first device, the sink side on the second. An arc from the source to a
node costs the node's seconds on the second device, and an arc from the node to the sink those on the first. A tensor is
a node of its own, after its producer with an arc that costs moving it, and before its consumers with arcs that cannot
be cut: it is moved once, however many of its consumers are on the second device. Arcs that cannot be cut, from
consumers back to producers, ensure that nothing returns to the first device.

networkx (3.6) finds the same cuts, exactly, in 11 (`preflow_push`) to 13 times (`boykov_kolmogorov`) the time of
`minimum_cut` for 313 calls, and nothing else here needs it.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

from kerassplit.planning.solver.problem import Link, Problem, Tensor

_SOURCE, _SINK = 0, 1
_ENDLESS = 2**62


def on_first_device(problem: Problem) -> NDArray[np.bool_] | None:
    """Returns the nodes on the first of two devices in a placement of least latency; `None` if there is no placement.

    Exact: times are counted in integer ticks (a second is a power of two of them, and the sum of all is below 2^59),
    and the flow is maximal to the last tick. Among best placements, those that move nothing come first, then those that
    move the fewest tensors, then those with the fewest nodes on the first device.

    Args:
        problem: Latency on two devices in order, with a link from the first to the second. Memory and rules are
            ignored, and a device may stay without nodes.

    Example:

    >>> from kerassplit.planning.solver.problem import DeviceType, Link, Node, Tensor
    >>> nodes = tuple(Node(seconds) for seconds in ((1.0, 0.5), (9.0, 1.0), (9.0, 1.0)))
    >>> tensors = (Tensor(0, (1, 2), 1.0), Tensor(1, (2,), 9.0))
    >>> problem = Problem(nodes, tensors, (DeviceType("edge"), DeviceType("cloud")), links=((Link(),) * 2,) * 2)
    >>> on_first_device(problem).tolist()
    [False, False, False]
    """
    link = Link(0.0, 0.0, 0.0, 0.0) if problem.links is None else problem.links[0][1]
    seconds = np.array([node.seconds for node in problem.nodes]).T
    costs = np.array([(tensor.seconds, tensor.packing, tensor.unpacking) for tensor in problem.tensors]).reshape(-1, 3)
    moving = costs @ [link.factor, link.packing, link.unpacking]
    overheads = [device.overhead for device in problem.devices]
    counts = np.array([tensor.counts for tensor in problem.tensors], dtype=np.int64)
    finite = np.where(np.isfinite(seconds), seconds, 0.0)
    total = finite.sum() + moving.sum() + link.latency + sum(overheads)
    unit = 1 + int(counts.sum())  # all tensors are less than a unit
    scale = 2.0 ** min(58 - unit.bit_length() - math.ceil(math.log2(total)), 1000) if total > 0 else 1.0
    ticks = np.where(np.isfinite(seconds), np.rint(finite * scale).astype(np.int64) * unit, _ENDLESS)
    moving_ticks = np.rint(moving * scale).astype(np.int64) * unit + counts
    latency, *starts = (round(seconds * scale) * unit for seconds in (link.latency, *overheads))
    busy = np.array([not node.idle for node in problem.nodes])

    def rank(first: NDArray[np.bool_]) -> tuple[int, bool, int]:
        crossing = _crossing(first, problem.tensors)
        value = ticks[0][first].sum() + ticks[1][~first].sum() + moving_ticks[crossing].sum() + latency * crossing.any()
        value += starts[0] * (first & busy).any() + starts[1] * (~first & busy).any()
        return int(value), bool(crossing.any()), int(first.sum())

    # Neither the link's latency nor overheads are part of a cut: the other candidates are the best placements that move
    # nothing, and those with all busy nodes on one device.
    found = []
    for idle in (None, 0, 1) if any(overheads) else (None,):
        able = ticks.copy()
        if idle is not None:
            able[idle, busy] = _ENDLESS
        side = _best_side(able, moving_ticks, problem.tensors)
        found.append(side)
        if latency and side is not None and _crossing(side, problem.tensors).any():
            found.append(_best_side(able, np.full(len(moving), _ENDLESS), problem.tensors))
    return min((side for side in found if side is not None), key=rank, default=None)


def _crossing(first: NDArray[np.bool_], tensors: Sequence[Tensor]) -> NDArray[np.bool_]:
    """Returns which tensors go from the first device to the second."""
    return np.array([first[one.producer] and not first[list(one.consumers)].all() for one in tensors], dtype=np.bool_)


def _best_side(
    ticks: NDArray[np.int64], moving: NDArray[np.int64], tensors: Sequence[Tensor]
) -> NDArray[np.bool_] | None:
    """Returns the nodes on the first device in a minimum cut; `None` if every cut is infinite."""
    nodes = ticks.shape[1]
    arcs = [(_SOURCE, 2 + node, int(ticks[1][node])) for node in range(nodes)]
    arcs += [(2 + node, _SINK, int(ticks[0][node])) for node in range(nodes)]
    for number, tensor in enumerate(tensors):
        between = 2 + nodes + number
        arcs.append((2 + tensor.producer, between, int(moving[number])))
        for consumer in tensor.consumers:
            arcs += [(between, 2 + consumer, _ENDLESS), (2 + consumer, 2 + tensor.producer, _ENDLESS)]
    side = minimum_cut(2 + nodes + len(tensors), arcs)
    return None if side is None else side[2 : 2 + nodes]


def minimum_cut(nodes: int, arcs: Sequence[tuple[int, int, int]]) -> NDArray[np.bool_] | None:
    """Finds the smallest source side of the minimum cuts between node 0 and node 1.

    SciPy's flows have 32 bits. A maximum flow for the capacities' leading bits is found, scaled up, and augmented to a
    maximum flow for more of their bits, until all are used (Gabow, "Scaling algorithms for network problems", 1985).
    A step adds at most what the new bits add to the last step's cut, so it stays within 32 bits.

    Args:
        nodes: Number of nodes.
        arcs: From, to, and capacity; 2^62 for an arc that cannot be cut. The others add up to less than 2^60.

    Returns:
        For each node whether it is on the source side; `None` if every cut is infinite.

    Example:

    >>> minimum_cut(4, [(0, 2, 5), (2, 3, 2**40 + 1), (3, 1, 2**40)]).tolist()
    [True, False, False, False]
    """
    tails, heads, whole = _both_ways(nodes, arcs)
    endless = whole >= _ENDLESS
    if _reached(nodes, tails, heads, endless)[_SINK]:
        return None
    bound = int(whole[~endless].sum())
    whole[endless] = bound + 1
    shift = max(0, bound.bit_length() - 30)
    flow = np.zeros(len(tails), dtype=np.int64)
    limit = bound >> shift
    while True:
        spare = np.minimum((whole >> shift) - flow, limit + 1)
        graph = csr_array((spare.astype(np.int32), (tails, heads)), shape=(nodes, nodes))
        gained = np.asarray(maximum_flow(graph, _SOURCE, _SINK).flow[tails, heads]).ravel()
        flow += gained
        side = _reached(nodes, tails, heads, spare > gained)
        if shift == 0:
            return side
        across = side[tails] & ~side[heads]
        bits = min(shift, 30 - int(across.sum()).bit_length())
        shift -= bits
        flow <<= bits
        limit = int(((whole >> shift) - flow)[across].sum())


def _both_ways(nodes: int, arcs: Sequence[tuple[int, int, int]]) -> tuple[NDArray, NDArray, NDArray[np.int64]]:
    """Returns each pair of nodes once in each direction, with the sum of its capacities."""
    capacities: dict[tuple[int, int], int] = {}
    for tail, head, capacity in arcs:
        capacities[tail, head] = min(_ENDLESS, capacities.get((tail, head), 0) + capacity)
        capacities.setdefault((head, tail), 0)
    pairs = np.array(list(capacities), dtype=np.int32).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1], np.array(list(capacities.values()), dtype=np.int64)


def _reached(nodes: int, tails: NDArray, heads: NDArray, passable: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Returns the nodes that can be reached from the source over passable arcs."""
    graph = csr_array((np.ones(int(passable.sum())), (tails[passable], heads[passable])), shape=(nodes, nodes))
    reached = np.zeros(nodes, dtype=bool)
    reached[breadth_first_order(graph, _SOURCE, return_predecessors=False)] = True
    return reached
