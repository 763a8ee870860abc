"""Bounds on the work that devices can do while no load is above a bound, and so on the closed sets they can reach.

Each device type has a rate. The work of a node is defined so that no type does it faster than its rate: the minimum,
over types, of rate × time. So a device whose load is at most B does at most rate × B of work. A state of the devices is
impossible at a closed set if the devices so far cannot do the work of the set, or those left cannot do the rest. Any
rates give a valid bound. The rates used here give the best bound on the whole: they are the dual solution of the linear
program that spreads the nodes over the devices in fractions (Lenstra, Shmoys and Tardos, "Approximation Algorithms for
Scheduling Unrelated Parallel Machines", 1990). Sending tensors over a link is work as well: some device before the
boundary has to send them, and some device after it has to receive them.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.sparse import coo_array

from kerassplit.planning.solver.closed_sets import Family
from kerassplit.planning.solver.device_orders import DeviceOrders
from kerassplit.planning.solver.problem import Problem

SLACK = 1 + 1e-9  # for rounding
NO_MEMORY = 1e-200  # bytes, used in place of 0: shares of it are huge, but finite


def device_rates(problem: Problem) -> NDArray[np.float64]:
    """Returns the most work per second of each device type, shape (types,).

    For throughput, all devices together do at most 1 per second, so the total work is a lower bound on the largest
    load. For latency, every rate is 1: the total work is a lower bound on the total time.
    """
    counts = np.array([float(device.count) for device in problem.devices])
    if problem.objective == "latency":
        return np.ones(len(counts))
    if len(counts) == 1:
        return 1 / counts
    seconds = np.array([node.seconds for node in problem.nodes])
    totals = seconds.sum(axis=0)
    if totals.all() and np.isfinite(totals).all() and np.allclose(seconds / totals, (seconds / totals)[:, :1]):
        return 1 / totals / (counts / totals).sum()  # the ratio between types is the same for all nodes
    nodes, types = np.nonzero(np.isfinite(seconds))
    rows = np.arange(len(nodes))
    # Variables are the work of each node and the rate of each type: work <= rate × time.
    table = coo_array(
        (
            np.concatenate([np.ones(len(nodes)), -seconds[nodes, types]]),
            (np.concatenate([rows, rows]), np.concatenate([nodes, len(seconds) + types])),
        ),
        shape=(len(nodes), len(seconds) + len(counts)),
    )
    answer = linprog(
        np.concatenate([-np.ones(len(seconds)), np.zeros(len(counts))]),
        A_ub=table.tocsr(),
        b_ub=np.zeros(len(nodes)),
        A_eq=np.concatenate([np.zeros(len(seconds)), counts])[None, :],
        b_eq=[1.0],
    )
    if answer.x is None:  # any rates are valid
        return np.full(len(counts), 1 / counts.sum())
    rates = np.maximum(answer.x[len(seconds) :], 0.0)
    return rates / (rates @ counts)


@dataclass(frozen=True, eq=False)
class Sides:
    """Least work before and after each closed set, including transfers; for latency, least times.

    Attributes:
        ahead: Least work of the devices that already have a stage, shape (sets,).
        behind: Least work of the devices that do not have one yet, shape (sets,).
        total: Least time of a placement with a cut here, for latency, shape (sets,).
        rates: The rate of each device type.
        latency: Whether the objective is latency.
    """

    ahead: NDArray[np.float64]
    behind: NDArray[np.float64]
    total: NDArray[np.float64]
    rates: NDArray[np.float64]
    latency: bool

    def allowed(self, orders: DeviceOrders, bound: float) -> NDArray[np.bool_]:
        """Returns the sets that each state can be in while no load (for latency: the value) is above a bound.

        Returns:
            Booleans, shape (states, sets).
        """
        if bound == np.inf:
            return np.ones((len(orders.arcs), len(self.ahead)), dtype=np.bool_)
        if self.latency:
            return np.tile(self.total <= bound * SLACK, (len(orders.arcs), 1))
        done, can_do = orders.counts @ self.rates * bound * SLACK, orders.left @ self.rates * bound * SLACK
        return (self.ahead <= done[:, None]) & (self.behind <= can_do[:, None])


def sides_of(family: Family) -> Sides:
    """Computes the bounds for all sets of a family."""
    problem, rates = family.problem, family.rates
    sending = receiving = moving = np.zeros(len(family))
    if problem.links is not None:
        sending, receiving, moving = _over_links(family, rates)
    if problem.overlap and problem.objective == "throughput":
        sending = receiving = np.zeros(len(family))
    left, latency = np.maximum(family.work[-1] - family.work, 0.0), problem.objective == "latency"
    behind = left + (moving if latency else receiving)
    return Sides(family.work + sending, behind, family.work[-1] + moving, rates, latency)


def in_order_of_memory(family: Family) -> Family:
    """Returns the same sets ordered by the memory of their nodes, which becomes their work; memories become rates."""
    order = np.lexsort((family.inside.sum(axis=0), family.memory))
    limits = np.array([device.memory for device in family.problem.devices])
    rates = np.clip(limits, NO_MEMORY, max(family.memory[-1], NO_MEMORY))
    inside = np.ascontiguousarray(family.inside[:, order])
    return Family(family.problem, inside, family.memory[order], rates)


def memory_sides_of(family: Family) -> Sides:
    """Computes the bounds for shares of memory of at least 1, for a family in order of memory."""
    left = np.maximum(family.work[-1] - family.work, 0.0)
    return Sides(family.work, left, family.work, family.rates, False)


def _over_links(family: Family, rates: NDArray[np.float64]):
    """Returns least transfer costs over the best of all links: work to send, work to receive, and seconds to move."""
    links = family.problem.links or ()
    sending, receiving, moving = (np.full(len(family), np.inf) for _ in range(3))
    for source, row in enumerate(links):
        for target, link in enumerate(row):
            if link.latency < np.inf:
                sending = np.minimum(sending, rates[source] * family.seconds_over(link.sending))
                receiving = np.minimum(receiving, rates[target] * family.seconds_over(link.receiving))
                moving = np.minimum(moving, family.seconds_over(link))
    return tuple(np.where(family.crosses, least, 0.0) for least in (sending, receiving, moving))
