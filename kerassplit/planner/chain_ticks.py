"""Seconds as whole numbers, so that sums can be compared exactly.

Sums of floats depend on the order of adding, and a search that compares them cannot say what is best. So the planner
counts in ticks: a second is a power of two of them, so many that all the times of a problem add up to less than 2^59.
Rounding moves a time by less than 2^-59 of that sum, and none at all if it is a not too small binary fraction.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kerassplit.planner.chain import ChainLink, ChainProblem
from kerassplit.planner.chain_slots import Slots

NEVER = -(2**62)
"""Less than every sum of ticks: stands for what cannot be."""


@dataclass(frozen=True)
class Ticks:
    """The times of a problem in ticks.

    Attributes:
        scale: Ticks in a second.
        compute: For each device the ticks of all blocks before each cut, shape (n+1,); blocks that cannot run there
            count as 0.
        unable: For each device, for each cut the cut behind the last block before it that cannot run there, shape
            (n+1,); 0 where there is none.
        moving: For each border the ticks to move what crosses at each cut, shape (n+1,).
    """

    scale: float
    compute: tuple[NDArray[np.int64], ...]
    unable: tuple[NDArray[np.int64], ...]
    moving: tuple[NDArray[np.int64], ...]


def crossing_bytes(problem: ChainProblem) -> NDArray[np.float64]:
    """Bytes at cuts 0 to n, input and output included, shape (n+1,)."""
    return np.concatenate([[problem.input_bytes], problem.crossing, [problem.output_bytes]])


def in_ticks(problem: ChainProblem, slots: Slots) -> Ticks:
    """The times of a problem as whole numbers."""
    finite = [np.where(np.isinf(device.seconds), 0.0, device.seconds) for device in problem.devices]
    crossing = crossing_bytes(problem)
    moving: dict[ChainLink | None, NDArray[np.float64]] = {
        border.link: np.zeros(len(crossing)) if border.link is None else border.link.seconds(crossing)
        for border in slots.borders
    }
    largest = max((float(seconds.max()) for seconds in moving.values()), default=0.0)
    total = sum(float(seconds.sum()) for seconds in finite) + (problem.number_of_devices + 1) * largest
    # Rounding may add half a tick for each number: 2^58 leaves room for it.
    scale = 2.0 ** min(58 - math.ceil(math.log2(total)), 1000) if total > 0 else 1.0
    ticks = {link: _rounded(seconds * scale) for link, seconds in moving.items()}
    compute = tuple(np.concatenate([[0], np.cumsum(_rounded(seconds * scale))]) for seconds in finite)
    return Ticks(
        scale,
        compute,
        tuple(_after_last(np.isinf(device.seconds)) for device in problem.devices),
        tuple(ticks[border.link] for border in slots.borders),
    )


def _after_last(marked: NDArray[np.bool_]) -> NDArray[np.int64]:
    """For each cut, the cut behind the last marked block before it."""
    places = np.where(marked, np.arange(1, len(marked) + 1), 0)
    return np.concatenate([[0], np.maximum.accumulate(places)])


def _rounded(values: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.rint(values).astype(np.int64)
