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

    Of equally good chains, one with the fewest tensors crossing its cuts; of these, for throughput, the most even one
    (the least sum of squares of loads); of these one with the fewest bytes crossing.
    """
    orders = device_orders(family.problem)
    goal = "sum" if family.problem.objective == "latency" else "largest"
    bound = min(bound, upper_bound(family, orders, goal))
    family = _useful(family, orders, bound)
    ways = ways_of(family, orders, goal, bound)
    chain = _trace(family, orders, ways)
    if chain is None:
        return None
    if goal == "sum":
        best = _trace(family, orders, ways_of(family, orders, "small", tight=ways))
    else:
        best = search(_useful(family, orders, chain.value * SLACK), orders, "even", chain.value * ROUNDING)
    return replace(best or chain, value=chain.value)


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
    """The best chain for a goal; see `ways_of`."""
    return _trace(family, orders, ways_of(family, orders, goal, bound, most))


def ways_of(
    family: Family,
    orders: DeviceOrders,
    goal: Goal,
    bound: float = np.inf,
    most: float = np.inf,
    tight: "Ways | None" = None,
) -> "Ways":
    """The best ways through a family for a goal.

    Args:
        family: The closed sets.
        orders: The ways to take the devices.
        goal: "largest": the least largest load. "sum": the least time of all. "even": the fewest tensors crossing, then
            the least sum of squares of loads, then the fewest bytes. "small": the fewest tensors, then bytes.
            "memory": the least largest share of its device's memory that a stage needs, whatever it costs.
            "stages": the fewest stages. The last two want a family in order of memory (`in_order_of_memory`).
        bound: What no load or share (for "sum": not the value) may be above.
        most: What no load may be above, for "sum".
        tight: The best ways for "sum": only steps of these are taken.
    """
    allowed, rest = _allowed(family, orders, goal, bound)
    ranks = {"even": 3, "small": 2}.get(goal, 1)
    value = np.full((ranks, *allowed.shape), np.inf)
    value[:, orders.starts, 0] = 0.0
    came_from = np.full((2, *allowed.shape), -1, dtype=np.int32)
    ways = Ways(family, goal, bound, value, came_from, rest, tight)
    costs = StageCosts(family, goal, most)
    if family.is_chain and costs.simple and goal != "stages":
        _by_states(family, orders, ways, allowed, costs)
    else:
        _by_sets(family, orders, ways, allowed, costs)
    return ways


@dataclass(frozen=True, eq=False)
class Ways:
    """The best way to each set in each state, as far as it is known.

    Attributes:
        family: The closed sets.
        goal: What is best.
        bound: What no load may be above; for "sum" not the value.
        value: Of the best ways, shape (ranks, states, sets): a later rank decides where the earlier ones are equal.
        came_from: Their last steps: the states and the sets before, shape (2, states, sets).
        rest: The least that is left to be added behind each set, for "sum".
        tight: Ways whose steps alone may be taken.
    """

    family: Family
    goal: Goal
    bound: float
    value: NDArray[np.float64]
    came_from: NDArray[np.int32]
    rest: NDArray[np.float64]
    tight: "Ways | None"

    def open(self, allowed: NDArray[np.bool_], states, sets) -> NDArray[np.int64]:
        """Of some states in a set, or of a state in some sets, those from which ways may go on."""
        value, limit = self.value[0, states, sets], self.bound if self.goal in ("largest", "sum", "memory") else np.inf
        return np.flatnonzero(allowed[states, sets] & (value + self.rest[sets] <= limit) & (value < np.inf))

    def values(self, arc: Arc, sets, later: NDArray[np.int64], load: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        """The values of ways with a stage more, rank by rank, the first `inf` where the stage is above the bound."""
        start = [value[arc.source, sets] for value in self.value]
        if np.ndim(sets):
            start = [value[:, None] for value in start]
        if self.goal in ("largest", "memory"):
            reached = [np.maximum(start[0], load)]
        elif len(start) == 1:
            reached = [start[0] + load]
        else:
            family, fits = self.family, load < np.inf
            steps = [family.crossing_count[later], load * load, family.crossing_bytes[later]]
            steps = steps if self.goal == "even" else steps[::2]
            reached = [before + step for before, step in zip(start, steps, strict=True)]
            if self.tight is not None:
                (best,), way = self.tight.value, self.tight.values(arc, sets, later, load)[0]
                fits &= way <= best[arc.target, later] * ROUNDING
            return [np.where(fits & (load <= self.bound), reached[0], np.inf), *reached[1:]]
        fits = (reached[0] + self.rest[later] if self.goal == "sum" else load) <= self.bound
        return [np.where(fits, reached[0], np.inf)]

    def keep(self, arc: Arc, sets, later: NDArray[np.int64], reached: Sequence[NDArray[np.float64]]) -> None:
        """Keep what is better than the best known ways, from these sets along an arc to those later ones."""
        less, equal = np.zeros(len(later), dtype=np.bool_), np.ones(len(later), dtype=np.bool_)
        for new, known in zip(reached, self.value[:, arc.target, later], strict=True):
            less |= equal & (new < known)
            equal &= new == known
        better = np.flatnonzero(less)
        if len(better):
            targets = later[better]
            for value, new in zip(self.value, reached, strict=True):
                value[arc.target, targets] = new[better]
            self.came_from[0, arc.target, targets] = arc.source
            self.came_from[1, arc.target, targets] = sets if np.ndim(sets) == 0 else sets[better]


def _by_sets(family: Family, orders: DeviceOrders, ways: Ways, allowed: NDArray[np.bool_], costs: StageCosts) -> None:
    """One set at a time, with all that may follow it."""
    reachable = _windows(family, orders, allowed)
    for index in range(len(family) - 1):
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
            ways.keep(arc, index, later, ways.values(arc, index, later, loads[arc.kind]))


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
                reached = ways.values(arc, some, later, load)
                best, columns = _least(reached), np.arange(len(later))
                ways.keep(arc, some[best], later, [value[best, columns] for value in np.broadcast_arrays(*reached)])


def _least(ranks: Sequence[NDArray[np.float64]]) -> NDArray[np.int64]:
    """For each column the row of the least number; where rows are equal, the next rank decides."""
    first, *others = ranks
    for other in others:
        first = np.where(first == first.min(axis=0), other, np.inf)
    return first.argmin(axis=0)


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


def _trace(family: Family, orders: DeviceOrders, ways: Ways) -> Chain | None:
    """The stages that led to the best value; of values that are equal but for rounding, that of the fewest devices."""
    ends, value = orders.ends, ways.value
    for earlier in (ways.tight, ways):
        for rank in () if earlier is None else earlier.value:
            best = min((rank[state, -1] for state in ends), default=np.inf)
            ends = [state for state in ends if rank[state, -1] <= best * ROUNDING < np.inf]
    if not ends:
        return None
    state = min(ends, key=lambda end: (orders.counts[end].sum(), end))
    index = len(family) - 1
    reached, parts = float(value[0, state, index]), []
    while index:
        source, start = (int(number) for number in ways.came_from[:, state, index])
        device = next(arc.kind.device for arc in orders.arcs[source] if arc.target == state)
        nodes = np.flatnonzero(family.inside[:, index] & ~family.inside[:, start])
        parts.append((device, tuple(nodes.tolist())))
        state, index = source, start
    return Chain(reached, tuple(parts[::-1]))
