"""copy_weights=True: layers and variables of its own, with everything that the originals have learnt."""

import keras
import numpy as np
import pytest
from conftest import fingerprint, same_bits

import kerassplit as ks

layers = keras.layers


class TiedDense(keras.Layer):
    """Multiplies by the transposed embedding matrix of another layer."""

    def __init__(self, embedding, **options):
        super().__init__(**options)
        self.matrix = embedding.embeddings

    def call(self, x):
        return keras.ops.matmul(x, keras.ops.transpose(self.matrix))


def test_copies_have_the_values_and_no_variable_in_common():
    x = keras.Input((4,), name="x")
    shared = layers.Dense(4, name="shared")
    model = keras.Model(x, shared(layers.BatchNormalization(name="norm")(shared(x) + 1)))
    model.get_layer("norm").moving_mean.assign([1.0, 2.0, 3.0, 4.0])
    model.get_layer("norm").trainable = False
    before = fingerprint(model)
    copy = ks.build_submodel(model, copy_weights=True)
    data = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    assert same_bits(copy(data), model(data))
    assert len(copy.weights) == len(model.weights)
    assert not {id(variable) for variable in copy.variables} & {id(variable) for variable in model.variables}
    assert not copy.get_layer("norm").trainable
    copy.set_weights([np.zeros(variable.shape) for variable in copy.weights])
    assert not same_bits(copy(data), model(data))
    assert fingerprint(model) == before


def test_a_copied_nested_model_is_a_nested_model_of_its_own():
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="dense")], name="inner")
    x = keras.Input((4,))
    model = keras.Model(x, layers.Dense(2, name="last")(inner(x)))
    copy = ks.build_submodel(model, copy_weights=True)
    data = np.ones((2, 4), "float32")
    assert same_bits(copy(data), model(data))
    assert copy.get_layer("inner") is not inner
    inner.get_layer("dense").kernel.assign(np.zeros((4, 3)))
    assert not same_bits(copy(data), model(data))


def test_copies_have_their_adapted_statistics_and_lambdas():
    normalize = layers.Normalization(name="normalize")
    normalize.adapt(np.random.default_rng(0).normal(3, 2, (50, 4)))
    x = keras.Input((4,), name="x")
    model = keras.Model(x, layers.Lambda(lambda value: value * 2, name="double")(normalize(x)[:, 1:]))
    data = np.random.default_rng(1).normal(size=(3, 4)).astype("float32")
    assert same_bits(ks.build_submodel(model, copy_weights=True)(data), model(data))


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="Keras looks up vocabularies with TensorFlow")
def test_copies_have_their_vocabulary():
    lookup = layers.IntegerLookup(name="lookup")
    lookup.adapt(np.array([[5], [7], [9]]))
    x = keras.Input((2,), dtype="int64", name="x")
    model = keras.Model(x, layers.Embedding(6, 3, name="embedding")(lookup(x)))
    data = np.array([[5, 9], [1, 7]])
    assert same_bits(ks.build_submodel(model, copy_weights=True)(data), model(data))


def test_copies_that_would_untie_a_variable_are_refused():
    x = keras.Input((4,), dtype="int32", name="x")
    embedding = layers.Embedding(6, 3, name="embedding")
    embedded = embedding(x)
    model = keras.Model(x, TiedDense(embedding, name="tied")(embedded))
    message = "'embedding' and 'tied' share the variable 'embedding/embeddings', and copies of these layers would not"
    with pytest.raises(ks.UnsupportedModelError, match=message):
        ks.build_submodel(model, copy_weights=True)


def test_training_a_copy_leaves_the_original_as_it_was(small):
    """JAX deletes the arrays of the weights that it trains."""
    before = fingerprint(small)
    copy = ks.flatten(small, copy_weights=True)
    copy.compile("adam", "mse")
    generator = np.random.default_rng(0)
    x = [generator.normal(size=shape).astype("float32") for shape in ((8, 8, 8, 3), (8, 4))]
    y = {"score": np.ones((8, 3), "float32"), "pooled": np.ones((8, 4), "float32")}
    copy.fit(x, y, verbose=0)
    assert fingerprint(small) == before
