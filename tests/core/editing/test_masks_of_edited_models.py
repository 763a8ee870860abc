"""Masks in edited models: as Keras makes them when the same model is built by hand."""

import keras
import numpy as np
import pytest
from comparing import same_bits
from keras import layers, ops

import kerassplit as ks
from kerassplit.zoo.random_weights import randomize

pytestmark = pytest.mark.filterwarnings("ignore:Layer '.*' .* was passed an input with a mask:UserWarning")

TOKENS = np.array([[3, 1, 4, 0, 0], [5, 0, 0, 0, 0]], "int32")
SERIES = np.random.default_rng(0).normal(size=(2, 5, 3)).astype("float32")
SERIES[0, 3:] = SERIES[1, 1:] = 0.0


@keras.saving.register_keras_serializable("test_masks_of_edited_models")
class Drops(layers.Layer):
    """Drops masks."""

    def call(self, x):
        return x + 1.0

    def compute_mask(self, inputs, previous_mask):
        return None


class Inverts(layers.Layer):
    """Hands on the inverted mask."""

    def __init__(self, **options):
        super().__init__(**options)
        self.supports_masking = True

    def call(self, x):
        return x + 1.0

    def compute_mask(self, inputs, previous_mask):
        return None if previous_mask is None else ops.logical_not(previous_mask)


def attention(layer):
    return lambda x: layer(x, x)


ENDS = {
    "sequence": lambda: layers.GRU(3, return_sequences=True, name="end"),
    "pool": lambda: layers.GlobalAveragePooling1D(name="end"),
    "attention": lambda: attention(layers.MultiHeadAttention(1, 2, name="end")),
}


def built(start, middle, end, *between):
    """A model of these layers; `between` are called before the end."""
    x = keras.Input((5, 3), name="x") if start is None else keras.Input((5,), dtype="int32", name="x")
    y = x if start is None else start(x)
    y = middle(y)
    for one in between:
        y = one(y)
    return keras.Model(x, end(y), name="whole")


def embedding(mask_zero):
    return layers.Embedding(9, 3, mask_zero=mask_zero, name="table")


@pytest.mark.parametrize("end", ENDS)
def test_a_layer_that_makes_a_mask_is_inserted(end):
    end, new = ENDS[end](), layers.Masking(name="new")
    model = built(None, layers.Identity(name="same"), end)
    randomize(model, seed=1)
    edited = ks.insert(model, "same", new)
    by_hand = built(None, model.get_layer("same"), end, new)
    assert same_bits(edited(SERIES), by_hand(SERIES))
    assert not same_bits(edited(SERIES), model(SERIES))


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("new", ["carries", "drops", "inverts", "operation"])
def test_layers_that_carry_drop_and_change_masks_are_inserted(end, new):
    table, middle, end = embedding(True), layers.Activation("tanh", name="middle"), ENDS[end]()
    new = {"carries": layers.ReLU(), "drops": Drops(), "inverts": Inverts(), "operation": lambda x: x * 2}[new]
    model = built(table, middle, end)
    randomize(model, seed=1)
    assert same_bits(ks.insert(model, "middle", new)(TOKENS), built(table, middle, end, new)(TOKENS))
    assert same_bits(ks.insert(model, "table", new)(TOKENS), built(table, new, end, middle)(TOKENS))


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("before", [True, False])
def test_an_embedding_is_replaced_by_one_that_masks_and_by_one_that_does_not(end, before):
    table, middle, end = embedding(before), layers.Activation("tanh", name="middle"), ENDS[end]()
    model = built(table, middle, end)
    randomize(model, seed=1)
    edited = ks.replace(model, {"table": embedding(not before)})
    by_hand = built(edited.get_layer("table"), middle, end)
    assert same_bits(edited(TOKENS), by_hand(TOKENS))
    assert not same_bits(edited(TOKENS), model(TOKENS))


@pytest.mark.parametrize("end", ENDS)
def test_layers_that_make_and_drop_masks_are_removed(end):
    table, drops, end = embedding(True), Drops(name="drops"), ENDS[end]()
    model = built(table, drops, end)
    randomize(model, seed=1)
    assert same_bits(ks.remove(model, "drops")(TOKENS), built(table, layers.Identity(), end)(TOKENS))
    masking = layers.Masking(name="masking")
    model = built(None, masking, end)
    assert same_bits(ks.remove(model, "masking")(SERIES), built(None, layers.Identity(), end)(SERIES))


@pytest.mark.parametrize("end", ENDS)
def test_masks_go_through_nested_models_and_out_of_them(end):
    inner_x = keras.Input((5, 3), name="inner_x")
    inner_dense = layers.Dense(3, name="inner_dense")
    inner = keras.Model(inner_x, layers.Activation("tanh", name="inner_act")(inner_dense(inner_x)), name="inner")
    table, end = embedding(True), ENDS[end]()
    model = built(table, inner, end)
    randomize(model, seed=1)
    drops = Drops(name="drops")
    assert same_bits(ks.insert(model, "table", drops)(TOKENS), built(table, drops, end, inner)(TOKENS))
    assert same_bits(ks.insert(model, "inner", drops)(TOKENS), built(table, inner, end, drops)(TOKENS))
    edited = ks.insert(model, "inner/inner_dense", drops)
    assert same_bits(edited(TOKENS), built(table, inner_dense, end, drops, inner.get_layer("inner_act"))(TOKENS))
    edited = ks.replace(model, {"table": embedding(False)})
    assert same_bits(edited(TOKENS), built(edited.get_layer("table"), inner, end)(TOKENS))


def test_a_mask_that_only_some_users_see():
    table, drops = embedding(True), Drops(name="drops")
    one, other = layers.LSTM(3, name="one"), layers.LSTM(3, name="other")
    x = keras.Input((5,), dtype="int32", name="x")
    y = table(x)
    model = keras.Model(x, [one(y), other(y)])
    edited = ks.insert(model, "table", drops, into="other")
    y = table(x)
    assert same_bits(edited(TOKENS), keras.Model(x, [one(y), other(drops(y))])(TOKENS))


def test_a_mask_given_by_keyword_stays():
    x = keras.Input((5,), dtype="int32", name="x")
    table, lstm, act = embedding(False), layers.LSTM(3, name="lstm"), layers.Activation("tanh", name="act")
    mask = ops.greater(x, 3)
    model = keras.Model(x, lstm(act(table(x)), mask=mask))
    drops = Drops(name="drops")
    edited = ks.insert(model, "act", drops)
    assert same_bits(edited(TOKENS), keras.Model(x, lstm(drops(act(table(x))), mask=ops.greater(x, 3)))(TOKENS))
    edited = ks.replace(model, {"lstm": lambda old: layers.LSTM.from_config(old.get_config())})
    by_hand = keras.Model(x, edited.get_layer("lstm")(act(table(x)), mask=ops.greater(x, 3)))
    assert same_bits(edited(TOKENS), by_hand(TOKENS))
    assert same_bits(edited(TOKENS), model(TOKENS))


def test_masks_of_edited_models_are_saved(tmp_path):
    table, end = embedding(True), layers.GlobalAveragePooling1D(name="end")
    model = built(table, layers.Activation("tanh", name="middle"), end)
    randomize(model, seed=1)
    edited = ks.insert(model, "middle", layers.Masking(-1.0, name="new"))
    edited.save(tmp_path / "model.keras")
    assert same_bits(keras.saving.load_model(tmp_path / "model.keras")(TOKENS), edited(TOKENS))
    assert ks.split(edited, ["middle"]).verify(TOKENS).identical
