"""`with_input_shape`: another height, width, length, batch size or dtype; and what cannot take it."""

import keras
import numpy as np
import pytest
from comparing import copied, fingerprint, same_bits
from gradients import gradients
from shape_models import (
    IMAGES,
    SEQUENCES,
    convolutional,
    is_as_fresh,
    layers_of,
    random_input,
    randomized,
    recurrent,
    run,
    segmentation,
    with_backbone,
)

import kerassplit as ks
from kerassplit.errors import SplitError, UnsupportedModelError

layers, ops = keras.layers, keras.ops


@pytest.mark.parametrize("make", IMAGES)
def test_at_another_size_a_model_is_what_it_would_be_built_afresh(make):
    model = randomized(make, (16, 16, 3))
    for shape in [(24, 16, 3), (20, 36, 3), (None, 20, 3)]:
        result = ks.with_input_shape(model, shape)
        assert result.input_shape == (None, *shape) and result.name == model.name
        assert is_as_fresh(result, make(shape))
        assert {*map(id, layers_of(result))} <= {*map(id, layers_of(model))}
        assert [*map(id, result.variables)] == [*map(id, model.variables)]


@pytest.mark.parametrize("make", SEQUENCES)
def test_at_another_length_too(make):
    features = make((12, 4)).input_shape[2:] if make is not recurrent else ()
    model = randomized(make, (12, *features))
    for length in (7, None):
        result = ks.with_input_shape(model, (length, *features))
        assert is_as_fresh(result, make((length, *features)))
        assert [*map(id, result.variables)] == [*map(id, model.variables)]


@pytest.mark.parametrize("make", [*IMAGES, *SEQUENCES])
def test_open_sides_can_be_closed_opened_and_closed_again(make):
    closed = (16,) if make is recurrent else (16, 3) if make in SEQUENCES else (16, 16, 3)
    opened = closed if make is recurrent else (*(None for _ in closed[1:]), closed[-1])
    opened = (None,) if make is recurrent else opened
    model = randomized(make, closed)
    open_ = ks.with_input_shape(model, opened)
    again = ks.with_input_shape(open_, closed)
    assert (open_.input_shape, again.input_shape) == ((None, *opened), (None, *closed))
    assert again.output_shape == model.output_shape
    x = random_input(model)
    assert same_bits(run(again, x), run(model, x)) and same_bits(run(open_, x), run(model, x))


def test_a_small_image_is_refused_where_nothing_would_be_left_of_it():
    with pytest.raises(UnsupportedModelError, match=r"'depthwise' \(DepthwiseConv2D\) takes \(None, 4, 4, 6\) in the"):
        ks.with_input_shape(convolutional((16, 16, 3)), (8, 8, 3))


def test_an_input_sets_batch_size_and_dtype():
    model = randomized(convolutional, (16, 16, 3))
    result = ks.with_input_shape(model, keras.Input((20, 12, 3), batch_size=5, dtype="uint8"))
    assert result.input_shape == (5, 20, 12, 3) and result.output_shape == (5, 2)
    assert result.inputs[0].dtype == "uint8" and result.inputs[0].name == "image"
    pixels = np.random.default_rng(0).integers(0, 256, (5, 20, 12, 3), "uint8")
    same_size = ks.with_input_shape(model, (20, 12, 3))
    assert same_bits(result(pixels), same_size(pixels.astype("float32")))
    assert ks.with_input_shape(result, (16, 16, 3)).input_shape == (5, 16, 16, 3)


def test_a_fixed_batch_size_can_be_opened_again():
    inputs = keras.Input((8, 8, 3), batch_size=4)
    model = keras.Model(inputs, layers.Flatten()(layers.Conv2D(2, 3)(inputs)))
    result = ks.with_input_shape(model, keras.Input((8, 8, 3)))
    assert result.output_shape == (None, 72)
    x = random_input(model, 4)
    assert same_bits(result(x), model(x))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_floats_of_another_size_are_cast_by_the_layers_as_always(dtype):
    model = randomized(convolutional, (16, 16, 3))
    result = ks.with_input_shape(model, keras.Input((16, 16, 3), dtype=dtype))
    assert result.inputs[0].dtype == dtype and result.outputs[0].dtype == "float32"
    assert len(result.layers) == len(model.layers)
    x = ops.cast(random_input(model), dtype)
    assert same_bits(result(x), model(ops.cast(x, "float32")))


def test_inputs_are_named_in_a_dict_and_the_others_stay():
    image, ids = keras.Input((16, 16, 3), name="image"), keras.Input((12,), dtype="int32", name="ids")
    seen = layers.Dense(4, name="seen")(convolutional((16, 16, 3))(image))
    vectors = layers.Embedding(9, 4, name="embedding")(ids)
    words = keras.Model(ids, layers.GlobalAveragePooling1D(name="mean")(vectors), name="words")
    read = layers.Dense(4, name="read")(words(ids))
    model = keras.Model({"image": image, "ids": ids}, {"both": seen + read, "read": read}, name="two")
    result = ks.with_input_shape(model, {"image": (20, 24, 3)})
    assert {name: one.shape for name, one in result.input.items()} == {"image": (None, 20, 24, 3), "ids": (None, 12)}
    assert words in result.layers  # stays one call
    result = ks.with_input_shape(result, {"ids": (None,), "image": keras.Input((None, None, 3), dtype="uint8")})
    x = {"image": np.ones((2, 16, 16, 3), "float32"), "ids": np.ones((2, 12), "int32")}
    outputs, expected = result({**x, "image": x["image"].astype("uint8")}), model(x)
    assert outputs.keys() == expected.keys() and all(same_bits(outputs[one], expected[one]) for one in expected)


def test_a_siamese_tower_is_opened_for_both_calls_and_stays_one():
    tower = convolutional((16, 16, 3))
    left, right = keras.Input((16, 16, 3), name="left"), keras.Input((16, 16, 3), name="right")
    model = keras.Model([left, right], ops.abs(tower(left) - tower(right)), name="siamese")
    result = ks.with_input_shape(model, {"left": (24, 20, 1), "right": (24, 20, 1)})
    assert sum(isinstance(layer, layers.Conv2D) for layer in result.layers) == 1
    stem = result.get_layer("stem")
    assert stem.kernel.shape == (3, 3, 1, 6) and len(result.variables) == len(model.variables)
    x, y = np.random.default_rng(0).normal(size=(2, 3, 24, 20, 1)).astype("float32")
    alone = ks.with_input_shape(tower, (24, 20, 1))
    alone.get_layer("stem").set_weights(stem.get_weights())
    assert same_bits(result([x, y]), ops.abs(alone(x) - alone(y)))


def test_a_tower_for_one_of_two_sizes_is_called_at_both():
    tower = convolutional((None, None, 3))
    left, right = keras.Input((16, 16, 3), name="left"), keras.Input((16, 16, 3), name="right")
    model = keras.Model([left, right], tower(left) + tower(right))
    result = ks.with_input_shape(model, {"right": (32, 40, 3)})
    assert result.get_layer("convolutional") is tower
    x, y = np.ones((1, 16, 16, 3), "float32"), np.ones((1, 32, 40, 3), "float32")
    assert same_bits(result([x, y]), tower(x) + tower(y))


def test_many_nested_models_are_opened_together():
    inputs = x = keras.Input((8, 4), name="series")
    for number in range(12):
        inner = keras.Input((8, 4))
        x = keras.Model(inner, inner + layers.Conv1D(4, 3, padding="same", name=f"conv{number}")(inner))(x)
    model = keras.Model(inputs, x)
    result = ks.with_input_shape(model, (11, 4))
    assert result.output_shape == (None, 11, 4)
    assert not any(isinstance(layer, keras.Model) for layer in result.layers)
    x = np.random.default_rng(0).normal(size=(2, 8, 4)).astype("float32")
    assert same_bits(ks.with_input_shape(result, (8, 4))(x), model(x))


def test_masks_are_those_of_the_new_length():
    model = randomized(recurrent, (12,))
    ids = np.array([[3, 4, 5, 0, 0, 0, 0], [1, 2, 3, 4, 5, 6, 7]], "int32")
    padded = np.pad(ids, ((0, 0), (0, 5)))
    np.testing.assert_allclose(
        *(copied(one) for one in (ks.with_input_shape(model, (7,))(ids), model(padded))), rtol=1e-5, atol=1e-6
    )


def test_the_result_saves_loads_splits_verifies_and_is_edited_again(tmp_path):
    model = randomized(with_backbone, (16, 16, 3))
    result = ks.with_input_shape(model, (20, 28, 3), name="larger")
    result.save(tmp_path / "larger.keras")
    loaded = keras.saving.load_model(tmp_path / "larger.keras")
    x = random_input(result)
    assert loaded.name == "larger" and same_bits(run(loaded, x), run(result, x))
    assert ks.verify(result, ks.split(result, [2])).max_difference == 0
    less = ks.remove(result, "flip")
    assert less.input_shape == (None, 20, 28, 3) and same_bits(run(less, x), run(result, x))
    again = ks.with_input_shape(less, (16, 16, 3))
    assert same_bits(run(again, x[:, :16, :16]), run(model, x[:, :16, :16]))


def test_gradients_reach_all_variables():
    model = randomized(segmentation, (16, 16, 3))
    result = ks.with_input_shape(model, (24, 8, 1))
    found = gradients(result, lambda: result(random_input(result)))
    assert len(found) == len(model.trainable_variables) and all(np.abs(copied(one)).sum() > 0 for one in found)


def test_a_copy_has_variables_of_its_own_with_equal_values():
    model = randomized(with_backbone, (16, 16, 3))
    result = ks.with_input_shape(model, (24, 8, 3), copy_weights=True)
    assert not {*map(id, layers_of(result))} & {*map(id, layers_of(model))}
    x = random_input(result)
    assert same_bits(run(result, x), run(ks.with_input_shape(model, (24, 8, 3)), x))
    result.set_weights([np.zeros_like(value) for value in result.get_weights()])
    assert any(np.any(value) for value in model.get_weights())


def flattened(shape):
    inputs = keras.Input(shape, name="image")
    x = layers.Flatten(name="flat")(layers.Conv2D(4, 3, name="conv")(inputs))
    return keras.Model(inputs, layers.Dense(2, name="scores")(x), name="flattened")


def test_the_model_is_left_alone_also_after_a_failure():
    model = randomized(with_backbone, (16, 16, 3))
    before = fingerprint(model)
    for shape in [(24, 24, 3), (24, 24, 1), (None, None, 3), keras.Input((16, 16, 3), dtype="uint8")]:
        ks.with_input_shape(model, shape)
        ks.with_input_shape(model, shape, copy_weights=True)
        assert fingerprint(model) == before
    model = flattened((16, 16, 3))
    before = fingerprint(model)
    for shape in [(24, 24, 3), (2, 2, 1), (None, None, 3), (16, 16, None), "large"]:
        with pytest.raises(SplitError):
            ks.with_input_shape(model, shape)
        assert fingerprint(model) == before


TO_ONE_SIZE = (
    "Its weights are for one size only. Where a `Flatten` stands before it, `GlobalAveragePooling2D` takes any size "
    "but needs other weights; `keras.layers.Resizing` as first layer brings inputs to the old size."
)


def test_dense_behind_flatten_is_refused_with_both_shapes_and_ways_out():
    with pytest.raises(UnsupportedModelError) as caught:
        ks.with_input_shape(flattened((8, 8, 3)), (10, 10, 3))
    assert str(caught.value) == (
        "'scores' (Dense) takes (None, 144) in the model and would receive (None, 256), which it cannot take: expected "
        "axis -1 of input shape to have value 144, but received input with shape (None, 256). " + TO_ONE_SIZE
    )


def test_it_is_refused_with_open_sides_too():
    with pytest.raises(UnsupportedModelError) as caught:
        ks.with_input_shape(flattened((8, 8, 3)), (None, 8, 3))
    assert str(caught.value).startswith(
        "Sides can be open if the model takes other sizes, such as (16, 8, 3). 'scores' (Dense) takes (None, 144) in "
        "the model and would receive (None, 336)"
    )


def test_the_way_out_by_resizing_works():
    model = flattened((8, 8, 3))
    resizing = keras.Sequential([keras.Input((None, None, 3)), layers.Resizing(8, 8, name="resizing")])
    assert ks.join([resizing, model]).input_shape == (None, None, None, 3)


def with_first(make_layer, shape=(8, 8, 4), **options):
    inputs = keras.Input(shape, name="x", **options)
    return keras.Model(inputs, make_layer(inputs), name="model")


@pytest.mark.parametrize(
    "name, make, reason",
    [
        ("fixed", layers.Reshape((64, 4), name="fixed"), r"target_shape=\(64, 4\)"),
        ("norm", layers.LayerNormalization(axis=(1, 2, 3), name="norm"), ""),
        (
            "reshape",
            lambda x: ops.reshape(x, (-1, 256)),
            r"it would mix the samples of a batch: 2 become 8\. Replace it",
        ),
        ("add", lambda x: x + np.ones((8, 8, 4), "float32"), ""),
        ("both", lambda x: layers.Concatenate(name="both")([x, layers.Resizing(8, 8)(x)]), ""),
    ],
)
def test_whatever_has_one_size_only_is_refused_by_name(name, make, reason):
    model = with_first(make)
    for shape in [(16, 16, 4), (None, None, 4)]:
        with pytest.raises(UnsupportedModelError, match=rf"'{name}(_\d+)?' \(\w+\) takes \(None, 8, 8, 4\).*{reason}"):
            ks.with_input_shape(model, shape)


def test_reshapes_between_samples_are_no_mistake():
    """Windows of an image, as in a Swin transformer, are rows of their own."""
    model = with_first(lambda x: ops.mean(ops.reshape(x, (-1, 4, 8, 4)), axis=(1, 2)))
    result = ks.with_input_shape(model, (16, 8, 4))
    assert result(np.ones((3, 16, 8, 4), "float32")).shape == (12, 4)


class Lying(layers.Layer):
    """A table that fits one size; the shape that it declares hides that."""

    def build(self, shape):
        self.table = self.add_weight(shape=shape[1:], name="table")

    def call(self, x):
        return x + self.table

    def compute_output_shape(self, shape):
        return shape


def test_a_layer_that_declares_any_size_is_refused_at_once():
    model = with_first(Lying(name="lying"))
    for shape in [(16, 16, 4), (None, None, 4)]:
        with pytest.raises(UnsupportedModelError, match=r"'lying' \(Lying\) "):
            ks.with_input_shape(model, shape)


def test_a_layer_called_by_keyword_is_adapted_too():
    model = with_first(lambda x: layers.Conv2D(2, 3, name="conv")(inputs=x))
    assert ks.with_input_shape(model, (10, 9, 1)).output_shape == (None, 8, 7, 2)


OWN = (
    "Expected a shape without the batch for 'x', whose own is (8, 8, 4): positive whole numbers, or None for open sides"
)
DICT = (
    "'model' has one input, 'x'. Expected a shape without the batch, such as (320, 320, 3), or a dict from names of "
    "inputs to shapes"
)


@pytest.mark.parametrize(
    "shape, message",
    [
        (16, OWN),
        ((0, 8, 4), OWN),
        ((-8, 8, 4), OWN),
        ((8.0, 8, 4), OWN),
        ((True, 8, 4), OWN),
        ("8, 8, 4", OWN),
        (None, OWN),
        ([(8, 8, 4)], OWN),
        ({"x": 16}, OWN),
        ({}, DICT),
        ({"image": (8, 8, 4)}, DICT),
        ({"x": (8, 8, 4), "y": (8,)}, DICT),
    ],
)
def test_what_is_no_shape_is_refused(shape, message):
    with pytest.raises(SplitError) as caught:
        ks.with_input_shape(with_first(layers.ReLU()), shape)
    given = shape["x"] if message == OWN and isinstance(shape, dict) else shape
    assert str(caught.value) == f"{message}; got {given!r}."


def test_several_inputs_need_their_names():
    x, y = keras.Input((4,), name="x"), keras.Input((4,), name="y")
    with pytest.raises(SplitError, match=r"'sum' has the inputs 'x' and 'y'\. Expected .* got \(8,\)\."):
        ks.with_input_shape(keras.Model([x, y], x + y, name="sum"), (8,))


def test_another_number_of_dimensions_is_for_the_layers_to_judge():
    model = with_first(layers.Dense(3, name="dense"), (4,))
    assert ks.with_input_shape(model, (5, 4)).output_shape == (None, 5, 3)
    with pytest.raises(UnsupportedModelError, match=r"'conv' \(Conv2D\) .* would receive \(None, 8, 8\).*min_ndim=4"):
        ks.with_input_shape(with_first(layers.Conv2D(2, 3, name="conv")), (8, 8))


def test_an_interpolation_has_a_name():
    with pytest.raises(SplitError, match=r"one of 'bilinear', 'bicubic', .* or None; got 'area'\."):
        ks.with_input_shape(with_first(layers.ReLU()), (16, 16, 4), resize="area")
