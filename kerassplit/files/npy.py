"""The `.npy` format, read from anyone: headers without Python's parser, arrays of no more bytes than are there.

The format is NumPy's NEP 1. NumPy reads the header with `ast.literal_eval`, which fails at random when several threads
parse at a time (CPython issue 106905: "AST constructor recursion depth mismatch"), and which takes far more than a
dictionary of three entries.
"""

import math
import os
import re
import struct
from dataclasses import dataclass
from typing import IO

import numpy as np

_MAGIC = b"\x93NUMPY"
_LONGEST_HEADER = 10_000  # as in NumPy
_MOST_DIMENSIONS = 64  # of NumPy 2; NumPy 1 takes 32
_LARGEST_SIDE = 2**63 - 1
_DTYPE = re.compile(r"[<>=|]?(?:\?|b1|[iufc](?:1|2|4|8|16)|[SUV][0-9]{1,9}|[mM]8(?:\[[0-9]{0,5}[A-Za-z]{1,2}\])?)")
_OBJECTS = (
    "it holds Python objects, which are never unpickled. Save the array under a type of NumPy's own: strings with "
    "`array.astype(str)`, numbers with `array.astype('float32')`"
)
_ENTRY = {  # other programs than NumPy write double quotes, or Python 2's u'...'
    "descr": re.compile(r"""u?['"]descr['"]\s*:\s*(?:u?['"](?P<plain>[^'"\\]*)['"]|(?P<fields>\[.*\]))""", re.DOTALL),
    "fortran_order": re.compile(r"""u?['"]fortran_order['"]\s*:\s*(?P<value>True|False)"""),
    "shape": re.compile(r"""u?['"]shape['"]\s*:\s*\((?P<value>[0-9L,\s]*)\)"""),
}
_HEADER = re.compile(r"\s*\{(?P<entries>.*)\}\s*", re.DOTALL)


@dataclass(frozen=True)
class Header:
    """What the header of an array says.

    Attributes:
        shape: Of the array.
        by_column: Whether the values lie column by column (Fortran's order).
        dtype: Of its values.
        start: Where the values begin, in bytes from the beginning of the header.
    """

    shape: tuple[int, ...]
    by_column: bool
    dtype: np.dtype
    start: int

    @property
    def bytes(self) -> int:
        """That the values take."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(stream: IO[bytes]) -> Header:
    """Reads the header of an array; the stream is then where the values begin.

    Raises:
        ValueError: It is none, or of Python objects, which are never unpickled, or of named fields.
    """
    begin = _exactly(stream, 8)
    if begin[:6] != _MAGIC:
        raise ValueError("it does not begin as the .npy format does")
    if begin[6:] not in (b"\x01\x00", b"\x02\x00"):  # 3.0 is what only fields with names beyond ASCII need
        raise ValueError(f"version {begin[6]}.{begin[7]} of the .npy format is not known")
    size, layout = (2, "<H") if begin[6] == 1 else (4, "<I")
    (length,) = struct.unpack(layout, _exactly(stream, size))
    if length > _LONGEST_HEADER:
        raise ValueError(f"its header has {length:,} bytes, and {_LONGEST_HEADER:,} is the most")
    text = _exactly(stream, length).decode("latin1")
    return Header(*_parsed(text), 8 + size + length)


def read_array(content: bytes | memoryview, stream: IO[bytes]) -> np.ndarray:
    """The array that takes the whole of a buffer, without a copy.

    Args:
        content: The bytes of the file.
        stream: The same bytes, to read the header from.

    Raises:
        ValueError: It is no array, or there are more or fewer bytes than it takes.
    """
    header = read_header(stream)
    check_length(header, len(content) - header.start)
    order = "F" if header.by_column else "C"
    return np.frombuffer(content, header.dtype, offset=header.start).reshape(header.shape, order=order)


def described(stream: IO[bytes]) -> Header:
    """The header of an array that takes the rest of a stream that can be searched.

    Raises:
        ValueError: It is no array, or there are more or fewer bytes than it takes.
    """
    begin = stream.tell()
    header = read_header(stream)
    check_length(header, stream.seek(0, os.SEEK_END) - begin - header.start)
    return header


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
    framed = _HEADER.fullmatch(text)
    entries = framed["entries"] if framed else ""
    found = {name: pattern.search(entries) for name, pattern in _ENTRY.items()}
    rest = entries
    for match in sorted(filter(None, found.values()), key=lambda one: -one.start()):
        rest = rest[: match.start()] + rest[match.end() :]
    descr, fortran, shape = found.values()
    if not descr or not fortran or not shape or rest.replace(",", "").strip():
        raise ValueError("its header does not say what the array is")
    return _shape(shape["value"]), fortran["value"] == "True", _dtype(descr["plain"])


def _shape(text: str) -> tuple[int, ...]:
    sides = [side.strip().removesuffix("L") for side in text.split(",")]  # Python 2 wrote 3L
    sides = sides[:-1] if sides[-1] == "" else sides
    if len(sides) > _MOST_DIMENSIONS or not all(side.isdecimal() and len(side) < 20 for side in sides):
        raise ValueError(f"({text[:50]}) is no shape")
    shape = tuple(map(int, sides))
    if math.prod(max(1, side) for side in shape) > _LARGEST_SIDE:  # NumPy takes none of these, numbers or not
        raise ValueError(f"({text[:50]}) is no shape that an array can have")
    return shape


def _dtype(text: str | None) -> np.dtype:
    if text is None:
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
