"""Entry point of the solver: chooses the method and reports what it proved."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from kerassplit.errors import PlanError
from kerassplit.planning.reporting import Report, reporting
from kerassplit.planning.solver.bounds import device_rates, in_order_of_memory
from kerassplit.planning.solver.closed_sets import node_work
from kerassplit.planning.solver.contract import Contraction, contract
from kerassplit.planning.solver.device_orders import device_orders
from kerassplit.planning.solver.dynamic_program import search, upper_bound
from kerassplit.planning.solver.energy import additive
from kerassplit.planning.solver.least_crossing import Nodes
from kerassplit.planning.solver.listed import Cuts, Listed, listed
from kerassplit.planning.solver.local_search import best_among, local_search
from kerassplit.planning.solver.partition import Partition
from kerassplit.planning.solver.problem import Problem
from kerassplit.planning.solver.stages import Stage, stages_of, value_of

Method = Literal["closed sets", "local search", "minimum cut", "bounded path"]
LARGEST = 4000  # nodes: tables of pairs of them fit into memory
NEWEST = 2000  # latest closed sets of the proof that are searched for a better placement


@dataclass(frozen=True)
class Placement:
    """Assignment of the nodes to devices.

    Attributes:
        value: For "throughput" the largest load of a stage, for "latency" the time of all stages and moves, or the
            energy.
        lower_bound: No placement has a lower value; equals `value` if the placement is optimal.
        optimal: Whether it is proved that no placement is better.
        method: The method that found it. "closed sets", "minimum cut" and "bounded path" (see `Listed.front`) are
            exact; "local search" comes with a bound, which is proved by a partition of the closed sets (`partition`),
            or for more than 4,000 nodes by the total work.
        stages: The stages, in the order in which they run.
        closed_sets: Number of closed sets to choose from; `None` if there were too many to list.
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
    cuts: Cuts | None = None,
    verbose: bool | None = None,
    report: Report | None = None,
) -> Placement:
    """Finds the best placement of a graph's nodes on devices.

    Among placements with the same largest load, one with the least sum of squares of loads is chosen. Results are
    deterministic, unless a time limit ends the search.

    Args:
        problem: The nodes, tensors, devices and limits.
        method: The method to use. `None` chooses: dynamic programming over all closed sets if there are at most `limit`
            of them; otherwise local search, with branch and bound to prove that nothing is better.
        limit: The most closed sets to list.
        time_limit: Approximate seconds for local search, which uses a quarter at most, and the proof together.
        cuts: The closed sets that may be cuts, if not all: the nodes before each cut; or a table, shape (nodes, cuts).
            Cuts that divide nodes that must stay together are left out. Implies the exact method.
        verbose: Whether to show progress on standard error; by default on a terminal, once it takes 2 seconds.
        report: Receives the progress of the search instead of showing it.

    Returns:
        A `Placement`.

    Raises:
        PlanError: There is no placement within the limits; or a time limit ended the search before one was found
            (`binding` is "time").
        ValueError: There are more closed sets than `limit` and the method "closed sets" was requested or is needed for
            a budget; or a cut contains a node without all that it depends on.

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
    known = listed(problem, limit, cuts) if cuts is not None or method in (None, "closed sets") else None
    if known is not None:
        return best_listed(known)
    if method == "closed sets" or problem.budget < math.inf:
        raise ValueError(f"There are more than {limit} closed sets. Allow more with `limit`, or leave `method` unset.")
    if report is not None:
        return _with_bound(problem, contract(problem), time_limit, report)
    with reporting(f"Placing {len(problem.nodes)} nodes", time_limit, verbose) as show:
        return _with_bound(problem, contract(problem), time_limit, show)


def no_placement() -> PlanError:
    """Returns the error of a problem without a placement; `kerassplit.planning.refusals` explains it."""
    return PlanError("No placement satisfies all limits of memory, cuts and devices.")


def best_listed(known: Listed) -> Placement:
    """Returns the best placement of a problem with listed closed sets.

    Raises:
        PlanError: There is no placement.
    """
    stages = known.best()
    if stages is None:
        raise no_placement()
    value = value_of(known.problem, stages)
    return Placement(value, value, True, "closed sets", stages, len(known.family))


def least_memory(problem: Problem, *, limit: int = 50_000, cuts: Cuts | None = None) -> float | None:
    """Finds the least memory with which there is a placement, if all devices have the same.

    Args:
        problem: As for `place`; the memory of its devices is ignored.
        limit: The most closed sets to list.
        cuts: As for `place`.

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
    known = listed(small, limit, cuts)
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
