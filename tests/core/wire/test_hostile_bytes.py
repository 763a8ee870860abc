"""Bytes from strangers: tensors, or an error; memory in proportion to the bytes."""

import json
import struct
import tracemalloc
import zlib

import ml_dtypes
import numpy as np
import pytest
from fuzzing import altered, damaged, fuzzed
from hypothesis import given, strategies as st

import kerassplit as ks
from kerassplit.wire import FORMS, pack, unpack, unpacked_bytes

FIRST, SECOND = b"kswire1\n", b"kswire2\n"


def header_of(data):
    (length,) = struct.unpack_from("<I", data, 8)
    return [json.loads(line) for line in data[12 : 12 + length].splitlines()]


def message(entries, rest, magic=SECOND):
    """A message with this header, whatever follows."""
    lines = [json.dumps(entry) for entry in entries] if magic == SECOND else [json.dumps(entries)]
    header = "".join(f"{line}\n" for line in lines).encode()
    return magic + struct.pack("<I", len(header)) + header + rest


def relabelled(data, **changes):
    """The same bytes under another header."""
    (length,) = struct.unpack_from("<I", data, 8)
    return message([{**entry, **changes} for entry in header_of(data)], data[12 + length :])


TENSORS = {"a": np.ones((2, 30), "float32"), "b": np.ones((2, 3, 3, 4), "float32")}
GOOD = pack(TENSORS, "int8")


def is_refused_or_gives_tensors(data):
    try:
        size = unpacked_bytes(data)
        found = unpack(data)
    except ks.SplitError as error:
        assert len(str(error)) < 20_000
    else:
        assert all(isinstance(value, np.ndarray) for value in found.values())
        assert sum(value.nbytes for value in found.values()) <= 16 * size <= 16 * 1032 * len(data)


WHOLE = [
    pack({"a": np.ones((2, 30), "float32"), "b": np.arange(144).reshape(2, 6, 3, 4).astype(dtype)}, form)
    for form in FORMS
    for dtype in ("float64", "float32", ml_dtypes.bfloat16, "int64")
]


@fuzzed
@given(damaged(*WHOLE))
def test_damaged_bytes_are_refused_or_give_tensors(data):
    is_refused_or_gives_tensors(data)


@fuzzed
@given(altered(*map(header_of, WHOLE)), st.sampled_from(WHOLE), st.sampled_from([FIRST, SECOND]))
def test_altered_headers_are_refused_or_give_tensors(header, whole, magic):
    rest = whole[12 + struct.unpack_from("<I", whole, 8)[0] :]
    is_refused_or_gives_tensors(message(header if isinstance(header, list) else [header], rest, magic))


def test_halves_that_are_signalling_nan_stay_nan():
    for form, nan in (("float16", b"\x00\x7d"), ("bfloat16", b"\x81\x7f")):
        data = bytearray(pack({"x": np.ones((1, 4), "float32")}, form))
        data[-2:] = nan
        found = unpack(bytes(data))["x"]
        assert (found[0, 0], bool(np.isnan(found[0, 3]))) == (1, True)


@given(st.binary(max_size=300))
def test_other_bytes_are_refused(data):
    for magic in (FIRST, SECOND):
        for start in (b"", magic, magic + struct.pack("<I", len(data))):
            with pytest.raises(ks.SplitError):
                unpack(start + data + b"{")


@given(st.integers(0, len(GOOD) - 1))
def test_bytes_that_are_cut_off_are_refused(length):
    with pytest.raises(ks.SplitError):
        unpack(GOOD[:length])


@pytest.mark.parametrize("form", ["as it is", "float16", "bfloat16", "int8", "int4"])
@pytest.mark.parametrize("shape", [[2**39, 2**39], [1, 10**9], [10**9, 0, 10**9], [-1, 4], [1.5], "ab", [[1]]])
@pytest.mark.parametrize("extra", [{}, {"zlib": 64}])
def test_a_header_that_promises_much_takes_no_memory(shape, form, extra):
    entry = {"name": "x", "shape": shape, "dtype": "float32", "form": form, **extra}
    tracemalloc.start()
    for magic in (FIRST, SECOND):
        with pytest.raises(ks.SplitError):
            unpack(message([entry], bytes(64), magic))
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_booleans_are_0_or_1():
    data = bytearray(pack({"x": np.zeros((1, 4), "bool")}))
    data[-3:] = b"\x05\x00\xff"
    assert unpack(bytes(data))["x"].tobytes() == b"\x00\x01\x00\x01"


def test_a_shape_without_numbers_that_numpy_does_not_take_is_refused():
    whole = pack({"x": np.zeros((0, 3), "float32")})
    with pytest.raises(ks.SplitError, match="'x' is damaged: its shape is"):
        unpack(relabelled(whole, shape=[0, 2**39, 2**39]))


def test_ranges_that_are_none_are_refused():
    [entry] = header_of(pack({"x": np.ones((1, 100), "float32")}, "int8"))
    rest = np.array([0, 1], "<f4").tobytes() + np.array([0, 0, 9, 9], "<u2").tobytes() + bytes(100)
    assert unpack(message([entry], rest))["x"].shape == (1, 100)
    damages = [(0, np.float32(np.nan)), (4, np.float32(np.inf)), (4, np.float32(-1)), (8, np.uint16(10))]
    for place, value in damages:
        damaged_rest = bytearray(rest)
        damaged_rest[place : place + value.nbytes] = value.tobytes()
        with pytest.raises(ks.SplitError, match="The ranges of 'x' are not ranges: the tensors are damaged"):
            unpack(message([entry], bytes(damaged_rest)))


ZEROS = np.zeros((1, 4096, 64), "float32")


def stream_of(content, **changes):
    """A message with one tensor of 256 KiB as int8, packed, whose stream holds something else."""
    stream = content if isinstance(content, bytes) else zlib.compress(bytes(content))
    return message([{**header_of(pack({"x": ZEROS}, "int8"))[0], "zlib": len(stream), **changes}], stream)


SIZE = 4096 * 64 + 8 + 4 * 64


def test_a_bomb_is_refused_before_it_takes_memory():
    bomb = zlib.compress(bytes(2**26))
    assert unpack(stream_of(SIZE))["x"].shape == ZEROS.shape
    cases = {
        stream_of(bomb): f"The packed values of 'x' are not the {SIZE} bytes that the header promises",
        stream_of(bomb, shape=[1, 2**30]): "The header of the tensors is inconsistent",
        stream_of(SIZE + 1): "are not the",
        stream_of(SIZE - 1): "are not the",
        stream_of(zlib.compress(bytes(SIZE)) + b"x"): "are not the",
        stream_of(zlib.compress(bytes(SIZE))[:-1]): "are not the",
        stream_of(zlib.compress(bytes(SIZE))[:-4] + b"abcd"): "The packed values of 'x' are damaged: Error -3",
        stream_of(b"x" * 300): "The packed values of 'x' are damaged: Error -3",
    }
    tracemalloc.start()
    for data, text in cases.items():
        with pytest.raises(ks.SplitError, match=text):
            unpack(data)
    assert tracemalloc.get_traced_memory()[1] < 4 * SIZE
    tracemalloc.stop()


def test_what_packed_bytes_stand_for_is_known_before_they_are_unpacked():
    data = pack({"x": ZEROS}, "float32+zlib")
    tracemalloc.start()
    assert unpacked_bytes(data) > ZEROS.nbytes > 500 * len(data)
    assert tracemalloc.get_traced_memory()[1] < 2**16
    tracemalloc.stop()
