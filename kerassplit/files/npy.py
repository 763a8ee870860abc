"""The `.npy` format, read from anyone: short headers, no Python objects, no more bytes than are there."""

import io
import math
import threading
from dataclasses import dataclass
from typing import IO

import numpy as np

_LONGEST_HEADER = 10_000  # as in NumPy, which checks it after reading
_MOST_DIMENSIONS = 64  # of NumPy 2; NumPy 1 takes 32
_LARGEST_SIDE = 2**63 - 1
_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_PARSING = threading.Lock()  # Python before 3.11.8 fails at random while several threads parse (CPython issue 106905)
_OBJECTS = (
    "it holds Python objects, which are never unpickled. Save the array under a type of NumPy's own: strings with "
    "`array.astype(str)`, numbers with `array.astype('float32')`"
)


@dataclass(frozen=True)
class Header:
    """The header of an array.

    Attributes:
        shape: Shape of the array.
        by_column: Whether the values lie column by column (Fortran's order).
        dtype: Type of its values.
        start: Offset of the values in bytes, from the beginning of the header.
    """

    shape: tuple[int, ...]
    by_column: bool
    dtype: np.dtype
    start: int

    @property
    def bytes(self) -> int:
        """Bytes of the values."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(stream: IO[bytes], size: int | None = None) -> Header:
    """Reads the header of an array; leaves the stream where the values begin.

    Args:
        stream: The array.
        size: Bytes of header and values together; `None`: not checked.

    Raises:
        ValueError: It is none, or of Python objects, which are never unpickled, or of named fields, or there are more
            or fewer bytes than it takes.
    """
    begin = _exactly(stream, 8)
    length = _exactly(stream, 2 if begin[6] == 1 else 4)
    count = int.from_bytes(length, "little")
    if count > _LONGEST_HEADER:
        raise ValueError(f"its header has {count:,} bytes, and {_LONGEST_HEADER:,} is the most")
    head = io.BytesIO(begin + length + _exactly(stream, count))
    version = np.lib.format.read_magic(head)
    if version not in _READERS:  # 3.0 is what only fields with names beyond ASCII need
        raise ValueError(f"version {version[0]}.{version[1]} of the .npy format is not known")
    try:
        with _PARSING:
            shape, by_column, dtype = _READERS[version](head)
    except Exception as error:  # NumPy lets through what Python's parser raises for nonsense
        raise ValueError("its header does not say what the array is") from error
    header = Header(shape, by_column, dtype, head.tell())
    _check(header)
    if size is not None:
        check_length(header, size - header.start)
    return header


def read_array(content: bytes) -> np.ndarray:
    """Reads the array that takes the whole of a buffer, without a copy.

    Raises:
        ValueError: It is no array, or there are more or fewer bytes than it takes.
    """
    header = read_header(io.BytesIO(content), len(content))
    order = "F" if header.by_column else "C"
    return np.frombuffer(content, header.dtype, offset=header.start).reshape(header.shape, order=order)


def check_length(header: Header, there: int) -> None:
    """Refuses an array whose values take another number of bytes than are there."""
    if header.bytes != there:
        raise ValueError(f"an array of shape {header.shape} takes {header.bytes} bytes, and {there} are there")


def _exactly(stream: IO[bytes], count: int) -> bytes:
    read = stream.read(count)
    if len(read) < count:
        raise ValueError("it ends in the middle of its header")
    return read


def _check(header: Header) -> None:
    sides, dtype = header.shape, header.dtype
    # NumPy makes no array of these, whether there are values or not.
    large = len(sides) > _MOST_DIMENSIONS or math.prod(max(1, side) for side in sides) > _LARGEST_SIDE
    if large or any(type(side) is not int or side < 0 for side in sides):
        raise ValueError(f"{str(sides)[:50]} is no shape that an array can have")
    if dtype.kind == "O":
        raise ValueError(_OBJECTS)
    if dtype.names is not None:
        raise ValueError("it has named fields, and an array of numbers or strings is expected")
    if dtype.kind not in "biufcSUVmM" or dtype.subdtype or not dtype.itemsize:
        raise ValueError(f"{str(dtype)[:20]!r} is no type of values that is read")
