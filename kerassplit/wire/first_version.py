"""Reads messages of version 0.1.0: a header that is one list, and int8 with a range of two float32s per channel."""

import math
from dataclasses import replace

import ml_dtypes
import numpy as np

from kerassplit.errors import SplitError
from kerassplit.wire.codecs import CODECS as LATER
from kerassplit.wire.forms import UNCHANGED, Entry

MAGIC = b"kswire1\n"
_FEW = 32  # channels with fewer values share one range


def _ranges(entry: Entry) -> tuple[int, ...]:
    """Returns the shape of the minima (and of the steps)."""
    inner = entry.shape[1:-1]
    return (entry.shape[0], *(1 for _ in inner), entry.shape[-1] if math.prod(inner) >= _FEW else 1)


def _size(entry: Entry) -> int:
    return math.prod(entry.shape) + 8 * math.prod(_ranges(entry))


def _read(part: memoryview, entry: Entry) -> np.ndarray:
    ranges = _ranges(entry)
    count = math.prod(ranges)
    low, step = np.frombuffer(part[: 8 * count], "<f4").astype(np.float64).reshape(2, *ranges)
    if not (np.all(np.isfinite(low)) and np.all(np.isfinite(step))):
        raise SplitError(f"The ranges of '{entry.name}' are infinite or NaN: the tensors are damaged.")
    levels = np.frombuffer(part[8 * count :], np.uint8).reshape(entry.shape)
    limits = ml_dtypes.finfo(entry.dtype)
    return np.clip(low + step * levels, float(limits.min), float(limits.max)).astype(entry.dtype)


CODECS = {
    UNCHANGED: LATER[UNCHANGED],
    "float16": LATER["float16"],
    "int8": replace(LATER["int8"], size=_size, read=_read),
}
