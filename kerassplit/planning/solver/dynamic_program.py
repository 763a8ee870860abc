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

FEW, FEW_IN_CHAIN = 2000, 300  # closed sets for which no upper bound has to be found first
MOST_PAIRS = 2**18  # of sets, taken at once
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
    if len(family) <= (FEW_IN_CHAIN if family.is_chain else FEW):
        return np.inf
    crossing = family.crossing_memory if goal == "memory" else family.crossing_seconds
    stretches = np.floor(family.work / (family.work[-1] or 1.0) * 200).astype(np.int64)
    order = np.lexsort((crossing, stretches))
    rank = np.arange(len(order)) - np.searchsorted(stretches[order], stretches[order])
    for each in (1, 5, 40) if family.is_chain else (5, 40):
        chosen = np.zeros(len(family), dtype=np.bool_)
        chosen[order[rank < each]] = True
        chosen[[0, -1, *family.required]] = True
        chain = search(family.restricted(np.flatnonzero(chosen)), orders, goal, np.inf)
        if chain is not None:
            return chain.value * SLACK
    return np.inf


def _useful(family: Family, orders: DeviceOrders, bound: float) -> Family:
    """The sets at which some state can be within a bound."""
    if bound == np.inf or family.is_chain:
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
    value[orders.starts, 0] = 0.0
    ways = Ways(goal, bound, value, np.full((2, *allowed.shape), -1, dtype=np.int32), rest)
    costs = StageCosts(family, goal, most)
    if family.is_chain and costs.simple and goal not in ("memory", "stages"):
        _by_states(family, orders, ways, allowed, costs)
    else:
        _by_sets(family, orders, ways, allowed, costs)
    return _trace(family, orders, value, ways.came_from)


@dataclass(frozen=True, eq=False)
class Ways:
    """The best way to each set in each state, as far as it is known.

    Attributes:
        goal: What is best.
        bound: What no load may be above; for "sum" not the value.
        value: Of the best ways, shape (states, sets).
        came_from: Their last steps: the states and the sets before, shape (2, states, sets).
        rest: The least that is left to be added behind each set, for "sum".
    """

    goal: Goal
    bound: float
    value: NDArray[np.float64]
    came_from: NDArray[np.int32]
    rest: NDArray[np.float64]

    def open(self, allowed: NDArray[np.bool_], states, sets) -> NDArray[np.int64]:
        """Of some states in a set, or of a state in some sets, those from which ways may go on."""
        value, limit = self.value[states, sets], np.inf if self.goal in ("squares", "stages") else self.bound
        return np.flatnonzero(allowed[states, sets] & (value + self.rest[sets] <= limit) & (value < np.inf))

    def values(self, start, later: NDArray[np.int64], load: NDArray[np.float64]) -> NDArray[np.float64]:
        """The values of ways with a stage more, `inf` where it is above the bound."""
        if self.goal in ("largest", "memory"):
            reached = np.maximum(start, load)
        else:
            reached = start + (load * load if self.goal == "squares" else load)
        fits = (reached + self.rest[later] if self.goal == "sum" else load) <= self.bound
        return np.where(fits, reached, np.inf)

    def keep(self, arc: Arc, sets, later: NDArray[np.int64], reached: NDArray[np.float64]) -> None:
        """Keep what is better than the best known ways, from these sets along an arc to those later ones."""
        better = np.flatnonzero(reached < self.value[arc.target, later])
        if len(better):
            targets = later[better]
            self.value[arc.target, targets] = reached[better]
            self.came_from[0, arc.target, targets] = arc.source
            self.came_from[1, arc.target, targets] = sets if np.ndim(sets) == 0 else sets[better]


def _by_sets(family: Family, orders: DeviceOrders, ways: Ways, allowed: NDArray[np.bool_], costs: StageCosts) -> None:
    """One set at a time, with all that may follow it."""
    reachable = _windows(family, orders, allowed)
    for index in range(len(family) - 1):
        column = ways.value[:, index]
        arcs = [arc for state in ways.open(allowed, slice(None), index) for arc in orders.arcs[state]]
        high = min(reachable.high(arcs, index), costs.last({arc.kind.device for arc in arcs}, index, ways.bound))
        low = max(index + 1, reachable.low(arcs))
        if low >= high:
            continue
        later = family.supersets(index, low, high)
        if not len(later):
            continue
        loads = costs.between(index, later, {arc.kind for arc in arcs})
        for arc in arcs:
            ways.keep(arc, index, later, ways.values(column[arc.source], later, loads[arc.kind]))


def _by_states(family: Family, orders: DeviceOrders, ways: Ways, allowed: NDArray[np.bool_], costs: StageCosts) -> None:
    """One state at a time, with all its sets: in a chain, all pairs of sets are stages."""
    caps = _caps(family)
    for source in np.argsort(orders.counts.sum(axis=1), kind="stable"):  # every stage takes a device
        sets = ways.open(allowed, source, slice(-1))
        for arc in orders.arcs[source] if len(sets) else ():
            later = np.flatnonzero(allowed[arc.target, sets[0] + 1 :]) + sets[0] + 1
            parts = min(len(sets), 1 + len(sets) * len(later) // MOST_PAIRS)
            for some in np.array_split(sets, parts) if len(later) else ():
                load = costs.between_all(some, later, arc.kind)
                load[(later <= some[:, None]) | (later >= caps[some][:, None])] = np.inf
                reached = ways.values(ways.value[source, some][:, None], later, load)
                best = reached.argmin(axis=0)
                ways.keep(arc, some[best], later, reached[best, np.arange(len(later))])


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
    return Windows(first, behind, _caps(family))


def _caps(family: Family) -> NDArray[np.int64]:
    """The end of what a stage may reach from each set: it goes over no cut that must be made."""
    caps = np.full(len(family), len(family))
    for place in family.required:
        caps[:place] = np.minimum(caps[:place], place + 1)
    return caps


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
