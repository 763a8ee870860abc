"""Sparse tensors stay sparse across a cut, and dense ones dense."""

import keras
import numpy as np
import pytest
from conftest import same_bits

import kerassplit as ks


def test_a_dense_tensor_that_keras_takes_for_sparse_gets_a_dense_input():
    x = keras.Input((4,), name="x")
    half = x * 0.5
    model = keras.Model(x, keras.layers.Dense(2)(keras.ops.relu(half)))
    data = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    for point in ks.split_points(model):
        split = ks.split(model, point)
        assert not split[1].model.input.sparse
        assert same_bits(split(data), model(data))


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="makes a tf.SparseTensor")
def test_a_sparse_input_that_both_sides_use_stays_sparse():
    import tensorflow as tf

    x = keras.Input((4,), sparse=True, name="x")
    h = keras.layers.Dense(3, name="h")(x)
    model = keras.Model(x, keras.layers.Dense(2, name="y")(h) + keras.layers.Dense(2, name="skip")(x))
    data = tf.sparse.from_dense(np.array([[0, 1, 0, 2], [3, 0, 0, 0]], "float32"))
    split = ks.split(model, "h", allow_crossing=True)
    assert {name: symbol.sparse for name, symbol in split[1].model.input.items()} == {"h": False, "x": True}
    assert same_bits(split(data), model(data))
