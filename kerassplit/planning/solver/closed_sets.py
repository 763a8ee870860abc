"""Sets of nodes that are closed under predecessors: every cut has one before it.

A family of such sets is kept as a table of booleans, a row for each node and a column for each set, so that one row
tells for a thousand sets at once whether they hold a node.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from kerassplit.errors import PlanError
from kerassplit.planning.solver.problem import Problem, predecessors_of, topological_order

Table = NDArray[np.bool_]


def closed_sets(problem: Problem, limit: int) -> Table | None:
    """All sets closed under predecessors, shape (nodes, sets); `None` if there are more than `limit`.

    Nodes are taken in topological order. With each, every set found so far that holds all that the node uses is found
    once more with the node in it. Every table on the way is a part of the last, so it ends early if there are too many.
    """
    count = len(problem.nodes)
    before = predecessors_of(count, problem.tensors)
    table = np.zeros((count, 1024), dtype=np.bool_)
    found = 1
    for node in topological_order(count, problem.tensors):
        able = np.flatnonzero(np.logical_and.reduce(table[before[node], :found], axis=0, initial=True))
        if found + len(able) > limit:
            return None
        if found + len(able) > table.shape[1]:
            wider = np.zeros((count, max(2 * table.shape[1], found + len(able))), dtype=np.bool_)
            wider[:, :found] = table[:, :found]
            table = wider
        table[:, found : found + len(able)] = table[:, able]
        table[node, found : found + len(able)] = True
        found += len(able)
    return table[:, :found]


def table_of(count: int, sets: Sequence[Collection[int]]) -> Table:
    """Sets of nodes as a table, shape (count, sets)."""
    table = np.zeros((count, len(sets)), dtype=np.bool_)
    for index, nodes in enumerate(sets):
        table[list(nodes), index] = True
    return table


def table_of_bits(count: int, sets: Iterable[int]) -> Table:
    """Sets of nodes, each the bits of an integer, as a table, shape (count, sets)."""
    length = (count + 7) // 8
    packed = np.frombuffer(b"".join(one.to_bytes(length, "little") for one in sets), dtype=np.uint8)
    return np.unpackbits(packed.reshape(-1, length).T, axis=0, count=count, bitorder="little").astype(np.bool_)


def distinct(table: Table) -> Table:
    """Each column once, in the order in which they come first."""
    packed = np.packbits(table, axis=0)
    keys = np.ascontiguousarray(packed.T).view(f"V{len(packed)}").ravel()
    _, first = np.unique(keys, return_index=True)
    return table[:, np.sort(first)]


@dataclass(frozen=True, eq=False)
class Family:
    """Closed sets, the empty one first and that of all nodes last, every set behind all that it holds.

    Attributes:
        problem: The problem they belong to; without classes.
        inside: Which nodes (rows) each set (columns) holds.
        work: For each set a measure of its work that never falls from one to the next.
        rates: The most work that each type of device does in a second, shape (types,).
    """

    problem: Problem
    inside: Table
    work: NDArray[np.float64]
    rates: NDArray[np.float64]

    def __len__(self) -> int:
        return self.inside.shape[1]

    def restricted(self, sets: NDArray[np.int64]) -> "Family":
        """The family of some of these sets, given in increasing order."""
        return Family(self.problem, np.ascontiguousarray(self.inside[:, sets]), self.work[sets], self.rates)

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """How many nodes each set holds, shape (sets,)."""
        return self.inside.sum(axis=0)

    @cached_property
    def is_chain(self) -> bool:
        """Whether each set holds all that come before it, its nodes in order: so stages are stretches of nodes."""
        return bool((self.inside == (np.arange(len(self.inside))[:, None] < self.sizes)).all())

    @cached_property
    def seconds(self) -> NDArray[np.float64]:
        """Time of each set on each type of device, shape (types, sets), without nodes that cannot run there."""
        return self.sums_of(np.where(np.isfinite(self._node_seconds), self._node_seconds, 0.0))

    @cached_property
    def barred(self) -> NDArray[np.float64] | None:
        """How many of its nodes cannot run on each type, shape (types, sets); `None` where all can run anywhere."""
        finite = np.isfinite(self._node_seconds)
        return None if finite.all() else self.sums_of((~finite).astype(np.float64))

    @cached_property
    def memory(self) -> NDArray[np.float64]:
        """Bytes that the nodes of each set keep, without what they share, shape (sets,)."""
        return self.sums_of(np.array([[node.memory] for node in self.problem.nodes]))[0]

    @cached_property
    def used(self) -> NDArray[np.uint16]:
        """How many consumers of each tensor each set holds, shape (tensors, sets)."""
        tensors = self.problem.tensors
        used = self.inside[[tensor.consumers[0] if tensor.consumers else 0 for tensor in tensors]].astype(np.uint16)
        for index, tensor in enumerate(tensors):
            for user in tensor.consumers[1:]:
                used[index] += self.inside[user]
        return used

    @cached_property
    def users(self) -> NDArray[np.uint16]:
        """How many consumers each tensor has, shape (tensors,)."""
        return np.array([len(tensor.consumers) for tensor in self.problem.tensors], dtype=np.uint16)

    @cached_property
    def crossing(self) -> Table:
        """Which tensors are made in a set and used outside, shape (tensors, sets)."""
        producers = [tensor.producer for tensor in self.problem.tensors]
        return self.inside[producers] & (self.used < self.users[:, None])

    @cached_property
    def crossing_lists(self) -> list[NDArray[np.int64]]:
        """For each set the tensors that cross."""
        return columns_of(self.crossing)

    @cached_property
    def tops(self) -> list[NDArray[np.int64]]:
        """For each set its nodes that none of its others uses: a closed set with these holds all of it."""
        top = self.inside.copy()
        for tensor in self.problem.tensors:
            for user in tensor.consumers:
                top[tensor.producer] &= ~self.inside[user]
        return columns_of(top)

    @cached_property
    def crossing_seconds(self) -> NDArray[np.float64]:
        """Seconds of all that crosses behind each set, shape (sets,)."""
        return self._crossing_sums([tensor.seconds for tensor in self.problem.tensors])

    @cached_property
    def crossing_memory(self) -> NDArray[np.float64]:
        """Bytes of all that crosses behind each set, shape (sets,)."""
        return self._crossing_sums([tensor.memory for tensor in self.problem.tensors])

    @cached_property
    def crossing_count(self) -> NDArray[np.float64]:
        """How many tensors cross behind each set, of those that count, shape (sets,)."""
        counted = np.array([tensor.counts for tensor in self.problem.tensors], dtype=np.bool_)
        return self.crossing[counted].sum(axis=0).astype(np.float64)

    @cached_property
    def crossing_bytes(self) -> NDArray[np.float64]:
        """Bytes that cross behind each set; where nothing has room, what stands for them, shape (sets,)."""
        return self.crossing_memory if self.crossing_memory.any() else self.crossing_seconds

    def supersets(self, index: int, low: int, high: int) -> NDArray[np.int64]:
        """Those of the sets `low` to `high` (not itself included) that hold all of this one."""
        if self.is_chain or not len(self.tops[index]):
            return np.arange(low, high)
        tops = self.tops[index]
        holding = self.inside[tops[0], low:high]
        for node in tops[1:]:
            holding = holding & self.inside[node, low:high]
        return np.flatnonzero(holding) + low

    @cached_property
    def required(self) -> list[int]:
        """The sets that must be among the cuts."""
        members = [np.isin(np.arange(len(self.inside)), list(cut)) for cut in self.problem.rules.required]
        return [int(np.flatnonzero((self.inside == member[:, None]).all(axis=0))[0]) for member in members]

    @property
    def _node_seconds(self) -> NDArray[np.float64]:
        return np.array([node.seconds for node in self.problem.nodes])

    def _crossing_sums(self, values: Sequence[float]) -> NDArray[np.float64]:
        sets, tensors = np.nonzero(np.ascontiguousarray(self.crossing.T))
        return np.bincount(sets, np.array(values)[tensors], minlength=len(self)).astype(np.float64, copy=False)

    def sums_of(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sums over the nodes of each set, for values of shape (nodes, kinds)."""
        if self.is_chain:
            return np.concatenate([np.zeros((1, values.shape[1])), values]).cumsum(axis=0)[self.sizes].T
        sums = np.zeros((values.shape[1], len(self)))
        for node, row in enumerate(values):  # node by node: equal sets of times give equal sums, to the last bit
            for kind in np.flatnonzero(row):
                sums[kind] += row[kind] * self.inside[node]
        return sums


def family_of(problem: Problem, table: Table, rates: NDArray[np.float64]) -> Family:
    """The closed sets of a table that the rules allow as cuts, in order of work.

    Args:
        problem: A problem without classes.
        table: Closed sets, shape (nodes, sets), each once. The empty set and that of all nodes are added if need be.
        rates: For each type of device, how much work a second of its time is at the most (`device_rates`).

    Raises:
        PlanError: A required cut is not allowed.
    """
    count = len(problem.nodes)
    ends = np.zeros((count, 2), dtype=np.bool_)
    ends[:, 1] = True
    required = [np.isin(np.arange(count), list(cut))[:, None] for cut in problem.rules.required]
    table = distinct(np.concatenate([table, ends, *required], axis=1))
    unordered = Family(problem, table, np.zeros(0), rates)
    sums = unordered.sums_of(node_work(problem, rates)[:, None])[0]
    order = np.lexsort((unordered.sizes, sums))
    family = Family(problem, np.ascontiguousarray(table[:, order]), sums[order], rates)
    allowed = _allowed(family)
    if not allowed[family.required].all():
        raise PlanError("A required cut breaks another of the rules for cuts.", binding=("cuts",))
    return family.restricted(np.flatnonzero(allowed))


def node_work(problem: Problem, rates: NDArray[np.float64]) -> NDArray[np.float64]:
    """The work of each node: no device does it faster than its rate."""
    with np.errstate(invalid="ignore"):  # 0 × inf: a node that a device without a rate cannot run
        return np.nanmin(np.array([node.seconds for node in problem.nodes]) * rates, axis=1)


def _allowed(family: Family) -> NDArray[np.bool_]:
    rules, inside = family.problem.rules, family.inside
    allowed = np.ones(len(family), dtype=np.bool_)
    if rules.max_tensors is not None:
        counted = np.array([tensor.counts for tensor in family.problem.tensors], dtype=np.bool_)
        allowed &= family.crossing[counted].sum(axis=0) <= rules.max_tensors
    if rules.max_memory < np.inf:
        allowed &= family.crossing_memory <= rules.max_memory
    for node in rules.first:
        allowed &= inside[node]
    for node in rules.last:
        allowed &= ~inside[node]
    for cut in rules.required:  # cuts are made one behind the other: each holds the required one or lies in it
        member = np.isin(np.arange(len(inside)), list(cut))
        allowed &= inside[member].all(axis=0) | ~inside[~member].any(axis=0)
    for cut in rules.forbidden:
        allowed &= (inside != np.isin(np.arange(len(inside)), list(cut))[:, None]).any(axis=0)
    allowed[[0, -1]] = True
    return allowed


def columns_of(table: Table) -> list[NDArray[np.int64]]:
    """For each column the rows where it is true."""
    columns, rows = np.nonzero(np.ascontiguousarray(table.T))
    ends = np.searchsorted(columns, np.arange(table.shape[1] + 1)).tolist()
    return [rows[start:end] for start, end in pairwise(ends)]
