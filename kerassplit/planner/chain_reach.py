"""Which cuts can be reached, and at what cost: one pass over all slots, in time linear in cuts and slots.

The load of a stage from cut i to cut j on a device is C[j] - C[i] + X[i] + X[j], with C the device's running total and
X what moving takes there. It does not grow with the stage where X falls, so stages cannot be filled greedily. But it is
at most B exactly if C[i] - X[i] >= C[j] + X[j] - B, and the left side knows nothing of j: a running maximum over the
cuts that can be reached answers for all j at once. (The idea of probing a bottleneck is that of Pinar and Aykanat,
"Fast optimal load balancing algorithms for 1D partitioning", 2004; their probe is greedy.) For latency the running
maximum gives the least sum, likewise.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kerassplit.planner.chain import ChainProblem
from kerassplit.planner.chain_memory import Highest, Memory, Window, window
from kerassplit.planner.chain_slots import Slot, Slots, lay_out
from kerassplit.planner.chain_ticks import NEVER, Ticks, crossing_bytes, in_ticks

Array = NDArray[np.int64]
_CHUNK = 1 << 20


@dataclass(frozen=True, eq=False)
class Ground:
    """A problem made ready for searching.

    Attributes:
        problem: What was asked.
        slots: The orders in which devices can follow one another.
        ticks: All times as whole numbers.
        memory: What stages need.
        windows: For each device where its stages may begin; `None` where they may be any.
        places: For each border the cuts where it can be, shape (n+1,) of booleans.
    """

    problem: ChainProblem
    slots: Slots
    ticks: Ticks
    memory: Memory
    windows: tuple[Window | None, ...]
    places: tuple[NDArray[np.bool_], ...]


def prepare(problem: ChainProblem) -> Ground:
    """Everything that does not depend on the bottleneck that is asked for."""
    slots = lay_out(problem)
    ticks = in_ticks(problem, slots)
    memory = Memory(problem)
    required = _last_required(problem)
    barriers = [np.maximum(unable, required) for unable in ticks.unable]
    windows = [window(memory, device.memory, bar) for device, bar in zip(problem.devices, barriers, strict=True)]
    kinds = _places(problem)
    places = tuple(kinds[border.place] for border in slots.borders)
    return Ground(problem, slots, ticks, memory, tuple(windows), places)


def allowed_cuts(problem: ChainProblem) -> NDArray[np.bool_]:
    """Whether a cut may be made at 0 to n, as far as the limits on cuts go; ends excluded."""
    limits = problem.limits
    cuts = np.arange(problem.number_of_blocks + 1)
    last = problem.number_of_blocks if limits.last_from is None else limits.last_from
    allowed = (crossing_bytes(problem) <= limits.largest_crossing) & (cuts >= limits.first_to) & (cuts <= last)
    allowed[list(limits.must_not_cut)] = False
    allowed[[0, -1]] = False
    return allowed


def _places(problem: ChainProblem) -> dict[str, NDArray[np.bool_]]:
    start = np.zeros(problem.number_of_blocks + 1, dtype=bool)
    start[0] = True
    return {"start": start, "cut": allowed_cuts(problem), "end": start[::-1].copy()}


def _last_required(problem: ChainProblem) -> Array:
    """For each cut the last one before it that must be made; 0 where there is none."""
    marked = np.zeros(problem.number_of_blocks + 1, dtype=np.int64)
    for cut in problem.limits.must_cut:
        marked[cut + 1] = cut
    return np.maximum.accumulate(marked)


def reach(ground: Ground, bottleneck: int) -> list[NDArray[np.bool_]]:
    """For each border the cuts that can be reached with no load above the bottleneck (in ticks)."""
    reached = [
        places.copy() if border.place == "start" else np.zeros_like(places)
        for border, places in zip(ground.slots.borders, ground.places, strict=True)
    ]
    for slot in ground.slots.slots:
        begins = _highest_begin(ground, slot, [begin(ground, slot, b, reached[b], bottleneck) for b in slot.inputs])
        if begins is None:
            continue
        needs = [end(ground, slot, border, bottleneck) for border in slot.outputs]
        best = best_begin(ground, slot.device, begins, needs)
        for border, need in zip(slot.outputs, needs, strict=True):
            reached[border] |= best >= need
    return reached


def shortest(ground: Ground) -> list[Array]:
    """For each border and cut the least ticks of all that comes before moving over it; `-NEVER` where nothing can."""
    least = [
        np.where(places & (border.place == "start"), 0, -NEVER)
        for border, places in zip(ground.slots.borders, ground.places, strict=True)
    ]
    for slot in ground.slots.slots:
        begins = _highest_begin(ground, slot, [begin_after(ground, slot, b, least[b]) for b in slot.inputs])
        if begins is None:
            continue
        best = best_begin(ground, slot.device, begins, None)
        for border in slot.outputs:
            found = np.where((best > NEVER) & ground.places[border], ground.ticks.compute[slot.device] - best, -NEVER)
            least[border] = np.minimum(least[border], found)
    return least


def begin(ground: Ground, slot: Slot, border: int, reached: NDArray[np.bool_], bottleneck: int) -> Array:
    """What a stage of this slot that begins at each cut has to spare; to be compared with `end`."""
    moving = ground.ticks.moving[border]
    running = ground.ticks.compute[slot.device]
    if ground.problem.overlap:
        return np.where(reached & (moving <= bottleneck), running, NEVER)
    return np.where(reached, running - moving, NEVER)


def end(ground: Ground, slot: Slot, border: int, bottleneck: int) -> Array:
    """What the beginning of a stage has to spare, at least, for it to end at each cut."""
    moving = ground.ticks.moving[border]
    running = ground.ticks.compute[slot.device]
    if ground.problem.overlap:
        return np.where(ground.places[border] & (moving <= bottleneck), running - bottleneck, -NEVER)
    return np.where(ground.places[border], running + moving - bottleneck, -NEVER)


def begin_after(ground: Ground, slot: Slot, border: int, least: Array) -> Array:
    """The same for latency: what has been spent before, and on moving."""
    spent = ground.ticks.compute[slot.device] - ground.ticks.moving[border]
    return np.where(least < -NEVER, spent - least, NEVER)


def _highest_begin(ground: Ground, slot: Slot, begins: Sequence[Array]) -> Array | None:
    """The best of several borders; `None` if no cut can be reached."""
    if not begins:
        return None
    best = begins[0]
    for other in begins[1:]:
        best = np.maximum(best, other)
    return best if best.max() > NEVER else None


def best_begin(ground: Ground, device: int, begins: Array, needs: Sequence[Array] | None) -> Array:
    """For each end the highest of `begins` over the cuts where a stage on the device may begin.

    With `needs`, a number may be too low as long as it stays on the same side of all of them.
    """
    where = ground.windows[device]
    if where is None:
        best = np.empty_like(begins)
        best[0] = NEVER
        np.maximum.accumulate(begins[:-1], out=best[1:])
        return best
    ends = np.arange(len(begins))
    highest = Highest(begins)
    best = np.maximum(highest.over(where.sure, ends), NEVER)
    if where.sure is where.farthest:
        return best
    hoped = np.maximum(highest.over(where.farthest, ends), NEVER)
    if needs is None:
        doubtful = hoped > best
        floor = best
    else:
        doubtful = np.zeros(len(begins), dtype=bool)
        floor = np.full(len(begins), -NEVER)
        for need in needs:
            here = (best < need) & (need <= hoped)
            doubtful |= here
            floor = np.where(here, np.minimum(floor, need - 1), floor)
    _look_at_each(ground.memory, where, begins, np.flatnonzero(doubtful), floor, best)
    return best


def _look_at_each(memory: Memory, where: Window, begins: Array, ends: Array, floor: Array, best: Array) -> None:
    """Raise `best` at these ends by looking at each doubtful beginning that would raise it above `floor`."""
    counts = where.sure[ends] - where.farthest[ends]
    taken = 0
    while taken < len(ends):
        # As many ends as make about a chunk of pairs, at least one.
        upto = taken + max(1, int(np.searchsorted(np.cumsum(counts[taken:]), _CHUNK, side="right")))
        some, number = ends[taken:upto], counts[taken:upto]
        behind = np.repeat(some, number)
        offset = np.arange(len(behind)) - np.repeat(np.cumsum(number) - number, number)
        first = where.farthest[behind] + offset
        worth = np.flatnonzero(begins[first] > floor[behind])
        first, behind = first[worth], behind[worth]
        fits = memory.needed(first, behind) <= where.limit
        np.maximum.at(best, behind[fits], begins[first[fits]])
        taken = upto
