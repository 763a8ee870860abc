"""profile(measure=True): what is run, in which order, and what is left behind. No test asserts how long it took."""

import gc
import weakref

import keras
import pytest
from conftest import NEEDS_STRINGS, copied, fingerprint
from keras import layers, ops

import kerassplit as ks
from kerassplit.costs import timing
from kerassplit.costs.records import Timing


@pytest.fixture(scope="module")
def measured(small) -> ks.Profile:
    return ks.profile(small, 2, measure=True)


def test_every_block_is_timed(measured, small):
    assert len(measured.blocks) == len(ks.split_points(small)) + 1
    for block in measured.blocks:
        assert 0 < block.time.low <= block.time.median <= block.time.high
        assert block.time.repeats >= 5
        assert block.seconds == max(block.time.median - measured.overhead.median, 0)


def test_the_sum_is_checked_against_the_whole_model(measured):
    whole = measured.whole.median - measured.overhead.median
    assert measured.seconds == pytest.approx(sum(block.seconds for block in measured.blocks))
    assert measured.whole_seconds == pytest.approx(max(whole, 0))
    if measured.whole_seconds:
        assert measured.discrepancy == pytest.approx(measured.seconds / measured.whole_seconds - 1)
        assert "The whole model takes" in str(measured)
    assert measured.device
    assert "time" in str(measured)


def test_what_was_measured_is_kept_in_json_and_data_frames(measured):
    assert ks.Profile.from_json(measured.to_json()) == measured
    pytest.importorskip("pandas")
    frame = measured.to_pandas()
    assert list(frame["time_median"]) == [block.time.median for block in measured.blocks]


def test_figures_other_than_seconds_are_the_same_without_measuring(measured, small):
    counted = ks.profile(small, 2)
    assert counted.seconds is None
    assert counted.whole_seconds is None
    assert counted.discrepancy is None
    assert counted.calls == measured.calls
    assert [block.flops for block in counted.blocks] == [block.flops for block in measured.blocks]


def test_quartiles_are_of_all_runs():
    assert timing._timing([1.0, 2.0, 3.0, 4.0, 100.0]) == Timing(3.0, 2.0, 4.0, 5)


def test_the_model_is_left_alone(small):
    before = fingerprint(small)
    ks.profile(small, measure=True)
    gc.collect()
    assert fingerprint(small) == before


def test_states_and_random_generators_do_not_change():
    inputs = keras.Input(batch_shape=(2, 3, 4), name="x")
    x = layers.LSTM(4, stateful=True, return_sequences=True, name="lstm")(inputs)
    x = layers.Dropout(0.5, seed=1, name="drop")(x, training=True)
    x = layers.BatchNormalization(name="norm")(x)
    model = keras.Model(inputs, layers.Dense(2, name="score")(x))
    kept = [*model.variables, *model.get_layer("lstm").states]
    before = [copied(one).tobytes() for one in kept]
    ks.profile(model, 2, measure=True)
    assert [copied(one).tobytes() for one in kept] == before


def test_each_block_gets_what_the_blocks_before_it_made(small, monkeypatch):
    """Late inputs, early outputs and masks included: each block takes exactly what it is built for."""
    seen = []
    original = timing._durations

    def watching(run, given):
        seen.append([tuple(value.shape) for value in given])
        return original(run, given)

    monkeypatch.setattr(timing, "_durations", watching)
    ks.profile(small, 3, measure=True)
    assert seen[0] == [(3, 8, 8, 3), (3, 4)]  # the whole model
    assert all(shape[0] in (3, 1) for shapes in seen for shape in shapes)
    assert seen[-3] == [(3, 8)]  # `score`, behind the block that takes `extra`
    assert sorted(seen[-4]) == [(3, 4), (3, 4)]


def test_few_blocks_are_in_memory_at_one_time(monkeypatch):
    model = keras.Sequential([keras.Input((4,)), *(layers.Dense(4, "relu", name=f"d{place}") for place in range(30))])
    built: list[weakref.ref] = []
    most = 0
    original = timing.build_part

    def watching(*args, **options):
        nonlocal most
        made = original(*args, **options)
        built.append(weakref.ref(made[0]))
        most = max(most, sum(reference() is not None for reference in built))
        return made

    monkeypatch.setattr(timing, "build_part", watching)
    ks.profile(model, measure=True)
    assert len(built) == 31
    assert most <= timing._BLOCKS_BETWEEN_COLLECTIONS + 2
    gc.collect()
    assert not any(reference() is not None for reference in built)


def test_integers_stay_within_any_vocabulary_and_masks_are_followed():
    tokens = keras.Input((6,), dtype="int32", name="tokens")
    x = layers.Embedding(2, 4, mask_zero=True, name="embedded")(tokens)
    x = layers.LSTM(4, name="lstm")(x)
    model = keras.Model(tokens, layers.Dense(2, name="score")(x))
    profile = ks.profile(model, 2, measure=True)
    assert all(block.seconds is not None for block in profile.blocks)


@NEEDS_STRINGS
def test_strings_cannot_be_measured():
    inputs = keras.Input((), dtype="string", name="text")
    x = layers.StringLookup(vocabulary=["a", "b"], name="lookup")(inputs)
    model = keras.Model(inputs, ops.cast(x, "float32"), name="words")
    assert ks.profile(model).tensors[0].bytes is None
    with pytest.raises(ks.SplitError, match="'text' takes strings, and random input has none: 'words' cannot be meas"):
        ks.profile(model, measure=True)


def test_a_block_that_fails_is_named(small, monkeypatch):
    def broken(model):
        def run(tensors):
            if model.output_names and len(model.layers) < 6:
                raise RuntimeError("no such kernel")
            return timing._outputs(model, tensors)

        return run

    monkeypatch.setattr(timing, "_compiled", broken)
    with pytest.raises(
        ks.SplitError, match="The block of 'small' that ends at 'stem' cannot be run on random input: Ru"
    ):
        ks.profile(small, measure=True)


def test_a_progress_bar_is_shown_when_asked_for(small, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # standard error stands for a terminal
    ks.profile(small, measure=True, verbose=True)
    assert "Measuring small" in capsys.readouterr().err
    ks.profile(small, measure=True, verbose=False)
    assert capsys.readouterr().err == ""
