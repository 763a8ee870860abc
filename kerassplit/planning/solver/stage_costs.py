"""Costs of the stages between one closed set and many others."""

from collections.abc import Collection
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kerassplit.planning.solver.bounds import NO_MEMORY
from kerassplit.planning.solver.closed_sets import Family, columns_of
from kerassplit.planning.solver.device_orders import Kind
from kerassplit.planning.solver.problem import memory_binds

Goal = Literal["largest", "sum", "even", "small", "memory", "stages"]
Numbers = NDArray[np.float64]
ROUNDING = 1 + 1e-12


class StageCosts:
    """Computes the costs of stages between sets of a family.

    For a stage from J to I, only the tensors that cross J have to be looked at: these are few, and everything else is
    a difference of two sums that are known for every set.

    Args:
        family: The closed sets.
        goal: "largest" and "even" use loads; "sum" and "small" the times of computing and moving, with each move
            counted once; "memory" the share of its device's memory that the stage needs; "stages" 1 for each stage. The
            last two need a family in order of memory.
        most: Upper limit of every load, for "sum".
    """

    def __init__(self, family: Family, goal: Goal, most: float = np.inf):
        problem = family.problem
        self._family, self._goal, self._rates = family, goal, family.rates
        self._problem, self._most = problem, most
        self._seconds = np.array([tensor.seconds for tensor in problem.tensors])
        self._room = np.array([tensor.memory for tensor in problem.tensors])
        self._shared = _SharedMemory(family)
        self._workspaces = sorted(
            ((node.workspace, index) for index, node in enumerate(problem.nodes) if node.workspace), reverse=True
        )
        self._idle = any(node.idle for node in problem.nodes)
        self._memory_binds = goal == "memory" or memory_binds(problem)
        self._moves = problem.links is None and bool(self._seconds.any())

    def last(self, kinds: Collection[Kind], index: int, bound: float) -> int:
        """Returns the end of the sets that one of these kinds of stages can reach from a set within a bound on load."""
        if bound == np.inf or self._goal in ("sum", "small"):
            return len(self._family)
        most = max((self._rates[kind.device] * kind.replicas for kind in kinds), default=0.0)
        work = self._family.work
        return int(np.searchsorted(work, (work[index] + most * bound) * (1 + 1e-9), side="right"))

    def between(self, index: int, later: NDArray[np.int64], kinds: Collection[Kind]) -> dict[Kind, Numbers]:
        """Returns the costs of stages from a set to supersets of it, for each kind; `inf` for impossible stages."""
        touched, still = self._crossing(index, later)
        received = sent = np.zeros(len(later))
        if self._moves:
            seconds = self._seconds[self._family.crossing_lists[index]]
            received, sent = seconds @ touched, self._family.crossing_seconds[later] - seconds @ still
        memory = self._memory(index, later, touched, still) if self._memory_binds else None
        return {kind: self._cost(kind, index, later, received, sent, memory) for kind in kinds}

    @property
    def simple(self) -> bool:
        """True if all pairs of sets can be processed at once: no tensor that matters crosses several sets."""
        if self._moves or not self._memory_binds:
            return not self._moves
        return self._family.is_chain and not self._room[self._family.crossing.sum(axis=1) > 1].any()

    def between_all(self, sets: NDArray[np.int64], later: NDArray[np.int64], kind: Kind) -> Numbers:
        """Returns costs from each of several sets, for simple costs and a chain family; shape (sets, later)."""
        nothing = np.zeros(1)
        memory = self._memory_of_all(sets[:, None], later) if self._memory_binds else None
        return self._cost(kind, sets[:, None], later, nothing, nothing, memory)

    def _memory_of_all(self, sets: NDArray[np.int64], later: NDArray[np.int64]) -> Numbers:
        """Returns the bytes that stages from each of several sets need, for simple costs; shape (sets, later)."""
        family, workspace = self._family, np.zeros(len(self._family))
        memory = (
            family.memory[later] - family.memory[sets] + family.crossing_memory[later] + family.crossing_memory[sets]
        )
        for weight, count in zip(self._problem.weights, self._shared.count, strict=True):
            memory += weight.memory * (count[later] > count[sets])
        for size, node in self._workspaces:
            first = int(family.inside[node].argmax())
            workspace[first] = max(workspace[first], size)
        used = np.where(np.arange(len(family)) > sets, workspace, 0.0)
        return memory + np.maximum.accumulate(used, axis=1)[:, later]

    def _crossing(self, index: int, later: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Returns which tensors that cross the first set the stage uses, and which of them cross the later set."""
        family = self._family
        tensors = family.crossing_lists[index]
        if not (self._moves or self._memory_binds) or not len(tensors):
            empty = np.zeros((len(tensors), len(later)), dtype=np.bool_)
            return empty, empty
        used = family.used[tensors[:, None], later]
        return used > family.used[tensors, index][:, None], used < family.users[tensors][:, None]

    def _cost(self, kind: Kind, index, later, received: Numbers, sent: Numbers, memory: Numbers | None) -> Numbers:
        family, device = self._family, self._problem.devices[kind.device]
        compute = family.seconds[kind.device, later] - family.seconds[kind.device, index]
        called = family.busy[later] > family.busy[index] if self._idle else np.True_
        compute += device.overhead * called
        if self._problem.links is not None:
            receive = family.seconds_over(kind.receives.receiving, index)
            send = family.seconds_over(kind.sends.sending, later)
            moves = family.seconds_over(kind.receives, index)
        else:
            receive, send = device.receive * received, device.send * sent
            moves = receive + send
        overlap = self._problem.overlap
        cost = np.maximum(np.maximum(compute, receive), send) if overlap else compute + receive + send
        cost = cost if kind.replicas == 1 else cost / kind.replicas
        if self._goal in ("sum", "small"):
            within = cost <= self._most
            cost = compute + moves
            cost[~within] = np.inf
        if self._problem.use_all and self._idle:
            cost[~called] = np.inf
        if family.barred is not None:
            cost[family.barred[kind.device, later] > family.barred[kind.device, index]] = np.inf
        if self._goal == "memory" and memory is not None:
            return np.where(cost < np.inf, memory / max(device.memory, NO_MEMORY), np.inf)
        if memory is not None:
            cost[memory > device.memory * ROUNDING] = np.inf
        return np.where(cost < np.inf, 1.0, np.inf) if self._goal == "stages" else cost

    def _memory(self, index: int, later: NDArray[np.int64], touched, still) -> Numbers:
        """Returns the bytes that each stage needs."""
        family = self._family
        room = self._room[family.crossing_lists[index]]
        received = family.crossing_memory[index] if self._problem.links is not None else room @ touched
        sent = family.crossing_memory[later] - room @ still
        held = family.memory[later] - family.memory[index] + self._shared.between(index, later)
        memory = held + received + sent
        if self._workspaces:
            limits = [device.memory for device in self._problem.devices]
            most = self._workspaces[0][0]
            matters = (memory + most > min(limits)) & (memory <= max(limits) * ROUNDING) | (self._goal == "memory")
            memory[matters] += self._workspace(index, later[matters])
        return memory

    def _workspace(self, index: int, later: NDArray[np.int64]) -> Numbers:
        """Returns the largest workspace of the nodes of each stage: tries nodes from the one with the most."""
        inside, largest, open_ = self._family.inside, np.zeros(len(later)), np.arange(len(later))
        for workspace, node in self._workspaces:
            if not len(open_):
                break
            if not inside[node, index]:
                found = inside[node, later[open_]]
                largest[open_[found]] = workspace
                open_ = open_[~found]
        return largest


class _SharedMemory:
    """Bytes of the weights that nodes share, counted once per stage."""

    def __init__(self, family: Family):
        weights = family.problem.weights
        self._memory = np.array([weight.memory for weight in weights])
        self.count = np.zeros((len(weights), len(family)), dtype=np.uint16)
        for index, weight in enumerate(weights):
            for node in set(weight.nodes):
                self.count[index] += family.inside[node]
        whole = self.count == self.count[:, -1:]
        self._begun = self._memory @ (self.count > 0)
        self._over = self._memory @ whole
        self._partly = columns_of((self.count > 0) & ~whole)

    def between(self, index: int, later: NDArray[np.int64]) -> Numbers:
        """Returns the shared bytes of stages from a set to others: weights used so far minus those they do not use."""
        partly = self._partly[index]
        more = self.count[partly[:, None], later] > self.count[partly, index][:, None]
        return self._begun[later] - self._over[index] - self._memory[partly] @ ~more
