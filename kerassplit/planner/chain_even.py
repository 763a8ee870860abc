"""Among the plans that are equally good, the evenest, always the same one.

Fewest stages first (where devices may be left out), then the smallest sum of squares of the loads, then the lower
device number and the earlier cut, from the first stage on. A pass from the last stage back looks at all pairs of cuts
between which a stage of a best plan can lie. In a long chain with much slack these are too many: then only the ends
that promise most are followed, and the plan says that it may not be the evenest.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kerassplit.planner.chain_reach import Array, Ground, begin, begin_after, end
from kerassplit.planner.chain_slots import Slot
from kerassplit.planner.chain_ticks import NEVER

_MOST_PAIRS = 6_000_000
_CHUNK = 1 << 18
_NONE = 2**62


@dataclass(frozen=True)
class Way:
    """A plan in the terms of the search.

    Attributes:
        cuts: From 0 to n, both included.
        devices: One for each stage.
        borders: One more than stages.
        loads: Ticks of each stage.
        even: Whether no best plan is more even.
    """

    cuts: tuple[int, ...]
    devices: tuple[int, ...]
    borders: tuple[int, ...]
    loads: tuple[int, ...]
    even: bool


@dataclass
class _Best:
    """What is known of the best plans.

    Attributes:
        ground: The problem.
        value: Ticks of the best plan.
        begins: For each slot, for each of its inputs: what a stage has to spare at each cut.
        needs: For each slot, for each of its outputs: what it must have to spare.
        squares: For each border and cut the least sum of squares from there to the end.
        shift: Loads are squared without so many of their last bits, so that the sums stay below 2^62.
    """

    ground: Ground
    value: int
    begins: list[list[Array]]
    needs: list[list[Array]]
    squares: list[Array]
    shift: int


def evenest(ground: Ground, value: int, known: list[NDArray]) -> Way:
    """The evenest of the best plans.

    Args:
        ground: The problem.
        value: Ticks: the smallest bottleneck, or the smallest latency.
        known: What `reach(ground, value)` gives; for latency, `shortest(ground)`.
    """
    slots = ground.slots.slots
    if ground.problem.objective == "throughput":
        begins = [[begin(ground, slot, b, known[b], value) for b in slot.inputs] for slot in slots]
        needs = [[end(ground, slot, b, value) for b in slot.outputs] for slot in slots]
        ends = [known[b] for b in range(len(known))]
    else:
        begins = [[begin_after(ground, slot, b, known[b]) for b in slot.inputs] for slot in slots]
        # Every way to a cut on a best plan is a shortest one.
        needs = [[_exactly(ground, slot, known[b]) for b in slot.outputs] for slot in slots]
        ends = [least + ground.ticks.moving[b] == value for b, least in enumerate(known)]
    finals = [b for b, border in enumerate(ground.slots.borders) if border.place == "end" and ends[b][-1]]
    fewest = min(ground.slots.borders[b].stages for b in finals)
    squares = [np.full(ground.problem.number_of_blocks + 1, _NONE) for _ in known]
    for border in finals:
        if ground.slots.borders[border].stages == fewest:
            squares[border][-1] = 0
    bits = (61 - fewest.bit_length()) // 2
    best = _Best(ground, value, begins, needs, squares, max(0, value.bit_length() - bits))
    even = True
    for number in range(len(slots) - 1, -1, -1):
        even &= _back(best, number)
    return _forward(best, even)


def _exactly(ground: Ground, slot: Slot, least: Array) -> Array:
    return np.where(least < -NEVER, ground.ticks.compute[slot.device] - least, -NEVER)


def _back(best: _Best, number: int) -> bool:
    """From the ends of a slot's stages to their beginnings; whether all were followed."""
    slot = best.ground.slots.slots[number]
    complete = True
    for output, need in zip(slot.outputs, best.needs[number], strict=True):
        useful = np.flatnonzero(best.squares[output] < _NONE)
        if not len(useful):
            continue
        for border, begins in zip(slot.inputs, best.begins[number], strict=True):
            firsts = np.flatnonzero(begins >= max(int(need[useful].min()), NEVER + 1))
            if not len(firsts):
                continue
            behinds = useful[need[useful] <= begins[firsts].max()]
            most = max(1, _MOST_PAIRS // len(firsts))
            if len(behinds) > most:
                complete = False
                behinds = _promising(best, slot, output, behinds, most)
            step = max(1, _CHUNK // len(firsts))
            for low in range(0, len(behinds), step):
                _pairs(best, slot, (border, output), firsts, behinds[low : low + step], begins, need)
    return complete


def _promising(best: _Best, slot: Slot, border: int, ends: Array, most: int) -> Array:
    """The ends that leave an even share to the stages before: by the sum of squares if these were all alike."""
    stages = best.ground.slots.borders[border].stages
    before = best.ground.ticks.compute[slot.device][ends].astype(np.float64) / 2.0**best.shift
    promise = best.squares[border][ends] + before**2 / stages
    return np.sort(ends[np.argsort(promise, kind="stable")[:most]])


def _pairs(
    best: _Best, slot: Slot, borders: tuple[int, int], firsts: Array, behinds: Array, begins: Array, need: Array
) -> None:
    """Look at all stages from some cuts to others."""
    good = (begins[firsts][None, :] >= need[behinds][:, None]) & (firsts[None, :] < behinds[:, None])
    rows, columns = np.nonzero(good)
    first, behind = firsts[columns], behinds[rows]
    first, behind = that_fit(best.ground, slot.device, first, behind)
    squares = _square(best, slot, borders, first, behind) + best.squares[borders[1]][behind]
    np.minimum.at(best.squares[borders[0]], first, squares)


def that_fit(ground: Ground, device: int, first: Array, behind: Array) -> tuple[Array, Array]:
    """Only the stages that the device can run and has the memory for."""
    where = ground.windows[device]
    if where is None:
        return first, behind
    inside = np.flatnonzero(first >= where.farthest[behind])
    first, behind = first[inside], behind[inside]
    good = first >= where.sure[behind]
    doubtful = np.flatnonzero(~good)
    good[doubtful] = ground.memory.needed(first[doubtful], behind[doubtful]) <= where.limit
    return first[good], behind[good]


def load(ground: Ground, device: int, borders: tuple[int, int], first: Array, behind: Array) -> Array:
    """Ticks of stages, transfers counted as the problem says."""
    running, moving = ground.ticks.compute[device], ground.ticks.moving
    compute, receive, send = running[behind] - running[first], moving[borders[0]][first], moving[borders[1]][behind]
    if ground.problem.overlap:
        return np.maximum(compute, np.maximum(receive, send))
    return compute + receive + send


def _square(best: _Best, slot: Slot, borders: tuple[int, int], first: Array, behind: Array) -> Array:
    return (load(best.ground, slot.device, borders, first, behind) >> best.shift) ** 2


def _forward(best: _Best, even: bool) -> Way:
    """Walk along the least sum of squares."""
    ground, slots = best.ground, best.ground.slots
    leaving: dict[int, list[int]] = {}
    for number, slot in enumerate(slots.slots):
        for border in slot.inputs:
            leaving.setdefault(border, []).append(number)
    starts = [border for border, made in enumerate(slots.borders) if made.place == "start"]
    least = min(int(best.squares[border][0]) for border in starts)
    options = [
        option for border in starts if best.squares[border][0] == least for option in _next(best, leaving, border, 0)
    ]
    cuts, devices, borders, loads = [0], [], [], []
    while True:
        device, cut, border, before = min(options)
        here = load(ground, device, (before, border), np.array([cuts[-1]]), np.array([cut]))
        borders += [before] if not borders else []
        cuts.append(cut)
        devices.append(device)
        borders.append(border)
        loads.append(int(here[0]))
        if slots.borders[border].place == "end":
            return Way(tuple(cuts), tuple(devices), tuple(borders), tuple(loads), even)
        options = _next(best, leaving, border, cut)


def _next(best: _Best, leaving: dict[int, list[int]], border: int, cut: int) -> list[tuple[int, int, int, int]]:
    """The stages from a cut along the least sum of squares: device, cut behind, border there, border here."""
    found = []
    for number in leaving.get(border, ()):
        slot = best.ground.slots.slots[number]
        spare = best.begins[number][slot.inputs.index(border)][cut]
        for output, need in zip(slot.outputs, best.needs[number], strict=True):
            after = best.squares[output]
            behind = np.flatnonzero((after < _NONE) & (need <= spare))
            behind = behind[behind > cut]
            first, behind = that_fit(best.ground, slot.device, np.full(len(behind), cut), behind)
            sums = after[behind] + _square(best, slot, (border, output), first, behind)
            same = behind[sums == best.squares[border][cut]]
            if len(same):
                found.append((slot.device, int(same[0]), output, border))
    return found
