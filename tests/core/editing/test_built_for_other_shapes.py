"""Layers that were built for other shapes than they receive in an edited model."""

import warnings

import keras
import numpy as np
import pytest
from applications import OLD_KERAS
from comparing import copied, fingerprint, same_bits
from keras import layers

import kerassplit as ks
from kerassplit.errors import UnsupportedModelError
from kerassplit.zoo.random_weights import randomize


def numbers(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape).astype("float32")


@pytest.mark.parametrize("kind", [layers.Add, layers.Multiply, layers.Subtract, layers.Average, layers.Maximum])
def test_a_merge_of_other_ranks_gives_what_a_new_one_gives_for_any_batch(kind, tmp_path):
    x = keras.Input((8, 8, 4))
    model = keras.Model(x, kind(name="merge")([x, layers.GlobalAveragePooling2D(keepdims=True, name="pool")(x)]))
    edited = ks.replace(model, {"pool": layers.GlobalAveragePooling2D()})
    fresh = keras.Model(x, kind()([x, layers.GlobalAveragePooling2D()(x)]))
    edited.save(tmp_path / "edited.keras")
    loaded = keras.models.load_model(tmp_path / "edited.keras")
    for rows in (1, 2, 8, 3):
        images = numbers(rows, 8, 8, 4)
        assert same_bits(edited(images), fresh(images))
        assert same_bits(loaded(images), fresh(images))
    assert edited.get_layer("merge") is not model.get_layer("merge")


def test_a_merge_of_one_more_dimension_on_one_side():
    a, b = keras.Input((6,), name="a"), keras.Input((6,), name="b")
    edited = ks.with_input_shape(keras.Model([a, b], layers.Add()([a, b])), {"a": (3, 6)})
    one, other = keras.Input((3, 6)), keras.Input((6,))
    fresh = keras.Model([one, other], layers.Add()([one, other]))
    for rows in (1, 2, 3, 5):
        data = [numbers(rows, 3, 6), numbers(rows, 6)]
        assert same_bits(edited(data), fresh(data))


def two_sides(end):
    left, right = keras.Input((5, 6), name="left"), keras.Input((5, 6), name="right")
    return keras.Model([left, right], end([layers.Dense(8, name="wide")(left), layers.Dense(8)(right)]))


@pytest.mark.parametrize("end", [layers.Dot(2), layers.Attention()], ids=["Dot", "Attention"])
def test_what_only_running_shows_is_refused(end):
    model = two_sides(end)
    before = fingerprint(model)
    with pytest.raises(UnsupportedModelError, match=rf"'{end.name}' \({type(end).__name__}\) takes .*\(None, 5, 16\)"):
        ks.replace(model, {"wide": layers.Dense(16)})
    assert fingerprint(model) == before


@pytest.mark.parametrize(
    ("layer", "before", "now", "said"),
    [
        (
            layers.LayerNormalization(axis=[1, 2], name="one"),
            (8, 12, 4),
            (12, 8, 4),
            r"'gamma' .*8, 12\), and .12, 8",
        ),
        (layers.PReLU(name="one"), (12, 4), (1, 4), r"'alpha' .* \(12, 4\), and \(1, 4\)"),
    ],
    ids=["LayerNormalization", "PReLU"],
)
def test_weights_that_another_size_would_scramble_or_broadcast_are_refused(layer, before, now, said):
    x = keras.Input(before)
    model = keras.Model(x, layer(x))
    with pytest.raises(UnsupportedModelError, match=said):
        ks.with_input_shape(model, now)


@pytest.mark.skipif(OLD_KERAS, reason="Keras 3.13 itself fails to build it")
def test_a_normalization_over_rows_is_none_over_channels():
    rows = layers.Normalization(axis=1, mean=[1.0, 2.0, 3.0], variance=[1.0, 4.0, 9.0])
    x = keras.Input((3, 3, 3))
    edited = ks.with_input_shape(keras.Model(x, rows(x)), (3, 3, 1))
    images = numbers(2, 3, 3, 1)
    expected = (images - np.array([1, 2, 3])[:, None, None]) / np.array([1, 2, 3])[:, None, None]
    np.testing.assert_allclose(copied(edited(images)), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(16, None, 3), (64, None, 3), (None, 64, 3), (None, 16, 3), (None, None, 3)])
def test_open_sides_are_refused_also_where_a_closed_one_makes_up_for_the_size_that_is_tried(shape):
    x = keras.Input((32, 32, 3))
    y = layers.MaxPooling2D()(layers.Conv2D(4, 3, padding="same")(x))
    model = keras.Model(x, layers.Dense(5, name="score")(layers.Flatten()(y)))
    with pytest.raises(UnsupportedModelError, match="^Sides can be open if the model takes other sizes"):
        ks.with_input_shape(model, shape)


def test_an_edit_that_fails_leaves_the_layers_it_was_given_as_they_were():
    model = keras.Sequential(
        [keras.Input((6,)), layers.Dense(4, name="a"), layers.Dense(4, name="b"), layers.Dense(2, name="c")]
    )
    new, inserted = layers.Dense(4), layers.Dense(7, name="a")
    names = new.name, inserted.name
    with pytest.raises(UnsupportedModelError):
        ks.replace(model, {"b": new, "c": layers.Conv2D(3, 3)})
    with pytest.raises(UnsupportedModelError):
        ks.insert(model, "b", inserted)
    assert (new.name, inserted.name) == names
    edited = ks.replace(model, {"b": new})
    assert same_bits(edited.get_layer("b").weights, model.get_layer("b").weights)
    assert same_bits(edited(numbers(3, 6)), model(numbers(3, 6)))


def test_with_warnings_as_errors():
    model = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 3, name="conv")])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        grey = ks.with_input_shape(model, (8, 8, 1))
    images = numbers(2, 8, 8, 1)
    np.testing.assert_allclose(copied(grey(images)), copied(model(np.repeat(images, 3, -1))), rtol=1e-5, atol=1e-5)


def test_a_shared_first_convolution_is_adapted_for_one_of_its_inputs():
    conv = layers.Conv2D(4, 3, name="conv")
    left, right = keras.Input((8, 8, 3), name="left"), keras.Input((8, 8, 3), name="right")
    model = keras.Model([left, right], layers.Add()([conv(left), conv(right)]))
    randomize(model, seed=2)
    for side in ("left", "right"):
        edited = ks.with_input_shape(model, {side: (8, 8, 1)})
        grey, colored = numbers(2, 8, 8, 1), numbers(3, 8, 8, 3)[:2]
        full = np.repeat(grey, 3, -1)
        given = {"left": [grey, colored], "right": [colored, grey]}[side]
        expected = model([full, colored] if side == "left" else [colored, full])
        np.testing.assert_allclose(copied(edited(given)), copied(expected), rtol=1e-4, atol=1e-5)
        assert {one.name for one in edited.layers if isinstance(one, layers.Conv2D)} == {"conv", "conv_1"}
        assert edited.get_layer("conv") is conv


def test_the_two_inputs_of_a_shared_first_convolution_get_other_channels_each():
    conv = layers.Conv2D(4, 3, name="conv")
    left, right = keras.Input((8, 8, 3), name="left"), keras.Input((9, 9, 3), name="right")
    pool = layers.GlobalAveragePooling2D()
    model = keras.Model([left, right], layers.Add()([pool(conv(left)), pool(conv(right))]))
    randomize(model, seed=2)
    edited = ks.with_input_shape(model, {"left": (8, 8, 1), "right": (9, 9, 4)})
    kernels = sorted(one.kernel.shape[-2] for one in edited.layers if isinstance(one, layers.Conv2D))
    assert kernels == [1, 4]
    both = ks.with_input_shape(model, {"left": (8, 8, 1), "right": (9, 9, 1)})
    (shared,) = [one for one in both.layers if isinstance(one, layers.Conv2D)]
    assert (shared.name, len(shared._inbound_nodes)) == ("conv", 2)


def test_strings_are_no_numbers():
    x = keras.Input((4,), name="x")
    with pytest.raises(ks.SplitError) as caught:
        ks.with_input_shape(keras.Model(x, layers.Dense(2)(x)), keras.Input((4,), dtype="string"))
    assert str(caught.value) == (
        "'x' takes float32; expected numbers for numbers, and strings for strings; got an input of string."
    )


def test_ways_out_are_those_of_the_edit():
    x = keras.Input((8, 8, 3))
    y = layers.Dense(2, name="score")(layers.Flatten(name="flat")(layers.Conv2D(4, 3, padding="same", name="conv")(x)))
    model = keras.Model(x, y)
    remedy = " Replace it in the same way (`kerassplit.replace`), or put a layer before it that makes the shape fit."
    for edit in (
        lambda: ks.insert(model, "conv", layers.MaxPooling2D(2)),
        lambda: ks.replace(model, {"flat": layers.GlobalAveragePooling2D()}),
    ):
        with pytest.raises(UnsupportedModelError, match="^'score' .Dense. takes .None, 256. in the model") as caught:
            edit()
        assert str(caught.value).endswith(remedy)
    with pytest.raises(UnsupportedModelError, match="`keras.layers.Resizing` as first layer brings inputs to the old"):
        ks.with_input_shape(model, (16, 16, 3))


def pooled(shape):
    x = keras.Input(shape, name="image")
    y = layers.ReLU(name="relu")(layers.Conv2D(4, 3, name="conv")(x))
    return keras.Model(x, layers.Conv2D(2, 5, name="last")(y))


@pytest.mark.parametrize(
    "edit",
    [
        lambda model: ks.with_input_shape(model, (6, 6, 3)),
        lambda model: ks.with_input_shape(model, keras.Input((6, 6, 3), dtype="float16")),
        lambda model: ks.insert(model, "relu", layers.MaxPooling2D(3)),
        lambda model: ks.insert(model, "relu", layers.MaxPooling2D(32)),
        lambda model: ks.replace(model, {"relu": layers.Conv2D(4, 20)}),
        lambda model: ks.insert(model, "conv", layers.Cropping2D(1)),
    ],
)
def test_an_edit_that_would_leave_nothing_of_an_image_is_refused(edit):
    with pytest.raises(UnsupportedModelError):
        edit(pooled((8, 8, 3)))
