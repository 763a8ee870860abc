"""Finds the exact best chain of closed sets: dynamic programming over pairs of a closed set and a device state.

Closed sets J are processed in order of work, each with all closed sets I that may follow it at once: the cost of the
stage I \\ J is the time of its nodes plus that of tensors that cross J's boundary into it and I's boundary out of it.
Only a window of sets can follow: with the others, this stage or the remaining ones would have more work than the best
known value allows. (The recurrence is from Tarnawski et al., NeurIPS 2020; the windows and bounds are this project's.)
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from kerassplit.planning.solver.bounds import memory_sides_of, sides_of
from kerassplit.planning.solver.closed_sets import Family
from kerassplit.planning.solver.device_orders import Arc, DeviceOrders, device_orders
from kerassplit.planning.solver.stage_costs import ROUNDING, Goal, StageCosts

FEW, FEW_IN_CHAIN = 2000, 300  # closed sets that need no upper bound first
MOST_PAIRS = 2**18  # of sets, processed at once
SLACK = 1 + 1e-9  # sums of the same numbers differ in the last bits


@dataclass(frozen=True)
class Chain:
    """Stages that follow one another.

    Attributes:
        value: The minimized value, such as the largest load or the total time.
        parts: Device type and nodes of each stage.
        replicas: Number of devices of each stage.
    """

    value: float
    parts: tuple[tuple[int, tuple[int, ...]], ...]
    replicas: tuple[int, ...]


def best_chain(family: Family, bound: float = np.inf) -> Chain | None:
    """Finds the best chain in a family for its problem's objective; `None` if none is as good as the bound.

    Ties are broken by the fewest tensors over all cuts; then, for throughput, by the most even loads (the least sum of
    squares); then by the fewest crossing bytes.
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


def least_sum(family: Family) -> Chain | None:
    """Finds a chain of the least total time; `None` if there is none."""
    orders = device_orders(family.problem)
    bound = upper_bound(family, orders, "sum")
    return search(_useful(family, orders, bound), orders, "sum", bound)


def upper_bound(family: Family, orders: DeviceOrders, goal: Goal) -> float:
    """Returns the value of a good chain among few sets: those with the least crossing in each range of work.

    `inf` if the search would not pay off, or if there is no such chain.
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
    """Returns the sets at which some state can be within a bound."""
    if bound == np.inf or family.is_chain:
        return family
    useful = np.logical_or.reduce(sides_of(family).allowed(orders, bound))
    useful[[0, -1, *family.required]] = True
    return family.restricted(np.flatnonzero(useful))


def search(family: Family, orders: DeviceOrders, goal: Goal, bound: float, most: float = np.inf) -> Chain | None:
    """Finds the best chain for a goal; see `ways_of`."""
    return _trace(family, orders, ways_of(family, orders, goal, bound, most))


def ways_of(
    family: Family,
    orders: DeviceOrders,
    goal: Goal,
    bound: float = np.inf,
    most: float = np.inf,
    tight: "Ways | None" = None,
) -> "Ways":
    """Finds the best ways through a family for a goal.

    Args:
        family: The closed sets.
        orders: The orders of the devices.
        goal: "largest": minimizes the largest load. "sum": minimizes the total time. "even": minimizes crossing
            tensors, then the sum of squares of loads, then bytes. "small": minimizes crossing tensors, then bytes.
            "memory": minimizes the largest share of its device's memory that a stage needs, regardless of cost.
            "stages": minimizes the number of stages. The last two need a family in order of memory
            (`in_order_of_memory`).
        bound: Upper limit of every load or share (for "sum": of the value).
        most: Upper limit of every load, for "sum".
        tight: The best ways for "sum": only their steps are allowed.
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
    """The best known way to each set in each state.

    Attributes:
        family: The closed sets.
        goal: The value to minimize.
        bound: Upper limit of every load; for "sum", of the value.
        value: Values of the best ways, shape (ranks, states, sets): later ranks break ties of earlier ones.
        came_from: Their last steps: previous states and previous sets, shape (2, states, sets).
        rest: Least time that remains to be added after each set, for "sum".
        tight: Ways whose steps are the only ones allowed.
    """

    family: Family
    goal: Goal
    bound: float
    value: NDArray[np.float64]
    came_from: NDArray[np.int32]
    rest: NDArray[np.float64]
    tight: "Ways | None"

    def open(self, allowed: NDArray[np.bool_], states, sets) -> NDArray[np.int64]:
        """Returns the indices of those states in a set, or sets of a state, from which ways may continue."""
        value, limit = self.value[0, states, sets], self.bound if self.goal in ("largest", "sum", "memory") else np.inf
        return np.flatnonzero(allowed[states, sets] & (value + self.rest[sets] <= limit) & (value < np.inf))

    def values(self, arc: Arc, sets, later: NDArray[np.int64], load: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        """Returns the values of ways with one more stage, by rank; the first is `inf` if that exceeds the bound."""
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
        """Keeps the ways from these sets along an arc to later ones that are better than the best known ones."""
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
    """Processes one set at a time, with all sets that may follow it."""
    sets, some, caps = len(family), allowed.any(axis=1), caps_of(family)
    first = np.where(some, allowed.argmax(axis=1), sets)  # the first set and the end of the sets of each state
    end = np.where(some, sets - allowed[:, ::-1].argmax(axis=1), 0)
    for index in range(sets - 1):
        arcs = [arc for state in ways.open(allowed, slice(None), index) for arc in orders.arcs[state]]
        if not arcs:
            continue
        targets, kinds = [arc.target for arc in arcs], {arc.kind for arc in arcs}
        low = max(index + 1, int(first[targets].min()))
        high = min(int(end[targets].max()), int(caps[index]), costs.last(kinds, index, ways.bound))
        later = family.supersets(index, low, high)
        if not len(later):
            continue
        loads = costs.between(index, later, kinds)
        for arc in arcs:
            ways.keep(arc, index, later, ways.values(arc, index, later, loads[arc.kind]))


def _by_states(family: Family, orders: DeviceOrders, ways: Ways, allowed: NDArray[np.bool_], costs: StageCosts) -> None:
    """Processes one state at a time, with all its sets: in a chain, all pairs of sets are stages."""
    caps = caps_of(family)
    for source in np.argsort(orders.counts.sum(axis=1), kind="stable"):  # every stage uses a device
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
    """Returns the row of the least number in each column; the next rank breaks ties."""
    first, *others = ranks
    for other in others:
        first = np.where(first == first.min(axis=0), other, np.inf)
    return first.argmin(axis=0)


def _allowed(
    family: Family, orders: DeviceOrders, goal: Goal, bound: float
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Returns the sets that each state may be in, and the least remaining time at each set for "sum" (else 0)."""
    rest = np.zeros(len(family))
    if goal == "stages":
        allowed = np.ones((len(orders.arcs), len(family)), dtype=np.bool_)
    else:
        sides = memory_sides_of(family) if goal == "memory" else sides_of(family)
        allowed = sides.allowed(orders, bound)
        rest = sides.behind if goal == "sum" else rest
    allowed[np.setdiff1d(np.arange(len(allowed)), orders.between), :-1] = False
    return allowed, rest


def caps_of(family: Family) -> NDArray[np.int64]:
    """Returns the end of the sets that a stage may reach from each set: stages do not skip required cuts."""
    caps = np.full(len(family), len(family))
    for place in family.required:
        caps[:place] = np.minimum(caps[:place], place + 1)
    return caps


def _trace(family: Family, orders: DeviceOrders, ways: Ways) -> Chain | None:
    """Traces back the stages of the best value; values that differ by rounding only are tied, and fewer devices win."""
    ends, value = orders.ends, ways.value
    for earlier in (ways.tight, ways):
        for rank in () if earlier is None else earlier.value:
            best = min((rank[state, -1] for state in ends), default=np.inf)
            ends = [state for state in ends if rank[state, -1] <= best * ROUNDING < np.inf]
    if not ends:
        return None
    state = min(ends, key=lambda end: (orders.counts[end].sum(), end))
    way = [(int(state), len(family) - 1)]
    while way[-1][1]:
        source, start = ways.came_from[:, *way[-1]].tolist()
        way.append((source, start))
    return chain_along(family, orders, float(value[0, state, -1]), way[::-1])


def chain_along(family: Family, orders: DeviceOrders, value: float, way: Sequence[tuple[int, int]]) -> Chain:
    """Returns the chain of a way, given by a state and a set before its first stage and after each."""
    parts, kinds = [], []
    for (source, start), (target, end) in pairwise(way):
        kinds.append(next(arc.kind for arc in orders.arcs[source] if arc.target == target))
        nodes = np.flatnonzero(family.inside[:, end] & ~family.inside[:, start])
        parts.append((kinds[-1].device, tuple(nodes.tolist())))
    return Chain(value, tuple(parts), tuple(kind.replicas for kind in kinds))
