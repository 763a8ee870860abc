"""Reads untrusted data in the `.npy` format: headers without Python's parser, and never more bytes than exist.

The format is NumPy's NEP 1. NumPy reads the header with `ast.literal_eval`, which accepts far more than a dictionary of
three entries, and before Python 3.11.8 fails at random when several threads parse (CPython issue 106905). Here the
header is converted to JSON.
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
"""Size of the header-length field in bytes, by version. Only non-ASCII field names need version 3.0."""
_LONGEST_HEADER = 10_000  # as in NumPy
_MOST_DIMENSIONS = 64  # in NumPy 2; NumPy 1 allows 32
_LARGEST_SIDE = 2**63 - 1
_DTYPE = re.compile(r"[<>=|]?(?:\?|b1|[iufc](?:1|2|4|8|16)|[SUV][0-9]{1,9}|[mM]8(?:\[[0-9]{0,5}[A-Za-z]{1,2}\])?)")
_AS_JSON = (  # programs other than NumPy write double quotes, or u'...' and 3L as in Python 2
    *((r"u?['\"]", '"'), (r"\(", "["), (r"\)", "]"), ("True", "true"), ("False", "false")),
    *((r"(?<=[0-9])L", ""), (r",\s*(?=[\]}])", "")),
)
_OBJECTS = (
    "it holds Python objects, which are never unpickled. Save the array with a NumPy dtype: strings with "
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
        by_column: True if the values are stored by column (Fortran order).
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
    """Reads the header of an array; leaves the stream at the first value.

    Args:
        stream: The array.
        size: Bytes of header and values together; `None` skips the check.

    Raises:
        ValueError: It is not a header, describes Python objects (never unpickled) or named fields, or does not match
            the number of bytes.
    """
    begin = _exactly(stream, 8)
    if begin[:6] != _MAGIC:
        raise ValueError("it does not begin like a .npy file")
    if begin[6:] not in _LENGTHS:
        raise ValueError(f"version {begin[6]}.{begin[7]} of the .npy format is unknown")
    width = _LENGTHS[begin[6:]]
    length = int.from_bytes(_exactly(stream, width), "little")
    if length > _LONGEST_HEADER:
        raise ValueError(f"its header has {length:,} bytes, and the limit is {_LONGEST_HEADER:,}")
    header = Header(*_parsed(_exactly(stream, length).decode("latin1")), 8 + width + length)
    if size is not None:
        check_length(header, size - header.start)
    return header


def read_array(content: bytes) -> np.ndarray:
    """Reads the array that fills a buffer, without copying.

    Raises:
        ValueError: It is not an array, or does not match the number of bytes.
    """
    header = read_header(BytesIO(content), len(content))
    order = "F" if header.by_column else "C"
    return np.frombuffer(content, header.dtype, offset=header.start).reshape(header.shape, order=order)


def check_length(header: Header, there: int) -> None:
    """Refuses an array whose values do not match the number of bytes present."""
    if header.bytes != there:
        raise ValueError(f"an array of shape {header.shape} takes {header.bytes} bytes, but there are {there}")


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
        raise ValueError("its header does not describe an array") from error
    shape = entries["shape"]
    if len(shape) > _MOST_DIMENSIONS or math.prod(max(1, side) for side in shape) > _LARGEST_SIDE:
        # NumPy creates no such array, even without values.
        raise ValueError(f"{str(shape)[:50]} is not a valid array shape")
    return shape, entries["fortran_order"], _dtype(entries["descr"])


def _dtype(text: object) -> np.dtype:
    if not isinstance(text, str):
        raise ValueError("it has named fields; expected an array of numbers or strings")
    if text.lstrip("<>|=") in ("O", "O4", "O8"):
        raise ValueError(_OBJECTS)
    try:
        dtype = np.dtype(text) if _DTYPE.fullmatch(text) else None
    except (TypeError, ValueError):  # such as '<f1'
        dtype = None
    if dtype is None or not dtype.itemsize:
        raise ValueError(f"{text[:20]!r} is not a supported dtype")
    return dtype
