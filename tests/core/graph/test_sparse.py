"""Sparse tensors stay sparse across a cut, and dense ones dense."""

import keras
import numpy as np
import pytest
import scipy.sparse
from comparing import same_bits

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


@pytest.mark.parametrize("kind", ["csr_matrix", "csr_array", "coo_array", "csc_array", "dok_matrix", "dok_array"])
def test_sparse_arrays_of_scipy_are_taken_as_dense_ones(kind, tmp_path):
    x = keras.Input((6,), name="x")
    model = keras.Model(x, keras.layers.Dense(2, name="y")(keras.layers.Dense(3, name="h")(x)))
    dense = np.random.default_rng(2).integers(-1, 2, size=(300, 6)).astype("float32")
    sparse = getattr(scipy.sparse, kind)(dense)
    split = ks.split(model, "h")
    expected = split.predict(dense)
    assert same_bits(split.predict(sparse), expected)
    batches = [(rows[:200], rows[200:]) for rows in (sparse.tocsr(), dense)]
    assert same_bits(*(split.predict(iter(some)) for some in batches))
    written = split.predict(sparse, output=tmp_path / "y.npy")
    assert same_bits(written, expected)
    assert same_bits(split(sparse), split(dense))
    assert split.verify(sparse).ok
    features = ks.cache_features(split[0], sparse, tmp_path / "cache", shuffle=False, verbose=False)
    assert features.rows == 300


@pytest.mark.parametrize("kind", ["csr_array", "dok_matrix", "dok_array"])
def test_sparse_arrays_of_scipy_are_taken_in_every_structure(kind):
    a, b = keras.Input((6,), name="a"), keras.Input((6,), name="b")
    y = keras.layers.Dense(2, name="y")(keras.layers.Add(name="h")([a, b]))
    dense = [np.eye(3, 6, k, "float32") for k in (0, 1)]
    sparse = [getattr(scipy.sparse, kind)(one) for one in dense]
    for model in (keras.Model([a, b], y), keras.Model({"a": a, "b": b}, y)):
        split = ks.split(model, "h")
        for given in (dict(zip("ab", sparse, strict=True)), *([] if isinstance(split.inputs, dict) else [sparse])):
            assert same_bits(
                split(given), model(dense if isinstance(split.inputs, list) else {"a": dense[0], "b": dense[1]})
            )
            assert same_bits(split.predict(given), split.predict(dict(zip("ab", dense, strict=True))))


def test_runs_on_different_sparse_arrays_are_told_apart(tmp_path):
    x = keras.Input((6,), name="x")
    model = keras.Model(x, keras.layers.Dense(2, name="y")(keras.layers.Dense(3, name="h")(x)))
    split = ks.split(model, "h")
    one, other = (scipy.sparse.csr_array(np.eye(9, 6, k, "float32")) for k in (0, 1))
    split.predict(one, output=tmp_path / "y.npy")
    assert same_bits(split.predict(one, output=tmp_path / "y.npy", resume=True), split.predict(one))
    with pytest.raises(ks.SplitError, match="y.npy' exists already"):
        split.predict(other, output=tmp_path / "y.npy", resume=True)
