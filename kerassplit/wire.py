"""Serializes tensors to send them from one machine to another, unchanged or with fewer bits.

Format: `kswire1\\n`, the length of the header (4 bytes), the header (JSON: name, shape, dtype and form of each tensor),
then the values of one tensor after another; all numbers are little-endian. The header determines the exact number of
bytes, so untrusted bytes cannot make `unpack` allocate more than a few times their own length. They contain no code.
"""

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal, get_args

import ml_dtypes
import numpy as np

from kerassplit.errors import SplitError
from kerassplit.files.untrusted_json import loads, read_record
from kerassplit.text import listed

Form = Literal["float32", "float16", "int8"]
"""Form in which floating-point tensors are sent: unchanged, with half the bits, or as one byte per value."""
FORMS: tuple[Form, ...] = get_args(Form)

_MAGIC = b"kswire1\n"
_LONGEST_HEADER = 2**20
_LARGEST_HALF = 65504.0
_FLOATS = ("bfloat16", "float16", "float32", "float64")
_PLAIN = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", *_FLOATS)
_SENT_FROM = {"as it is": _PLAIN, "float16": ("float32", "float64"), "int8": _FLOATS}
"""For each form, the dtypes that can be sent in it."""
_FEW = 32  # channels with fewer values share one range: two more numbers per channel would not pay off


@dataclass(frozen=True)
class _Entry:
    """Header entry of one tensor."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    form: str

    @property
    def ranges(self) -> tuple[int, ...]:
        """Shape of the minima (and of the steps) of a tensor sent as int8."""
        inner = self.shape[1:-1]
        by_channel = math.prod(inner) >= _FEW
        return (self.shape[0], *(1 for _ in inner), self.shape[-1] if by_channel else 1)

    @property
    def bytes(self) -> int:
        count = math.prod(self.shape)
        if self.form == "int8":
            return count + 8 * math.prod(self.ranges)
        return 4 + 2 * count if self.form == "float16" else count * np.dtype(self.dtype).itemsize


def pack(tensors: Mapping[str, np.ndarray], dtype: Form = "float32") -> bytes:
    """Serializes tensors to bytes.

    Only floating-point tensors with more bits than asked for are changed; all others, and vectors, are sent unchanged.

    - `"float32"`: nothing changes.
    - `"float16"`: `|x - x'| <= |x| / 2048 + s * 2**-25`, where s is 1 if no value exceeds 65504, the largest float16.
      Otherwise all values of the tensor are divided by s, the smallest power of two that makes them fit, so none
      overflows to infinity. Infinities and NaN are preserved.
    - `"int8"`: `|x - x'| <= s / 2` (plus the rounding of float32), where s is 1/255 of the range from the smallest to
      the largest value, per sample and channel (last dimension), or per sample if its channels have fewer than 32
      values. `q = round((x - smallest) / s)`, `x' = smallest + s * q`: the affine quantization of Jacob et al.,
      "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference" (CVPR 2018), eq. 1,
      with the smallest value itself in place of an integer zero point. A sample's numbers do not depend on the others
      in its batch.

    Args:
        tensors: Arrays by name, with samples along the first dimension.
        dtype: Form in which to send floating-point tensors.

    Returns:
        The bytes, for `unpack`.

    Raises:
        SplitError: A tensor cannot be sent: strings, or infinities and NaN as `"int8"`.

    Example:

    >>> crossing = {"features": np.ones((1, 14, 14, 1024), "float32")}
    >>> [len(pack(crossing, dtype)) for dtype in ("float32", "float16", "int8")]
    [802918, 401513, 208994]
    """
    if dtype not in FORMS:
        raise SplitError(f"Tensors can be sent as {listed(FORMS)}; got {dtype!r}.")
    entries, parts = [], []
    for name, tensor in tensors.items():
        array = np.asarray(tensor)
        if array.dtype.name not in _PLAIN:
            raise SplitError(
                f"'{name}' holds values of type {array.dtype}, which cannot be sent. Convert them to numbers."
            )
        form = dtype if dtype != "float32" and _shrinks(array, dtype) else "as it is"
        entries.append(_Entry(name, array.shape, array.dtype.name, form))
        parts.append({"as it is": _as_it_is, "float16": _halves, "int8": _levels}[form](array, entries[-1]))
    header = json.dumps([asdict(entry) for entry in entries]).encode()
    if len(header) > _LONGEST_HEADER:
        raise SplitError(
            f"The header of {len(entries)} tensors has {len(header)} bytes; at most {_LONGEST_HEADER} can be sent."
        )
    return b"".join([_MAGIC, struct.pack("<I", len(header)), header, *parts])


def unpack(data: bytes) -> dict[str, np.ndarray]:
    """Restores tensors from the bytes that `pack` returned, in their original dtypes.

    Raises:
        SplitError: The bytes are damaged, or do not come from `pack`.

    Example:

    >>> unpack(pack({"features": np.ones((1, 2), "float32")}))
    {'features': array([[1., 1.]], dtype=float32)}
    """
    start = len(_MAGIC) + 4
    if len(data) < start or not data.startswith(_MAGIC):
        raise SplitError("These bytes are not tensors: expected the output of kerassplit.wire.pack.")
    (length,) = struct.unpack_from("<I", data, len(_MAGIC))
    if length > min(_LONGEST_HEADER, len(data) - start):
        raise SplitError(f"The tensors are cut off: their header has {length} bytes, but {len(data) - start} follow.")
    entries = _entries(data[start : start + length])
    expected, there = sum(entry.bytes for entry in entries), len(data) - start - length
    if expected != there:
        raise SplitError(f"The tensors should take {expected} bytes, but {there} follow: they are cut off, or damaged.")
    tensors, place = {}, start + length
    for entry in entries:
        part = memoryview(data)[place : place + entry.bytes]
        read = {"as it is": _from_itself, "float16": _from_halves, "int8": _from_levels}[entry.form]
        try:
            tensors[entry.name] = read(part, entry)
        except (ValueError, OverflowError) as error:  # an empty shape can have dimensions that NumPy refuses
            raise SplitError(f"'{entry.name}' is damaged: its shape is {entry.shape}. {error}.") from error
        place += entry.bytes
    return tensors


def _shrinks(array: np.ndarray, form: str) -> bool:
    return array.dtype.name in _SENT_FROM[form] and array.ndim > 1 and array.size > 0


def _as_it_is(array: np.ndarray, _: _Entry) -> bytes:
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def _from_itself(part: memoryview, entry: _Entry) -> np.ndarray:
    dtype = np.dtype(entry.dtype)
    values = np.frombuffer(part, dtype if dtype.name == "bfloat16" else dtype.newbyteorder("<"))
    return values.astype(dtype).reshape(entry.shape)


def _halves(array: np.ndarray, _: _Entry) -> bytes:
    largest = float(np.max(np.abs(array), initial=0, where=np.isfinite(array)))
    scale = 2.0 ** max(0, math.ceil(math.log2(largest / _LARGEST_HALF))) if largest > _LARGEST_HALF else 1.0
    if scale > 2.0**127:
        raise SplitError(f"Values up to {largest:.3g} cannot be sent as float16. Send them as 'float32'.")
    return struct.pack("<f", scale) + (array / array.dtype.type(scale)).astype("<f2").tobytes()


def _from_halves(part: memoryview, entry: _Entry) -> np.ndarray:
    (scale,) = struct.unpack_from("<f", part)
    with np.errstate(invalid="ignore"):  # damaged bytes can contain signaling NaNs
        values = np.frombuffer(part[4:], "<f2").astype(np.float64)
    if not (math.isfinite(scale) and scale >= 1):
        raise SplitError(f"The scale of '{entry.name}' is {scale}: the tensors are damaged.")
    most = float(np.finfo(entry.dtype).max)  # the largest values may have been rounded beyond it
    with np.errstate(invalid="ignore"):
        values = np.where(np.isfinite(values), np.clip(values * scale, -most, most), values)
        return values.astype(entry.dtype).reshape(entry.shape)


def _levels(array: np.ndarray, entry: _Entry) -> bytes:
    if not np.all(np.isfinite(array)):
        raise SplitError(f"'{entry.name}' holds infinities or NaN, which int8 does not have. Send it as 'float32'.")
    wide = array.astype(np.float64)
    inner = tuple(axis for axis, side in enumerate(entry.ranges) if side == 1 and axis)
    low = wide.min(axis=inner, keepdims=True)
    step = (wide.max(axis=inner, keepdims=True) - low) / 255
    if np.max(np.abs(low)) > np.finfo(np.float32).max or np.max(step) > np.finfo(np.float32).max:
        raise SplitError(f"'{entry.name}' holds values beyond float32, which cannot be sent as int8.")
    low, narrow = low.astype("<f4"), step.astype("<f4")
    narrow = np.where(narrow < step, np.nextafter(narrow, np.float32(np.inf)), narrow)  # 255 steps reach the largest
    levels = np.rint((wide - low) / np.where(narrow == 0, 1, narrow).astype(np.float64))
    return low.tobytes() + narrow.astype("<f4").tobytes() + np.clip(levels, 0, 255).astype(np.uint8).tobytes()


def _from_levels(part: memoryview, entry: _Entry) -> np.ndarray:
    count = math.prod(entry.ranges)
    low, step = np.frombuffer(part[: 8 * count], "<f4").astype(np.float64).reshape(2, *entry.ranges)
    if not (np.all(np.isfinite(low)) and np.all(np.isfinite(step))):
        raise SplitError(f"The ranges of '{entry.name}' are infinite or NaN: the tensors are damaged.")
    levels = np.frombuffer(part[8 * count :], np.uint8).reshape(entry.shape)
    limits = ml_dtypes.finfo(entry.dtype)
    return np.clip(low + step * levels, float(limits.min), float(limits.max)).astype(entry.dtype)


def _entries(header: bytes) -> list[_Entry]:
    try:
        entries = read_record(tuple[_Entry, ...], loads(header))
    except (ValueError, RecursionError) as error:
        raise SplitError(
            "The header of the tensors cannot be read: it is damaged, or not from kerassplit.wire.pack."
        ) from error
    if not all(map(_is_sound, entries)) or len({entry.name for entry in entries}) < len(entries):
        raise SplitError("The header of the tensors is inconsistent: it is damaged, or not from kerassplit.wire.pack.")
    return list(entries)


def _is_sound(entry: _Entry) -> bool:
    return (
        entry.dtype in _SENT_FROM.get(entry.form, ())
        and len(entry.shape) <= 32
        and max(entry.shape, default=0) < 2**40
        and (entry.form == "as it is" or (len(entry.shape) > 1 and 0 not in entry.shape))
    )
