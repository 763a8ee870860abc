"""The placement problem as a mixed integer program, for HiGHS: where there are too many closed sets to list.

Stages take positions 0, 1, 2 ... one after another. For each node, position and type of device a variable says whether
the node is there. The sums over all positions up to one are the closed set before the cut behind it; so a node's
predecessors have sums at least as large. What the solver proves when its time is up bounds the value from below.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kerassplit.planner.dag import Problem, predecessors_of
from kerassplit.planner.mixed_program import INFEASIBLE, MixedProgram, Term


@dataclass(frozen=True)
class Answer:
    """What the solver found.

    Attributes:
        parts: For each stage the type of its device and its nodes; `None` if the solver found none.
        lower_bound: No placement has a lower value; `inf` if there is no placement.
        finished: Whether the solver came to its end: then these parts are the best ones.
    """

    parts: tuple[tuple[int, tuple[int, ...]], ...] | None
    lower_bound: float
    finished: bool


def solve(problem: Problem, time_limit: float = 60.0, at_most: float = math.inf) -> Answer:
    """Solve a problem without classes with HiGHS.

    Args:
        problem: The problem.
        time_limit: Seconds that the solver may take.
        at_most: A value that is known to be reached, to save the solver what is worse.
    """
    # The solver's tolerances are absolute: times are given as shares of what one device takes for everything.
    scale = math.fsum(min(node.seconds) for node in problem.nodes) or 1.0
    program = _PlacementProgram(problem, scale, at_most)
    answer = program.solve(time_limit)
    if answer.status == INFEASIBLE and at_most == math.inf:
        return Answer(None, math.inf, True)
    bound = max(answer.mip_dual_bound * scale, 0.0) if answer.mip_dual_bound is not None else 0.0
    parts = None if answer.x is None else program.parts(answer.x)
    return Answer(parts, bound, answer.status == 0)


class _PlacementProgram(MixedProgram):
    """The program for a placement problem, one kind of rows after another."""

    def __init__(self, problem: Problem, scale: float, at_most: float):
        super().__init__()
        self._problem, self._scale = problem, scale
        self._positions = range(min(sum(device.count for device in problem.devices), len(problem.nodes)))
        self._types = range(len(problem.devices))
        self._place_nodes()
        self._take_devices()
        self._move_tensors()
        self._limit_memory()
        self._follow_rules()
        self._count_time(at_most)

    def parts(self, values: np.ndarray) -> tuple[tuple[int, tuple[int, ...]], ...]:
        found: dict[tuple[int, int], list[int]] = {}
        for node in range(len(self._problem.nodes)):
            places = [(position, device) for position in self._positions for device in self._on[node, position]]
            best = max(places, key=lambda place: values[self._on[node, place[0]][place[1]]])
            found.setdefault(best, []).append(node)
        return tuple((device, tuple(nodes)) for (_, device), nodes in sorted(found.items()))

    def _place_nodes(self) -> None:
        """Each node in one place, and none before those that it depends on."""
        nodes, before = self._problem.nodes, predecessors_of(len(self._problem.nodes), self._problem.tensors)
        self._on: dict[tuple[int, int], dict[int, int]] = {}
        self._ahead: dict[tuple[int, int], int] = {}
        for index, node in enumerate(nodes):
            fits = [device for device in self._types if node.seconds[device] < math.inf]
            for position in self._positions:
                self._on[index, position] = {device: self.variable(integral=True) for device in fits}
                self._ahead[index, position] = self.variable()
                earlier = [(self._ahead[index, position - 1], 1.0)] if position else []
                self.row([(self._ahead[index, position], -1.0), *self._here(index, position), *earlier], 0.0, 0.0)
            self.row([(self._ahead[index, self._positions[-1]], 1.0)], 1.0)
        for index, makers in enumerate(before):
            for maker in makers:
                for position in self._positions[:-1]:
                    self.row([(self._ahead[maker, position], 1.0), (self._ahead[index, position], -1.0)], 0.0)

    def _here(self, node: int, position: int, factor: float = 1.0) -> list[Term]:
        return [(variable, factor) for variable in self._on[node, position].values()]

    def _take_devices(self) -> None:
        """Each position takes at most one device, and none is left empty before one that is taken."""
        devices, nodes = self._problem.devices, range(len(self._problem.nodes))
        self._taken = {
            (position, device): self.variable(integral=True) for position in self._positions for device in self._types
        }
        for (_, position), places in self._on.items():
            for device, variable in places.items():
                self.row([(self._taken[position, device], 1.0), (variable, -1.0)], 0.0)
        for position in self._positions:
            self.row(self._any(position), 0.0, 1.0)
            self.row([term for node in nodes for term in self._here(node, position)] + self._any(position, -1.0), 0.0)
            if position:
                self.row(self._any(position - 1) + self._any(position, -1.0), 0.0)
        for device, kind in enumerate(devices):
            taken = [(self._taken[position, device], 1.0) for position in self._positions]
            self.row(taken, kind.count if self._problem.use_all else 0, kind.count)
            for position in self._positions[1:] if self._problem.in_order else ():
                for earlier in range(device):
                    self.row([(self._taken[position - 1, device], 1.0), (self._taken[position, earlier], 1.0)], 0, 1)

    def _any(self, position: int, factor: float = 1.0) -> list[Term]:
        return [(self._taken[position, device], factor) for device in self._types]

    def _move_tensors(self) -> None:
        """Which tensors cross each cut; without links also which each device receives and sends."""
        problem, rules = self._problem, self._problem.rules
        self._crosses: dict[tuple[int, int], int] = {}
        self._received: dict[tuple[int, int, int], int] = {}
        self._sent: dict[tuple[int, int, int], int] = {}
        counted = problem.links is not None or rules.max_tensors is not None or rules.max_memory < math.inf
        for index, tensor in enumerate(problem.tensors):
            for position in self._positions[:-1] if counted else ():
                crosses = self._crosses[index, position] = self.variable()
                for user in tensor.consumers:
                    made, used = self._ahead[tensor.producer, position], self._ahead[user, position]
                    self.row([(crosses, 1.0), (made, -1.0), (used, 1.0)], 0.0)
            if problem.links is None and (tensor.seconds or tensor.memory):
                self._move_directly(index)

    def _move_directly(self, index: int) -> None:
        tensor = self._problem.tensors[index]
        for position in self._positions:
            makers = self._on[tensor.producer, position]
            for device in self._types:
                received = self._received[index, position, device] = self.variable()
                sent = self._sent[index, position, device] = self.variable()
                made = [(makers[device], 1.0)] if device in makers else []
                for user in tensor.consumers:
                    users = self._on[user, position]
                    used = [(users[device], 1.0)] if device in users else []
                    if used:
                        self.row([(received, 1.0), *made, (users[device], -1.0)], 0.0)
                    if made:
                        self.row([(sent, 1.0), (makers[device], -1.0), *used], 0.0)

    def _limit_memory(self) -> None:
        """Rows for devices whose memory has a limit, in shares of it."""
        problem = self._problem
        room = sum(tensor.memory for tensor in problem.tensors)
        kept = self._room() if problem.links is not None and room else {}
        for device, kind in enumerate(problem.devices):
            for position in self._positions if kind.memory < math.inf else ():
                terms = self._held(position, device)
                share = kind.memory or 1.0
                if kept:  # counts where this type has the position
                    terms += [(kept[index, position], tensor.memory) for index, tensor in enumerate(problem.tensors)]
                    terms.append((self._taken[position, device], room))
                self.row(
                    [(variable, factor / share) for variable, factor in terms if factor],
                    high=(kind.memory + (room if kept else 0.0)) / share,
                )

    def _held(self, position: int, device: int) -> list[Term]:
        """What a device at a position holds: its nodes, what they share, their workspace, and what it moves itself."""
        problem, terms = self._problem, []
        workspace = self.variable(upper=math.inf)
        terms.append((workspace, max(node.workspace for node in problem.nodes)))
        for index, node in enumerate(problem.nodes):
            if device in self._on[index, position]:
                here = self._on[index, position][device]
                terms.append((here, node.memory))
                if node.workspace:
                    self.row([(workspace, 1.0), (here, -node.workspace / terms[0][1])], 0.0)
        for weight in problem.weights:
            shared = self.variable()
            terms.append((shared, weight.memory))
            for index in weight.nodes:
                if device in self._on[index, position]:
                    self.row([(shared, 1.0), (self._on[index, position][device], -1.0)], 0.0)
        for index, tensor in enumerate(problem.tensors):
            if (index, position, device) in self._sent:
                terms.append((self._received[index, position, device], tensor.memory))
                terms.append((self._sent[index, position, device], tensor.memory))
        return terms

    def _room(self) -> dict[tuple[int, int], int]:
        """Which tensors cross a cut beside each position."""
        kept = {}
        for index in range(len(self._problem.tensors)):
            for position in self._positions:
                kept[index, position] = self.variable()
                for cut in (position - 1, position):
                    if (index, cut) in self._crosses:
                        self.row([(kept[index, position], 1.0), (self._crosses[index, cut], -1.0)], 0.0)
        return kept

    def _follow_rules(self) -> None:
        problem, rules, nodes = self._problem, self._problem.rules, range(len(self._problem.nodes))
        for position in self._positions[:-1]:
            crosses = [self._crosses.get((index, position), -1) for index in range(len(problem.tensors))]
            if rules.max_tensors is not None:
                self.row([(variable, 1.0) for variable in crosses], high=rules.max_tensors)
            if rules.max_memory < math.inf:
                most = rules.max_memory or 1.0
                memory = [tensor.memory / most for tensor in problem.tensors]
                self.row(list(zip(crosses, memory, strict=True)), high=rules.max_memory / most)
            for node in rules.last:
                self.row([(self._ahead[node, position], 1.0), *self._any(position + 1)], high=1.0)
            for cut in rules.forbidden:
                if 0 < len(cut) < len(nodes):
                    ahead = [(self._ahead[node, position], -1.0 if node in cut else 1.0) for node in nodes]
                    self.row(ahead, 1.0 - len(cut))
        for node in rules.first:
            self.row(self._here(node, 0), 1.0)
        for cut in rules.required:
            before = [self.variable(integral=True) for _ in self._positions]  # whether the stage lies before the cut
            for position in self._positions:
                for node in nodes:
                    side, high = (-1.0, 0.0) if node in cut else (1.0, 1.0)
                    self.row([*self._here(node, position), (before[position], side)], high=high)
                if position:
                    self.row([(before[position - 1], 1.0), (before[position], -1.0)], 0.0)

    def _count_time(self, at_most: float) -> None:
        """The objective: the largest load, or the sum of all times."""
        problem = self._problem
        latency = problem.objective == "latency"
        value = self.variable(upper=at_most / self._scale * (1 + 1e-6), cost=1.0)
        moves = [self._over_cut(cut) if problem.links is not None else None for cut in self._positions[:-1]]
        everything: list[Term] = []
        for position in self._positions:
            compute, receive, send = self._compute(position), [], []
            if problem.links is None:
                receive = self._directly(position, self._received, [device.receive for device in problem.devices])
                send = self._directly(position, self._sent, [device.send for device in problem.devices])
            else:
                receive = [(move, 1.0) for move in moves[:position][-1:] if move is not None]
                send = [(move, 1.0) for move in moves[position : position + 1] if move is not None and not latency]
            everything += compute + receive + send
            for load in (compute, receive, send) if problem.overlap else (compute + receive + send,):
                if not latency:
                    self.row([(value, 1.0), *((variable, -factor) for variable, factor in load)], 0.0)
        if latency:
            self.row([(value, 1.0), *((variable, -factor) for variable, factor in everything)], 0.0)

    def _compute(self, position: int) -> list[Term]:
        return [
            (variable, node.seconds[device] / self._scale)
            for index, node in enumerate(self._problem.nodes)
            for device, variable in self._on[index, position].items()
        ]

    def _directly(self, position: int, moved: dict[tuple[int, int, int], int], factors: Sequence[float]) -> list[Term]:
        return [
            (variable, factors[device] * self._problem.tensors[index].seconds / self._scale)
            for (index, place, device), variable in moved.items()
            if place == position and factors[device]
        ]

    def _over_cut(self, cut: int) -> int:
        """A variable for the time that what crosses a cut takes over the link there."""
        problem, links = self._problem, self._problem.links or ()
        seconds = sum(tensor.seconds for tensor in problem.tensors)
        move, crosses = self.variable(upper=math.inf), self.variable()
        for index in range(len(problem.tensors)):
            self.row([(crosses, 1.0), (self._crosses[index, cut], -1.0)], 0.0)
        one = len({link for row in links for link in row}) == 1
        for source in self._types if not one else (0,):
            for target in self._types if not one else (0,):
                link = links[source][target]
                between = [(self._taken[cut, source], 1.0), (self._taken[cut + 1, target], 1.0)]
                if link.latency == math.inf:
                    self.row([(crosses, 1.0), *([] if one else between)], high=0.0 if one else 2.0)
                    continue
                # Without this link at the cut the row asks for nothing.
                most = 0.0 if one else (link.latency + link.factor * seconds) / self._scale
                spent = [(crosses, -link.latency / self._scale)]
                for index, tensor in enumerate(problem.tensors):
                    spent.append((self._crosses[index, cut], -link.factor * tensor.seconds / self._scale))
                held = [(variable, -most) for variable, _ in between] if most else []
                self.row([(move, 1.0), *spent, *held], -2 * most)
        return move
