"""Values as whole numbers of 8 or 4 bits: affine quantization, by sample and group of channels.

Neighboring channels (of the last dimension) form groups, the smallest that hold at least 80 values of a sample: with
one range per channel, the ranges of a 7×7 tensor would take 14% of the bytes. A group's range is a pair of whole
numbers of 16 bits, on a grid of 65,535 steps over the range of its sample. In addition to the values, ranges take at
most 1/20 byte per value and 12 bytes per sample.
Quantized ranges are from Dettmers et al., "QLoRA" (NeurIPS 2023), section 3.
"""

import math
from typing import NamedTuple

import ml_dtypes
import numpy as np

from kerassplit.errors import SplitError
from kerassplit.wire.forms import INSTEAD, Entry

_FEWEST = 80  # values of a group: 4 bytes of ranges are 1/20 byte for each
_GRID = 65535
_LARGEST = float(np.finfo(np.float32).max)


class _Ranges(NamedTuple):
    """Ranges of all groups.

    Attributes:
        base: The smallest value of each sample, rounded down: samples × 1.
        grain: Distance of the points of each sample's grid: samples × 1.
        first: Number of the point below each group's values: samples × groups.
        last: Number of the point above them.
    """

    base: np.ndarray
    grain: np.ndarray
    first: np.ndarray
    last: np.ndarray

    def of_channels(self, shape: tuple[int, ...], most: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the value of level 0 and the distance between levels, both samples × 1 × channels."""
        start = self.base + self.first * self.grain
        step = (self.last - self.first) * self.grain / most
        size, channels = _group_size(shape), shape[-1]
        return tuple(np.repeat(one, size, axis=1)[:, None, :channels] for one in (start, step))  # pyright: ignore


def size_of(entry: Entry, bits: int) -> int:
    """Returns the number of bytes that `write_levels` makes."""
    samples, groups = _group_counts(entry.shape)
    return samples * (8 + 4 * groups) + math.ceil(math.prod(entry.shape) * bits / 8)


def write_levels(array: np.ndarray, entry: Entry, bits: int) -> bytes:
    """Returns `base` and `grain` (float32), `first` and `last` (16 bits), then the levels; of 4 bits, two in a byte."""
    if not np.all(np.isfinite(array)):
        raise SplitError(f"'{entry.name}' holds infinities or NaN, which {entry.form} does not have. {INSTEAD}")
    most, shape = 2**bits - 1, entry.shape
    values = array.astype(np.float64).reshape(shape[0], -1, shape[-1])
    ranges = _ranges(values, entry)
    start, step = ranges.of_channels(shape, most)
    values -= start
    values /= np.where(step == 0, 1, step)
    levels = np.clip(np.rint(values, out=values), 0, most, out=values).astype(np.uint8)
    levels = levels.swapaxes(1, 2).ravel()  # a channel after another: this packs better
    if bits == 4:
        even = np.append(levels, np.uint8(0)) if levels.size % 2 else levels
        levels = even[::2] | even[1::2] << 4
    head = [one.astype("<f4") for one in (ranges.base, ranges.grain)]
    return b"".join(one.tobytes() for one in (*head, *(one.astype("<u2") for one in ranges[2:]), levels))


def read_levels(part: memoryview, entry: Entry, bits: int) -> np.ndarray:
    """Restores what `write_levels` wrote."""
    samples, groups = _group_counts(entry.shape)
    end = samples * (8 + 4 * groups)
    base, grain = np.frombuffer(part[: 8 * samples], "<f4").astype(np.float64).reshape(2, samples, 1)
    first, last = np.frombuffer(part[8 * samples : end], "<u2").astype(np.int64).reshape(2, samples, groups)
    if not (np.all(np.isfinite(base)) and np.all(np.isfinite(grain)) and np.all(grain >= 0) and np.all(first <= last)):
        raise SplitError(f"The ranges of '{entry.name}' are not ranges: the tensors are damaged.")
    levels = np.frombuffer(part[end:], np.uint8)
    if bits == 4:
        levels = np.stack([levels & 15, levels >> 4], axis=1).ravel()[: math.prod(entry.shape)]
    start, step = _Ranges(base, grain, first, last).of_channels(entry.shape, 2**bits - 1)
    values = levels.reshape(samples, entry.shape[-1], -1).swapaxes(1, 2) * step
    values += start
    limits = ml_dtypes.finfo(entry.dtype)
    return np.clip(values, float(limits.min), float(limits.max), out=values).astype(entry.dtype).reshape(entry.shape)


def _ranges(values: np.ndarray, entry: Entry) -> _Ranges:
    """Returns the ranges of values (samples × inner × channels)."""
    starts = np.arange(0, entry.shape[-1], _group_size(entry.shape))
    low = np.minimum.reduceat(values.min(axis=1), starts, axis=1)
    high = np.maximum.reduceat(values.max(axis=1), starts, axis=1)
    if max(-low.min(), high.max()) > _LARGEST:
        raise SplitError(f"'{entry.name}' holds values beyond float32, which cannot be sent as {entry.form}. {INSTEAD}")
    base = _rounded(low.min(axis=1, keepdims=True), -np.inf)
    grain = _rounded((high.max(axis=1, keepdims=True) - base) / _GRID, np.inf)
    points = np.where(grain == 0, 1, grain)
    first, last = np.floor((low - base) / points), np.ceil((high - base) / points)
    return _Ranges(base, grain, np.clip(first, 0, _GRID), np.clip(last, 0, _GRID))


def _rounded(values: np.ndarray, direction: float) -> np.ndarray:
    """Rounds to float32, down or up."""
    single = values.astype(np.float32)
    wrong = single > values if direction < 0 else single < values
    with np.errstate(over="ignore", under="ignore"):  # where nothing is wrong
        return np.where(wrong, np.nextafter(single, np.float32(direction)), single).astype(np.float64)


def _group_size(shape: tuple[int, ...]) -> int:
    """Returns the number of channels in a group."""
    return min(shape[-1], math.ceil(_FEWEST / math.prod(shape[1:-1])))


def _group_counts(shape: tuple[int, ...]) -> tuple[int, int]:
    """Returns the number of samples, and of groups in each."""
    return shape[0], math.ceil(shape[-1] / _group_size(shape))
