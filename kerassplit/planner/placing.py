"""The door to placement: which method answers, and what it has proved."""

import math
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np

from kerassplit.errors import PlanError
from kerassplit.planner import integer_program
from kerassplit.planner.bounds import device_rates, in_order_of_memory
from kerassplit.planner.closed_sets import Table, closed_sets, family_of
from kerassplit.planner.contracting import Contraction, contract
from kerassplit.planner.dag import Problem
from kerassplit.planner.device_orders import device_orders
from kerassplit.planner.dynamic_program import best_chain, search, upper_bound
from kerassplit.planner.infeasibility import infeasible
from kerassplit.planner.local_search import local_search
from kerassplit.planner.stage_costs import ROUNDING
from kerassplit.planner.staging import Stage, stages_of, value_of

Method = Literal["closed sets", "integer program", "local search"]
LARGEST_PROGRAM = 300_000  # nodes × devices × types: HiGHS does nothing in a minute with more


@dataclass(frozen=True)
class Placement:
    """Where the nodes go.

    Attributes:
        value: For "throughput" the largest load of a stage, for "latency" the time of all stages and moves.
        lower_bound: No placement has a lower value; `value` itself where the placement is optimal.
        optimal: Whether it is proved that no placement is better.
        method: Which method answered: "closed sets" (exact), "integer program" (HiGHS) or "local search". The bound
            beside the last comes from HiGHS; from the work that there is where the program would be too large.
        stages: In the order in which they run.
        closed_sets: How many closed sets there were to choose from; `None` if too many to be listed.
    """

    value: float
    lower_bound: float
    optimal: bool
    method: Method
    stages: tuple[Stage, ...]
    closed_sets: int | None


def place(
    problem: Problem,
    *,
    method: Method | None = None,
    limit: int = 50_000,
    time_limit: float = 60.0,
    cuts: Sequence[Collection[int]] | None = None,
) -> Placement:
    """The best placement of a graph's nodes on devices.

    Of placements with the same largest load, one with the least sum of squares of loads is taken. Answers to equal
    problems are equal, but those that a time limit ends.

    Args:
        problem: The nodes, tensors, devices and limits.
        method: `None` chooses: dynamic programming over all closed sets while there are at most `limit` of them, else
            local search, and HiGHS for something better and for a bound. Naming a method takes that one.
        limit: The most closed sets to list.
        time_limit: Seconds for HiGHS; local search takes at most a quarter of it before.
        cuts: The closed sets that may be cuts, if not all: each with the nodes before the cut. Those that part nodes
            that must stay together are left out. There is only the exact method then.

    Returns:
        A `Placement`.

    Raises:
        PlanError: There is no placement within the limits; or, where a time limit ended the search, none was
            found. Says which limit binds, and what would be enough where that is known.
        ValueError: There are more closed sets than `limit` and the method "closed sets" was asked for; or a cut holds a
            node without all that it depends on.

    Example:

    >>> problem = Problem(
    ...     nodes=(Node((1.0,)), Node((2.0,)), Node((3.0,))),
    ...     tensors=(Tensor(0, (1,), seconds=0.5), Tensor(1, (2,), seconds=0.1)),
    ...     devices=(DeviceType("accelerator", count=2),),
    ... )
    >>> placement = place(problem)
    >>> placement.value, [stage.nodes for stage in placement.stages]
    (3.1, [(0, 1), (2,)])
    """
    contraction = contract(problem, fold=cuts is None)
    smaller = contraction.problem
    if cuts is not None:
        table = _table(contraction, cuts)
    else:
        table = closed_sets(smaller, limit) if method in (None, "closed sets") else None
    if table is not None:
        family = family_of(smaller, table, device_rates(smaller))
        chain = best_chain(family)
        if chain is None:
            raise infeasible(problem, family, cuts is not None, partial(_feasible, limit=limit, time_limit=time_limit))
        stages = stages_of(problem, contraction.parts(chain.parts))
        value = value_of(problem, stages)
        return Placement(value, value, True, "closed sets", stages, len(family))
    if method == "closed sets":
        raise ValueError(
            f"There are more than {limit} closed sets. Allow more with `limit`, or leave `method` to be chosen."
        )
    return _with_bound(problem, contraction, method, time_limit)


def least_memory(
    problem: Problem, *, limit: int = 50_000, cuts: Sequence[Collection[int]] | None = None
) -> float | None:
    """The least memory with which there is a placement, if all devices have the same.

    Args:
        problem: As for `place`; the memory of its devices does not count.
        limit: The most closed sets to list.
        cuts: As for `place`.

    Returns:
        Bytes; `None` where there is no placement at all, or there are more closed sets than `limit`.

    Example:

    >>> nodes = tuple(Node((0.0,), memory=memory) for memory in (3.0, 2.0, 2.0))
    >>> least_memory(Problem(nodes, (Tensor(0, (1,)), Tensor(1, (2,))), (DeviceType("chip", count=2),)))
    4.0
    """
    everything = sum(max(node.memory, node.workspace) for node in problem.nodes)
    everything += sum(one.memory for one in (*problem.weights, *problem.tensors))
    if not everything:
        return 0.0
    # The search is for the least share of a device's memory, for shares of more than 1.
    unit = everything * 1e-9
    small = replace(problem, devices=tuple(replace(device, memory=unit) for device in problem.devices))
    contraction = contract(small, fold=cuts is None)
    smaller = contraction.problem
    table = closed_sets(smaller, limit) if cuts is None else _table(contraction, cuts)
    if table is None:
        return None
    family = in_order_of_memory(family_of(smaller, table, device_rates(smaller)))
    orders = device_orders(family.problem)
    chain = search(family, orders, "memory", max(upper_bound(family, orders, "memory"), 1.0))
    return None if chain is None else chain.value * unit


def _table(contraction: Contraction, cuts: Sequence[Collection[int]]) -> Table:
    """The cuts that may be made, as a table."""
    smaller = contraction.problem
    table = np.zeros((len(smaller.nodes), len(cuts)), dtype=np.bool_)
    kept = []
    for index, cut in enumerate(cuts):
        groups = contraction.closed_set(cut)
        if groups is not None:
            table[sorted(groups), index] = True
            kept.append(index)
    table = table[:, kept]
    for tensor in smaller.tensors:
        if (table[list(tensor.consumers)] & ~table[tensor.producer]).any():
            raise ValueError("One of `cuts` holds a node without all that the node depends on.")
    return table


def _with_bound(problem: Problem, contraction: Contraction, method: Method | None, time_limit: float) -> Placement:
    """Local search and HiGHS: the better answer, and what HiGHS has proved."""
    smaller, started = contraction.problem, time.monotonic()
    chain = local_search(smaller, time_limit / 4) if method != "integer program" else None
    upper = math.inf if chain is None else chain.value
    bound, answered, parts = _least(smaller), "local search", None if chain is None else chain.parts
    places = len(smaller.nodes) * len(smaller.devices) * sum(device.count for device in smaller.devices)
    small = places <= LARGEST_PROGRAM or method == "integer program"
    if method != "local search" and small and not _close(upper, bound):
        left = max(time_limit - (time.monotonic() - started), 1.0)
        answer = integer_program.solve(smaller, left, upper)
        bound = max(bound, answer.lower_bound)
        if answer.parts is not None and _value_within_memory(smaller, answer.parts) < upper:
            answered, parts = "integer program", answer.parts
        if answer.lower_bound == math.inf:
            raise infeasible(problem, None, False, partial(_feasible, limit=1, time_limit=time_limit))
    if parts is None:
        raise PlanError(
            f"No placement was found in {time_limit:g} s, and it is not known whether there is one. "
            "Allow more time, more memory or more devices.",
            binding=("time",),
        )
    stages = stages_of(problem, contraction.parts(parts))
    value = value_of(problem, stages)
    optimal = _close(value, bound)
    return Placement(value, value if optimal else min(bound, value), optimal, answered, stages, None)


def _close(value: float, bound: float) -> bool:
    """Equal within what HiGHS is sure of."""
    return value <= bound * (1 + 1e-6)


def _value_within_memory(problem: Problem, parts: Sequence[tuple[int, Sequence[int]]]) -> float:
    """The value of an answer of HiGHS, which keeps to limits within a tolerance; `inf` if that was too much."""
    stages = stages_of(problem, parts)
    fits = all(stage.memory <= problem.devices[stage.device].memory * ROUNDING for stage in stages)
    return value_of(problem, stages) if fits else math.inf


def _feasible(problem: Problem, limit: int, time_limit: float) -> bool:
    try:
        place(problem, limit=limit, time_limit=time_limit)
    except PlanError:
        return False
    return True


def _least(problem: Problem) -> float:
    """A bound from the work that there is and the rates of the devices."""
    table = np.zeros((len(problem.nodes), 0), dtype=np.bool_)
    return float(family_of(problem, table, device_rates(problem)).work[-1])
