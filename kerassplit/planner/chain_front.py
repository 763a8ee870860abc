"""Latency against throughput: the plans of a chain that no other plan beats in both.

From the fastest sample on, the bottleneck is bounded ever more tightly, and each time the least latency within that
bound is found by looking at all pairs of cuts. (The epsilon-constraint method: Haimes, Lasdon and Wismer, 1971.)
"""

from dataclasses import replace

import numpy as np

from kerassplit.planner.chain import ChainPlan, ChainProblem
from kerassplit.planner.chain_blame import refusal
from kerassplit.planner.chain_even import Way, load, that_fit
from kerassplit.planner.chain_reach import Array, Ground, prepare
from kerassplit.planner.chain_search import described
from kerassplit.planner.chain_slots import Slot
from kerassplit.planner.chain_ticks import NEVER

_NOT_YET = -NEVER


def latency_throughput_front(problem: ChainProblem) -> tuple[ChainPlan, ...]:
    """The plans that are best for some weight of latency and throughput, and all others that no plan beats in both.

    Takes time in proportion to the square of the cuts for each plan on the front.

    Args:
        problem: As for `plan_chain`; its objective does not count. With `overlap`, the bottleneck does.

    Returns:
        Plans from the smallest latency to the smallest bottleneck: the one rises, the other falls.

    Raises:
        PlanError: There is no plan.

    Example:

    >>> from kerassplit.planner.chain import ChainDevice, ChainLink
    >>> devices = ChainDevice("edge", np.full(4, 2.0)), ChainDevice("cloud", np.ones(4))
    >>> problem = ChainProblem(devices, crossing=np.array([0.1, 0.2, 0.1]), links=ChainLink(bandwidth=1.0))
    >>> [(plan.cuts, plan.latency, plan.bottleneck) for plan in latency_throughput_front(problem)]
    [((1,), 5.1, 3.1)]
    """
    ground = prepare(replace(problem, objective="latency"))
    found: list[tuple[int, int, Way]] = []
    bottleneck = 2**60
    while (way := _fastest_within(ground, bottleneck)) is not None:
        latency, loads = _latency(ground, way), max(way.loads)
        # The same latency with a smaller bottleneck takes the place of the last one.
        if found and found[-1][0] == latency:
            found.pop()
        found.append((latency, loads, way))
        bottleneck = loads - 1
    if not found:
        raise refusal(problem)
    return tuple(described(ground, way, method="shortest path within a bottleneck") for _, _, way in found)


def _latency(ground: Ground, way: Way) -> int:
    ticks = ground.ticks
    moving = sum(int(ticks.moving[border][cut]) for border, cut in zip(way.borders, way.cuts, strict=True))
    stages = zip(way.devices, way.cuts, way.cuts[1:], strict=False)
    return moving + sum(
        int(ticks.compute[device][last] - ticks.compute[device][first]) for device, first, last in stages
    )


def _fastest_within(ground: Ground, bottleneck: int) -> Way | None:
    """The plan of the least latency whose loads are within the bottleneck."""
    borders, slots = ground.slots.borders, ground.slots.slots
    least = [
        np.where(places & (border.place == "start"), 0, _NOT_YET)
        for border, places in zip(borders, ground.places, strict=True)
    ]
    # For each border and cut: the slot before it, the border before that, and the cut there.
    before = [np.zeros((len(places), 3), dtype=np.int64) for places in ground.places]
    for number, slot in enumerate(slots):
        for output in slot.outputs:
            for given in slot.inputs:
                _extend(ground, slot, number, (given, output), bottleneck, least, before)
    ends = [border for border, made in enumerate(borders) if made.place == "end" and least[border][-1] < _NOT_YET]
    if not ends:
        return None
    border = min(ends, key=lambda end: int(least[end][-1] + ground.ticks.moving[end][-1]))
    return _trace(ground, border, before)


def _extend(
    ground: Ground,
    slot: Slot,
    number: int,
    borders: tuple[int, int],
    bottleneck: int,
    least: list[Array],
    before: list[Array],
) -> None:
    """Add the stages of a slot from one border to another."""
    given, output = borders
    firsts = np.flatnonzero(least[given] < _NOT_YET)
    running, moving = ground.ticks.compute[slot.device], ground.ticks.moving[given]
    for behind in np.flatnonzero(ground.places[output]).tolist():
        first = firsts[: np.searchsorted(firsts, behind)]
        first, ends = that_fit(ground, slot.device, first, np.full(len(first), behind))
        first = first[load(ground, slot.device, borders, first, ends) <= bottleneck]
        if not len(first):
            continue
        spent = least[given][first] + moving[first] - running[first]
        best = int(np.argmin(spent))
        total = int(spent[best] + running[behind])
        if total < least[output][behind]:
            least[output][behind] = total
            before[output][behind] = number, given, first[best]


def _trace(ground: Ground, border: int, before: list[Array]) -> Way:
    """The way that ends at this border."""
    cut = ground.problem.number_of_blocks
    cuts, borders, devices, loads = [cut], [border], [], []
    while ground.slots.borders[border].place != "start":
        number, given, first = before[border][cut].tolist()
        device = ground.slots.slots[number].device
        loads.append(int(load(ground, device, (given, border), np.array([first]), np.array([cut]))[0]))
        devices.append(device)
        border, cut = given, first
        cuts.append(cut)
        borders.append(border)
    return Way(tuple(cuts[::-1]), tuple(devices[::-1]), tuple(borders[::-1]), tuple(loads[::-1]), even=False)
