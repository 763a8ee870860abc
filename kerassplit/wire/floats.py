"""Values as they are, or as floats of 16 bits."""

import math
import struct

import ml_dtypes
import numpy as np

from kerassplit.errors import SplitError
from kerassplit.wire.forms import INSTEAD, Entry

_LARGEST_HALF = 65504.0
_LARGEST_SINGLE = float(np.finfo(np.float32).max)
_LARGEST_BFLOAT = float(ml_dtypes.finfo(ml_dtypes.bfloat16).max)


def write_unchanged(array: np.ndarray, _: Entry) -> bytes:
    """Returns the values as bytes."""
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def read_unchanged(part: memoryview, entry: Entry) -> np.ndarray:
    """Restores what `write_unchanged` wrote."""
    dtype = np.dtype(entry.dtype)
    stored = np.dtype(np.uint8) if dtype.name == "bool" else dtype  # damaged bytes may be neither 0 nor 1
    values = np.frombuffer(part, dtype if dtype.name == "bfloat16" else stored.newbyteorder("<"))
    return values.astype(dtype).reshape(entry.shape)


def write_float16(array: np.ndarray, entry: Entry) -> bytes:
    """Returns the scale (float32), then the values divided by it (float16)."""
    largest = _largest(array)
    scale = 2.0 ** max(0, math.ceil(math.log2(largest / _LARGEST_HALF))) if largest > _LARGEST_HALF else 1.0
    if scale > 2.0**127:
        raise SplitError(f"'{entry.name}' holds values up to {largest:.3g}, which cannot be sent as float16. {INSTEAD}")
    return struct.pack("<f", scale) + (array / array.dtype.type(scale)).astype("<f2").tobytes()


def read_float16(part: memoryview, entry: Entry) -> np.ndarray:
    """Restores what `write_float16` wrote."""
    (scale,) = struct.unpack_from("<f", part)
    if not (math.isfinite(scale) and scale >= 1):
        raise SplitError(f"The scale of '{entry.name}' is {scale}: the tensors are damaged.")
    with np.errstate(invalid="ignore"):  # damaged bytes can contain signaling NaNs
        values = np.frombuffer(part[4:], "<f2").astype(np.float64)
        most = float(np.finfo(entry.dtype).max)  # the largest values may have been rounded beyond it
        values = np.where(np.isfinite(values), np.clip(values * scale, -most, most), values)
        return values.astype(entry.dtype).reshape(entry.shape)


def write_bfloat16(array: np.ndarray, entry: Entry) -> bytes:
    """Returns the values as bfloat16."""
    largest = _largest(array)
    if largest > _LARGEST_SINGLE:
        raise SplitError(
            f"'{entry.name}' holds values up to {largest:.3g}, which cannot be sent as bfloat16. {INSTEAD}"
        )
    if largest > _LARGEST_BFLOAT:  # these would become infinite
        array = np.where(np.isfinite(array), np.clip(array, -_LARGEST_BFLOAT, _LARGEST_BFLOAT), array)
    return array.astype(ml_dtypes.bfloat16).view(np.uint16).astype("<u2", copy=False).tobytes()


def read_bfloat16(part: memoryview, entry: Entry) -> np.ndarray:
    """Restores what `write_bfloat16` wrote."""
    values = np.frombuffer(part, "<u2").astype(np.uint16, copy=False).view(ml_dtypes.bfloat16)
    with np.errstate(invalid="ignore"):
        return values.astype(entry.dtype).reshape(entry.shape)


def _largest(array: np.ndarray) -> float:
    """Returns the largest finite magnitude."""
    return float(np.max(np.abs(array), initial=0, where=np.isfinite(array)))
