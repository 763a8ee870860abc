"""Orders in which stages may use devices, as an automaton: each arc from state to state is one stage.

Devices of one type are identical, so a state only counts how many of each type have a stage. If links differ between
types, a state also includes the type of the last stage and that of the next: the cost of a stage depends on both.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kerassplit.errors import PlanError
from kerassplit.planning.solver.problem import Link, Problem, links_differ

NO_LINK = Link(0.0, 0.0, 0.0, 0.0)
State = tuple[tuple[int, ...], int | None, int | None]  # devices used, type of the last stage, type of the next


@dataclass(frozen=True)
class Kind:
    """Device type and links of a stage; together with its nodes, they determine its cost.

    Attributes:
        device: The device type that it runs on.
        receives: The link over which it receives; meaningless if the problem has no links.
        sends: The link over which it sends; meaningless if the problem has no links.
        replicas: The number of devices that share its load.
    """

    device: int
    receives: Link = NO_LINK
    sends: Link = NO_LINK
    replicas: int = 1


@dataclass(frozen=True)
class Arc:
    """A stage of this kind, which leads from one state to another."""

    source: int
    target: int
    kind: Kind


MOST_STATES = 2**16  # each is combined with all closed sets


@dataclass(frozen=True)
class DeviceOrders:
    """All orders of devices, as an automaton.

    Attributes:
        arcs: All arcs by state: `arcs[state]` are the arcs that leave it.
        counts: Number of devices of each type that have a stage in each state, shape (states, types).
        left: Number of devices of each type that may still get one, shape (states, types).
        starts: States in which nothing has been placed.
        ends: States in which everything may have been placed.
        between: States in which something may be left to place.
    """

    arcs: tuple[tuple[Arc, ...], ...]
    counts: NDArray[np.int64]
    left: NDArray[np.int64]
    starts: tuple[int, ...]
    ends: tuple[int, ...]
    between: tuple[int, ...]


def device_orders(problem: Problem, differ: bool | None = None) -> DeviceOrders:
    """Builds the automaton for a problem's devices and links.

    Args:
        problem: The problem.
        differ: Whether a state includes types; by default only if links differ.

    Raises:
        PlanError: The automaton has too many states.
    """
    counts = tuple(device.count for device in problem.devices)
    nothing: tuple[int, ...] = (0,) * len(counts)
    differ = links_differ(problem) if differ is None else differ
    starts: list[State] = (
        [(nothing, None, device) for device in range(len(counts))] if differ else [(nothing, None, None)]
    )
    number = {key: index for index, key in enumerate(starts)}
    keys = list(number)
    arcs: list[tuple[Arc, ...]] = []
    for key in keys:  # grows during the loop
        if len(keys) > MOST_STATES:
            raise PlanError(
                f"There are too many orders of {sum(counts)} devices to try them all. Use fewer devices, pass "
                "identical ones as one with a `count`, or fix their order (any_order=False).",
                binding=("any_order",),
            )
        leaving = []
        for target, kind in _stages_after(problem, key, differ):
            if target not in number:
                number[target] = len(keys)
                keys.append(target)
            leaving.append(Arc(number[key], number[target], kind))
        arcs.append(tuple(leaving))
    return DeviceOrders(
        tuple(arcs),
        np.array([used for used, _, _ in keys]),
        np.array([_left(problem, used) for used, _, _ in keys]),
        tuple(range(len(starts))),
        tuple(
            index
            for index, (used, _, following) in enumerate(keys)
            if used != nothing and following is None and (used == counts or not problem.use_all)
        ),
        tuple(index for index, (_, _, following) in enumerate(keys) if not differ or following is not None),
    )


def _stages_after(problem: Problem, key: State, differ: bool) -> Iterator[tuple[State, Kind]]:
    """Yields the states that one more stage can lead to, with the kind of that stage."""
    used, last, chosen = key
    links = problem.links or ()
    for device, number, after in _steps(problem, used):
        if not differ:
            common = links[0][0] if links else NO_LINK
            yield (after, None, None), Kind(device, common, common, number)
        elif device == chosen:
            receives = NO_LINK if last is None else links[last][device]
            yield (after, device, None), Kind(device, receives, NO_LINK, number)
            for other in dict.fromkeys(other for other, _, _ in _steps(problem, after)):
                yield (after, device, other), Kind(device, receives, links[device][other], number)


def _steps(problem: Problem, used: tuple[int, ...]) -> Iterator[tuple[int, int, tuple[int, ...]]]:
    """Yields the types that may come next, each with the number of its devices, and the devices used after it.

    With a fixed order, skipped devices count as used, which keeps the number of states small.
    """
    for device, count in enumerate(_left(problem, used)):
        skipped = used[:device]
        if problem.in_order:
            skipped = tuple(earlier.count for earlier in problem.devices[:device])
            if problem.use_all and skipped != used[:device]:
                continue
        for number in range(1, (count if problem.replicas else min(count, 1)) + 1):
            yield device, number, (*skipped, used[device] + number, *used[device + 1 :])


def _left(problem: Problem, used: tuple[int, ...]) -> list[int]:
    """Returns how many devices of each type may still be used."""
    latest = max((device for device, count in enumerate(used) if count), default=0) if problem.in_order else 0
    return [0 if index < latest else device.count - used[index] for index, device in enumerate(problem.devices)]
