"""What the stages between one closed set and many others cost."""

from collections.abc import Collection
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kerassplit.planning.solver.bounds import NO_MEMORY
from kerassplit.planning.solver.closed_sets import Family, columns_of
from kerassplit.planning.solver.device_orders import Kind
from kerassplit.planning.solver.problem import Link

Goal = Literal["largest", "sum", "even", "small", "memory", "stages"]
Numbers = NDArray[np.float64]
ROUNDING = 1 + 1e-12


class StageCosts:
    """The costs of stages between sets of a family.

    What is moved between the sets before J and those after I concerns only tensors that cross J: these are few, and all
    else is a difference of two sums that are known for every set.

    Args:
        family: The closed sets.
        goal: "largest" and "even" want loads, "sum" and "small" the times of computing and moving with each move
            counted once, "memory" the share of its device's memory that the stage needs, "stages" counts 1 for each;
            these two for a family in order of memory.
        most: The largest load that there may be, for "sum".
    """

    def __init__(self, family: Family, goal: Goal, most: float = np.inf):
        problem = family.problem
        self._family, self._goal, self._rates = family, goal, family.rates
        self._problem, self._most = problem, most
        self._seconds = np.array([tensor.seconds for tensor in problem.tensors])
        self._room = np.array([tensor.memory for tensor in problem.tensors])
        self._crosses = np.logical_or.reduce(family.crossing)
        self._shared = _SharedMemory(family)
        self._workspaces = sorted(
            ((node.workspace, index) for index, node in enumerate(problem.nodes) if node.workspace), reverse=True
        )
        limits = [device.memory for device in problem.devices]
        everything = family.memory[-1] + self._shared.everything + sum(tensor.memory for tensor in problem.tensors)
        everything += self._workspaces[0][0] if self._workspaces else 0.0
        self._memory_binds = goal == "memory" or everything > min(limits)
        self._moves = problem.links is None and bool(self._seconds.any())

    def last(self, devices: Collection[int], index: int, bound: float) -> int:
        """The end of the sets that one of these types of devices can reach from this set with a load within a bound."""
        if bound == np.inf or self._goal in ("sum", "small"):
            return len(self._family)
        most = max((self._rates[device] for device in devices), default=0.0)
        work = self._family.work
        return int(np.searchsorted(work, (work[index] + most * bound) * (1 + 1e-9), side="right"))

    def between(self, index: int, later: NDArray[np.int64], kinds: Collection[Kind]) -> dict[Kind, Numbers]:
        """What the stages from one set to others that hold it cost, for each kind; `inf` where they cannot be."""
        touched, still = self._crossing(index, later)
        received = sent = np.zeros(len(later))
        if self._moves:
            seconds = self._seconds[self._family.crossing_lists[index]]
            received, sent = seconds @ touched, self._family.crossing_seconds[later] - seconds @ still
        memory = self._memory(index, later, touched, still) if self._memory_binds else None
        return {kind: self._cost(kind, index, later, received, sent, memory) for kind in kinds}

    @property
    def simple(self) -> bool:
        """Whether all pairs of sets can be taken at once: in a chain where nothing with room crosses several sets."""
        if self._moves or not self._memory_binds:
            return not self._moves
        return self._family.is_chain and not self._room[self._family.crossing.sum(axis=1) > 1].any()

    def between_all(self, sets: NDArray[np.int64], later: NDArray[np.int64], kind: Kind) -> Numbers:
        """The same from each of several sets, where costs are simple and the family is a chain; shape (sets, later)."""
        nothing = np.zeros(1)
        memory = self._memory_of_all(sets[:, None], later) if self._memory_binds else None
        return self._cost(kind, sets[:, None], later, nothing, nothing, memory)

    def _memory_of_all(self, sets: NDArray[np.int64], later: NDArray[np.int64]) -> Numbers:
        """Bytes that stages from each of several sets need, where costs are simple; shape (sets, later)."""
        family, workspace = self._family, np.zeros(len(self._family))
        memory = (
            family.memory[later] - family.memory[sets] + family.crossing_memory[later] + family.crossing_memory[sets]
        )
        for weight, count in zip(self._problem.weights, self._shared.count, strict=True):
            memory += weight.memory * (count[later] > count[sets])
        for size, node in self._workspaces:
            first = int(family.inside[node].argmax())
            workspace[first] = max(workspace[first], size)
        behind = np.where(np.arange(len(family)) > sets, workspace, 0.0)
        return memory + np.maximum.accumulate(behind, axis=1)[:, later]

    def _crossing(self, index: int, later: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Of the tensors that cross the first set: which the stage uses, and which cross the later set, too."""
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
        if self._problem.links is not None:
            receive = self._over_link(kind.receives, index)
            send = self._over_link(kind.sends, later)
        else:
            receive, send = device.receive * received, device.send * sent
        overlap = self._problem.overlap
        cost = np.maximum(np.maximum(compute, receive), send) if overlap else compute + receive + send
        if self._goal in ("sum", "small"):
            within = cost <= self._most
            cost = compute + receive + (0.0 if self._problem.links is not None else send)
            cost[~within] = np.inf
        if family.barred is not None:
            cost[family.barred[kind.device, later] > family.barred[kind.device, index]] = np.inf
        if self._goal == "memory" and memory is not None:
            return np.where(cost < np.inf, memory / max(device.memory, NO_MEMORY), np.inf)
        if memory is not None:
            cost[memory > device.memory * ROUNDING] = np.inf
        return np.where(cost < np.inf, 1.0, np.inf) if self._goal == "stages" else cost

    def _over_link(self, link: Link, sets) -> Numbers:
        """Seconds that what crosses a set, or each of several, takes over a link."""
        if link.latency == np.inf:
            return np.where(self._crosses[sets], np.inf, 0.0)
        return np.where(self._crosses[sets], link.latency + link.factor * self._family.crossing_seconds[sets], 0.0)

    def _memory(self, index: int, later: NDArray[np.int64], touched, still) -> Numbers:
        """Bytes that each stage needs."""
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
        """The largest workspace of the nodes of each stage: the nodes are tried from the one with the most."""
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
    """Bytes of the weights that nodes share, for every stage once."""

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
        self.everything = float(self._memory.sum())

    def between(self, index: int, later: NDArray[np.int64]) -> Numbers:
        """What the stages from one set to others hold: what the later has begun on, less what they leave alone."""
        partly = self._partly[index]
        more = self.count[partly[:, None], later] > self.count[partly, index][:, None]
        return self._begun[later] - self._over[index] - self._memory[partly] @ ~more
