"""Features of a frozen head on disk: whatever happens, they are those of the head, each row once."""

import contextlib
import json
import os
import random
import shutil
import signal
from pathlib import Path

import keras
import ml_dtypes
import numpy as np
import pytest
from fuzzing import altered, damaged, fuzzed
from hypothesis import given, settings, strategies as st
from safetensors import safe_open
from safetensors.numpy import save

import kerassplit as ks
from kerassplit.storage.manifest import checksum
from kerassplit.training.features.cache import read_features_manifest
from kerassplit.training.features.identity import differing
from kerassplit.training.features.shards import shards_in

ROWS = 100
POSIX = pytest.mark.skipif(os.name == "nt", reason="signals, forks and limits of POSIX")
NEEDS_TENSORFLOW = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="tf.data")


def build(name="tiny", seed=5):
    """A head and a tail: `norm` is in the middle. Layers without names get new ones each time."""
    keras.utils.set_random_seed(seed)
    x = inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(4, 3, activation="relu")(x)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.Dropout(0.5)(x)
    x = keras.layers.Flatten()(x)
    return keras.Model(inputs, keras.layers.Dense(10, "softmax", name="score")(x), name=name)


@pytest.fixture(scope="module")
def head():
    return ks.build_submodel(build(), end="norm")


@pytest.fixture(scope="module")
def digits():
    """A hundred handwritten digits, 8×8 pixels from 0 to 16, with their labels."""
    images, labels = pytest.importorskip("sklearn.datasets").load_digits(return_X_y=True)
    return images[:ROWS].reshape(-1, 8, 8, 1).astype("float32"), labels[:ROWS]


@pytest.fixture(scope="module")
def expected(head, digits):
    return head.predict(digits[0], verbose=0)


def every(features):
    """Returns all rows of a cache, in the order of the data."""
    return features.with_batches(features.rows, shuffle=False)[0]


class OwnBatches(keras.utils.PyDataset):
    def __init__(self, *arrays):
        super().__init__()
        self.arrays = arrays

    def __len__(self):
        return -(-len(self.arrays[0]) // 32)

    def __getitem__(self, index):
        return tuple(array[index * 32 : index * 32 + 32] for array in self.arrays)


def batches(*arrays, size=32):
    for start in range(0, len(arrays[0]), size):
        yield tuple(array[start : start + size] for array in arrays)


@pytest.mark.parametrize(("storage", "tolerance"), [("float32", 0), ("float16", 2**-11), ("bfloat16", 2**-8)])
def test_features_are_those_of_the_head_within_the_precision_of_the_storage(
    head, digits, expected, tmp_path, storage, tolerance
):
    features = ks.cache_features(head, digits, tmp_path / "cache", storage=storage)
    given, labels = every(features)
    assert given.dtype == "float32"
    np.testing.assert_allclose(given, expected, rtol=tolerance + 1e-5, atol=1e-6)
    if tolerance:
        exact = every(ks.cache_features(head, digits, tmp_path / "exact"))[0]
        assert 0 < np.max(np.abs(given - exact) / np.maximum(np.abs(exact), 1e-3)) <= tolerance
        assert features.row_bytes < 320 < 4 * 6 * 6 * 4
    np.testing.assert_array_equal(labels, digits[1])
    assert labels.dtype == ("int32" if keras.backend.backend() == "jax" else "int64")


def test_data_comes_as_arrays_and_as_anything_that_gives_batches(head, digits, expected, tmp_path):
    images, labels = digits
    sources = {
        "arrays": (images, labels),
        "tensors": tuple(map(keras.ops.convert_to_tensor, digits)),
        "lists": [(images[:50], labels[:50]), (images[50:], labels[50:])].__iter__(),
        "float64": (images.astype("float64"), labels),
        "PyDataset": OwnBatches(images, labels),
        "generator": batches(images, labels),
        "lists of two": map(list, batches(images, labels)),
    }
    for name, data in sources.items():
        given, there = every(ks.cache_features(head, data, tmp_path / name))
        np.testing.assert_allclose(given, expected, rtol=1e-5, atol=1e-6, err_msg=name)
        np.testing.assert_array_equal(there, labels, err_msg=name)


@NEEDS_TENSORFLOW
def test_data_comes_as_a_tf_data_dataset(head, digits, expected, tmp_path, capsys):
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices(digits).batch(32)
    given, labels = every(ks.cache_features(head, data, tmp_path / "cache"))
    np.testing.assert_allclose(given, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(labels, digits[1])
    assert "at most 128 rows × 584 B = 73.0 KiB as float32" in capsys.readouterr().err
    with pytest.raises(ks.SplitError, match=r"The data never ends, so it cannot be cached. Leave out `.repeat\(\)`"):
        ks.cache_features(head, data.repeat(), tmp_path / "endless")
    with pytest.raises(ks.SplitError, match=r"Single samples need to be put into batches first \(`.batch\(32\)`\)"):
        ks.cache_features(head, data.unbatch(), tmp_path / "single")
    with pytest.raises(ks.SplitError, match=r"holds values of type object. Expected numbers: turn text into numbers"):
        ks.cache_features(head, data.map(lambda x, y: (x, tf.strings.as_string(y))), tmp_path / "texts")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache"]


def test_targets_and_weights_keep_their_structure(head, digits, tmp_path):
    images, labels = digits
    targets = {"digit": labels, "more": [labels > 4, {"one hot": np.eye(10)[labels]}]}
    features = ks.cache_features(head, (images, targets, labels / 10), tmp_path / "cache", seed=1)
    for batch in (every(features), features[1]):
        _, there, weights = batch
        assert list(there) == ["digit", "more"]
        assert isinstance(there["more"], tuple)  # as of tf.data: it takes a list for one tensor
        np.testing.assert_array_equal(there["more"][0], there["digit"] > 4)
        np.testing.assert_array_equal(there["more"][1]["one hot"], np.eye(10)[there["digit"]])
        np.testing.assert_allclose(weights, there["digit"] / 10, rtol=1e-6)
    assert isinstance(every(ks.cache_features(head, images, tmp_path / "alone")), np.ndarray)


def test_several_features_come_back_by_the_names_of_their_tensors(small, tmp_path):
    generator = np.random.default_rng(0)
    image, extra = generator.normal(size=(20, 8, 8, 3)).astype("float32"), np.ones((20, 4))
    head = ks.tap(small, ["block1_out", "both"])
    features, count = every(ks.cache_features(head, ([image, extra], np.arange(20)), tmp_path / "cache"))
    assert list(features) == ["block1_out", "both"]
    for name, value in head.predict([image, extra], verbose=0).items():
        np.testing.assert_allclose(features[name], value, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(count, np.arange(20))
    split = ks.split(small, "block1_out")
    stage = ks.cache_features(split[0], image, tmp_path / "stage")
    np.testing.assert_array_equal(every(stage), features["block1_out"])


def test_features_that_are_no_floating_point_numbers_are_stored_as_they_are(tmp_path):
    x = keras.Input((4,), name="x")
    head = keras.Model(x, {"place": keras.ops.argmax(x, axis=-1), "large": keras.ops.greater(x, 0.5)}, name="signs")
    rows = np.random.default_rng(0).uniform(size=(10, 4)).astype("float32")
    features = every(ks.cache_features(head, rows, tmp_path / "cache", storage="bfloat16"))
    np.testing.assert_array_equal(features["place"], rows.argmax(-1))
    assert features["place"].dtype.kind == "i"
    np.testing.assert_array_equal(features["large"], rows > 0.5)
    assert features["large"].dtype == bool


def test_half_precision_features_are_given_back_as_the_tail_takes_them(tmp_path):
    x = keras.Input((4,), name="x")
    dense = keras.layers.Dense(3, dtype="mixed_bfloat16", name="narrow")(x)
    head = keras.Model(x, dense, name="narrow")
    tail = keras.Sequential([keras.Input((3,), dtype="bfloat16", name="in"), keras.layers.Dense(1, name="out")])
    rows = np.random.default_rng(0).normal(size=(10, 4)).astype("float32")
    features = ks.cache_features(head, (rows, rows[:, :1]), tmp_path / "cache")
    assert every(features)[0].dtype.name == "bfloat16"
    assert features.row_bytes < 3 * 4 + 4 + 60
    tail.compile("sgd", "mse")
    tail.fit(features, verbose=0)


def test_each_epoch_has_an_order_of_its_own_that_depends_on_the_seed_only(head, digits, tmp_path):
    features = ks.cache_features(head, (digits[0], np.arange(ROWS)), tmp_path / "cache", seed=7)

    def orders(dataset, epochs=3):
        return [[tuple(batch[1]) for batch in dataset] for _ in range(epochs)]

    first = orders(features)
    assert [len(batch) for batch in first[0]] == [32, 32, 32, 4]
    for epoch in first:
        assert sorted(row for batch in epoch for row in batch) == list(range(ROWS))
    assert len({sum(epoch, ()) for epoch in first}) == 3
    random.seed(1)
    again = ks.cache_features(head, (digits[0], np.arange(ROWS)), tmp_path / "cache", seed=7)
    assert orders(again) == first
    assert orders(features.with_batches()) == first
    assert orders(features.with_batches(seed=8)) != first
    other = orders(features.with_batches(10))
    assert [sum(epoch, ()) for epoch in other] == [sum(epoch, ()) for epoch in first]
    assert orders(features.with_batches(shuffle=False))[2][1] == tuple(range(32, 64))
    keras.utils.set_random_seed(3)
    one = orders(ks.cache_features(head, (digits[0], np.arange(ROWS)), tmp_path / "cache"))
    keras.utils.set_random_seed(3)
    assert orders(ks.cache_features(head, (digits[0], np.arange(ROWS)), tmp_path / "cache")) == one


def test_fit_takes_the_batches_in_the_order_of_the_cache_whatever_it_would_shuffle(head, digits, tmp_path):
    features = ks.cache_features(head, digits, tmp_path / "cache", seed=7)
    same = features.with_batches()
    order = [batch for _ in range(3) for batch in same]

    def tail():
        keras.utils.set_random_seed(1)
        model = keras.Sequential(
            [keras.Input((6, 6, 4), name="in"), keras.layers.Flatten(name="flat"), keras.layers.Dense(10, name="score")]
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
        return model

    by_fit, by_hand = tail(), tail()
    random.seed(99)
    by_fit.fit(features, epochs=2, verbose=0)
    by_fit.evaluate(features.with_batches(shuffle=False), verbose=0)
    by_fit.fit(features, epochs=1, verbose=0)
    for x, y in order:
        by_hand.train_on_batch(x, y)
    for ours, theirs in zip(by_fit.weights, by_hand.weights, strict=True):
        ours, theirs = map(keras.ops.convert_to_numpy, (ours, theirs))
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_cache_that_fits_is_used_and_says_nothing(head, digits, tmp_path, capsys, monkeypatch):
    first = ks.cache_features(head, digits, tmp_path / "cache")
    said = capsys.readouterr().err
    assert said.startswith(
        f"Caching 'tiny_to_norm' in '{tmp_path / 'cache'}': 100 rows × 584 B = 57.0 KiB as float32; "
    )
    assert said.endswith(" are free.\n")
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
    assert sorted(before) == ["features-000000.safetensors", "features.json"]
    for options in ({}, {"batch_size": 7, "shuffle": False, "seed": 3}, {"overwrite": True}):
        again = ks.cache_features(head, digits, tmp_path / "cache", **options)
        np.testing.assert_array_equal(every(again)[0], every(first)[0])
    rebuilt = ks.build_submodel(build(), end="norm")  # Keras gives its layers other names
    assert [layer.name for layer in rebuilt.layers] != [layer.name for layer in head.layers]
    ks.cache_features(rebuilt, digits, tmp_path / "cache")
    rebuilt.trainable = False
    ks.cache_features(rebuilt, digits, str(tmp_path / "cache"))
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()} == before
    assert capsys.readouterr().err == ""
    ks.cache_features(head, digits, tmp_path / "quiet", verbose=False)
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    ks.cache_features(head, digits, tmp_path / "shown", verbose=True)
    assert "Caching tiny_to_norm " in capsys.readouterr().err
    assert repr(first).startswith("<FeatureDataset: 100 rows in 4 batches of 32, 57.")


def twice(inputs):
    return 2 * inputs


def test_a_cache_of_something_else_is_refused_with_what_differs(head, digits, tmp_path):
    images, labels = digits
    place = tmp_path / "cache"
    first = every(ks.cache_features(head, digits, place))

    def refused(because, head=head, data=digits, **options):
        with pytest.raises(ks.StoreError) as error:
            ks.cache_features(head, data, place, **options)
        message = str(error.value)
        assert message.startswith(f"'{place}' holds features of something else: ")
        assert because in message
        assert message.endswith(". Pass overwrite=True to replace them, or name another directory.")
        assert error.value.path == str(place)

    other = ks.build_submodel(build(seed=6), end="norm")
    refused("the head has other weights.", head=other)
    statistics = ks.build_submodel(build(), end="norm")
    norm = statistics.get_layer("norm")
    norm.moving_mean.assign(norm.moving_mean + 0.1)
    refused("the head has other weights.", head=statistics)
    x = keras.Input((8, 8, 1))
    refused(
        "the head has other layers; the head has other weights",
        head=keras.Model(x, keras.layers.Conv2D(4, 3, name="c")(x), name="other"),
    )
    changed = images.copy()
    changed[77] += 1
    refused("the data has other 'inputs'.", data=(changed, labels))
    refused("the data has other 'targets'.", data=(images, labels[::-1]))
    refused("the data had 100 rows, and has 90 rows.", data=(images[:90], labels[:90]))
    refused("a row of the targets was scalar int64, and is scalar float32.", data=(images, labels.astype("float32")))
    refused("a row of the sample weights was missing, and is scalar int64.", data=(images, labels, labels))
    refused("the preprocessing was none, and is test_feature_cache.twice", preprocess=twice)
    refused("the storage was float32, and is float16.", storage="float16")
    refused("repeats was 1, and is 2", repeats=2, preprocess=twice)
    np.testing.assert_array_equal(every(ks.cache_features(head, digits, place))[0], first[0])
    replaced = every(ks.cache_features(head, (changed, labels), place, overwrite=True))
    assert np.flatnonzero((replaced[0] != first[0]).any((1, 2, 3))).tolist() == [77]
    refused("the data has other 'inputs'.")
    np.testing.assert_array_equal(every(ks.cache_features(head, (changed, labels), place))[0], replaced[0])


@NEEDS_TENSORFLOW
def test_a_head_with_another_vocabulary_is_another_head(tmp_path):
    def looking_up(words):
        lookup = keras.layers.IntegerLookup(name="lookup")
        lookup.adapt(np.array(words)[:, None])
        x = keras.Input((1,), dtype="int64", name="x")
        return keras.Model(x, lookup(x), name="words")

    rows = np.array([[5], [9]])
    ks.cache_features(looking_up([5, 7, 9]), rows, tmp_path / "cache")
    ks.cache_features(looking_up([5, 7, 9]), rows, tmp_path / "cache")
    with pytest.raises(ks.StoreError, match="the head has other weights"):
        ks.cache_features(looking_up([9, 9, 5, 4]), rows, tmp_path / "cache")


def test_preprocessing_that_changes_under_its_name_is_noticed(head, digits, tmp_path):
    factor = 2.0

    def scaled(inputs):
        return factor * inputs

    ks.cache_features(head, digits, tmp_path / "cache", preprocess=scaled)
    factor = 3.0
    with pytest.raises(ks.StoreError, match="the preprocessing gives other values for the same rows"):
        ks.cache_features(head, digits, tmp_path / "cache", preprocess=scaled)
    factor = 2.0
    ks.cache_features(head, digits, tmp_path / "cache", preprocess=scaled)


def test_a_stream_of_something_else_is_refused(head, digits, tmp_path):
    images, labels = digits
    first = every(ks.cache_features(head, batches(images, labels), tmp_path / "cache"))
    again = every(ks.cache_features(head, batches(images, labels, size=9), tmp_path / "cache"))  # in other batches
    np.testing.assert_array_equal(again[0], first[0])
    with pytest.raises(
        ks.StoreError, match="the first rows of the data have other 'inputs' and 'targets' .if the data"
    ):
        ks.cache_features(head, batches(images[::-1], labels[::-1]), tmp_path / "cache")
    changed = ks.cache_features(head, batches(images[::-1], labels[::-1], size=9), tmp_path / "cache", overwrite=True)
    np.testing.assert_array_equal(every(changed)[1], labels[::-1])  # none was lost for looking at the first ones
    ks.cache_features(head, OwnBatches(images, labels), tmp_path / "counted")
    with pytest.raises(ks.StoreError, match="the data had 4 batches of 32 rows, and has 3 batches of 32 rows"):
        ks.cache_features(head, OwnBatches(images[:90], labels[:90]), tmp_path / "counted")


def test_a_stream_that_has_become_uneven_is_refused_with_the_rows(head, digits, tmp_path):
    images, labels = digits
    ks.cache_features(head, batches(images, labels, size=9), tmp_path / "cache")
    uneven = ([images[:5], labels[:5]], [images[5:9], labels[5:9, None]])
    with pytest.raises(ks.SplitError, match="the first rows of the data have other|The data changes its shapes"):
        ks.cache_features(head, iter(uneven), tmp_path / "cache")


def test_the_order_of_the_keys_of_a_dict_does_not_matter(head, digits, tmp_path):
    images, labels = digits

    def pairs(order, turned):
        for x, y in batches(images, labels):
            yield x, {key: y if key == "digit" else -y for key in order}
            order = order[::-1] if turned else order

    first = ks.cache_features(head, pairs(["digit", "minus"], turned=True), tmp_path / "cache")
    again = ks.cache_features(head, pairs(["minus", "digit"], turned=False), tmp_path / "cache")
    for features in (first, again):
        targets = every(features)[1]
        np.testing.assert_array_equal(targets["digit"], labels)
        np.testing.assert_array_equal(targets["minus"], -labels)


def test_the_same_rows_in_other_batches_are_the_same_data(head, digits, tmp_path):
    class Batches(OwnBatches):
        def __init__(self, size, rows=ROWS):
            super().__init__(*(array[:rows] for array in digits))
            self.size = size

        def __len__(self):
            return -(-len(self.arrays[0]) // self.size)

        def __getitem__(self, index):
            return tuple(array[index * self.size : (index + 1) * self.size] for array in self.arrays)

    first = every(ks.cache_features(head, Batches(32), tmp_path / "cache"))
    for size in (16, 50, ROWS):
        again = every(ks.cache_features(head, Batches(size), tmp_path / "cache"))
        np.testing.assert_array_equal(again[0], first[0])
    with pytest.raises(ks.StoreError, match="the data had 4 batches of 32 rows, and has 4 batches of 20 rows"):
        ks.cache_features(head, Batches(20, rows=80), tmp_path / "cache")


def test_keras_takes_lists_of_features_and_of_targets(digits, tmp_path):
    images, labels = digits
    x = keras.Input((8, 8, 1), name="x")
    twice = [keras.layers.Rescaling(2.0, name="twice")(x), keras.layers.Rescaling(3.0, name="thrice")(x)]
    head = keras.Model(x, twice, name="both")
    pair = [keras.Input((8, 8, 1), name="a"), keras.Input((8, 8, 1), name="b")]
    both = keras.layers.Add(name="sum")(pair)
    tail = keras.Model(pair, both)
    alone = ks.cache_features(head, images, tmp_path / "alone", shuffle=False)
    np.testing.assert_allclose(tail.predict(alone, verbose=0), 5 * images)
    tops = [keras.layers.Dense(1, name=name)(keras.layers.Flatten(name=f"flat_{name}")(both)) for name in ("c", "d")]
    tail = keras.Model(pair, tops)
    tail.compile(keras.optimizers.SGD(0.0), ["mse", "mse"])
    targets = [labels[:, None], -labels[:, None]]
    history = tail.fit(ks.cache_features(head, (images, targets), tmp_path / "cache"), verbose=0).history
    expected = tail.evaluate([2 * images, 3 * images], targets, verbose=0, return_dict=True)
    np.testing.assert_allclose(history["loss"], expected["loss"], rtol=1e-4)


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX makes float32 of it, with a warning of its own")
def test_a_warning_of_wide_features_names_the_line_of_the_caller(tmp_path):
    x = keras.Input((4,), dtype="float64", name="x")
    head = keras.Model(x, keras.layers.Rescaling(2.0, dtype="float64", name="wide")(x), name="doubles")
    with pytest.warns(UserWarning, match="'wide' is of type float64, and is stored as float32") as warned:
        ks.cache_features(head, np.ones((3, 4)), tmp_path / "cache")
    assert {one.filename for one in warned if "is stored as" in str(one.message)} == {__file__}


def test_an_architecture_names_the_preprocessing_and_the_users_images_stay_as_they_are(resnet, tmp_path):
    photos = pytest.importorskip("sklearn.datasets").load_sample_images().images
    images = np.stack([photo[100:164, 100:164] for photo in photos]).astype("float32")
    before = images.copy()
    head = ks.build_submodel(resnet, end="conv2_block1_out")
    features = every(ks.cache_features(head, images, tmp_path / "named", preprocess="ResNet50"))
    preprocess_input = keras.applications.resnet.preprocess_input
    np.testing.assert_array_equal(
        every(ks.cache_features(head, images, tmp_path / "function", preprocess=preprocess_input)), features
    )
    np.testing.assert_array_equal(images, before)
    np.testing.assert_allclose(
        features, head.predict(preprocess_input(images), verbose=0), rtol=1e-4, atol=1e-4 * features.max()
    )


def test_repeats_store_augmented_passes(head, digits, tmp_path):
    images, labels = digits
    generator = np.random.default_rng(0)

    def shifted(inputs):
        return np.roll(inputs, generator.integers(1, 7), axis=2)

    features = ks.cache_features(head, (images, labels), tmp_path / "cache", preprocess=shifted, repeats=3)
    assert features.rows == 3 * ROWS
    x, y = every(features)
    np.testing.assert_array_equal(y, np.tile(labels, 3))
    passes = x.reshape(3, ROWS, *x.shape[1:])
    assert (passes[0] != passes[1]).any((1, 2, 3)).mean() > 0.5
    again = ks.cache_features(head, (images, labels), tmp_path / "cache", preprocess=shifted, repeats=3)
    np.testing.assert_array_equal(every(again)[0], x)
    streamed = ks.cache_features(head, OwnBatches(images, labels), tmp_path / "stream", preprocess=shifted, repeats=2)
    assert streamed.rows == 2 * ROWS
    with pytest.raises(ks.SplitError, match="arrays are the same in each pass. Pass a function that augments them"):
        ks.cache_features(head, digits, tmp_path / "other", repeats=2)
    with pytest.raises(ks.SplitError, match="gone through only once, and `repeats` needs it several times"):
        ks.cache_features(head, batches(images, labels), tmp_path / "other", repeats=2)
    ks.cache_features(head, digits, tmp_path / "once", preprocess=shifted)
    with pytest.raises(ks.StoreError, match="or draws random numbers: for augmented passes see `repeats`"):
        ks.cache_features(head, digits, tmp_path / "once", preprocess=shifted)


def test_what_makes_no_sense_is_refused_and_leaves_nothing(head, digits, tmp_path):
    images, labels = digits
    x = keras.Input((8, 8, 1), batch_size=4)
    lstm = keras.layers.LSTM(2, stateful=True, name="memory")(keras.layers.Reshape((8, 8), name="lines")(x))
    for because, wrong, data, options in [
        (r"`storage` must be 'float32', 'float16' or 'bfloat16'; got 'int8'.", head, digits, {"storage": "int8"}),
        (r"`batch_size` must be a whole number, at least 1; got 0.", head, digits, {"batch_size": 0}),
        (r"`repeats` must be a whole number, at least 1; got 1.5.", head, digits, {"repeats": 1.5}),
        (r"`seed` must be a whole number, at least 0; got -1.", head, digits, {"seed": -1}),
        (r"`preprocess` must be a function or an architecture.*got 'LeNet'.", head, digits, {"preprocess": "LeNet"}),
        (
            r"`preprocess` gave 1 rows of '.*' for 32: it must keep each row.",
            head,
            digits,
            {"preprocess": lambda x: x[:1]},
        ),
        (r"`head` must be a keras.Model or a Stage; got list.", [head], digits, {}),
        (r"Layer 'memory' of 'recurrent' keeps a state", keras.Model(x, lstm, name="recurrent"), digits, {}),
        (
            r"`data` must hold arrays with the same number of rows.*the shapes \(100, .*\), \(99,\)",
            head,
            (images, labels[1:]),
            {},
        ),
        (r"takes 8×8×1 for each row", head, (images[:, 1:], labels), {}),
        (r"The data holds no rows. Expected at least one.", head, iter([]), {}),
        (r"got a tuple of 4. Several inputs go into a list or a dict.", head, (images,) * 4, {}),
        (r"got the text 'photos'", head, "photos", {}),
        ("holds complex128, which cannot be stored. Cast it", head, (images, labels.astype("complex128")), {}),
        (
            "holds float8_e4m3fn, which cannot be stored. Cast it",
            head,
            (images, labels.astype(ml_dtypes.float8_e4m3fn)),
            {},
        ),
        (
            r"the shapes \(100, 8, 8, 1\), \(\). Single samples .* and lists of numbers into arrays \(`np.array`\)",
            head,
            (images, labels.tolist()),
            {},
        ),
        (
            r"The data changes its shapes: rows 32 to",
            head,
            iter([(images[:32], labels[:32]), (images[:5], images[:5])]),
            {},
        ),
    ]:
        with pytest.raises(ks.SplitError, match=because):
            ks.cache_features(wrong, data, tmp_path / "cache", **options)
        assert not list(tmp_path.iterdir()), because
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(ks.StoreError, match="is not empty and holds no cache of features, so it is never overwritten"):
        ks.cache_features(head, digits, tmp_path / "mine", overwrite=True)
    with pytest.raises(ks.StoreError, match="is a file; expected a folder"):
        ks.cache_features(head, digits, tmp_path / "mine" / "thesis.txt")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_what_float16_cannot_hold_is_refused(tmp_path):
    x = keras.Input((1,), name="x")
    head = keras.Model(x, keras.layers.Rescaling(1e5, name="large")(x), name="scaled")
    rows = np.array([[0.5], [1.0], [np.inf]], "float32")
    with pytest.raises(ks.SplitError, match="'large' reaches 100000, which is more than float16 can hold"):
        ks.cache_features(head, rows, tmp_path / "new" / "cache", storage="float16")
    assert not list(tmp_path.iterdir())
    features = every(ks.cache_features(head, rows, tmp_path / "cache", storage="bfloat16"))
    np.testing.assert_allclose(features, [[5e4], [1e5], [np.inf]], rtol=2**-8)


def test_a_cache_that_cannot_fit_is_refused_before_there_is_work(tmp_path):
    x = keras.Input((1000,), name="x")
    head = keras.Model(x, keras.layers.RepeatVector(10**6, name="wide")(x), name="huge")
    rows = np.broadcast_to(np.zeros((1, 1000), "float32"), (50_000, 1000))
    with pytest.raises(ks.StoreError) as error:
        ks.cache_features(head, rows, tmp_path / "cache")
    message = str(error.value)
    assert message.startswith(f"The features of 'huge' do not fit into '{tmp_path / 'cache'}': 50,000 rows × 3.7 GiB")
    assert " = 181.9 TiB, and " in message
    assert message.endswith("Make room, or name a directory on another disk; storage='bfloat16' takes half.")
    assert not list(tmp_path.iterdir())


def test_damage_is_named(head, digits, tmp_path):
    place = tmp_path / "cache"
    first = every(ks.cache_features(head, digits, place))
    shard, manifest = place / "features-000000.safetensors", place / "features.json"
    whole, text = shard.read_bytes(), manifest.read_text()
    for content in (whole[:-1], whole[:100], b""):
        shard.write_bytes(content)
        with pytest.raises(ks.StoreError, match=r"Shard '.*features-000000.safetensors' is damaged: it does") as error:
            ks.cache_features(head, digits, place)
        assert error.value.path == str(shard)
        assert shard.read_bytes() == content
    shard.unlink()
    again = every(ks.cache_features(head, digits, place))
    np.testing.assert_array_equal(again[0], first[0])
    assert manifest.read_text() == text
    manifest.write_text(text.replace('"rows": 100', '"rows": 99'))
    with pytest.raises(ks.StoreError, match="is damaged or was changed: its checksum differs"):
        ks.cache_features(head, digits, place)
    manifest.write_text(text[: len(text) // 2])
    with pytest.raises(ks.StoreError, match=r"features.json cannot be read"):
        ks.cache_features(head, digits, place)
    manifest.write_text(text)
    ks.cache_features(head, digits, place)


MANY = 5000


@pytest.fixture(scope="module")
def many():
    """Rows for several shards, of at most 2,048 rows each, and a head for them."""
    x = keras.Input((3,), name="x")
    return keras.Model(x, keras.layers.Rescaling(2.0, name="twice")(x), name="doubling"), np.arange(
        3.0 * MANY, dtype="float32"
    ).reshape(MANY, 3)


def shards_of(place):
    return sorted(place.glob("*.safetensors"))


def mended(head, data, place):
    """Returns the features of a cache after following its errors, and the files that they named."""
    named = []
    for _ in range(5):
        try:
            return every(ks.cache_features(head, data, place, verbose=False)), named
        except ks.StoreError as error:
            path = Path(error.path)
            named.append(path.name)
            if path.suffix == ".safetensors":
                assert "Delete this file, and call `cache_features` with the same arguments again" in str(error)
                path.unlink()
            else:
                assert "delete this one" in str(error) or "Name another folder" in str(error)
                shutil.rmtree(place)
    raise AssertionError(named)


def rewrite_manifest(place, **fields):
    manifest = {**json.loads((place / "features.json").read_text()), **fields}
    manifest = {name: value for name, value in manifest.items() if name != "checksum" and value is not ...}
    (place / "features.json").write_text(json.dumps({**manifest, "checksum": checksum(manifest)}, indent=1) + "\n")


@pytest.fixture(scope="module")
def cached(many, tmp_path_factory):
    """A cache of three shards, and one of other data."""
    head, rows = many
    place = tmp_path_factory.mktemp("cached")
    ks.cache_features(head, (rows, np.arange(MANY)), place / "whole")
    ks.cache_features(head, (rows + 1, np.arange(MANY)), place / "other")

    begun = shutil.copytree(place / "whole", place / "begun")
    shards_of(begun)[2].unlink()
    rewrite_manifest(begun, rows=None)
    assert [len(shards_of(place / name)) for name in ("whole", "begun")] == [3, 2]
    return place


PAGE = 4096


def zeroed(content, first):
    return content[:first] + bytes(2 * PAGE) + content[first + 2 * PAGE :]


@pytest.mark.parametrize("first", [0, 1, 200, PAGE, 10_000, 5 * PAGE])
def test_zeros_in_a_shard_never_become_features(many, cached, tmp_path, first):
    head, rows = many
    place = shutil.copytree(cached / "whole", tmp_path / "cache")
    shard = shards_of(place)[1]
    shard.write_bytes(zeroed(shard.read_bytes(), first)[: shard.stat().st_size])
    others = {path: path.stat().st_mtime_ns for path in shards_of(place) if path != shard}
    (features, numbers), named = mended(head, (rows, np.arange(MANY)), place)
    np.testing.assert_array_equal(features, 2 * rows)
    np.testing.assert_array_equal(numbers, np.arange(MANY))
    assert named == [shard.name]
    assert {path: path.stat().st_mtime_ns for path in shards_of(place) if path != shard} == others  # only it is made


def as_integers(path):
    path.write_bytes(path.read_bytes().replace(b'"dtype":"F32"', b'"dtype":"I32"', 1))


def as_other_rows(path):
    path.write_bytes(path.read_bytes().replace(b'"shape":[2048,3]', b'"shape":[3,2048]', 1))


def swapped(path):
    other = path.with_name("features-000000.safetensors")
    content = other.read_bytes()
    other.write_bytes(path.read_bytes())
    path.write_bytes(content)


def doubled(path):
    path.write_bytes(path.with_name("features-000000.safetensors").read_bytes())


def unchecked(path):
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"crc32"', b'"crc33"', 1))


def from_another_cache(path):
    path.write_bytes((path.parent.parent / "other" / path.name).read_bytes())


@pytest.mark.parametrize("damage", [as_integers, as_other_rows, doubled, unchecked, from_another_cache, swapped])
def test_shards_that_are_others_than_were_written_are_found(many, cached, tmp_path, damage):
    head, rows = many
    place = shutil.copytree(cached, tmp_path / "cached") / "whole"
    shard = shards_of(place)[1]
    before = shard.read_bytes()
    damage(shard)
    assert shard.read_bytes() != before
    (features, numbers), named = mended(head, (rows, np.arange(MANY)), place)
    np.testing.assert_array_equal(features, 2 * rows)
    np.testing.assert_array_equal(numbers, np.arange(MANY))
    assert named == ([] if damage is swapped else [shard.name])  # each says which rows it has


def test_a_damaged_shard_stops_fit_with_its_name(many, cached, tmp_path):
    head, rows = many
    place = shutil.copytree(cached / "whole", tmp_path / "cache")
    features = ks.cache_features(head, (rows, np.arange(MANY)), place, batch_size=500)
    shard = shards_of(place)[2]
    shard.write_bytes(zeroed(shard.read_bytes(), 2 * PAGE)[: shard.stat().st_size])
    tail = keras.Sequential([keras.Input((3,), name="in"), keras.layers.Dense(1, name="out")])
    tail.compile("sgd", "mse")
    with pytest.raises(Exception, match="Shard '.*features-000002.safetensors' is damaged: .* Delete this file, and"):
        tail.fit(features, verbose=0)


def as_of_version_0_1_0(place):
    """Rewrites a cache without checksums."""
    for path in shards_of(place):
        with safe_open(path, "np") as file:
            said = {key: value for key, value in file.metadata().items() if key != "crc32"}
            path.write_bytes(save({name: file.get_tensor(name) for name in file.keys()}, metadata=said))  # noqa: SIM118
    rewrite_manifest(place, checksums=...)


def test_caches_without_checksums_are_read_with_a_note(many, cached, tmp_path):
    head, rows = many
    place = shutil.copytree(cached / "whole", tmp_path / "cache")
    as_of_version_0_1_0(place)
    data = rows, np.arange(MANY)
    with pytest.warns(UserWarning, match="written by an earlier kerassplit and has no checksums: damaged") as warned:
        np.testing.assert_array_equal(every(ks.cache_features(head, data, place))[0], 2 * rows)
    assert {one.filename for one in warned} == {__file__}
    as_integers(shards_of(place)[1])
    with pytest.raises(ks.StoreError, match="Shard '.*features-000001.safetensors' is damaged"):
        ks.cache_features(head, data, place)
    for shard in shards_of(place)[1:]:
        shard.unlink()
    np.testing.assert_array_equal(every(ks.cache_features(head, data, place))[0], 2 * rows)
    with pytest.warns(UserWarning, match="has no checksums"):
        ks.cache_features(head, data, place)


@settings(fuzzed, max_examples=fuzzed.max_examples // 10)
@given(st.data())
def test_after_a_power_cut_the_features_are_those_of_the_head(many, cached, tmp_path_factory, data):
    """Pages of any file are zeros, files are truncated, empty or missing; the cache was complete or not."""
    head, rows = many
    place = tmp_path_factory.mktemp("cut") / "cache"
    shutil.copytree(cached / data.draw(st.sampled_from(["whole", "begun"])), place)
    for path in data.draw(st.lists(st.sampled_from(sorted(place.iterdir())), min_size=1, max_size=3), "files"):
        content = path.read_bytes() if path.exists() else b""
        at = PAGE * data.draw(st.integers(0, len(content) // PAGE), "page")
        kind = data.draw(st.sampled_from(["zeroed", "ends", "empty", "gone", "dropped"]))
        if kind == "gone":
            path.unlink(missing_ok=True)
        else:
            path.write_bytes(
                {
                    "zeroed": content[:at] + bytes(len(content[at : at + PAGE])) + content[at + PAGE :],
                    "ends": content[:at],
                    "empty": b"",
                    "dropped": content[:at] + content[at + PAGE :],
                }[kind]
            )
    (features, numbers), _ = mended(head, (rows, np.arange(MANY)), place)
    np.testing.assert_array_equal(features, 2 * rows)
    np.testing.assert_array_equal(numbers, np.arange(MANY))


def test_what_lies_beside_the_shards_and_is_not_ours_stays(many, tmp_path):
    head, rows = many
    place = tmp_path / "cache"
    ks.cache_features(head, rows, place)
    mine = [place / name for name in (".kerassplit.mine", "features-mine.safetensors", "features-1.safetensors")]
    for path in mine:
        path.write_text("years of work")
    (place / f".kerassplit.{'0' * 32}").write_text("half-written")
    np.testing.assert_array_equal(every(ks.cache_features(head, rows + 1, place, overwrite=True)), 2 * (rows + 1))
    assert [path.read_text() for path in mine] == ["years of work"] * 3
    assert len(list(place.iterdir())) == len(mine) + 3 + 1


def test_targets_keep_their_values_however_they_lie_in_memory(many, tmp_path):
    head, rows = many
    targets = [rows.astype(">f8"), np.asfortranarray(rows.astype("float64")), rows[:, ::-1], rows[:, 0].astype(">i2")]
    _, there = every(ks.cache_features(head, (rows, targets), tmp_path / "cache"))
    for ours, theirs in zip(there, targets, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def interrupted(rows, at):
    for number, batch in enumerate(batches(rows, np.arange(len(rows)))):
        if number == at:
            raise RuntimeError("the power went out")
        yield batch


def test_an_error_in_the_data_keeps_what_is_there_and_other_data_does_not_go_on(many, tmp_path, capsys):
    head, rows = many
    place = tmp_path / "cache"
    with pytest.raises(RuntimeError, match="the power went out"):
        ks.cache_features(head, interrupted(rows, at=140), place)
    assert len(list(place.glob("*.safetensors"))) == 2
    capsys.readouterr()
    later = rows.copy()
    later[4000] += 1
    with pytest.raises(ks.StoreError, match="The first 4096 rows of the data are others than when they were cached"):
        ks.cache_features(head, batches(later, np.arange(MANY)), place)
    with pytest.raises(ks.StoreError, match="The first 4096 rows of the data are others"):
        ks.cache_features(head, batches(rows[:3000], np.arange(3000)), place)
    assert "; 4,096 rows are there already." in capsys.readouterr().err
    x, y = every(ks.cache_features(head, batches(rows, np.arange(MANY), size=50), place))
    np.testing.assert_array_equal(x, 2 * rows)
    np.testing.assert_array_equal(y, np.arange(MANY))


def test_preprocessing_that_fails_says_how_many_rows_are_kept(many, tmp_path):
    head, rows = many

    def fails_late(inputs):
        return inputs[:, :2] if inputs[0, 0] > 9000 else inputs

    with pytest.raises(ks.SplitError, match="takes 3 for each row, .* 2048 rows are kept: call again to go on."):
        ks.cache_features(head, rows, tmp_path / "cache", preprocess=fails_late)


@POSIX
def test_where_a_file_cannot_be_written_to_its_end_it_goes_on_later(many, tmp_path):
    resource = pytest.importorskip("resource")
    head, rows = many
    place, limits = tmp_path / "cache", resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(ks.StoreError, match=r"features-000000.safetensors' cannot be written: File too large."):
            ks.cache_features(head, rows, place)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert [path.name for path in place.iterdir()] == ["features.json"]
    np.testing.assert_array_equal(every(ks.cache_features(head, rows, place)), 2 * rows)


@POSIX
def test_a_folder_that_another_process_writes_into_is_left_to_it(head, digits, tmp_path):
    fcntl = pytest.importorskip("fcntl")
    place = tmp_path / "cache"
    place.mkdir()
    handle = os.open(place, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(ks.StoreError, match=r"Another process is saving into '.*cache'"):
            ks.cache_features(head, digits, place)
    finally:
        os.close(handle)
    assert not list(place.iterdir())
    ks.cache_features(head, digits, place)


@fuzzed
@given(data=st.data())
def test_manifests_of_caches_are_read_or_refused(cached, data):
    """Even with a correct checksum: anyone can compute one."""
    place = cached / "manifest"
    place.mkdir(exist_ok=True)
    whole = json.loads((cached / "whole" / "features.json").read_text())
    content = data.draw(st.one_of(altered(whole), damaged(json.dumps(whole).encode())))
    if isinstance(content, dict):
        with contextlib.suppress(RecursionError):
            content = json.dumps({**content, "checksum": checksum(content)}).encode()
    (place / "features.json").write_bytes(content if isinstance(content, bytes) else b"[" * 2000)
    try:
        manifest = read_features_manifest(place)
    except ks.StoreError as error:
        assert error.path == str(place / "features.json")
        assert "Delete the folder, and cache the features again." in str(error)
    else:
        differing(manifest["of"], json.loads((cached / "whole" / "features.json").read_text())["of"])
        assert isinstance(manifest["job"], str) and manifest["of"]["first"]["rows"] >= 0


@fuzzed
@given(data=st.data())
def test_damaged_shards_are_never_read(cached, data):
    whole = (cached / "whole" / "features-000002.safetensors").read_bytes()
    other = (cached / "other" / "features-000000.safetensors").read_bytes()
    path = cached / "features-000000.safetensors"
    path.unlink(missing_ok=True)  # some may be mapped
    path.write_bytes(data.draw(damaged(whole, other)))
    job = json.loads((cached / "whole" / "features.json").read_text())["job"]
    for shard in shards_in(cached, job):
        if shard.checksum is not None and shard.is_whole:
            np.testing.assert_array_equal(shard.arrays["others.0"][0:1], [shard.first])
            assert (shard.first, shard.rows) == (4096, 904)
