"""Finds the chain of least latency within an energy, or of least energy within a latency.

With a price on what is limited, the two are one sum, which dynamic programming minimizes. The best price gives a chain
within the limit and a bound on better ones (Handler and Zang, "A dual algorithm for the constrained shortest path
problem", 1980). Between the two, all ways are followed that no other beats in both (Hansen, "Bicriterion path
problems", 1980), as long as the least that remains of each and of their sum lets them end better.
"""

import math
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from kerassplit.planning.solver.bounds import SLACK, device_rates, sides_of
from kerassplit.planning.solver.closed_sets import Family, node_work
from kerassplit.planning.solver.device_orders import Arc, device_orders
from kerassplit.planning.solver.dynamic_program import Chain, caps_of, chain_along, least_sum
from kerassplit.planning.solver.energy import weighted
from kerassplit.planning.solver.problem import Objective, Problem, links_differ
from kerassplit.planning.solver.stage_costs import ROUNDING, StageCosts
from kerassplit.planning.solver.stages import Stage, stages_of, value_of

Numbers = NDArray[np.float64]
Labels = tuple[Numbers, NDArray[np.int64]]  # labels, shape (3, labels); and the state, set and label of each before it


def is_within(problem: Problem, stages: Sequence[Stage]) -> bool:
    """Checks if a placement keeps to the budget of its problem."""
    limited = replace(problem, objective=_goals(problem)[1])
    return problem.budget == math.inf or value_of(limited, stages) <= problem.budget * ROUNDING


def _goals(problem: Problem) -> tuple[Objective, Objective]:
    """Returns what is minimized and what is limited."""
    return ("energy", "latency") if problem.objective == "energy" else ("latency", "energy")


def best_within(family: Family, problem: Problem) -> Chain | None:
    """Finds the best chain of a problem with a budget; `None` if there is none. Of equal values, any may be found.

    Args:
        family: The closed sets, of a problem with the same graph.
        problem: The problem, without classes.
    """
    goals = _goals(problem)
    budget = problem.budget * ROUNDING

    def priced(value: float, price: float) -> Family:
        weights = {goals[0]: value, goals[1]: price}
        return _with_problem(family, weighted(problem, weights["latency"], weights["energy"]))

    def costs(chain: Chain) -> list[float]:
        stages = stages_of(problem, chain.parts)
        return [value_of(replace(problem, objective=goal), stages) for goal in goals]

    over, under = least_sum(priced(1.0, 0.0)), least_sum(priced(0.0, 1.0))
    if over is None or under is None or costs(under)[1] > budget:
        return None
    if costs(over)[1] <= budget:
        return over
    while True:
        (least, most), (value, spent) = costs(over), costs(under)
        if value <= least * ROUNDING:
            return under
        price = (value - least) / (most - spent)
        between = least_sum(priced(1.0, price))
        assert between is not None
        reached, used = costs(between)
        if reached + price * used >= (value + price * spent) * (1 - 1e-9):
            break
        over, under = (over, between) if used <= budget else (between, under)
    limits = np.array([value, budget, value + price * budget]) * SLACK  # sums of stages differ in the last bits
    families = [priced(1.0, 0.0), priced(0.0, 1.0), priced(1.0, price)]
    useful = np.all([sides_of(one).total <= limit * SLACK for one, limit in zip(families, limits, strict=True)], axis=0)
    useful[[0, -1, *family.required]] = True
    kept = [one.restricted(np.flatnonzero(useful)) for one in families[:2]]
    better = (chain for chain in _Labels(kept, price, limits).chains() if costs(chain)[1] <= budget)
    return min(next(better, under), under, key=costs)


def _with_problem(family: Family, problem: Problem) -> Family:
    """Returns the same sets, in the same order, with other times of nodes, devices and links."""
    other, rates = family.with_problem(problem), device_rates(problem)
    vars(other).pop("seconds", None)
    object.__setattr__(other, "rates", rates)
    object.__setattr__(other, "work", other.sums_of(node_work(problem, rates)[:, None])[0])
    return other


class _Labels:
    """Ways to closed sets that no other way beats in both value and spending.

    A label is a way's value, its spending, and the sum of the two at the price.

    Args:
        families: The closed sets with the problem of the value, and with that of the spending.
        price: Value per spending.
        limits: The most of each, shape (3,).
    """

    def __init__(self, families: Sequence[Family], price: float, limits: Numbers):
        self.families, self.price, self.limits = families, price, limits
        differ = any(links_differ(family.problem) for family in families)
        self.orders = [device_orders(family.problem, differ) for family in families]  # with the same states
        self.costs = [StageCosts(family, "sum") for family in families]
        self.caps = caps_of(families[0])

    def chains(self) -> Iterator[Chain]:
        """Yields the chains within the limits that no other beats, the best first."""
        behind, orders, last = self.behind(), self.orders[0], len(self.families[0]) - 1
        able = np.isfinite(behind[2])
        first = np.where(able.any(axis=1), able.argmax(axis=1), last + 1)
        found: dict[tuple[int, int], Labels] = {}
        waiting = defaultdict[tuple[int, int], list[Labels]](list)
        for state in orders.starts:
            waiting[state, 0].append((np.zeros((3, 1)), np.zeros((3, 1), dtype=np.int64)))
        for index in range(last + 1):
            states = [state for state in range(len(orders.arcs)) if (state, index) in waiting]
            for state in states:
                found[state, index] = _unbeaten(waiting.pop((state, index)))
            for arc, later, steps in self.steps(index, states, first) if index < last else ():
                reached = found[arc.source, index][0][:, :, None] + steps[:, None, :]
                rest = behind[:, arc.target, later][:, None, :]
                fits: NDArray[np.bool_] = np.all(reached + rest <= self.limits[:, None, None], axis=0)
                for place in np.flatnonzero(fits.any(axis=0)).tolist():
                    labels = np.flatnonzero(fits[:, place])
                    origin = np.array([np.full_like(labels, arc.source), np.full_like(labels, index), labels])
                    waiting[arc.target, int(later[place])].append((reached[:, labels, place], origin))
        ends = [state for state in orders.ends if (state, last) in found]
        numbered = [
            (*one, state, label) for state in ends for label, one in enumerate(found[state, last][0].T.tolist())
        ]
        for value, _, _, state, label in sorted(numbered):
            way = [(state, last)]
            while way[-1][1]:
                source, start, label = found[way[-1]][1][:, label].tolist()
                way.append((source, start))
            yield chain_along(self.families[0], orders, value, way[::-1])

    def behind(self) -> Numbers:
        """Returns the least that remains to be added in each state at each set, shape (3, states, sets)."""
        orders, sets = self.orders[0], len(self.families[0])
        behind = np.full((3, len(orders.arcs), sets), np.inf)
        behind[:, orders.ends, -1] = 0.0
        first = np.full(len(orders.arcs), sets)
        first[list(orders.ends)] = sets - 1
        for index in reversed(range(sets - 1)):
            states = set(orders.starts) if index == 0 else set(range(len(orders.arcs))) - set(orders.starts)
            for arc, later, steps in self.steps(index, states, first):
                least = (steps + behind[:, arc.target, later]).min(axis=1)
                behind[:, arc.source, index] = np.minimum(behind[:, arc.source, index], least)
            first[np.isfinite(behind[2, :, index])] = index
        return behind

    def steps(
        self, index: int, states: Collection[int], first: NDArray[np.int64]
    ) -> Iterator[tuple[Arc, NDArray[np.int64], Numbers]]:
        """Yields the stages from a set in some states: an arc, the sets that follow, and what the stages add.

        Args:
            index: The set.
            states: The states.
            first: First set at which each state may be.
        """
        pairs = [
            (one, other)
            for state in states
            for one, other in zip(self.orders[0].arcs[state], self.orders[1].arcs[state], strict=True)
            if first[one.target] < len(self.families[0])
        ]
        low = max(index + 1, min((int(first[one.target]) for one, _ in pairs), default=0))
        later = self.families[0].supersets(index, low, int(self.caps[index]))
        if not pairs or not len(later):
            return
        values = self.costs[0].between(index, later, {one.kind for one, _ in pairs})
        spending = self.costs[1].between(index, later, {other.kind for _, other in pairs})
        for one, other in pairs:
            value, spent = values[one.kind], spending[other.kind]
            yield one, later, np.array([value, spent, value + self.price * spent])


def _unbeaten(parts: Sequence[Labels]) -> Labels:
    """Returns the labels that no other beats in both value and spending, by value."""
    labels, origins = (np.concatenate(some, axis=1) for some in zip(*parts, strict=True))
    order = np.lexsort((labels[1], labels[0]))
    spent = labels[1, order]
    best = np.minimum.accumulate(spent)
    kept = order[np.concatenate([[True], spent[1:] < best[:-1]])]
    return labels[:, kept], origins[:, kept]
