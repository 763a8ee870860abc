"""remove: layers that a model can do without."""

import re

import keras
import pytest
from applications import OLD_KERAS
from comparing import same_bits
from keras import layers, ops
from random_models import data_for

import kerassplit as ks


def tower():
    x = keras.Input((3,), name="tower_x")
    y = layers.Dropout(0.5, name="drop")(layers.Dense(3, name="inner")(x))
    return keras.Model(x, layers.Add(name="join")([x, y]), name="tower")


def whole():
    """Dropouts outside and inside a nested model that is called twice, and as the last layer."""
    x = keras.Input((3,), name="x")
    inner = tower()
    y = layers.Dropout(0.5, name="first_drop")(inner(x))
    y = layers.Dense(2, name="last")(inner(y))
    return keras.Model(x, layers.Dropout(0.5, name="last_drop")(y), name="whole")


def names(model):
    return [one.name for one in model.layers]


def test_all_that_used_the_output_get_the_input():
    x = keras.Input((3,), name="x")
    a = layers.Dense(3, name="a")(x)
    b = layers.ReLU(name="b")(a)
    model = keras.Model(x, [layers.Dense(3, name="c")(b), layers.Dense(3, name="d")(b), b])
    data = data_for(model)[0]
    edited = ks.remove(model, "b")
    a = model.get_layer("a")(data)
    assert same_bits(edited(data), [model.get_layer("c")(a), model.get_layer("d")(a), a])
    assert names(edited) == ["x", "a", "c", "d"]


@pytest.mark.parametrize("what", [layers.Dropout, ["*drop", "tower/drop"]])
def test_a_class_stands_for_its_layers_at_any_depth(what):
    model = whole()
    edited = ks.remove(model, what)
    assert not any("drop" in name for name in ks.tensors(edited))
    assert names(edited) == ["x", "inner", "join", "last"]
    data = data_for(model)[0]
    assert same_bits(edited(data), model(data))
    assert same_bits(edited(data, training=True), model(data))


def test_outside_of_nested_models_these_stay_whole():
    assert names(ks.remove(whole(), ["*drop"])) == ["x", "tower", "last"]


def test_single_calls():
    model = whole()
    edited = ks.remove(model, "tower@1/drop")
    assert [name for name in ks.tensors(edited) if "drop" in name] == ["drop", "first_drop", "last_drop"]
    relu = layers.ReLU(name="relu")
    x = keras.Input((3,), name="x")
    model = keras.Model(x, relu(layers.Dense(3, name="a")(relu(x))))
    data = data_for(model)[0]
    assert same_bits(ks.remove(model, "relu@0")(data), ops.relu(model.get_layer("a")(data)))
    assert same_bits(ks.remove(model, "relu@1")(data), model.get_layer("a")(ops.relu(data)))
    assert same_bits(ks.remove(model, "relu")(data), model.get_layer("a")(data))


def test_a_nested_model():
    model = whole()
    data = data_for(model)[0]
    assert same_bits(ks.remove(model, "tower")(data), model.get_layer("last")(data))
    assert same_bits(ks.remove(model, "tower@0")(data), model.get_layer("last")(model.get_layer("tower")(data)))


@pytest.mark.skipif(OLD_KERAS, reason="Keras 3.13 builds no model in which an input is an output")
def test_everything_between_the_inputs_and_outputs():
    x = keras.Input((3,), name="x")
    model = keras.Model(x, layers.ReLU(name="b")(layers.ReLU(name="a")(x)))
    edited = ks.remove(model, "*")
    data = data_for(model)[0]
    assert same_bits(edited(data), data)
    assert names(edited) == ["x"]


def test_a_layer_of_a_sequential_model():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(3), layers.Dropout(0.1), layers.Dense(1)], name="chain")
    edited = ks.remove(model, layers.Dropout)
    data = data_for(model)[0]
    assert same_bits(edited(data), model(data))
    assert edited.name == "chain"


def test_what_changes_the_shape_is_refused_with_both_shapes():
    model = whole()
    with pytest.raises(ks.UnsupportedModelError) as caught:
        ks.remove(model, "last")
    assert str(caught.value) == (
        "'last' (Dense) takes (None, 3) float32 and returns (None, 2) float32, so it cannot be removed: only a layer "
        "that returns what it takes, one tensor of the same shape and dtype, can be bypassed. `kerassplit.replace` "
        "puts another layer in its place."
    )
    with pytest.raises(
        ks.UnsupportedModelError,
        match=re.escape(
            "'tower@0/join' (Add) takes (None, 3) float32, (None, 3) float32 and returns (None, 3) float32"
        ),
    ):
        ks.remove(model, "tower/join")
    x = keras.Input((3,), name="x")
    cast = keras.Model(x, ops.cast(layers.ReLU(dtype="float16", name="relu")(x), "float32"))
    with pytest.raises(
        ks.UnsupportedModelError, match=re.escape("takes (None, 3) float32 and returns (None, 3) float16")
    ):
        ks.remove(cast, "relu")


def test_operations_can_be_removed_too():
    x = keras.Input((3,), name="x")
    y = ops.abs(x) * 2
    model = keras.Model(x, layers.Dense(1, name="last")(y))
    data = data_for(model)[0]
    assert same_bits(ks.remove(model, ["absolute*", "multiply*"])(data), model.get_layer("last")(data))


def test_a_name_that_the_model_does_not_have_is_refused():
    with pytest.raises(ks.UnknownTensorError, match=re.escape("No tensor of model 'whole' matches 'dropout*'")):
        ks.remove(whole(), "dropout*")
    with pytest.raises(ks.SplitError, match="'whole' has no layer of the class GaussianNoise."):
        ks.remove(whole(), layers.GaussianNoise)
    with pytest.raises(ks.SplitError, match="Name layers by strings, globs, keras.Layer objects or classes; got 3 of"):
        ks.remove(whole(), 3)


def test_at_least_one_layer_is_named():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    with pytest.raises(
        ks.SplitError, match=r"No layer is named: give at least one name, glob, layer or class of layers\."
    ):
        ks.remove(model, [])
