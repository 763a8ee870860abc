"""Lower bounds on the costs of stages from any closed set of one cell to any of another; exact for cells of one set.

A stage contains at least the nodes that are outside the first cell and inside the second.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from kerassplit.planning.solver.closed_sets import members_of
from kerassplit.planning.solver.device_orders import Kind
from kerassplit.planning.solver.least_crossing import Crossings, Nodes, least_seconds
from kerassplit.planning.solver.problem import Link, Problem, memory_binds
from kerassplit.planning.solver.stage_costs import ROUNDING

Numbers = NDArray[np.float64]
WORKSPACES = 8  # distinct workspace sizes; others are rounded down to one of these


@dataclass(frozen=True, eq=False)
class Cell:
    """The closed sets that contain some nodes, exclude others, and have work between two limits.

    Attributes:
        inside: Nodes that all of them contain, shape (nodes,).
        outside: Nodes that none of them contains, shape (nodes,).
        low: The least work.
        high: The most work.
        crossing: Lower bound on the crossing, in seconds.
        besides: Of the tensors that certainly cross after each of them, the sums of what `StageBounds.besides` holds.
        crosses: Whether some tensor certainly crosses after each of them.
        below: A closed set with little crossing, within the limits or below them.
        above: A closed set with little crossing, within the limits or above them.
    """

    inside: Nodes
    outside: Nodes
    low: float
    high: float
    crossing: float
    besides: Numbers
    crosses: bool
    below: Nodes
    above: Nodes

    @property
    def free(self) -> Nodes:
        """Nodes that only some of the sets may contain: none if the cell is a single set."""
        return ~(self.inside | self.outside)


class StageBounds:
    """Computes tables of least costs of stages between cells.

    Args:
        problem: A problem without classes.
        rates: The most work per second of each device type.
        crossings: Minimum cuts of the graph, with its work.

    Attributes:
        besides: Packing, unpacking and what of both is in the `least_seconds` of each tensor, shape (3, tensors).
    """

    def __init__(self, problem: Problem, rates: Numbers, crossings: Crossings):
        self._problem, self._rates, self._crossings = problem, rates, crossings
        seconds = np.array([node.seconds for node in problem.nodes])
        self._barred = ~np.isfinite(seconds)
        self._seconds = np.where(self._barred, 0.0, seconds)
        self._moving = np.array([tensor.seconds for tensor in problem.tensors])
        self._room = np.array([tensor.memory for tensor in problem.tensors])
        packing = np.array([tensor.packing for tensor in problem.tensors])
        unpacking = np.array([tensor.unpacking for tensor in problem.tensors])
        self.besides = np.array([packing, unpacking, least_seconds(problem) - self._moving])
        self._busy = np.array([not node.idle for node in problem.nodes])
        self._held = np.array([node.memory for node in problem.nodes])
        self._workspace = np.array([node.workspace for node in problem.nodes])
        self._memory_binds = memory_binds(problem)
        self._makers = np.array([tensor.producer for tensor in problem.tensors], dtype=np.int64)
        self._users = [np.array(tensor.consumers, dtype=np.int64) for tensor in problem.tensors]
        rows = np.repeat(np.arange(len(self._users)), [len(users) for users in self._users])
        columns = np.concatenate([np.zeros(0, dtype=np.int64), *self._users])
        self._uses = csr_array((np.ones(len(rows)), (rows, columns)), shape=(len(self._users), len(problem.nodes)))

    def between(self, firsts: Sequence[Cell], seconds: Sequence[Cell]) -> Numbers:
        """Returns least costs without transfers over links, `inf` for no stage; shape (types, firsts, seconds)."""
        problem, first, second = self._problem, _Stack(firsts, self), _Stack(seconds, self)
        work = (first.outside * self._crossings.work) @ second.inside.T
        rest = second.low[None, :] - first.high[:, None] - work - self._crossings.slack
        received, sent = self._moved(first, second, self._moving) if problem.links is None else (0.0, 0.0)
        memory = self._memory(first, second) if self._memory_binds else None
        none = self._impossible(first, second)
        # Without idle nodes, every stage has a busy one.
        busy = self._busy.all() | ((first.outside * self._busy) @ second.inside.T > 0)
        loads = []
        for kind, seconds_each, barred, rate in zip(
            problem.devices, self._seconds.T, self._barred.T, self._rates, strict=True
        ):
            compute = (first.outside * seconds_each) @ second.inside.T
            if problem.objective == "latency":  # the total work is counted separately
                compute = np.maximum(compute - work, 0.0)
            else:
                compute += np.maximum(rest, 0.0) / rate if rate > 0 else np.where(rest > 0, np.inf, 0.0)
            compute += kind.overhead * busy
            parts = compute, kind.receive * received, kind.send * sent
            together = np.maximum if problem.overlap and problem.objective == "throughput" else np.add
            load = together(together(parts[0], parts[1]), parts[2])
            load[none | ((first.outside * barred) @ second.inside.T > 0)] = np.inf
            if memory is not None:
                load[memory > kind.memory * ROUNDING] = np.inf
            loads.append(load)
        return np.array(loads)

    def over_links(self, kind: Kind, cells: Sequence[Cell], table: Numbers) -> Numbers:
        """Returns the costs of a table for one kind of stage, with transfers over links; shape (cells, cells)."""
        load = table[kind.device]
        if self._problem.links is not None:
            load = self._with_links(kind, cells, load)
        return load if kind.replicas == 1 else load / kind.replicas

    def _with_links(self, kind: Kind, cells: Sequence[Cell], load: Numbers) -> Numbers:
        least, besides = np.array([cell.crossing for cell in cells]), np.array([cell.besides for cell in cells])
        crosses = np.array([cell.crosses for cell in cells]) | (least > 0)
        if self._problem.objective == "latency":
            return load + self._over(kind.receives, least, besides, crosses)[:, None]
        ends = kind.receives.receiving, kind.sends.sending
        receive, send = (self._over(link, least, besides, crosses) for link in ends)
        if self._problem.overlap:
            return np.maximum(np.maximum(load, receive[:, None]), send[None, :])
        return load + receive[:, None] + send[None, :]

    def _over(self, link: Link, seconds: Numbers, besides: Numbers, crosses: NDArray[np.bool_]) -> Numbers:
        """Returns the least time over a link."""
        if link.latency == np.inf:
            return np.where(crosses, np.inf, 0.0)
        more = np.maximum(besides @ [link.packing, link.unpacking, -link.factor], 0.0)
        return np.where(crosses, link.latency + link.factor * seconds + more, 0.0)

    def crossing(self, inside: Numbers, outside: Numbers) -> Numbers:
        """Returns 1 for each tensor that certainly crosses after the sets of a cell, else 0; shape (..., tensors)."""
        return inside[..., self._makers] * ((self._uses @ outside.T) > 0).T

    def is_cut(self, cell: Cell, crossing: NDArray[np.bool_]) -> bool:
        """Checks if one of the closed sets may be a cut, given what is known of them and of their crossing."""
        rules, inside, outside = self._problem.rules, cell.inside, cell.outside
        if inside.all() or outside.all():
            return False
        counts = np.array([tensor.counts for tensor in self._problem.tensors], dtype=np.bool_)
        if rules.max_tensors is not None and (crossing & counts).sum() > rules.max_tensors:
            return False
        if self._room @ crossing > rules.max_memory * ROUNDING:
            return False
        required = (members_of(len(inside), cut) for cut in rules.required)
        if any((outside & cut).any() and (inside & ~cut).any() for cut in required):
            return False
        forbidden = (members_of(len(inside), cut) for cut in rules.forbidden)
        return bool(cell.free.any()) or not any((inside == cut).all() for cut in forbidden)

    def _impossible(self, first: "_Stack", second: "_Stack") -> NDArray[np.bool_]:
        """Marks pairs of cells without a stage between them: no strict superset, or a required cut is skipped."""
        none = first.inside @ second.outside.T > 0
        none |= first.low[:, None] > second.high[None, :] + self._crossings.slack
        nodes = self._busy if self._problem.use_all else np.ones_like(self._busy)
        none |= ((1 - first.inside) * nodes) @ (1 - second.outside).T == 0  # no node can be in the stage
        for cut in self._problem.rules.required:
            members = members_of(len(self._held), cut)
            before = (first.outside @ members) > 0
            none |= before[:, None] & ((second.inside @ ~members) > 0)[None, :]
        return none

    def _moved(self, first: "_Stack", second: "_Stack", values: Numbers) -> tuple[Numbers, Numbers]:
        """Returns the sums over the tensors that a stage receives, and over those that it sends, without links."""
        sent = (first.outside[:, self._makers] * values) @ second.crossing.T
        received = np.zeros_like(sent)
        one = np.array([len(users) == 1 for users in self._users], dtype=np.bool_) & (values > 0)
        user = np.array([users[0] for users, single in zip(self._users, one, strict=True) if single], dtype=np.int64)
        made = first.inside[:, self._makers]
        received += (made[:, one] * first.outside[:, user] * values[one]) @ second.inside[:, user].T
        for index in np.flatnonzero(~one & (values > 0)):
            users = self._users[index]
            used = first.outside[:, users] @ second.inside[:, users].T > 0
            received += values[index] * (used & (made[:, index] > 0)[:, None])
        return received, sent

    def _memory(self, first: "_Stack", second: "_Stack") -> Numbers:
        memory = (first.outside * self._held) @ second.inside.T
        for weight in self._problem.weights:
            nodes = list(weight.nodes)
            memory += weight.memory * (first.outside[:, nodes] @ second.inside[:, nodes].T > 0)
        if self._problem.links is None:
            memory += sum(self._moved(first, second, self._room))
        else:
            both = (first.crossing * self._room) @ second.crossing.T
            memory += (first.crossing @ self._room)[:, None] + (second.crossing @ self._room)[None, :] - both
        sizes = np.unique(self._workspace)
        largest = np.zeros_like(memory)
        for size in sizes[:: -(-len(sizes) // WORKSPACES)]:
            nodes = np.flatnonzero(self._workspace >= size)
            largest[first.outside[:, nodes] @ second.inside[:, nodes].T > 0] = size
        return memory + largest


class _Stack:
    """Several cells as tables of numbers, with one row per cell."""

    def __init__(self, cells: Sequence[Cell], bounds: StageBounds):
        shape = (len(cells), len(bounds._held))
        self.inside = np.array([cell.inside for cell in cells], dtype=np.float64).reshape(shape)
        self.outside = np.array([cell.outside for cell in cells], dtype=np.float64).reshape(shape)
        self.low, self.high = np.array([cell.low for cell in cells]), np.array([cell.high for cell in cells])
        self.bounds = bounds

    @cached_property
    def crossing(self) -> Numbers:
        """The tensors that certainly cross, shape (cells, tensors)."""
        return self.bounds.crossing(self.inside, self.outside)
