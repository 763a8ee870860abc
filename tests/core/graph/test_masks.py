"""Masks are edges, including those that Keras only propagates when the model runs."""

import keras
import numpy as np
import pytest
from comparing import same_bits

import kerassplit as ks
from kerassplit.graph.reading import read_graph

layers = keras.layers
IDS = np.array([[1, 2, 3, 0, 0, 0], [4, 5, 0, 0, 0, 0]], "int32")


def embedded():
    ids = keras.Input((6,), dtype="int32", name="ids")
    return ids, layers.Embedding(10, 8, mask_zero=True, name="embedding")(ids)


def check(model, at, crossing):
    """Checks that a cut carries what it says, and that stages compute the same, even if only arrays cross."""
    split = ks.split(model, at, allow_crossing=True)
    assert sorted(tensor.name for tensor in split.crossings[0].tensors) == sorted(crossing)
    assert split.verify(IDS).check().identical
    expected = model(IDS)
    assert same_bits(split(IDS), expected)
    np.testing.assert_allclose(split.predict(IDS), keras.ops.convert_to_numpy(expected), rtol=1e-5, atol=1e-6)


def test_a_mask_that_a_layer_takes_crosses_and_is_named():
    ids, x = embedded()
    model = keras.Model(ids, layers.LSTM(3, name="lstm")(layers.Dense(4, name="mix")(x)))
    mask = next(tensor.name for tensor in read_graph(model).tensors if tensor.name.startswith("not_equal"))
    check(model, [["mix", mask]], ["mix", mask])
    check(model, ["mix"], ["mix", mask])


@pytest.mark.parametrize("keywords", [{"training": False}, {"initial_state": None}])
def test_a_mask_that_keras_leaves_out_of_its_record_crosses_too(keywords):
    ids, x = embedded()
    model = keras.Model(ids, layers.LSTM(3, name="lstm")(layers.Dense(4, name="mix")(x), **keywords))
    check(model, [["mix", "not_equal"]], ["mix", "not_equal"])


def test_the_masks_of_attention_cross():
    ids, x = embedded()
    attention = layers.MultiHeadAttention(2, 4, name="attention")
    model = keras.Model(ids, layers.GRU(3, name="gru")(attention(x, x, use_causal_mask=True), training=False))
    check(model, ["embedding"], ["embedding", "not_equal"])
    check(model, [["attention", "not_equal"]], ["attention", "not_equal"])


def test_layers_that_look_for_the_mask_on_the_tensor_itself_find_it_there(tmp_path):
    ids, x = embedded()
    x = layers.LayerNormalization(name="norm")(x)
    x = layers.Multiply(name="gated")([layers.MultiHeadAttention(2, 4, name="attention")(x, x), x])
    model = keras.Model(ids, layers.Dense(3, name="last")(x))
    check(model, ["norm"], ["norm", "not_equal"])
    check(model, [["norm", "not_equal"]], ["norm", "not_equal"])
    split = ks.split(model, [["norm", "not_equal"]])
    split.save(tmp_path / "out")
    loaded = ks.load(tmp_path / "out")
    assert same_bits(loaded(IDS), model(IDS))
    assert ks.verify(model, loaded, IDS).check().identical
    unmasked = split[1].model({"norm": model_at(model, "norm"), "not_equal": np.ones((2, 6), bool)})
    assert not same_bits(unmasked, model(IDS))


def model_at(model, name):
    return keras.ops.convert_to_numpy(ks.tap(model, name)(IDS)[name])


@pytest.mark.filterwarnings("ignore:.*Layer 'decoder' .* does not support masking")
def test_a_mask_between_two_nested_models_crosses():
    ids, x = embedded()
    encoder = keras.Model(ids, layers.Dense(4, name="mix")(x), name="encoder")
    y = keras.Input((6, 4), name="y")
    decoder = keras.Model(y, layers.LSTM(3, name="lstm")(y), name="decoder")
    outer = keras.Input((6,), dtype="int32", name="outer")
    model = keras.Model(outer, decoder(encoder(outer)))
    check(model, [["encoder", "encoder_not_equal"]], ["encoder/mix", "encoder_not_equal"])
    check(model, ["encoder"], ["encoder/mix", "encoder_not_equal"])


def test_a_mask_that_leaves_a_nested_model_crosses():
    ids, x = embedded()
    encoder = keras.Model(ids, layers.Dense(4, name="mix")(x), name="encoder")
    outer = keras.Input((6,), dtype="int32", name="outer")
    model = keras.Model(outer, layers.LSTM(3, name="lstm")(encoder(outer)))
    check(model, [["encoder", "encoder_not_equal"]], ["encoder/mix", "encoder_not_equal"])
    check(model, ["encoder/embedding"], ["encoder/embedding", "encoder_not_equal"])
    assert same_bits(ks.flatten(model)(IDS), model(IDS))


@pytest.mark.filterwarnings("ignore:Layer 'decoder' .* does not support masking")
def test_a_mask_that_enters_a_nested_model_crosses():
    y = keras.Input((6, 8), name="y")
    decoder = keras.Model(y, layers.LSTM(3, name="lstm")(layers.Dense(4, name="mix")(y)), name="decoder")
    ids, x = embedded()
    model = keras.Model(ids, decoder(x))
    mask = next(tensor.name for tensor in read_graph(model).tensors if tensor.name.startswith("not_equal"))
    check(model, ["decoder/mix"], ["decoder/mix", mask])
    check(model, ["embedding"], ["embedding", mask])
    assert same_bits(ks.flatten(model)(IDS), model(IDS))


def test_names_of_masks_survive_saving(tmp_path):
    ids, x = embedded()
    model = keras.Model(ids, layers.LSTM(3, name="lstm")(x, training=False))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert [tensor.name for tensor in read_graph(loaded).tensors] == ["ids", "embedding", "not_equal", "lstm"]
    assert [tensor.name for tensor in read_graph(model).tensors] == ["ids", "embedding", "not_equal", "lstm"]


def test_a_cut_that_takes_the_mask_from_a_loss_says_so():
    ids, x = embedded()
    model = keras.Model(ids, layers.Dense(2, name="logits")(layers.Dense(4, name="mix")(x)), name="tagger")
    message = (
        r"In 'tagger' a loss on 'logits' is masked. In 'tail' it is not: no layer there uses the mask. .*sample_weight"
    )
    with pytest.warns(UserWarning, match=message):
        ks.build_submodel(model, start="mix", name="tail")
    with pytest.warns(UserWarning, match="In 'stage_1' it is not"):
        ks.split(model, "mix")


def test_a_cut_before_a_layer_that_takes_the_mask_leaves_the_loss_masked():
    ids, x = embedded()
    tags = layers.Dense(2, name="tags")(layers.LSTM(3, return_sequences=True, name="lstm")(x))
    model = keras.Model(ids, tags)
    mask = next(tensor.name for tensor in read_graph(model).tensors if tensor.name.startswith("not_equal"))
    head, tail = ks.split(model, [["embedding", mask]])
    cut = head.run({"ids": IDS})
    labels = np.zeros((2, 6, 2), "float32")
    loss = keras.losses.MeanSquaredError()
    plain = {name: keras.ops.convert_to_numpy(value) for name, value in cut.items()}
    behind = tail.run(plain)["tags"]
    assert same_bits(loss(labels, behind), loss(labels, model(IDS)))
    assert not same_bits(loss(labels, behind), loss(labels, keras.ops.convert_to_numpy(behind)))


@keras.saving.register_keras_serializable("tests")
class Attending(layers.Layer):
    """Uses the mask on its input, like the `MultiHeadAttention` inside it."""

    def __init__(self, **options):
        super().__init__(**options)
        self.supports_masking = True
        self.attention = layers.MultiHeadAttention(2, 4, name="attention")

    def call(self, x, mask=None):
        return x + self.attention(x, x)


def attending():
    """The mask is computed after `mix`: nothing uses it earlier."""
    ids, x = embedded()
    x = layers.Dense(8, name="mix")(x)
    for number in range(2):
        x = Attending(name=f"attending{number}")(x)
    return keras.Model(ids, layers.Dense(3, name="last")(x), name="attending")


def flattened(model):
    return ks.flatten(model)


def traced(model):
    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__(name="subclassed")
            self.inner = model.layers[1:]

        def call(self, x):
            for layer in self.inner:
                x = layer(x)
            return x

    made = Subclassed()
    made(IDS)
    return ks.trace(made, IDS)


@pytest.mark.parametrize("again", [flattened, traced, lambda model: ks.build_submodel(model, end="last")])
def test_a_model_that_was_built_of_another_has_its_masks(again):
    model = attending()
    built = again(model)
    assert same_bits(built(IDS), model(IDS))
    for point in ("embedding", "mix", "attending0"):
        check(built, [point], [point, *ks.explain(built, point).also])
        assert same_bits(ks.split(built, point)(IDS), model(IDS))
