"""Models built for a fixed batch size: batches are cut and padded where that is exact, else refused."""

from pathlib import Path

import keras
import numpy as np
import pytest
from comparing import same_bits
from keras import layers, ops

import kerassplit as ks
from kerassplit.engines.running import run_stages

SIZE = 4
SHAPE = (3, 5)


def model_of(middle, shape: tuple[int, ...] = SHAPE) -> keras.Model:
    x = keras.Input(shape, batch_size=SIZE, name="x")
    y = middle(layers.Dense(6, "tanh", name="stem")(x))
    return keras.Model(x, layers.Dense(2, name="out")(y), name="fours")


def folded() -> keras.Model:
    """A model with fixed numbers of rows and columns in its graph."""
    return model_of(lambda x: ops.reshape(ops.reshape(x, (SIZE, -1)), (SIZE, 3, 6)))


def remembering() -> keras.Model:
    return model_of(layers.LSTM(3, stateful=True, name="memory"))


def mixing() -> keras.Model:
    return model_of(lambda x: x - ops.mean(x, axis=0, keepdims=True))


@pytest.fixture
def rows() -> np.ndarray:
    return np.random.default_rng(3).normal(size=(10, *SHAPE)).astype("float32")


def by_fours(model: keras.Model, rows: np.ndarray) -> np.ndarray:
    """Returns the model's output, with the last batch padded by hand."""
    filled = np.concatenate([rows, np.ones((-len(rows) % SIZE, *rows.shape[1:]), "float32")])
    parts = [model(filled[start : start + SIZE]) for start in range(0, len(filled), SIZE)]
    return np.concatenate([ops.convert_to_numpy(part) for part in parts])[: len(rows)]


@pytest.mark.parametrize(("count", "batch_size"), [(10, 32), (10, 4), (9, 3), (8, 8), (1, 1), (4, 4)])
def test_any_number_of_rows_goes_through(count, batch_size, rows):
    model = folded()
    result = ks.split(model, "stem").predict(rows[:count], batch_size=batch_size)
    np.testing.assert_allclose(result, by_fours(model, rows[:count]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sizes", [(10,), (6, 4), (1, 1, 8), (3, 3, 4)])
def test_batches_of_an_iterable_are_cut_and_filled_up(sizes, rows):
    model, ends = folded(), np.cumsum(sizes)[:-1]
    result = ks.split(model, "stem").predict(iter(np.split(rows, ends)))
    np.testing.assert_allclose(result, by_fours(model, rows), rtol=1e-5, atol=1e-6)


def test_a_saved_split_writes_a_row_for_each(rows, tmp_path):
    model = folded()
    ks.split(model, "stem").save(tmp_path / "stages")
    np.save(tmp_path / "x.npy", rows)
    ran = run_stages(tmp_path / "stages", tmp_path / "x.npy", tmp_path / "y.npy")
    assert (ran.rows, ran.computed) == (10, 10)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), by_fours(model, rows), rtol=1e-5, atol=1e-6)


def test_an_output_that_is_not_one_result_for_each_row_is_not_cut(rows):
    x = keras.Input(SHAPE, batch_size=SIZE, name="x")
    model = keras.Model(x, ops.reshape(layers.Dense(6, name="stem")(x), (2, -1)), name="fours")
    split = ks.split(model, "stem")
    assert split.predict(rows[:4]).shape == (2, 36)
    with pytest.raises(ks.SplitError, match="'fours' takes batches of 4, and rows 8 to 9 make none"):
        split.predict(rows)


def test_rows_that_depend_on_each_other_are_refused_where_a_batch_would_be_filled_up(rows):
    model = mixing()
    split = ks.split(model, "stem")
    np.testing.assert_allclose(split.predict(rows[:8]), by_fours(model, rows[:8]), rtol=1e-5, atol=1e-6)
    message = (
        "'fours' takes batches of 4, and rows 8 to 9 make none. To fill it up would be wrong: what 'out' gives for a "
        "row depends on other rows, or on chance. Expected a number of rows that 4 divides."
    )
    with pytest.raises(ks.SplitError) as caught:
        split.predict(rows)
    assert str(caught.value) == message


def test_states_are_kept_from_batch_to_batch_and_no_batch_is_filled_up(rows):
    split = ks.split(remembering(), "stem")
    message = (
        "'fours' takes batches of 4, and its layer 'memory' keeps a state from batch to batch, so that none can be "
        "filled up. Expected a number of rows that 4 divides; got 10."
    )
    with pytest.raises(ks.SplitError) as caught:
        split.predict(rows)
    assert str(caught.value) == message
    fresh = split.predict(rows[:8])  # nothing ran before
    model = remembering()
    model.set_weights(split.model.get_weights())
    np.testing.assert_allclose(fresh, by_fours(model, rows[:8]), rtol=1e-5, atol=1e-6)
    with pytest.raises(ks.SplitError, match="and rows 8 to 9 make none"):  # of how many rows, nobody knew
        split.predict(iter([rows]))


def test_whole_numbers_are_filled_up_too():
    x = keras.Input((3,), batch_size=SIZE, dtype="int32", name="x")
    scores = layers.Dense(2, name="out")(ops.reshape(layers.Embedding(5, 2, name="table")(x), (SIZE, 6)))
    model = keras.Model(x, scores, name="fours")
    tokens = np.arange(18, dtype="int32").reshape(6, 3) % 5
    result = ks.split(model, "table").predict(tokens)
    expected = [ops.convert_to_numpy(model(part)) for part in (tokens[:4], tokens[2:])]
    np.testing.assert_allclose(result, np.concatenate([expected[0], expected[1][2:]]), rtol=1e-5, atol=1e-6)


def test_early_exits_answer_the_rows_that_there_are(rows):
    x = keras.Input(SHAPE, batch_size=SIZE, name="x")
    flat = layers.Dense(6, name="stem")(ops.reshape(x, (SIZE, 15)))
    soon = layers.Softmax(name="soon")(layers.Dense(2, name="soon_scores")(flat))
    late = layers.Softmax(name="late")(layers.Dense(2, name="late_scores")(layers.Dense(6, name="more")(flat)))
    model = keras.Model(x, {"soon": soon, "late": late}, name="fours")
    split = ks.split(model, [["stem", "soon"]])
    expected = {name: by_fours(keras.Model(x, model.output[name]), rows) for name in ("soon", "late")}
    level = float(np.median(expected["soon"].max(axis=-1)))
    result = split.predict_early(rows, level)
    sure = expected["soon"].max(axis=-1) >= level
    assert len(result.outputs) == len(rows)
    assert list(result.exits) == ["soon" if one else "late" for one in sure]
    np.testing.assert_allclose(
        result.outputs, np.where(sure[:, None], expected["soon"], expected["late"]), rtol=1e-5, atol=1e-6
    )
    waiting = [not sure[start : start + SIZE].all() for start in range(0, 10, SIZE)]
    assert (result.batches, result.ran) == (3, {"stage_0": 3, "stage_1": sum(waiting)})


def test_features_are_cached_for_each_row(rows, tmp_path):
    model = folded()
    features = ks.cache_features(model, rows, tmp_path / "cache", shuffle=False, verbose=False)
    assert features.rows == 10
    found = np.concatenate([ops.convert_to_numpy(one[0] if isinstance(one, tuple) else one) for one in features])
    np.testing.assert_allclose(found, by_fours(model, rows), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make", [folded, remembering])
def test_what_runs_a_batch_as_it_is_says_how_many_rows_it_takes(make, rows):
    split = ks.split(make(), "stem")
    targets = np.zeros((2, *split.model.output_shape[1:]), "float32")
    assert split.verify(rows[:4]).ok
    assert split.verify().ok
    with pytest.raises(ks.SplitError, match="'fours' takes batches of 4; got 2 rows."):
        split.verify(rows[:2])
    optimizers = ks.stage_optimizers(split, keras.optimizers.SGD(0.1))
    with pytest.raises(ks.SplitError, match="'fours' takes batches of 4; got 2 rows."):
        ks.train_step(split, rows[:2], targets, "mse", optimizers)


def test_exported_stages_say_how_many_rows_they_take(rows, tmp_path):
    for package in ("tensorflow", "openvino"):
        pytest.importorskip(package)
    from kerassplit.storage.exports.running import run_exported

    model = folded()
    split = ks.split(model, "stem")
    with pytest.raises(ks.SplitError, match="'fours' takes batches of 4; got 10 rows."):
        split.export(tmp_path / "out", format="openvino", x=rows)
    assert list(Path(tmp_path).iterdir()) == []
    split.export(tmp_path / "out", format="openvino")
    np.testing.assert_allclose(
        run_exported(tmp_path / "out", rows[:4]), by_fours(model, rows[:4]), rtol=1e-4, atol=1e-5
    )
    with pytest.raises(ks.SplitError, match="'x' takes batches of 4; got 10 rows."):
        run_exported(tmp_path / "out", rows)


def test_inputs_with_and_without_a_size_are_compared_on_as_many_rows():
    x, y = keras.Input((4,), batch_size=SIZE, name="x"), keras.Input((4,), name="y")
    model = keras.Model([x, y], layers.Add(name="sum")([layers.ReLU(name="relu")(x), y]))
    split = ks.split(model, "relu")
    assert split.verify().comparisons[-1].shape == (SIZE, 4)
    rows = np.random.default_rng(1).normal(size=(6, 4)).astype("float32")
    assert same_bits(split.predict([rows, rows]), np.maximum(rows, 0) + rows)
