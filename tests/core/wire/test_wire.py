"""Tensors to bytes and back: within the promised error, in the promised number of bytes."""

import math
import mmap
import struct

import keras
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as hnp
from keras import layers

import kerassplit as ks
from kerassplit.wire import FORMS, MESSAGE_BYTES, pack, packed_bytes, unpack, unpacked_bytes

SHAPES = hnp.array_shapes(min_dims=2, max_dims=4, max_side=8)
LONG = st.tuples(st.integers(1, 2), st.integers(1, 9), st.integers(1, 9), st.integers(1, 200))
FINITE = hnp.arrays(np.float32, SHAPES, elements=st.floats(width=32, allow_nan=False, allow_infinity=False))
ANY = hnp.arrays(np.float32, SHAPES, elements=st.floats(width=32))
DTYPES = [np.float16, np.float32, np.float64, ml_dtypes.bfloat16, np.int8, np.uint16, np.int64, np.bool_]
FEW = st.sampled_from(DTYPES)
PLAIN = [form for form in FORMS if "+" not in form]
LEVELS = {"int8": 255, "int4": 15}


def there_and_back(array, dtype):
    result = unpack(pack({"x": array}, dtype))["x"]
    assert (result.shape, result.dtype) == (array.shape, array.dtype)
    return result


def noise(shape, seed=0):
    """Channels of different ranges, some of them far from zero, one of them constant."""
    draw = np.random.default_rng(seed)
    scale, offset = (10.0 ** draw.uniform(-3, 3, shape[-1]) for _ in range(2))
    scale[0] = 0
    return (draw.normal(size=shape) * scale + offset * draw.choice([-1, 0, 1], shape[-1])).astype("float32")


@given(ANY, st.sampled_from(["float32", "float32+zlib"]))
def test_float32_changes_nothing(array, form):
    assert there_and_back(array, form).tobytes() == array.tobytes()


@given(FEW, SHAPES, st.sampled_from(FORMS))
def test_every_dtype_and_shape_comes_back(dtype, shape, form):
    array = np.arange(math.prod(shape)).reshape(shape).astype(dtype)
    steps = LEVELS.get(form.partition("+")[0], 255)
    most = 1 / 64 * (dtype is ml_dtypes.bfloat16 or "bfloat" in form)
    np.testing.assert_allclose(
        there_and_back(array, form).astype(float), array.astype(float), atol=math.prod(shape) / steps, rtol=most
    )


@given(st.one_of(FINITE, st.builds(noise, LONG)), st.sampled_from(PLAIN))
def test_packing_changes_no_value_and_adds_no_byte(array, form):
    plain, packed = pack({"x": array}, form), pack({"x": array}, f"{form}+zlib")
    assert unpack(packed)["x"].tobytes() == unpack(plain)["x"].tobytes()
    assert len(packed) <= len(plain) == unpacked_bytes(plain) <= unpacked_bytes(packed) < len(plain) + 20


@given(ANY)
def test_float16_keeps_its_promise_and_makes_no_infinity(array):
    result = there_and_back(array, "float16")
    finite = np.isfinite(array)
    np.testing.assert_array_equal(result[~finite], array[~finite])
    wide, back = array[finite].astype(float), result[finite].astype(float)
    largest = np.max(np.abs(wide), initial=0)
    scale = 2.0 ** max(0, math.ceil(math.log2(largest / 65504))) if largest else 1
    assert np.all(np.abs(wide - back) <= np.abs(wide) / 2048 + scale * 2**-25)


@given(ANY)
def test_bfloat16_keeps_its_promise_and_makes_no_infinity(array):
    result = there_and_back(array, "bfloat16")
    finite = np.isfinite(array)
    np.testing.assert_array_equal(result[~finite], array[~finite])
    wide, back = array[finite].astype(float), result[finite].astype(float)
    assert np.all(np.abs(wide - back) <= np.abs(wide) / 256 + 2.0**-133)


def bounds(array, most, rounding=(2.0**-22, 2.0**-148)):
    """The promised error of each value, from its group's range, one group after another."""
    flat = array.astype(float).reshape(len(array), -1, array.shape[-1])
    promised = np.empty_like(flat)
    size = next(size for size in range(1, 81) if size * flat.shape[1] >= 80)
    for sample, own in zip(flat, promised, strict=True):
        widened = 2 / 65535 * (sample.max() - sample.min())
        for start in range(0, sample.shape[1], size):
            group = sample[:, start : start + size]
            own[:, start : start + size] = (group.max() - group.min() + widened) / most / 2
        own += np.abs(sample).max() * rounding[0] + rounding[1]  # by default, of float32
    return promised.reshape(array.shape)


@given(st.one_of(FINITE, st.builds(noise, LONG, st.integers(0, 99))), st.sampled_from(["int8", "int4"]))
def test_whole_numbers_are_within_half_a_step(array, form):
    result = there_and_back(array, form).astype(float)
    assert np.all(np.abs(array.astype(float) - result) <= bounds(array, LEVELS[form]))


DOUBLES = st.floats(-3e38, 3e38)
NEARLY_CONSTANT = st.builds(
    lambda value, x, most: value + most * x, DOUBLES, FINITE, st.sampled_from([0, 1e-60, 1e-45])
)


@given(st.one_of(hnp.arrays(np.float64, SHAPES, elements=DOUBLES), NEARLY_CONSTANT), st.sampled_from(["int8", "int4"]))
def test_float64_is_within_half_a_step_and_the_rounding_of_ranges(array, form):
    result = there_and_back(np.asarray(array, "float64"), form)
    assert np.all(np.abs(array - result) <= bounds(array, LEVELS[form], (2.0**-40, 2.0**-150)))


@given(st.one_of(FINITE, st.builds(noise, LONG)))
def test_a_sample_does_not_depend_on_its_batch(array):
    for form in ("float32", "bfloat16", "int8", "int4"):  # float16 has one scale for all: it is 1 for any activation
        together = there_and_back(array, form)
        for place in range(len(array)):
            assert there_and_back(array[place : place + 1], form).tobytes() == together[place : place + 1].tobytes()


def test_zeros_behind_a_relu_stay_zeros():
    array = np.maximum(noise((2, 7, 7, 100)), 0)
    for form in FORMS:
        assert not there_and_back(array, form)[array == 0].any()


@pytest.mark.parametrize(("form", "most"), [("float16", 0.5), ("bfloat16", 0.5), ("int8", 0.263), ("int4", 0.138)])
def test_ranges_and_headers_take_few_bytes(form, most):
    for side, channels in ((14, 512), (7, 192), (7, 1280), (1, 1280)):
        tensors = {"features": noise((1, side, side, channels))}
        assert len(pack(tensors, form)) <= most * len(pack(tensors)) + 90  # of the header


def test_ids_masks_and_vectors_go_as_they_are():
    tensors = {"ids": np.array([[1, 2]]), "mask": np.array([[True, False]]), "scores": np.array([0.1, 0.2])}
    for form in FORMS:
        for name, value in unpack(pack(tensors, form)).items():
            assert value.tobytes() == tensors[name].tobytes()


NAMES = st.text(max_size=5)


@given(st.dictionaries(NAMES, st.tuples(FEW, hnp.array_shapes(min_dims=0, min_side=0, max_side=9)), max_size=4))
def test_bytes_are_known_before_values(tensors):
    arrays = {name: np.ones(shape, dtype) for name, (dtype, shape) in tensors.items()}
    for form in PLAIN:
        sizes = [packed_bytes(name, array.shape, array.dtype, form) for name, array in arrays.items()]
        assert len(pack(arrays, form)) == MESSAGE_BYTES + sum(sizes)


def test_bytes_are_known_at_every_split_point_before_the_model_runs():
    x = image = keras.Input((32, 32, 3), name="image")
    for number, (filters, stride) in enumerate([(8, 1), (8, 2), (12, 2), (12, 1)]):
        y = layers.Conv2D(6 * filters, 1, use_bias=False, name=f"block_{number}_expand")(x)
        y = layers.ReLU(6.0, name=f"block_{number}_expand_relu")(layers.BatchNormalization()(y))
        y = layers.DepthwiseConv2D(3, stride, "same", name=f"block_{number}_depthwise")(y)
        y = layers.Conv2D(filters, 1, name=f"block_{number}_project")(y)
        x = layers.Add(name=f"block_{number}_add")([x, y]) if x.shape == y.shape else y
    x = layers.Dense(10, "softmax", name="scores")(layers.GlobalAveragePooling2D(name="pool")(x))
    model = keras.Model(image, x)
    points = ks.split_points(model)
    assert len(points) > 15
    values = ks.tap(model, [point.name for point in points])(noise((3, 32, 32, 3)))
    for point in points:
        array = keras.ops.convert_to_numpy(values[point.name])
        for form in PLAIN:
            known = MESSAGE_BYTES + packed_bytes(point.name, (3, *point.shape[1:]), point.dtype, form)
            assert len(pack({point.name: array}, form)) == known


def test_what_depends_on_values_is_not_known_before():
    with pytest.raises(ks.SplitError, match=r"How many bytes 'x' takes as 'int8\+zlib' depends on its values.*wire="):
        packed_bytes("x", (1, 4), "float32", "int8+zlib")


def test_what_cannot_be_sent_is_named():
    for form in LEVELS:
        with pytest.raises(ks.SplitError, match=f"'x' holds infinities or NaN.* {form} .* Send it as 'float32'"):
            pack({"x": np.array([[1.0, np.nan]])}, form)
        with pytest.raises(
            ks.SplitError, match=f"beyond float32, which cannot be sent as {form}. Send it as 'float32'."
        ):
            pack({"x": np.array([[1.0, 1e39]])}, form)
    for dtype in ("object", "foo", "string", None, "float8_e5m2"):
        text = rf"'x' holds values of type {dtype}, which cannot be sent\. Convert them to bool, int8 to int64, "
        with pytest.raises(ks.SplitError, match=text):
            packed_bytes("x", (1, 2), dtype, "int8")
    with pytest.raises(ks.SplitError, match="'x' holds values of type object"):
        pack({"x": np.array([{}])})
    with pytest.raises(ks.SplitError, match=r"'int4', each also packed \('int8\+zlib'\); got 'int2'"):
        pack({"x": np.ones((1, 1))}, "int2")
    for form in ("float16", "bfloat16"):
        with pytest.raises(ks.SplitError, match=rf"'x' holds values up to 1e\+300, which cannot be sent as {form}"):
            pack({"x": np.array([[1e300, 0, 0]])}, form)
    with pytest.raises(ks.SplitError, match="The header of 1 tensors has 1048636 bytes; at most 1048576 can be sent"):
        pack({"x" * 2**20: np.ones(2, "float32")})


@pytest.mark.parametrize("name", [1, b"x", None])
def test_names_are_texts(name):
    for work in (lambda: pack({name: np.ones((2, 3))}), lambda: packed_bytes(name, (2, 3), "float32", "int8")):
        with pytest.raises(ks.SplitError, match=f"Names of tensors are texts; got {name!r}"):
            work()


def test_shapes_are_whole_numbers_of_any_kind():
    expected = packed_bytes("x", (1, 200), "float32", "int8")
    for shape in ([1, 200], (np.int64(1), np.uint8(200)), np.array([1, 200])):
        assert packed_bytes("x", shape, "float32", "int8") == expected


@pytest.mark.parametrize(
    "shape", [(None, 2), (-1, 5), (1.0, 5), ("1", 5), (True, 5), 5, None, "ab", np.array(5), np.ones((1, 1), int)]
)
def test_other_shapes_are_refused(shape):
    with pytest.raises(ks.SplitError, match=r"The shape of 'x' is .*Expected whole numbers from 0 on, such as \(1, 14"):
        packed_bytes("x", shape, "float32", "int8")


@pytest.mark.parametrize("form", ["float32", "int8+zlib"])
def test_any_buffer_is_unpacked(form, tmp_path):
    array = noise((2, 9, 100))
    data = pack({"x": array}, form)
    expected = unpack(data)["x"]
    (tmp_path / "x").write_bytes(data)
    with (tmp_path / "x").open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        for buffer in (
            memoryview(data),
            memoryview(b"no" + data)[2:],
            bytearray(data),
            np.frombuffer(data, "u1"),
            mapped,
        ):
            assert unpack(buffer)["x"].tobytes() == expected.tobytes()
            assert unpacked_bytes(buffer) == unpacked_bytes(data)


@pytest.mark.parametrize("data", [None, "abc", 5, [1, 2], memoryview(bytes(100))[::2]])
def test_what_holds_no_bytes_is_refused(data):
    for read in (unpack, unpacked_bytes):
        with pytest.raises(ks.SplitError, match=f"of kerassplit.wire.pack, as bytes .*got '{type(data).__name__}'"):
            read(data)


@given(st.one_of(SHAPES, LONG), st.sampled_from(["int8", "int4"]))
def test_ranges_take_a_twentieth_of_a_byte_per_value_and_12_bytes_per_sample(shape, form):
    data, values = pack({"x": np.ones(shape, "float32")}, form), math.prod(shape)
    (header,) = struct.unpack_from("<I", data, 8)
    of_ranges = len(data) - MESSAGE_BYTES - header - math.ceil(values * (1 if form == "int8" else 1 / 2))
    assert of_ranges <= values / 20 + 12 * shape[0]
