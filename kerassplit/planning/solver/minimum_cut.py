"""The best two-device placement of a whole graph, where tensors go one way only: a minimum cut.

The construction is that of DADS (Hu, Bao, Wang and Liu, "Dynamic adaptive DNN surgery for inference acceleration on the
edge", INFOCOM 2019). Source side: runs on the edge; sink side: in the cloud. An arc from the source to a call costs the
call's seconds in the cloud, and one from the call to the sink those on the edge. A tensor is a node of its own, after
its producer with an arc that costs moving it, and before its consumers with arcs that cannot be cut: it is paid once,
however many of its consumers are in the cloud. Arcs that cannot be cut, from consumers back to producers, see to it
that nothing comes back.

networkx (3.6) finds the same cuts, exactly, in 11 (`preflow_push`) to 13 times (`boykov_kolmogorov`) the time of
`minimum_cut` for 313 calls, and nothing else here needs it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

from kerassplit.errors import PlanError

_SOURCE, _SINK = 0, 1
_ENDLESS = 2**62


@dataclass(frozen=True)
class GraphTensor:
    """A tensor that may have to be moved.

    Attributes:
        producer: The call that makes it; `None` for an input of the model, which lies on the edge.
        consumers: The calls that use it.
        bytes: Its size.
    """

    producer: int | None
    consumers: tuple[int, ...]
    bytes: float


@dataclass(frozen=True)
class TwoDevicePlan:
    """Which calls run on the edge, and what that takes.

    Attributes:
        on_edge: For each call whether it does; the others run in the cloud. Closed: what a call on the edge needs is
            made there, too.
        crossing: Indices of the tensors that are moved.
        edge_seconds: Seconds of computing on the edge.
        moving_seconds: Seconds of moving, the latency of the link counted once.
        cloud_seconds: Seconds of computing in the cloud.
        moved: Bytes that are moved.
        value: The sum of the three.
        lower_bound: No placement takes less.
        optimal: Whether the two are the same.
        method: The algorithm that found it.
    """

    on_edge: tuple[bool, ...]
    crossing: tuple[int, ...]
    edge_seconds: float
    moving_seconds: float
    cloud_seconds: float
    moved: float
    value: float
    lower_bound: float
    optimal: bool
    method: str


def plan_two_devices(
    edge: Sequence[float],
    cloud: Sequence[float],
    tensors: Sequence[GraphTensor],
    bandwidth: float = math.inf,
    latency: float = 0.0,
) -> TwoDevicePlan:
    """The placement of a graph's calls on an edge device and in the cloud that takes one sample the least time.

    Exact: times are counted in whole numbers (a second is a power of two of them, the sum of all below 2^59), and the
    flow is a maximum to the last one. Of several best placements, the one with the fewest calls on the edge, and one
    that moves nothing before one that does.

    Args:
        edge: Seconds of each call on the edge; `inf` where it cannot run there.
        cloud: The same in the cloud.
        tensors: The tensors; a producer comes before its consumers.
        bandwidth: Of the link from the edge to the cloud: bytes per second.
        latency: Of the link: seconds, once, if anything is moved.

    Returns:
        The best placement.

    Raises:
        PlanError: There is none: a call that can run only on the edge needs one that can run only in the cloud,
            or a call can run nowhere.

    Example:

    >>> tensors = [GraphTensor(None, (0,), 8.0), GraphTensor(0, (1, 2), 1.0), GraphTensor(1, (2,), 9.0)]
    >>> plan = plan_two_devices([1.0, 9.0, 9.0], [0.5, 1.0, 1.0], tensors, bandwidth=1.0)
    >>> plan.on_edge, plan.crossing, plan.value
    ((True, False, False), (1,), 4.0)
    """
    seconds = np.array([edge, cloud], dtype=np.float64)
    moving = np.array([tensor.bytes for tensor in tensors], dtype=np.float64) / bandwidth
    _check(seconds, moving, tensors)
    total = seconds[np.isfinite(seconds)].sum() + moving.sum() + latency
    scale = 2.0 ** min(58 - math.ceil(math.log2(total)), 1000) if total > 0 else 1.0
    ticks = np.where(np.isfinite(seconds), np.rint(np.where(np.isfinite(seconds), seconds, 0) * scale), _ENDLESS)
    ticks, moving_ticks = ticks.astype(np.int64), np.rint(moving * scale).astype(np.int64)
    found = _best_side(ticks, moving_ticks, tensors)
    if found is None:
        raise PlanError(
            "No placement on the edge and in the cloud is possible: some call can run on neither, or one that can run "
            "only on the edge needs one that can run only in the cloud, and nothing comes back from there. "
            "Let more calls run on both.",
            binding=("seconds",),
        )
    if _crossing(found, tensors) and latency > 0:
        # The latency is no part of the cut: the other candidate is the best placement that moves nothing.
        still = _best_side(ticks, np.full(len(tensors), _ENDLESS), tensors)
        if still is not None and _ticks(still, ticks) <= _ticks(found, ticks) + round(latency * scale) + int(
            moving_ticks[_crossing(found, tensors)].sum()
        ):
            found = still
    return _plan(found, seconds, moving, tensors, latency)


def _check(seconds: NDArray[np.float64], moving: NDArray[np.float64], tensors: Sequence[GraphTensor]) -> None:
    if np.isnan(seconds).any() or (seconds < 0).any() or not (np.isfinite(moving) & (moving >= 0)).all():
        raise ValueError("Seconds and bytes must be 0 or more; bytes must be finite.")
    for tensor in tensors:
        least = -1 if tensor.producer is None else tensor.producer
        if not all(least < consumer < seconds.shape[1] for consumer in tensor.consumers):
            raise ValueError(
                f"A tensor made by call {tensor.producer} is used by the calls {tensor.consumers} of "
                f"{seconds.shape[1]}. A producer must come before its consumers."
            )


def _crossing(on_edge: NDArray[np.bool_], tensors: Sequence[GraphTensor]) -> list[int]:
    """The tensors that are made on the edge and used in the cloud."""
    return [
        number
        for number, tensor in enumerate(tensors)
        if (tensor.producer is None or on_edge[tensor.producer])
        and not all(on_edge[consumer] for consumer in tensor.consumers)
    ]


def _ticks(on_edge: NDArray[np.bool_], ticks: NDArray[np.int64]) -> int:
    return int(ticks[0][on_edge].sum() + ticks[1][~on_edge].sum())


def _plan(
    on_edge: NDArray[np.bool_],
    seconds: NDArray[np.float64],
    moving: NDArray[np.float64],
    tensors: Sequence[GraphTensor],
    latency: float,
) -> TwoDevicePlan:
    crossing = _crossing(on_edge, tensors)
    here, there = math.fsum(seconds[0][on_edge]), math.fsum(seconds[1][~on_edge])
    between = math.fsum([*moving[crossing], latency]) if crossing else 0.0
    value = math.fsum([here, between, there])
    return TwoDevicePlan(
        on_edge=tuple(on_edge.tolist()),
        crossing=tuple(crossing),
        edge_seconds=here,
        moving_seconds=between,
        cloud_seconds=there,
        moved=math.fsum(tensors[number].bytes for number in crossing),
        value=value,
        lower_bound=value,
        optimal=True,
        method="minimum cut",
    )


def _best_side(
    ticks: NDArray[np.int64], moving: NDArray[np.int64], tensors: Sequence[GraphTensor]
) -> NDArray[np.bool_] | None:
    """The calls on the edge in a minimum cut; `None` if every cut is endless."""
    calls = ticks.shape[1]
    arcs = [(_SOURCE, 2 + call, int(ticks[1][call])) for call in range(calls)]
    arcs += [(2 + call, _SINK, int(ticks[0][call])) for call in range(calls)]
    for number, tensor in enumerate(tensors):
        node = 2 + calls + number
        producer = _SOURCE if tensor.producer is None else 2 + tensor.producer
        arcs.append((producer, node, int(moving[number])))
        for consumer in tensor.consumers:
            arcs.append((node, 2 + consumer, _ENDLESS))
            if tensor.producer is not None:
                arcs.append((2 + consumer, producer, _ENDLESS))
    side = minimum_cut(2 + calls + len(tensors), arcs)
    return None if side is None else side[2 : 2 + calls]


def minimum_cut(nodes: int, arcs: Sequence[tuple[int, int, int]]) -> NDArray[np.bool_] | None:
    """The smallest source side of the minimum cuts between node 0 and node 1.

    scipy's flows are of 32 bits. A maximum flow of the capacities' first bits is found, doubled, and raised to a
    maximum with more of their bits, until all are in (scaling: Gabow, "Scaling algorithms for network problems", 1985).
    What a step can add is no more than the last step's cut gains by the new bits, so that it stays within 32.

    Args:
        nodes: How many.
        arcs: From, to, and capacity; 2^62 for one that cannot be cut. The others add up to less than 2^60.

    Returns:
        For each node whether it is on the source's side; `None` if every cut is endless.

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
    """Each pair of nodes once in each direction, with the sum of the capacities."""
    capacities: dict[tuple[int, int], int] = {}
    for tail, head, capacity in arcs:
        capacities[tail, head] = min(_ENDLESS, capacities.get((tail, head), 0) + capacity)
        capacities.setdefault((head, tail), 0)
    pairs = np.array(list(capacities), dtype=np.int32).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1], np.array(list(capacities.values()), dtype=np.int64)


def _reached(nodes: int, tails: NDArray, heads: NDArray, passable: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """What can be reached from the source over passable arcs."""
    graph = csr_array((np.ones(int(passable.sum())), (tails[passable], heads[passable])), shape=(nodes, nodes))
    reached = np.zeros(nodes, dtype=bool)
    reached[breadth_first_order(graph, _SOURCE, return_predecessors=False)] = True
    return reached
