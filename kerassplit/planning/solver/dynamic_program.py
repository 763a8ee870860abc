"""The best chain of closed sets, exactly: dynamic programming over pairs of a closed set and a state of the devices.

One closed set J is taken at a time, in order of work, and all closed sets I that may follow it at once: what the stage
I \\ J costs is the time of its nodes plus what crosses J's boundary into it plus what crosses I's boundary out of it.
Only a window of sets can follow: the others make a stage, or leave others, with more work than the best value known
allows. (The recurrence is that of Tarnawski et al., NeurIPS 2020; the windows and bounds are this project's.)
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from kerassplit.planning.solver.bounds import memory_sides_of, sides_of
from kerassplit.planning.solver.closed_sets import Family
from kerassplit.planning.solver.device_orders import Arc, DeviceOrders, device_orders
from kerassplit.planning.solver.stage_costs import ROUNDING, Goal, StageCosts

FEW = 2000  # closed sets for which no upper bound has to be found first
SLACK = 1 + 1e-9  # sums of the same numbers differ in the last bits


@dataclass(frozen=True)
class Chain:
    """Stages that follow one another.

    Attributes:
        value: What the search was for: the largest load, say, or the time of all.
        parts: For each stage the type of its device and its nodes.
    """

    value: float
    parts: tuple[tuple[int, tuple[int, ...]], ...]


def best_chain(family: Family, bound: float = np.inf) -> Chain | None:
    """The best chain in a family for its problem's objective; `None` if none is as good as the bound.

    Among chains with the least largest load, one with the least sum of squares of loads is taken: the most even one.
    """
    orders = device_orders(family.problem)
    goal = "sum" if family.problem.objective == "latency" else "largest"
    bound = min(bound, upper_bound(family, orders, goal))
    chain = search(_useful(family, orders, bound), orders, goal, bound)
    if chain is None or goal == "sum":
        return chain
    even = search(_useful(family, orders, chain.value * SLACK), orders, "squares", chain.value * ROUNDING)
    return replace(even or chain, value=chain.value)


def upper_bound(family: Family, orders: DeviceOrders, goal: Goal) -> float:
    """The value of a good chain among few of the sets: of those with equal work, more or less, where least is moved.

    `inf` if that is not worth while, or if there is none.
    """
    if len(family) <= FEW:
        return np.inf
    crossing = family.crossing_memory if goal == "memory" else family.crossing_seconds
    stretches = np.floor(family.work / (family.work[-1] or 1.0) * 200).astype(np.int64)
    order = np.lexsort((crossing, stretches))
    rank = np.arange(len(order)) - np.searchsorted(stretches[order], stretches[order])
    for each in (5, 40):
        chosen = np.zeros(len(family), dtype=np.bool_)
        chosen[order[rank < each]] = True
        chosen[[0, -1, *family.required]] = True
        chain = search(family.restricted(np.flatnonzero(chosen)), orders, goal, np.inf)
        if chain is not None:
            return chain.value * SLACK
    return np.inf


def _useful(family: Family, orders: DeviceOrders, bound: float) -> Family:
    """The sets at which some state can be within a bound."""
    if bound == np.inf:
        return family
    useful = np.logical_or.reduce(sides_of(family).allowed(orders, bound))
    useful[[0, -1, *family.required]] = True
    return family.restricted(np.flatnonzero(useful))


def search(family: Family, orders: DeviceOrders, goal: Goal, bound: float, most: float = np.inf) -> Chain | None:
    """The best chain for a goal.

    Args:
        family: The closed sets.
        orders: The ways to take the devices.
        goal: "largest": the least largest load. "squares": the least sum of squares of loads. "sum": the least time of
            all. "memory": the least largest share of its device's memory that a stage needs, whatever it costs.
            "stages": the fewest stages. The last two want a family in order of memory (`in_order_of_memory`).
        bound: What no load or share (for "sum": not the value) may be above.
        most: What no load may be above, for "sum".
    """
    allowed, rest = _allowed(family, orders, goal, bound)
    value = np.full(allowed.shape, np.inf)
    came_from = np.full((2, *allowed.shape), -1, dtype=np.int32)
    value[orders.starts, 0] = 0.0
    reachable = _windows(family, orders, allowed)
    costs = StageCosts(family, goal, most)
    limit = np.inf if goal in ("squares", "stages") else bound
    for index in range(len(family) - 1):
        column = value[:, index]
        active = np.flatnonzero(allowed[:, index] & (column + rest[index] <= limit) & (column < np.inf))
        arcs = [arc for state in active for arc in orders.arcs[state]]
        high = min(reachable.high(arcs, index), costs.last({arc.kind.device for arc in arcs}, index, bound))
        low = max(index + 1, reachable.low(arcs))
        if low >= high:
            continue
        later = family.supersets(index, low, high)
        if not len(later):
            continue
        loads = costs.between(index, later, {arc.kind for arc in arcs})
        for arc in arcs:
            _step(goal, value, came_from, arc, index, later, loads[arc.kind], bound, rest)
    return _trace(family, orders, value, came_from)


def _step(
    goal: Goal,
    value: NDArray[np.float64],
    came_from: NDArray[np.int32],
    arc: Arc,
    index: int,
    later: NDArray[np.int64],
    load: NDArray[np.float64],
    bound: float,
    rest: NDArray[np.float64],
) -> None:
    """Take one arc from one set to all that may follow it."""
    start = value[arc.source, index]
    if goal in ("largest", "memory"):
        reached = np.maximum(start, load)
    else:
        reached = start + (load * load if goal == "squares" else load)
    fits = (reached + rest[later] if goal == "sum" else load) <= bound
    better = np.flatnonzero(fits & (reached < value[arc.target, later]))
    if len(better):
        targets = later[better]
        value[arc.target, targets] = reached[better]
        came_from[0, arc.target, targets] = arc.source
        came_from[1, arc.target, targets] = index


def _allowed(
    family: Family, orders: DeviceOrders, goal: Goal, bound: float
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Which states may be in which sets, and the least time of what is left there for "sum" (else 0)."""
    rest = np.zeros(len(family))
    if goal == "stages":
        allowed = np.ones((len(orders.arcs), len(family)), dtype=np.bool_)
    else:
        sides = memory_sides_of(family) if goal == "memory" else sides_of(family)
        allowed = sides.allowed(orders, bound)
        rest = sides.behind if goal == "sum" else rest
    allowed[np.setdiff1d(np.arange(len(allowed)), orders.between), :-1] = False
    return allowed, rest


@dataclass(frozen=True)
class Windows:
    """The first and the last set in which each state may be, and how far each set's successors may lie."""

    first: NDArray[np.int64]
    behind: NDArray[np.int64]
    caps: NDArray[np.int64]

    def low(self, arcs: Sequence[Arc]) -> int:
        return min((int(self.first[arc.target]) for arc in arcs), default=0)

    def high(self, arcs: Sequence[Arc], index: int) -> int:
        return min(int(self.caps[index]), max((int(self.behind[arc.target]) for arc in arcs), default=0))


def _windows(family: Family, orders: DeviceOrders, allowed: NDArray[np.bool_]) -> Windows:
    sets = len(family)
    some = allowed.any(axis=1)
    first = np.where(some, allowed.argmax(axis=1), sets)
    behind = np.where(some, sets - allowed[:, ::-1].argmax(axis=1), 0)
    caps = np.full(sets, sets)
    for place in family.required:  # no stage goes over a cut that must be made
        caps[:place] = np.minimum(caps[:place], place + 1)
    return Windows(first, behind, caps)


def _trace(
    family: Family, orders: DeviceOrders, value: NDArray[np.float64], came_from: NDArray[np.int32]
) -> Chain | None:
    """The stages that led to the best value; of values that are equal but for rounding, that of the fewest devices."""
    best = min((value[state, -1] for state in orders.ends), default=np.inf)
    if best == np.inf:
        return None
    equal = [state for state in orders.ends if value[state, -1] <= best * (1 + 1e-12)]
    state = min(equal, key=lambda end: (orders.counts[end].sum(), end))
    index = value.shape[1] - 1
    reached, parts = float(value[state, index]), []
    while index:
        source, start = (int(number) for number in came_from[:, state, index])
        device = next(arc.kind.device for arc in orders.arcs[source] if arc.target == state)
        nodes = np.flatnonzero(family.inside[:, index] & ~family.inside[:, start])
        parts.append((device, tuple(nodes.tolist())))
        state, index = source, start
    return Chain(reached, tuple(parts[::-1]))
