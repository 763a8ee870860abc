"""What a stage needs of memory, and how far back a stage may begin.

Memory grows with a stage but for the buffers at its two ends: a longer stage can need less, where less crosses. So for
each end there is a nearest beginning from which on all stages surely fit, a farthest one before which none does, and
between the two each has to be looked at.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kerassplit.planner.chain import ChainProblem

Indices = NDArray[np.int64]


class Highest:
    """The largest of any range of an array, by a table of all ranges of 1, 2, 4, ... numbers.

    (Bender and Farach-Colton, "The LCA Problem Revisited", 2000.)
    """

    def __init__(self, values: NDArray):
        self.table = [values]
        width = 1
        while 2 * width <= len(values):
            last = self.table[-1]
            self.table.append(np.maximum(last[:-width], last[width:]))
            width *= 2
        self.lowest = np.iinfo(values.dtype).min if values.dtype.kind == "i" else -np.inf

    def over(self, first: Indices, behind: Indices) -> NDArray:
        """The largest from `first` to before `behind`, elementwise; the lowest number there is where that is empty."""
        found = np.full(len(first), self.lowest, dtype=self.table[0].dtype)
        # The exponent that frexp gives is one more than the whole part of the logarithm, and exact.
        level = np.frexp(np.maximum(behind - first, 0).astype(np.float64))[1] - 1
        for each, values in enumerate(self.table):
            here = np.flatnonzero(level == each)
            if len(here):
                found[here] = np.maximum(values[first[here]], values[behind[here] - (1 << each)])
        return found


class Memory:
    """Bytes that a stage needs."""

    def __init__(self, problem: ChainProblem):
        assert problem.parameters is not None and problem.peaks is not None and problem.buffers is not None
        self.own = np.concatenate([[0.0], np.cumsum(problem.parameters)])
        self.peaks = Highest(np.asarray(problem.peaks))
        self.buffers = np.concatenate([[0.0], problem.buffers, [0.0]])
        self.repeated = _Repeated(problem)

    def without_buffers(self, first: Indices, behind: Indices) -> NDArray[np.float64]:
        """Bytes of stages of one or more blocks, without the buffers: it never shrinks as a stage grows."""
        parameters = self.own[behind] - self.own[first] + self.repeated.bytes(first, behind)
        return parameters + self.peaks.over(first, behind)

    def needed(self, first: Indices, behind: Indices) -> NDArray[np.float64]:
        """Bytes of stages of one or more blocks: from `first` to before `behind`."""
        return self.without_buffers(first, behind) + self.buffers[first] + self.buffers[behind]


class _Repeated:
    """Bytes of the weights that several blocks use, each once in a stage.

    A stage holds a weight if it has a use of it whose use before lies before the stage. The uses lie on a plane (use
    before, use); those that count for a stage are in a rectangle. A wavelet matrix (Claude, Navarro and Ordóñez, 2015)
    sums rectangles in as many steps as the number of a block has bits.
    """

    def __init__(self, problem: ChainProblem):
        uses = sorted(
            (block, before, weight.bytes)
            for weight in problem.shared
            for before, block in _with_before(sorted(set(weight.blocks)))
        )
        # In the order of the blocks; to be summed: those with "before" (0 for none, else the block + 1) up to `first`.
        self.blocks = np.array([block for block, _, _ in uses], dtype=np.int64)
        self.bits = problem.number_of_blocks.bit_length()
        values = np.array([before for _, before, _ in uses], dtype=np.int64)
        weights = np.array([count for _, _, count in uses], dtype=np.float64)
        self.levels = []
        for bit in range(self.bits - 1, -1, -1):
            zero = (values >> bit) & 1 == 0
            ranks = np.concatenate([[0], np.cumsum(zero)])
            order = np.argsort(~zero, kind="stable")
            sums = np.concatenate([[0.0], np.cumsum(weights[order])])
            self.levels.append((bit, ranks, int(ranks[-1]), sums))
            values, weights = values[order], weights[order]
        self.total = np.concatenate([[0.0], np.cumsum(weights)])

    def bytes(self, first: Indices, behind: Indices) -> NDArray[np.float64] | float:
        """Sum over the uses in the stage whose use before is not in it."""
        if not len(self.blocks):
            return 0.0
        low = np.searchsorted(self.blocks, first)
        high = np.searchsorted(self.blocks, behind)
        found = np.zeros(len(first))
        for bit, ranks, zeros, sums in self.levels:
            set_here = (first >> bit) & 1 == 1
            low_zero, high_zero = ranks[low], ranks[high]
            # Where `first` has the bit, all values without it are smaller.
            found += np.where(set_here, sums[high_zero] - sums[low_zero], 0.0)
            low = np.where(set_here, zeros + low - low_zero, low_zero)
            high = np.where(set_here, zeros + high - high_zero, high_zero)
        return found + self.total[high] - self.total[low]


def _with_before(blocks: list[int]) -> list[tuple[int, int]]:
    return list(zip([0, *(block + 1 for block in blocks[:-1])], blocks, strict=True))


@dataclass(frozen=True)
class Window:
    """Where a stage that ends at a cut may begin, on one device, shape (n+1,) each.

    Attributes:
        farthest: No stage that begins before this cut will do.
        sure: Every stage that begins at this cut or later will do; not before `farthest`.
        limit: Bytes of memory of the device.
    """

    farthest: Indices
    sure: Indices
    limit: float


def window(memory: Memory, limit: float, barrier: Indices) -> Window | None:
    """The window of a device; `None` if every stage will do.

    Args:
        memory: Of the problem's stages.
        limit: Bytes that the device has.
        barrier: For each cut, before which other cut no stage that ends here may begin, shape (n+1,). Never falls.
    """
    ends = np.arange(len(barrier))
    if np.isinf(limit):
        return Window(barrier, barrier, limit) if barrier.any() else None
    least = memory.buffers.min()
    farthest = _earliest(memory, limit - memory.buffers - least, barrier)
    largest = Highest(memory.buffers).over(farthest, ends)
    sure = np.maximum(farthest, _earliest(memory, limit - memory.buffers - largest, barrier))
    if not sure.any():
        return None
    return Window(farthest, sure, limit)


def _earliest(memory: Memory, room: NDArray[np.float64], barrier: Indices) -> Indices:
    """For each end the earliest beginning of a stage that fits, buffers left out; the end itself if none does."""
    low = barrier.copy()
    high = np.arange(len(barrier))
    room = np.where(np.isnan(room), np.inf, room)
    while (open_ends := np.flatnonzero(low < high)).size:
        middle = (low[open_ends] + high[open_ends]) // 2
        fits = memory.without_buffers(middle, open_ends) <= room[open_ends]
        high[open_ends[fits]] = middle[fits]
        low[open_ends[~fits]] = middle[~fits] + 1
    return high
