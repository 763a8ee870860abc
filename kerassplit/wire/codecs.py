"""Bytes of a tensor in each form."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from kerassplit.wire import floats, levels
from kerassplit.wire.forms import UNCHANGED, Entry

FLOATS = ("bfloat16", "float16", "float32", "float64")
PLAIN = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", *FLOATS)


@dataclass(frozen=True)
class Codec:
    """How tensors are sent in one form.

    Attributes:
        dtypes: Dtypes that can be sent in it.
        size: Returns the number of bytes, given the entry.
        write: Returns the bytes.
        read: Restores the tensor from them.
    """

    dtypes: tuple[str, ...]
    size: Callable[[Entry], int]
    write: Callable[[np.ndarray, Entry], bytes]
    read: Callable[[memoryview, Entry], np.ndarray]

    def takes(self, entry: Entry) -> bool:
        """True if a tensor of this dtype and shape can be sent in this form."""
        is_matrix = len(entry.shape) > 1 and 0 not in entry.shape
        return entry.dtype in self.dtypes and (entry.form == UNCHANGED or is_matrix)


def _whole(entry: Entry) -> int:
    return math.prod(entry.shape) * np.dtype(entry.dtype).itemsize


def _halves(entry: Entry) -> int:
    return 2 * math.prod(entry.shape)


def _levels(bits: int) -> Codec:
    return Codec(
        FLOATS,
        partial(levels.size_of, bits=bits),
        partial(levels.write_levels, bits=bits),
        partial(levels.read_levels, bits=bits),
    )


_WIDE = ("float32", "float64")
CODECS: Mapping[str, Codec] = {
    UNCHANGED: Codec(PLAIN, _whole, floats.write_unchanged, floats.read_unchanged),
    "float16": Codec(_WIDE, lambda entry: 4 + _halves(entry), floats.write_float16, floats.read_float16),
    "bfloat16": Codec(_WIDE, _halves, floats.write_bfloat16, floats.read_bfloat16),
    "int8": _levels(8),
    "int4": _levels(4),
}
"""The forms of a tensor, by the names in the header."""
