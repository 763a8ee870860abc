"""Which devices can follow which: the places of a plan, whatever the cuts are.

A *slot* is a stage on a certain device at a certain place of the plan; a *border* is what lies between two slots, and
has a link. Both together make a graph without cycles, and every way through it is an order in which devices can be
used. For devices in a fixed order it is a chain. Where the planner may choose, plans that have used up the same devices
go through the same border: a state is a count for each kind of device, so equal devices are not told apart.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from kerassplit.planner.chain import NO_COST, ChainLink, ChainProblem


@dataclass(frozen=True)
class Border:
    """Between two slots, before the first one, or after the last one.

    Attributes:
        link: Over it the tensors move; `None` at the start or end where nothing has to be moved.
        place: Where in the chain it can be: at the start, at a cut, or at the end.
        stages: How many stages come before it.
    """

    link: ChainLink | None
    place: Literal["start", "cut", "end"]
    stages: int


@dataclass
class Slot:
    """A stage at a certain place of the plan.

    Attributes:
        device: Index into the problem's devices.
        inputs: The borders that can come before it.
        outputs: The borders that can come after it.
    """

    device: int
    inputs: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Slots:
    """All of them; a slot comes after those that lead to it."""

    borders: tuple[Border, ...]
    slots: tuple[Slot, ...]


# A state, once some stages are laid out: how many stages, the last device, and how many of each device are used. In a
# fixed order only the last device's number counts; with one link for all, what the last device was matters only there.
_State = tuple[int, int, tuple[int, ...]]


def lay_out(problem: ChainProblem) -> Slots:
    """The graph of slots of a problem."""
    return _Layout(problem).build()


def number_of_states(problem: ChainProblem) -> int:
    """About how many slots there would be, without making them."""
    if not problem.any_order:
        return problem.number_of_devices * (problem.number_of_devices if problem.leave_out else 1)
    states = 1
    for device in problem.devices:
        states *= device.count + 1
    return states * len(problem.devices)


class _Layout:
    def __init__(self, problem: ChainProblem):
        self.problem = problem
        self.counts = tuple(device.count for device in problem.devices)
        links = problem.links
        self.one_link = links if isinstance(links, ChainLink) else None
        self.borders: dict[tuple, int] = {}
        self.made: list[Border] = []
        self.slots: dict[tuple[_State, int], Slot] = {}

    def build(self) -> Slots:
        level: list[_State] = [(0, -1, tuple(0 for _ in self.counts))]
        most = self.problem.limits.most_stages
        for _ in range(self.problem.number_of_devices if most is None else most):
            following: dict[_State, None] = {}
            for state in level:
                for device in self.options(state):
                    border = self.border(state, device)
                    if border is None:
                        continue
                    after = self.after(state, device)
                    if (after, device) not in self.slots:
                        self.slots[after, device] = Slot(device)
                    self.slots[after, device].inputs.append(border)
                    following[after] = None
            level = list(following)
        for (after, device), slot in self.slots.items():
            found = [self.border(after, option) for option in self.options(after) if after[0] != most]
            slot.outputs += dict.fromkeys(border for border in found if border is not None)
            if self.complete(after):
                end = self.end(after, device)
                slot.outputs += [] if end is None else [end]
        return Slots(tuple(self.made), tuple(self.slots.values()))

    def options(self, state: _State) -> list[int]:
        """The devices that can come next."""
        _, last, used = state
        left = [device for device, count in enumerate(self.counts) if used[device] < count]
        if self.problem.any_order:
            return left
        left = [device for device in left if device >= last]
        return left if self.problem.leave_out else left[:1]

    def after(self, state: _State, device: int) -> _State:
        """The state with one more stage, with nothing in it that makes no difference for what can follow."""
        stages, _, used = state
        if self.problem.any_order:
            counts = tuple(count + (other == device) for other, count in enumerate(used))
            return stages + 1, -1 if self.one_link else device, counts
        counts = tuple(count + 1 if other == device else 0 for other, count in enumerate(used))
        return stages + 1, device, counts

    def complete(self, state: _State) -> bool:
        """Whether a plan may end here."""
        stages, _, _ = state
        if stages < self.problem.limits.fewest_stages:
            return False
        return self.problem.leave_out or stages == self.problem.number_of_devices

    def border(self, state: _State, device: int) -> int | None:
        """The border before a stage on this device; `None` where nothing connects the two."""
        stages, last, _ = state
        if stages == 0:
            source = self.problem.source
            if source is None or source == device:
                return self.add(("start",), Border(None, "start", 0))
            link = self.link(source, device, 0)
            return None if link is None else self.add(("start", device), Border(link, "start", 0))
        if self.one_link:
            return self.add((state,), Border(self.one_link, "cut", stages))
        link = self.link(last, device, stages)
        return None if link is None else self.add((state, device), Border(link, "cut", stages))

    def end(self, state: _State, device: int) -> int | None:
        stages, sink = state[0], self.problem.sink
        if sink is None or sink == device:
            return self.add(("end", stages), Border(None, "end", stages))
        link = self.link(device, sink, stages)
        return None if link is None else self.add(("end", stages, device), Border(link, "end", stages))

    def link(self, one: int, other: int, stages: int) -> ChainLink | None:
        links = self.problem.links
        if isinstance(links, ChainLink):
            return links
        if isinstance(links, Mapping):
            return links.get((one, other))
        # Between neighbours: from the last of the stages so far to the next; none is known for a far source or sink.
        return links[stages - 1] if 0 < stages < self.problem.number_of_devices else NO_COST

    def add(self, key: tuple, border: Border) -> int:
        if key not in self.borders:
            self.borders[key] = len(self.made)
            self.made.append(border)
        return self.borders[key]
