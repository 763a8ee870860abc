"""Sets of nodes that are closed under predecessors: the nodes before a cut are such a set.

A family of sets is stored as a table of booleans with a row per node and a column per set, so that one row shows for
thousands of sets at once if they contain a node.
"""

import copy
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from kerassplit.errors import PlanError
from kerassplit.planning.solver.problem import Link, Problem, predecessors_of, topological_order

Table = NDArray[np.bool_]


def closed_sets(problem: Problem, limit: int) -> Table | None:
    """Returns all sets closed under predecessors, shape (nodes, sets); `None` if there are more than `limit`.

    Nodes are added in topological order: each found set that contains all predecessors of the node is copied with the
    node added. Sets are never removed, so the search can stop as soon as there are too many.
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
    """Converts sets of nodes to a table, shape (count, sets)."""
    table = np.zeros((count, len(sets)), dtype=np.bool_)
    for index, nodes in enumerate(sets):  # a few times as fast as `members_of` for each
        table[list(nodes), index] = True
    return table


def members_of(count: int, nodes: Collection[int]) -> NDArray[np.bool_]:
    """Returns whether each node is in a set, shape (nodes,)."""
    return np.isin(np.arange(count), list(nodes))


def table_of_bits(count: int, sets: Iterable[int]) -> Table:
    """Converts sets of nodes, each the bits of an integer, to a table, shape (count, sets)."""
    length = (count + 7) // 8
    packed = np.frombuffer(b"".join(one.to_bytes(length, "little") for one in sets), dtype=np.uint8)
    return np.unpackbits(packed.reshape(-1, length).T, axis=0, count=count, bitorder="little").astype(np.bool_)


def distinct(table: Table) -> Table:
    """Returns each distinct column once, in order of first occurrence."""
    packed = np.packbits(table, axis=0)
    keys = np.ascontiguousarray(packed.T).view(f"V{len(packed)}").ravel()
    _, first = np.unique(keys, return_index=True)
    return table[:, np.sort(first)]


@dataclass(frozen=True, eq=False)
class Family:
    """Closed sets, from the empty set to the set of all nodes; every set comes after its subsets.

    Attributes:
        problem: The problem that they belong to; without classes.
        inside: Whether each set (columns) contains each node (rows).
        work: Work of each set; it never decreases from one set to the next.
        rates: The most work per second of each device type, shape (types,).
    """

    problem: Problem
    inside: Table
    work: NDArray[np.float64]
    rates: NDArray[np.float64]

    def __len__(self) -> int:
        return self.inside.shape[1]

    def restricted(self, sets: NDArray[np.int64]) -> "Family":
        """Returns the family of some of these sets, given in increasing order."""
        return Family(self.problem, np.ascontiguousarray(self.inside[:, sets]), self.work[sets], self.rates)

    def with_problem(self, problem: Problem) -> "Family":
        """Returns the same sets for a problem with the same nodes and tensors; keeps what is cached about them."""
        other = copy.copy(self)
        object.__setattr__(other, "problem", problem)
        return other

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """Number of nodes in each set, shape (sets,)."""
        return self.inside.sum(axis=0)

    @cached_property
    def is_chain(self) -> bool:
        """True if every set is a prefix of the nodes, so that stages are ranges of nodes."""
        return bool((self.inside == (np.arange(len(self.inside))[:, None] < self.sizes)).all())

    @cached_property
    def seconds(self) -> NDArray[np.float64]:
        """Seconds of each set on each device type, shape (types, sets), without nodes that cannot run there."""
        return self.sums_of(np.where(np.isfinite(self._node_seconds), self._node_seconds, 0.0))

    @cached_property
    def barred(self) -> NDArray[np.float64] | None:
        """Number of nodes of each set that cannot run on each type, shape (types, sets); `None` if all can."""
        finite = np.isfinite(self._node_seconds)
        return None if finite.all() else self.sums_of((~finite).astype(np.float64))

    @cached_property
    def busy(self) -> NDArray[np.float64]:
        """Number of nodes of each set that are not idle, shape (sets,)."""
        return self.sums_of(np.array([[float(not node.idle)] for node in self.problem.nodes]))[0]

    @cached_property
    def memory(self) -> NDArray[np.float64]:
        """Bytes that the nodes of each set keep, without shared weights, shape (sets,)."""
        return self.sums_of(np.array([[node.memory] for node in self.problem.nodes]))[0]

    @cached_property
    def used(self) -> NDArray[np.uint16]:
        """Number of consumers of each tensor in each set, shape (tensors, sets)."""
        tensors = self.problem.tensors
        used = self.inside[[tensor.consumers[0] if tensor.consumers else 0 for tensor in tensors]].astype(np.uint16)
        for index, tensor in enumerate(tensors):
            for user in tensor.consumers[1:]:
                used[index] += self.inside[user]
        return used

    @cached_property
    def users(self) -> NDArray[np.uint16]:
        """Number of consumers of each tensor, shape (tensors,)."""
        return np.array([len(tensor.consumers) for tensor in self.problem.tensors], dtype=np.uint16)

    @cached_property
    def crossing(self) -> Table:
        """True where a tensor is produced in a set and used outside it, shape (tensors, sets)."""
        producers = [tensor.producer for tensor in self.problem.tensors]
        return self.inside[producers] & (self.used < self.users[:, None])

    @cached_property
    def crossing_lists(self) -> list[NDArray[np.int64]]:
        """Indices of the tensors that cross after each set."""
        return columns_of(self.crossing)

    @cached_property
    def tops(self) -> list[NDArray[np.int64]]:
        """Nodes of each set that no other node of it uses: a closed set that contains them contains the whole set."""
        top = self.inside.copy()
        for tensor in self.problem.tensors:
            for user in tensor.consumers:
                top[tensor.producer] &= ~self.inside[user]
        return columns_of(top)

    @cached_property
    def crossing_seconds(self) -> NDArray[np.float64]:
        """Seconds of all tensors that cross after each set, shape (sets,)."""
        return self._crossing_sums([tensor.seconds for tensor in self.problem.tensors])

    @cached_property
    def crossing_packing(self) -> NDArray[np.float64]:
        """Seconds to pack all tensors that cross after each set, shape (sets,)."""
        return self._crossing_sums([tensor.packing for tensor in self.problem.tensors])

    @cached_property
    def crossing_unpacking(self) -> NDArray[np.float64]:
        """Seconds to unpack all tensors that cross after each set, shape (sets,)."""
        return self._crossing_sums([tensor.unpacking for tensor in self.problem.tensors])

    @cached_property
    def crosses(self) -> NDArray[np.bool_]:
        """Whether some tensor crosses after each set, shape (sets,)."""
        return np.logical_or.reduce(self.crossing)

    def seconds_over(self, link: Link, sets=slice(None)) -> NDArray[np.float64]:
        """Returns the seconds over a link of the tensors that cross after one set, each of several, or all."""
        if link.latency == np.inf:
            return np.where(self.crosses[sets], np.inf, 0.0)
        seconds = link.latency + link.factor * self.crossing_seconds[sets]
        seconds += link.packing * self.crossing_packing[sets] + link.unpacking * self.crossing_unpacking[sets]
        return np.where(self.crosses[sets], seconds, 0.0)

    @cached_property
    def crossing_memory(self) -> NDArray[np.float64]:
        """Bytes of all tensors that cross after each set, shape (sets,)."""
        return self._crossing_sums([tensor.memory for tensor in self.problem.tensors])

    @cached_property
    def crossing_count(self) -> NDArray[np.float64]:
        """Number of counted tensors that cross after each set, shape (sets,)."""
        counted = np.array([tensor.counts for tensor in self.problem.tensors], dtype=np.bool_)
        return self.crossing[counted].sum(axis=0).astype(np.float64)

    @cached_property
    def crossing_bytes(self) -> NDArray[np.float64]:
        """Bytes that cross after each set, shape (sets,); seconds in their place if no tensor has a size in bytes."""
        return self.crossing_memory if self.crossing_memory.any() else self.crossing_seconds

    def supersets(self, index: int, low: int, high: int) -> NDArray[np.int64]:
        """Returns the sets from `low` to `high` (excluded) that contain this one."""
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
        members = [members_of(len(self.inside), cut) for cut in self.problem.rules.required]
        return [int(np.flatnonzero((self.inside == member[:, None]).all(axis=0))[0]) for member in members]

    @property
    def _node_seconds(self) -> NDArray[np.float64]:
        return np.array([node.seconds for node in self.problem.nodes])

    def _crossing_sums(self, values: Sequence[float]) -> NDArray[np.float64]:
        sets, tensors = np.nonzero(np.ascontiguousarray(self.crossing.T))
        return np.bincount(sets, np.array(values)[tensors], minlength=len(self)).astype(np.float64, copy=False)

    def sums_of(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sums values of shape (nodes, kinds) over the nodes of each set, shape (kinds, sets)."""
        if self.is_chain:
            return np.concatenate([np.zeros((1, values.shape[1])), values]).cumsum(axis=0)[self.sizes].T
        sums = np.zeros((values.shape[1], len(self)))
        for node, row in enumerate(values):  # node by node: equal times have equal sums, to the last bit
            for kind in np.flatnonzero(row):
                sums[kind] += row[kind] * self.inside[node]
        return sums


def family_of(problem: Problem, table: Table, rates: NDArray[np.float64]) -> Family:
    """Builds the family of the closed sets of a table that the rules allow as cuts, in order of work.

    Args:
        problem: A problem without classes.
        table: Closed sets, shape (nodes, sets). The empty set and the set of all nodes are added if missing.
        rates: The most work per second of each device type (`device_rates`).

    Raises:
        PlanError: A required cut is not allowed.
    """
    count = len(problem.nodes)
    ends = np.zeros((count, 2), dtype=np.bool_)
    ends[:, 1] = True
    table = distinct(np.concatenate([table, ends, table_of(count, problem.rules.required)], axis=1))
    unordered = Family(problem, table, np.zeros(0), rates)
    sums = unordered.sums_of(node_work(problem, rates)[:, None])[0]
    order = np.lexsort((unordered.sizes, sums))
    family = Family(problem, np.ascontiguousarray(table[:, order]), sums[order], rates)
    allowed = _allowed(family)
    if not allowed[family.required].all():
        raise PlanError("A required cut breaks another of the rules for cuts.", binding=("cuts",))
    return family.restricted(np.flatnonzero(allowed))


def node_work(problem: Problem, rates: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the work of each node: no device does it faster than its rate."""
    with np.errstate(invalid="ignore"):  # 0 × inf: a node that a device without a rate cannot run
        return np.nanmin(np.array([node.seconds for node in problem.nodes]) * rates, axis=1)


def _allowed(family: Family) -> NDArray[np.bool_]:
    rules, inside = family.problem.rules, family.inside
    allowed = np.ones(len(family), dtype=np.bool_)
    if rules.max_tensors is not None:
        allowed &= family.crossing_count <= rules.max_tensors
    if rules.max_memory < np.inf:
        allowed &= family.crossing_memory <= rules.max_memory
    for node in rules.first:
        allowed &= inside[node]
    for node in rules.last:
        allowed &= ~inside[node]
    for cut in rules.required:  # cuts are nested: each contains the required one or is contained in it
        member = members_of(len(inside), cut)
        allowed &= inside[member].all(axis=0) | ~inside[~member].any(axis=0)
    for cut in rules.forbidden:
        allowed &= (inside != members_of(len(inside), cut)[:, None]).any(axis=0)
    allowed[[0, -1]] = True
    return allowed


def columns_of(table: Table) -> list[NDArray[np.int64]]:
    """Returns, for each column, the rows where it is true."""
    columns, rows = np.nonzero(np.ascontiguousarray(table.T))
    ends = np.searchsorted(columns, np.arange(table.shape[1] + 1)).tolist()
    return [rows[start:end] for start, end in pairwise(ends)]
