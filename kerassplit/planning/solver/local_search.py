"""Finds a good placement if there are too many closed sets to list: an upper bound, without a proof.

The exact best chain is found among few closed sets: prefixes of three topological orders. Then the search continues
around the cuts of the best chain so far. Closed sets near them, reached by adding or removing nodes one at a time, with
the least crossing first, are added, and the best chain is found again, until there is no improvement, not even among
more of them.
"""

import heapq
import math
import time
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from kerassplit.planning.solver.bounds import device_rates
from kerassplit.planning.solver.closed_sets import Table, distinct, family_of, members_of, node_work, table_of_bits
from kerassplit.planning.solver.device_orders import device_orders
from kerassplit.planning.solver.dynamic_program import SLACK, Chain, best_chain, search
from kerassplit.planning.solver.least_crossing import Nodes, least_seconds
from kerassplit.planning.solver.problem import Problem, Tensor, predecessors_of, successors_of, topological_order

STARTS = 600  # closed sets of each order
NEAR = 1500  # most closed sets around the cuts of a chain, at the end
NEAREST = 200  # likewise, at first


def local_search(problem: Problem, time_limit: float = 10.0, sets: Sequence[Nodes] = ()) -> Chain | None:
    """Finds a good chain for a problem without classes; `None` if none was found.

    Args:
        problem: The problem.
        time_limit: Seconds after which no further round begins. The result then depends on the machine.
        sets: Additional closed sets to start with.
    """
    deadline = time.monotonic() + time_limit
    rates = device_rates(problem)
    neighbors = _Neighbors(problem, node_work(problem, rates) / (max(rates) or 1.0))
    given = np.array(sets, dtype=np.bool_).reshape(-1, len(problem.nodes)).T
    starts = distinct(np.concatenate([given, *(neighbors.starts(order) for order in _orders(problem))], axis=1))
    orders, goal = device_orders(problem), "sum" if problem.objective == "latency" else "largest"
    best = search(family_of(problem, starts, rates), orders, goal, math.inf)
    near = NEAREST
    while best is not None and near <= NEAR and time.monotonic() < deadline:
        around = distinct(np.concatenate([starts, neighbors.around(best, near)], axis=1))
        found = search(family_of(problem, around, rates), orders, goal, best.value * SLACK)
        if found is None or found.value >= best.value * (1 - 1e-9):
            near *= 2
        else:
            best = found
    if best is None:
        return None
    around = distinct(np.concatenate([starts, neighbors.around(best, NEAREST)], axis=1))
    return best_chain(family_of(problem, around, rates), best.value * SLACK)


def best_among(problem: Problem, best: Chain | None, sets: Sequence[Nodes]) -> Chain | None:
    """Finds the best chain of some closed sets and the cuts of a chain; returns that chain if none is better."""
    cuts = [] if best is None else [members_of(len(problem.nodes), nodes) for _, nodes in best.parts]
    table = np.array([*np.logical_or.accumulate(cuts), *sets], dtype=np.bool_).reshape(-1, len(problem.nodes)).T
    value = math.inf if best is None else best.value
    found = best_chain(family_of(problem, distinct(table), device_rates(problem)), value * SLACK)
    return best if found is None or found.value >= value * (1 - 1e-9) else found


def _orders(problem: Problem) -> Iterator[list[int]]:
    """Yields three topological orders: branch after branch, the same from the end, and all branches in parallel."""
    count = len(problem.nodes)
    yield topological_order(count, problem.tensors)
    reverse = [Tensor(user, (tensor.producer,)) for tensor in problem.tensors for user in tensor.consumers]
    yield topological_order(count, reverse)[::-1]
    before, depth = predecessors_of(count, problem.tensors), [0] * count
    for node in topological_order(count, problem.tensors):
        depth[node] = 1 + max((depth[maker] for maker in before[node]), default=0)
    yield sorted(range(count), key=lambda node: (depth[node], node))


class _Neighbors:
    """Generates closed sets from others. A set is the bits of an integer here."""

    def __init__(self, problem: Problem, work: NDArray[np.float64]):
        count = len(problem.nodes)
        self._count, self._work, self._tensors = count, work.tolist(), problem.tensors
        before, after = predecessors_of(count, problem.tensors), successors_of(count, problem.tensors)
        self._before, self._after = [_bits(nodes) for nodes in before], [_bits(nodes) for nodes in after]
        self._beside = [[*makers, *users] for makers, users in zip(before, after, strict=True)]
        self._near: list[list[int]] = [[] for _ in range(count)]  # the tensors that a node makes or uses
        self._seconds = least_seconds(problem).tolist()
        self._users = [_bits(tensor.consumers) for tensor in problem.tensors]
        for index, tensor in enumerate(problem.tensors):
            for node in {tensor.producer, *tensor.consumers}:
                self._near[node].append(index)

    def starts(self, order: Sequence[int]) -> Table:
        """Returns prefixes of an order; if there are many, those with the least crossing in each stretch."""
        held, seconds, crossing = 0, 0.0, []
        for node in order:
            seconds += self._change(held, node)
            held |= 1 << node
            crossing.append(seconds)
        ends = range(1, len(order) + 1)
        stretch = max(1, math.ceil(10 * len(order) / STARTS))
        best = [
            end
            for begin in range(0, len(order), stretch)
            for end in sorted(ends[begin : begin + stretch], key=lambda end: (crossing[end - 1], end))[:10]
        ]
        return np.argsort(np.asarray(order))[:, None] < np.array([0, *sorted(best)])[None, :]

    def around(self, chain: Chain, most: int) -> Table:
        """Returns at most about `most` closed sets near the cuts of a chain."""
        found, held = {}, 0
        for _, nodes in chain.parts[:-1]:
            held |= _bits(nodes)
            found |= dict.fromkeys(self._nearest(held, most // len(chain.parts) + 1))
        return table_of_bits(self._count, found)

    def _nearest(self, start: int, most: int) -> list[int]:
        """Returns a set and others that differ little from it in work and have little crossing."""
        seen, found = {start}, []
        waiting = [(0.0, 0, start, 0.0, 0.0, self._steps(start, range(self._count)))]
        while waiting and len(found) < most:
            _, _, held, crossing, moved, steps = heapq.heappop(waiting)
            found.append(held)
            for node in steps:
                other = held ^ 1 << node
                if other not in seen:
                    seen.add(other)
                    taken_in = other >> node & 1
                    change = self._change(held, node) if taken_in else -self._change(other, node)
                    work = moved + (self._work[node] if taken_in else -self._work[node])
                    rank = crossing + change + abs(work)
                    following = self._steps(other, [*steps, *self._beside[node]])
                    heapq.heappush(waiting, (rank, len(seen), other, crossing + change, work, following))
        return found

    def _steps(self, held: int, nodes: Iterable[int]) -> list[int]:
        """Returns the nodes that can be added to or removed from a set."""
        return [
            node
            for node in dict.fromkeys(nodes)
            if not (self._after[node] & held if held >> node & 1 else self._before[node] & ~held)
        ]

    def _change(self, held: int, node: int) -> float:
        """Returns the change in crossing seconds when a node is added to a set."""
        change, with_node = 0.0, held | 1 << node
        for index in self._near[node]:
            tensor, users = self._tensors[index], self._users[index]
            before = held >> tensor.producer & 1 and users & ~held
            after = with_node >> tensor.producer & 1 and users & ~with_node
            change += self._seconds[index] * (bool(after) - bool(before))
        return change


def _bits(nodes: Iterable[int]) -> int:
    bits = 0
    for node in nodes:
        bits |= 1 << node
    return bits
