"""Tensors to bytes and back: within the promised error, and nothing from damaged bytes."""

import json
import math
import struct
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
from fuzzing import altered, damaged, fuzzed
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as hnp

import kerassplit as ks
from kerassplit import wire
from kerassplit.errors import SplitError
from kerassplit.wire import FORMS, pack, unpack

SHAPES = hnp.array_shapes(min_dims=2, max_dims=4, max_side=8)
FINITE = hnp.arrays(np.float32, SHAPES, elements=st.floats(width=32, allow_nan=False, allow_infinity=False))
ANY = hnp.arrays(np.float32, SHAPES, elements=st.floats(width=32))
FEW = st.sampled_from([np.float16, np.float32, np.float64, ml_dtypes.bfloat16, np.int8, np.uint16, np.int64, np.bool_])


def there_and_back(array, dtype):
    result = unpack(pack({"x": array}, dtype))["x"]
    assert (result.shape, result.dtype) == (array.shape, array.dtype)
    return result


@given(ANY)
def test_float32_changes_nothing(array):
    assert there_and_back(array, "float32").tobytes() == array.tobytes()


@given(FEW, SHAPES, st.sampled_from(FORMS))
def test_every_dtype_and_shape_comes_back(dtype, shape, form):
    array = np.arange(math.prod(shape)).reshape(shape).astype(dtype)
    np.testing.assert_allclose(
        there_and_back(array, form).astype(float), array.astype(float), atol=math.prod(shape) / 400, rtol=1 / 64
    )


@given(ANY)
def test_float16_keeps_its_promise_and_makes_no_infinity(array):
    result = there_and_back(array, "float16")
    finite = np.isfinite(array)
    np.testing.assert_array_equal(result[~finite], array[~finite])
    wide, back = array[finite].astype(float), result[finite].astype(float)
    largest = np.max(np.abs(wide), initial=0)
    scale = 2.0 ** max(0, math.ceil(math.log2(largest / 65504))) if largest else 1
    assert np.all(np.abs(wide - back) <= np.abs(wide) / 2048 + scale * 2**-25)


@given(FINITE)
def test_int8_is_within_half_a_step(array):
    result = there_and_back(array, "int8").astype(float)
    wide = array.astype(float)
    by_channel = math.prod(array.shape[1:-1]) >= 32
    axes = tuple(range(1, array.ndim - 1 if by_channel else array.ndim))
    step = (wide.max(axes, keepdims=True) - wide.min(axes, keepdims=True)) / 255
    rounding = np.abs(wide).max(axes, keepdims=True) * 2**-22 + 2.0**-148
    assert np.all(np.abs(wide - result) <= step / 2 + rounding)


@given(FINITE)
def test_a_sample_does_not_depend_on_its_batch(array):
    for form in FORMS[::2]:  # float16 has one scale for all: it is 1 for any activation
        together = there_and_back(array, form)
        for place in range(len(array)):
            assert there_and_back(array[place : place + 1], form).tobytes() == together[place : place + 1].tobytes()


def test_bytes_are_halved_and_quartered():
    tensors = {"features": np.random.default_rng(0).normal(size=(2, 14, 14, 512)).astype("float32")}
    whole, halves, levels = (len(pack(tensors, form)) for form in FORMS)
    assert 1.99 < whole / halves < 2.01
    assert 3.8 < whole / levels < 4


def test_ids_masks_and_vectors_go_as_they_are():
    tensors = {"ids": np.array([[1, 2]]), "mask": np.array([[True, False]]), "scores": np.array([0.1, 0.2])}
    for form in FORMS:
        for name, value in unpack(pack(tensors, form)).items():
            assert value.tobytes() == tensors[name].tobytes()


def test_what_cannot_be_sent_is_named():
    with pytest.raises(ks.SplitError, match=r"'x' holds infinities or NaN.* Send it as 'float32'"):
        pack({"x": np.array([[1.0, np.nan]])}, "int8")
    with pytest.raises(ks.SplitError, match="'x' holds values of type object"):
        pack({"x": np.array([{}])})
    with pytest.raises(ks.SplitError, match="can be sent as 'float32', 'float16' and 'int8'; got 'int4'"):
        pack({"x": np.ones((1, 1))}, "int4")
    with pytest.raises(ks.SplitError, match="cannot be sent as float16"):
        pack({"x": np.array([[1e300]])}, "float16")


def header_of(data):
    (length,) = struct.unpack_from("<I", data, 8)
    return json.loads(data[12 : 12 + length])


GOOD = pack({"a": np.ones((2, 3), "float32"), "b": np.ones((2, 3, 3, 4), "float32")}, "int8")


def is_refused_or_gives_tensors(data):
    try:
        found = unpack(data)
    except ks.SplitError as error:
        assert len(str(error)) < 20_000
    else:
        assert all(isinstance(value, np.ndarray) for value in found.values())
        assert sum(value.nbytes for value in found.values()) <= 8 * len(data)


WHOLE = [
    pack({"a": np.ones((2, 3), "float32"), "b": np.arange(72).reshape(2, 3, 3, 4).astype(dtype)}, form)
    for form in FORMS
    for dtype in ("float64", "float32", ml_dtypes.bfloat16, "int64")
]


@fuzzed
@given(damaged(*WHOLE))
def test_damaged_bytes_are_refused_or_give_tensors(data):
    is_refused_or_gives_tensors(data)


@fuzzed
@given(altered(*map(header_of, WHOLE)), st.sampled_from(WHOLE))
def test_altered_headers_are_refused_or_give_tensors(header, whole):
    text = json.dumps(header).encode()
    rest = whole[12 + struct.unpack_from("<I", whole, 8)[0] :]
    is_refused_or_gives_tensors(b"kswire1\n" + struct.pack("<I", len(text)) + text + rest)


def test_halves_that_are_signalling_nan_stay_nan():
    data = bytearray(pack({"x": np.ones((1, 2), "float32")}, "float16"))
    data[-2:] = b"\x00\x7d"
    found = unpack(bytes(data))["x"]
    assert (found[0, 0], bool(np.isnan(found[0, 1]))) == (1, True)


@given(st.binary(max_size=300))
def test_other_bytes_are_refused(data):
    for start in (b"", b"kswire1\n", b"kswire1\n" + struct.pack("<I", len(data))):
        with pytest.raises(ks.SplitError):
            unpack(start + data + b"{")


@given(st.integers(0, len(GOOD) - 1))
def test_bytes_that_are_cut_off_are_refused(length):
    with pytest.raises(ks.SplitError):
        unpack(GOOD[:length])


@pytest.mark.parametrize("form", ["as it is", "float16", "int8"])
@pytest.mark.parametrize("shape", [[2**39, 2**39], [1, 10**9], [10**9, 0, 10**9], [-1, 4], [1.5], "ab", [[1]]])
def test_a_header_that_promises_much_takes_no_memory(shape, form):
    header = json.dumps([{"name": "x", "shape": shape, "dtype": "float32", "form": form}]).encode()
    data = b"kswire1\n" + struct.pack("<I", len(header)) + header + bytes(64)
    tracemalloc.start()
    with pytest.raises(ks.SplitError):
        unpack(data)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_a_shape_without_numbers_that_numpy_does_not_take_is_refused():
    whole = wire.pack({"x": np.zeros((0, 3), "float32")})
    with pytest.raises(SplitError, match="'x' is damaged: its shape is"):
        wire.unpack(relabelled(whole, shape=[0, 2**39, 2**39]))


def relabelled(data, **changes):
    """Returns the same bytes under another header."""
    start = len(wire._MAGIC) + 4
    (length,) = struct.unpack_from("<I", data, len(wire._MAGIC))
    entries = json.loads(data[start : start + length])
    header = json.dumps([{**entry, **changes} for entry in entries]).encode()
    return wire._MAGIC + struct.pack("<I", len(header)) + header + data[start + length :]
