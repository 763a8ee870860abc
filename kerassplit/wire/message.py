"""`pack`, `unpack`: tensors to the bytes of a message, and back."""

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any

import numpy as np

from kerassplit.errors import SplitError
from kerassplit.files.untrusted import shortened
from kerassplit.files.untrusted_json import loads, read_record
from kerassplit.wire import first_version
from kerassplit.wire.codecs import CODECS, PLAIN, Codec
from kerassplit.wire.forms import PACKED, UNCHANGED, Entry, Form, check_form
from kerassplit.wire.lossless import MOST_SAVED, packed, unpacked

_MAGIC = b"kswire2\n"
MESSAGE_BYTES = len(_MAGIC) + 4
"""Bytes of a message without tensors."""
_LONGEST_HEADER = 2**20
_NOT_PACK = "it is damaged, or not from kerassplit.wire.pack."


def pack(tensors: Mapping[str, np.ndarray], dtype: Form = "float32") -> bytes:
    """Serializes tensors to bytes.

    Only floating-point tensors that get smaller are changed; all others, and 1-D arrays, are sent unchanged. In the
    following, x is a value, x' is what `unpack` returns, and the rounding of x' to the tensor's own dtype is left out.

    - `"float32"`: nothing changes.
    - `"float16"`: `|x - x'| <= |x| / 2048 + s * 2**-25`, where s is 1 if no value exceeds 65504, the largest float16.
      Otherwise all values of the tensor are divided by s, the smallest power of two that makes them fit, so none
      overflows to infinity. Infinities and NaN are preserved.
    - `"bfloat16"`: `|x - x'| <= |x| / 256 + 2**-133`, for all of float32. Infinities and NaN are preserved.
    - `"int8"`: `|x - x'| <= s / 2 + r`, where s is 1/255 of a range: from the smallest to the largest value of a sample
      in a group of neighboring channels (last dimension), widened by 2/65535 of the range of the whole sample. Groups
      are the smallest that hold at least 80 values of a sample: single channels from 80 values on. `x' = a + s * q`
      with whole q: the affine quantization of Jacob et al., "Quantization and Training of Neural Networks for Efficient
      Integer-Arithmetic-Only Inference" (CVPR 2018), eq. 1, with the lower end a of the range in place of an integer
      zero point. `r = m * 2**-40 + 2**-150`, where m is the largest magnitude in the sample: ranges are stored as
      float32, which matters to nearly constant float64. A sample's numbers do not depend on the others in its batch.
    - `"int4"`: likewise, where s is 1/15 of that range.
    - Each of these with `"+zlib"`, such as `"int8+zlib"`: the same values, packed without further loss if that saves
      bytes. How many depends on the values. Integers and 1-D arrays are packed, too.

    Args:
        tensors: Arrays by name, with samples along the first dimension.
        dtype: Form in which to send floating-point tensors.

    Returns:
        The bytes, for `unpack`. Without `"+zlib"` their number is known beforehand: see `packed_bytes`.

    Raises:
        SplitError: A tensor cannot be sent: strings; infinities and NaN as `"int8"` or `"int4"`; float64 beyond the
            largest float32 as these or as `"bfloat16"`, or beyond `65504 * 2**127` as `"float16"`. Or a name is not a
            text.

    Example:

    >>> crossing = {"features": np.ones((1, 14, 14, 1024), "float32")}
    >>> [len(pack(crossing, dtype)) for dtype in ("float32", "float16", "int8", "int4", "int4+zlib")]
    [802907, 401502, 204895, 104543, 225]
    """
    check_form(dtype)
    lines, parts = [], []
    for name, tensor in tensors.items():
        array = np.asarray(tensor)
        entry = _entry(name, array.shape, array.dtype, dtype)
        part = CODECS[entry.form].write(array, entry)
        if dtype.endswith(PACKED) and part:
            stream = packed(part, entry)
            shorter = replace(entry, zlib=len(stream))
            if len(shorter.line) + len(stream) < len(entry.line) + len(part):
                entry, part = shorter, stream
        lines.append(entry.line)
        parts.append(part)
    header = b"".join(lines)
    if len(header) > _LONGEST_HEADER:
        raise SplitError(
            f"The header of {len(lines)} tensors has {len(header)} bytes; at most {_LONGEST_HEADER} can be sent."
        )
    return b"".join([_MAGIC, struct.pack("<I", len(header)), header, *parts])


def packed_bytes(name: str, shape: Sequence[int], dtype: Any, form: Form) -> int:
    """Returns the bytes that a tensor adds to a message, which do not depend on its values.

    `len(pack(tensors, form))` is `MESSAGE_BYTES` plus these bytes of each tensor.

    Args:
        name: Name of the tensor.
        shape: Its shape, with samples along the first dimension.
        dtype: Its dtype.
        form: Form in which it is sent, without `"+zlib"`.

    Raises:
        SplitError: The bytes of `form` depend on the values, `shape` is not a shape, or the dtype cannot be sent.

    Example:

    >>> packed_bytes("features", (1, 14, 14, 1024), "float32", "int8") + MESSAGE_BYTES
    204895
    """
    check_form(form)
    if form.endswith(PACKED):
        raise SplitError(
            f"How many bytes '{name}' takes as {form!r} depends on its values. Pack them, or measure with "
            f"`kerassplit.profile(model, sample=..., wire={form!r})`."
        )
    entry = _entry(name, shape, dtype, form)
    return len(entry.line) + CODECS[entry.form].size(entry)


def unpack(data: bytes | bytearray | memoryview) -> dict[str, np.ndarray]:
    """Restores tensors from the bytes that `pack` returned, in their original dtypes.

    The bytes can be in any buffer, such as a memory map.

    The arrays take at most 16 times the bytes (float64 sent as int4), and reading them a few times as much. Packed
    bytes can stand for up to 1,032 times as many: limit `unpacked_bytes` of data that you do not trust.

    Raises:
        SplitError: The bytes are damaged, or do not come from `pack`.

    Example:

    >>> unpack(pack({"features": np.ones((1, 2), "float32")}))
    {'features': array([[1., 1.]], dtype=float32)}
    """
    tensors = {}
    for entry, codec, part in _parts(_viewed(data)):
        if entry.zlib is not None:
            part = memoryview(unpacked(part, codec.size(entry), entry))
        try:
            tensors[entry.name] = codec.read(part, entry)
        except SplitError:
            raise
        except (ValueError, OverflowError) as error:  # an empty shape can have dimensions that NumPy refuses
            raise SplitError(f"'{entry.name}' is damaged: its shape is {entry.shape}. {error}.") from error
    return tensors


def unpacked_bytes(data: bytes | bytearray | memoryview) -> int:
    """Returns the bytes that a message would take without lossless packing. Reads its header only.

    Raises:
        SplitError: The bytes are damaged, or do not come from `pack`.

    Example:

    >>> zeros = np.zeros((1, 1000, 1000), "float32")
    >>> [unpacked_bytes(pack({"zeros": zeros}, form)) for form in ("int8", "int8+zlib")]
    [1004091, 1004102]
    """
    view = _viewed(data)
    return len(view) + sum(codec.size(entry) - len(part) for entry, codec, part in _parts(view))


def _entry(name: str, shape: Sequence[int], dtype: Any, form: str) -> Entry:
    """Returns the entry of a tensor: in this form if that saves bytes, otherwise unchanged."""
    if not isinstance(name, str):
        raise SplitError(f"Names of tensors are texts; got {shortened(name)}.")
    unchanged = Entry(name, _shape_of(name, shape), _dtype_of(name, dtype), UNCHANGED)
    smaller = replace(unchanged, form=form.removesuffix(PACKED))
    codec = CODECS.get(smaller.form)
    if codec is not None and codec.takes(smaller) and codec.size(smaller) < CODECS[UNCHANGED].size(unchanged):
        return smaller
    return unchanged


def _shape_of(name: str, shape: Any) -> tuple[int, ...]:
    try:
        sides = tuple(int(side) for side in shape if isinstance(side, Integral) and not isinstance(side, bool))
        is_shape = len(sides) == len(shape) and min(sides, default=0) >= 0
    except TypeError:
        sides, is_shape = (), False
    if not is_shape:
        raise SplitError(
            f"The shape of '{name}' is {shortened(shape)}. Expected whole numbers from 0 on, such as "
            "(1, 14, 14, 1024), with the number of samples first."
        )
    return sides


def _dtype_of(name: str, dtype: Any) -> str:
    try:
        kind = None if dtype is None else np.dtype(dtype).name
    except (TypeError, ValueError, SyntaxError):
        kind = None
    if kind not in PLAIN:
        raise SplitError(
            f"'{name}' holds values of type {dtype}, which cannot be sent. Convert them to bool, int8 to int64, uint8 "
            "to uint64, bfloat16, or float16 to float64."
        )
    return kind


def _viewed(data: Any) -> memoryview:
    """Returns the bytes of a buffer, without copying them."""
    try:
        return memoryview(data).cast("B")
    except TypeError as error:
        raise SplitError(
            "These are not tensors: expected the output of kerassplit.wire.pack, as bytes or a contiguous buffer; got "
            f"'{type(data).__name__}'."
        ) from error


def _parts(data: memoryview) -> Iterator[tuple[Entry, Codec, memoryview]]:
    """Yields the entry of each tensor, its codec and its bytes; refuses data whose length contradicts the header."""
    start = data[: len(_MAGIC)]
    is_first = start == first_version.MAGIC
    if len(data) < MESSAGE_BYTES or not (is_first or start == _MAGIC):
        raise SplitError("These bytes are not tensors: expected the output of kerassplit.wire.pack.")
    (length,) = struct.unpack_from("<I", data, len(_MAGIC))
    place, there = MESSAGE_BYTES + length, len(data) - MESSAGE_BYTES
    if length > min(_LONGEST_HEADER, there):
        raise SplitError(f"The tensors are cut off: their header has {length} bytes, but {there} follow.")
    header = bytes(data[MESSAGE_BYTES:place])
    codecs = first_version.CODECS if is_first else CODECS
    entries = _entries(header, codecs, is_first)
    sizes = [codecs[entry.form].size(entry) if entry.zlib is None else entry.zlib for entry in entries]
    if sum(sizes) != there - length:
        raise SplitError(
            f"The tensors should take {sum(sizes)} bytes, but {there - length} follow: they are cut off, or damaged."
        )
    for entry, size in zip(entries, sizes, strict=True):
        yield entry, codecs[entry.form], data[place : place + size]
        place += size


def _entries(header: bytes, codecs: Mapping[str, Codec], is_first: bool) -> list[Entry]:
    try:
        lines = loads(header) if is_first else [loads(line) for line in header.splitlines()]
        entries = list(read_record(tuple[Entry, ...], lines))
    except (ValueError, RecursionError) as error:
        raise SplitError(f"The header of the tensors cannot be read: {_NOT_PACK}") from error
    sound = all(_is_sound(entry, codecs) for entry in entries)
    if not sound or len({entry.name for entry in entries}) < len(entries):
        raise SplitError(f"The header of the tensors is inconsistent: {_NOT_PACK}")
    return entries


def _is_sound(entry: Entry, codecs: Mapping[str, Codec]) -> bool:
    return (
        entry.form in codecs
        and len(entry.shape) <= 32
        and max(entry.shape, default=0) < 2**40
        and codecs[entry.form].takes(entry)
        and (entry.zlib is None or 0 < codecs[entry.form].size(entry) <= MOST_SAVED * entry.zlib)
    )
