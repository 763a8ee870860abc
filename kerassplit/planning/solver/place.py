"""Entry point of the solver: chooses the method and reports what it proved."""

import math
import time
from collections.abc import Sequence
from dataclasses import replace

from kerassplit.errors import PlanError
from kerassplit.planning.reporting import Report, silent
from kerassplit.planning.solver.bounds import device_rates, in_order_of_memory
from kerassplit.planning.solver.closed_sets import node_work
from kerassplit.planning.solver.contract import Contraction, contract
from kerassplit.planning.solver.device_orders import device_orders
from kerassplit.planning.solver.dynamic_program import search, upper_bound
from kerassplit.planning.solver.energy import additive
from kerassplit.planning.solver.least_crossing import Nodes
from kerassplit.planning.solver.listed import MOST_CUTS, Cuts, listed
from kerassplit.planning.solver.local_search import best_among, local_search
from kerassplit.planning.solver.partition import Partition
from kerassplit.planning.solver.problem import Problem
from kerassplit.planning.solver.stages import Placement, stages_of, value_of

LARGEST = 4000  # nodes: tables of pairs of them fit into memory
NEWEST = 2000  # latest closed sets of the proof that are searched for a better placement


def place(
    problem: Problem,
    *,
    limit: int = MOST_CUTS,
    time_limit: float = 60.0,
    cuts: Cuts | None = None,
    report: Report = silent,
) -> Placement:
    """Finds the best placement of a graph's nodes on devices.

    Among placements with the same largest load, one with the least sum of squares of loads is chosen. Results are
    deterministic, unless a time limit ends the search.

    Args:
        problem: The nodes, tensors, devices and limits.
        limit: The most closed sets to list for dynamic programming. If there are more, local search finds a placement,
            and branch and bound proves that nothing is better.
        time_limit: Approximate seconds for local search, which uses a quarter at most, and the proof together.
        cuts: The closed sets that may be cuts, if not all: the nodes before each cut; or a table, shape (nodes, cuts).
            Cuts that divide nodes that must stay together are left out. Implies the exact method.
        report: Receives the progress of the search.

    Returns:
        A `Placement`.

    Raises:
        PlanError: There is no placement within the limits; or a time limit ended the search before one was found
            (`binding` is "time").
        ValueError: There are more closed sets than `limit`, and a budget needs them; or a cut contains a node without
            all that it depends on.

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
    known = listed(problem, cuts, limit)
    if known is not None:
        return required(known.best())
    if problem.budget < math.inf:
        raise ValueError(f"There are more than {limit} closed sets, and a budget needs them: allow more with `limit`.")
    return _with_bound(problem, contract(problem), time_limit, report)


def required(found: Placement | None) -> Placement:
    """Returns a placement.

    Raises:
        PlanError: There is none.
    """
    if found is None:
        raise no_placement()
    return found


def no_placement() -> PlanError:
    """Returns the error of a problem without a placement; `kerassplit.planning.refusals` explains it."""
    return PlanError("No placement satisfies all limits of memory, cuts and devices.")


def least_memory(problem: Problem, cuts: Cuts | None = None, limit: int = MOST_CUTS) -> float | None:
    """Finds the least memory with which there is a placement, if all devices have the same.

    Args:
        problem: As for `place`; the memory of its devices is ignored.
        cuts: As for `place`.
        limit: The most closed sets to list.

    Returns:
        Bytes; `None` if there is no placement at all, or more closed sets than `limit`.

    Example:

    >>> nodes = tuple(Node((0.0,), memory=memory) for memory in (3.0, 2.0, 2.0))
    >>> least_memory(Problem(nodes, (Tensor(0, (1,)), Tensor(1, (2,))), (DeviceType("chip", count=2),)))
    4.0
    """
    everything = sum(max(node.memory, node.workspace) for node in problem.nodes)
    everything += sum(one.memory for one in (*problem.weights, *problem.tensors))
    if not everything:
        return 0.0
    # The search minimizes the share of a device's memory, for shares of more than 1.
    unit = everything * 1e-9
    small = replace(problem, devices=tuple(replace(device, memory=unit) for device in problem.devices))
    known = listed(small, cuts, limit)
    if known is None:
        return None
    family = in_order_of_memory(known.family)
    orders = device_orders(family.problem)
    chain = search(family, orders, "memory", max(upper_bound(family, orders, "memory"), 1.0))
    return None if chain is None else chain.value * unit


def _with_bound(problem: Problem, contraction: Contraction, time_limit: float, report: Report) -> Placement:
    """Finds a placement by local search, and proves a bound with a partition of the closed sets."""
    smaller, deadline = additive(contraction.problem), time.monotonic() + time_limit
    partition = Partition(smaller) if len(smaller.nodes) <= LARGEST else None
    bound = float(node_work(smaller, device_rates(smaller)).sum())
    chain = local_search(smaller, time_limit / 4, partition.sets if partition else ())

    def improve(sets: Sequence[Nodes]) -> float:
        nonlocal chain
        chain = best_among(smaller, chain, sets[-NEWEST:])
        return math.inf if chain is None else chain.value

    if partition:
        bound = partition.refine(math.inf if chain is None else chain.value, deadline, improve, report)
    if chain is None:
        if bound == math.inf:
            raise no_placement()
        raise PlanError(
            f"No placement was found within {time_limit:g} s, but there may be one. "
            "Allow more time, more memory or more devices.",
            binding=("time",),
        )
    stages = stages_of(problem, contraction.parts(chain.parts), chain.replicas)
    value = value_of(problem, stages)
    optimal = value <= bound * (1 + 1e-6)  # sums are rounded
    return Placement(value, value if optimal else min(bound, value), optimal, "local search", stages, None)
