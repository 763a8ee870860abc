"""The `.npy` format, read from anyone: headers without Python's parser, arrays of no more bytes than are there.

The format is NumPy's NEP 1. NumPy reads the header with `ast.literal_eval`, which takes far more than a dictionary of
three entries, and before Python 3.11.8 fails at random while several threads parse (CPython issue 106905). Here it is
turned into JSON.
"""

import math
import re
from dataclasses import dataclass
from io import BytesIO
from typing import IO, Any, TypedDict

import numpy as np

from kerassplit.files.untrusted_json import loads, read_record

_MAGIC = b"\x93NUMPY"
_LENGTHS = {b"\x01\x00": 2, b"\x02\x00": 4}
"""Bytes of the length of a header, by version. 3.0 is what only fields with names beyond ASCII need."""
_LONGEST_HEADER = 10_000  # as in NumPy
_MOST_DIMENSIONS = 64  # of NumPy 2; NumPy 1 takes 32
_LARGEST_SIDE = 2**63 - 1
_DTYPE = re.compile(r"[<>=|]?(?:\?|b1|[iufc](?:1|2|4|8|16)|[SUV][0-9]{1,9}|[mM]8(?:\[[0-9]{0,5}[A-Za-z]{1,2}\])?)")
_AS_JSON = (  # other programs than NumPy write double quotes, or Python 2's u'...' and 3L
    *((r"u?['\"]", '"'), (r"\(", "["), (r"\)", "]"), ("True", "true"), ("False", "false")),
    *((r"(?<=[0-9])L", ""), (r",\s*(?=[\]}])", "")),
)
_OBJECTS = (
    "it holds Python objects, which are never unpickled. Save the array under a type of NumPy's own: strings with "
    "`array.astype(str)`, numbers with `array.astype('float32')`"
)


class _Entries(TypedDict):
    descr: Any
    fortran_order: bool
    shape: tuple[int, ...]


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
    if begin[:6] != _MAGIC:
        raise ValueError("it does not begin as the .npy format does")
    if begin[6:] not in _LENGTHS:
        raise ValueError(f"version {begin[6]}.{begin[7]} of the .npy format is not known")
    width = _LENGTHS[begin[6:]]
    length = int.from_bytes(_exactly(stream, width), "little")
    if length > _LONGEST_HEADER:
        raise ValueError(f"its header has {length:,} bytes, and {_LONGEST_HEADER:,} is the most")
    header = Header(*_parsed(_exactly(stream, length).decode("latin1")), 8 + width + length)
    if size is not None:
        check_length(header, size - header.start)
    return header


def read_array(content: bytes) -> np.ndarray:
    """Reads the array that takes the whole of a buffer, without a copy.

    Raises:
        ValueError: It is no array, or there are more or fewer bytes than it takes.
    """
    header = read_header(BytesIO(content), len(content))
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


def _parsed(text: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    for python, json in _AS_JSON:
        text = re.sub(python, json, text)
    try:
        found = loads(text)
        entries = read_record(_Entries, found)
        if len(found) > len(entries):
            raise ValueError("more entries than the three of the format")
    except (ValueError, RecursionError) as error:
        raise ValueError("its header does not say what the array is") from error
    shape = entries["shape"]
    if len(shape) > _MOST_DIMENSIONS or math.prod(max(1, side) for side in shape) > _LARGEST_SIDE:
        # NumPy makes none of these, whether there are values or not.
        raise ValueError(f"{str(shape)[:50]} is no shape that an array can have")
    return shape, entries["fortran_order"], _dtype(entries["descr"])


def _dtype(text: object) -> np.dtype:
    if not isinstance(text, str):
        raise ValueError("it has named fields, and an array of numbers or strings is expected")
    if text.lstrip("<>|=") in ("O", "O4", "O8"):
        raise ValueError(_OBJECTS)
    try:
        dtype = np.dtype(text) if _DTYPE.fullmatch(text) else None
    except (TypeError, ValueError):  # such as '<f1'
        dtype = None
    if dtype is None or not dtype.itemsize:
        raise ValueError(f"{text[:20]!r} is no type of values that is read")
    return dtype
