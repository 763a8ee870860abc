"""profile(measure=True): what runs, in which order, and what remains. No test asserts times."""

import dataclasses
import gc
import importlib
import itertools
import weakref

import keras
import pytest
from applications import NEEDS_STRINGS
from comparing import copied, fingerprint
from keras import layers, ops

import kerassplit as ks
from kerassplit.costs import timing
from kerassplit.costs.records import Timing
from kerassplit.costs.tables import format_seconds, remarks_on_seconds


@pytest.fixture(scope="module")
def measured(small) -> ks.Profile:
    return ks.profile(small, 2, measure=True)


def test_every_block_is_timed(measured, small):
    assert len(measured.blocks) == len(ks.split_points(small)) + 1
    for block in measured.blocks:
        assert 0 < block.time.low <= block.time.median <= block.time.high
        assert block.time.repeats >= 5
        assert 0 <= block.seconds < block.time.median
    assert measured.overhead.repeats == 2 * timing._EMPTY_RUNS * (len(measured.blocks) + 2)


def test_the_sum_is_checked_against_the_whole_model(measured):
    assert 0 <= measured.whole_seconds < measured.whole.median
    assert measured.seconds == pytest.approx(sum(block.seconds for block in measured.blocks))
    if measured.whole_seconds:
        assert measured.discrepancy == pytest.approx(measured.seconds / measured.whole_seconds - 1)
    assert f"Measured on {measured.device} with {measured.backend}. The whole model takes" in str(measured)
    assert "time" in str(measured)


def test_load_that_comes_while_it_measures_is_not_taken_for_the_model(small, monkeypatch):
    """Each run takes longer than the one before, at last ten times a block's time."""
    load = itertools.count()

    def loaded(run, given):
        own = 1.0 if [tuple(value.shape) for value in given] == [(1, 1)] else 3.0
        return own + next(load) * 0.1

    monkeypatch.setattr(timing, "_duration", loaded)
    profile = ks.profile(small, 2, measure=True)
    assert [block.seconds for block in profile.blocks] == pytest.approx([2.0] * len(profile.blocks))
    assert profile.blocks[-1].time.median > profile.blocks[0].time.median + 10
    assert profile.whole_seconds == pytest.approx(2.0)


def with_times(profile: ks.Profile, whole: float, seconds: float | list[float]) -> ks.Profile:
    """Returns the profile with these times, as if measured: for the whole model, and for each block."""
    times = seconds if isinstance(seconds, list) else [seconds] * len(profile.blocks)
    return dataclasses.replace(
        profile,
        device="cpu:0",
        whole=Timing(whole + 0.001, whole + 0.001, whole + 0.001, 9),
        whole_seconds=whole,
        overhead=Timing(0.001, 0.001, 0.001, 9),
        blocks=tuple(
            dataclasses.replace(block, time=Timing(one + 0.001, one + 0.001, one + 0.001, 9), seconds=one)
            for block, one in zip(profile.blocks, times, strict=True)
        ),
    )


class TestRemarks:
    AGAIN = "or the machine was busy: measure again on an idle one, or with a larger batch."

    def remarks(self, profile: ks.Profile) -> list[str]:
        lines = remarks_on_seconds(profile)
        assert " ".join(lines) in " ".join(str(profile).split())
        return lines

    def test_blocks_that_take_more_are_explained(self, small):
        profile = ks.profile(small)
        count = len(profile.blocks)
        assert self.remarks(with_times(profile, 1.0, 1.1 / count)) == [
            f"Measured on cpu:0 with {profile.backend}. The whole model takes 1 s; the blocks together 1.1 s, 10% "
            "more: apart, they cannot be compiled as one. To each call of a stage add 1 ms; ± is half of what lies "
            "between the quartiles."
        ]

    @pytest.mark.parametrize(("factor", "words"), [(0.9, "900 ms, 10% less."), (1.001, "1 s, as long.")])
    def test_blocks_that_take_less_have_no_reason_to(self, small, factor, words):
        profile = ks.profile(small)
        (line,) = self.remarks(with_times(profile, 1.0, factor / len(profile.blocks)))
        assert f"The whole model takes 1 s; the blocks together {words} To each call of a stage add 1 ms;" in line

    @pytest.mark.parametrize("factor", [0.8, 1.2])
    def test_blocks_far_from_the_whole_are_not_to_be_trusted(self, small, factor):
        profile = ks.profile(small)
        _, doubt = self.remarks(with_times(profile, 1.0, factor / len(profile.blocks)))
        assert doubt == f"Whole and blocks do not fit together, {self.AGAIN}"

    def test_blocks_that_are_too_short_are_counted(self, small):
        profile = ks.profile(small)
        seconds = [0.0, 0.0, *[1.0 / (len(profile.blocks) - 2)] * (len(profile.blocks) - 2)]
        _, doubt = self.remarks(with_times(profile, 1.0, seconds))
        assert doubt == f"2 blocks are too short to tell, {self.AGAIN}"

    def test_a_model_that_is_too_short_is_told_with_its_device(self, small):
        profile = ks.profile(small)
        line, doubt = self.remarks(with_times(profile, 0.0, 0.0))
        assert line == (
            f"Measured on cpu:0 with {profile.backend}. The whole model takes 0 µs. To each call of a stage add 1 ms; "
            "± is half of what lies between the quartiles."
        )
        assert doubt == f"The whole model is too short to tell, {self.AGAIN}"

    def test_what_was_not_measured_has_none(self, small):
        assert self.remarks(ks.profile(small)) == []


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((0.9997, "1 s"), (0.0009996, "1 ms"), (0.00235, "2.35 ms"), (999.6, "1,000 s"), (12345.0, "12,345 s")),
        *((999.4, "999 s"), (0.0, "0 µs"), (2.5e-7, "0.25 µs"), (None, "")),
    ],
)
def test_seconds_are_told_in_a_unit_that_fits(seconds, text):
    assert format_seconds(seconds) == text


def test_what_was_measured_is_kept_in_files_and_data_frames(measured, tmp_path):
    measured.save(tmp_path / "profile.json")
    assert ks.Profile.load(tmp_path / "profile.json") == measured
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


@pytest.mark.parametrize("measure", [False, True])
def test_the_users_next_layers_get_the_names_that_they_would_get_without_it(small, measure):
    makers = {
        "dense": lambda: layers.Dense(2),
        "identity": layers.Identity,
        "input_layer": lambda: layers.InputLayer((2,)),
        "functional": lambda: keras.Model(small.inputs, small.outputs),
    }

    before = {kind: make().name for kind, make in makers.items()}
    ks.profile(small, measure=measure)
    for kind, make in makers.items():
        number = int(before[kind].removeprefix(kind).removeprefix("_") or 0)
        assert make().name == f"{kind}_{number + 1}"


class Failing(layers.Layer):
    """A layer that fails when it runs."""

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, x.dtype)

    def call(self, x):
        raise RuntimeError("no such kernel")


def test_a_model_that_fails_is_told_and_left_alone():
    x = inputs = keras.Input((4,), name="x")
    x = Failing(name="failing")(layers.Dense(4, name="dense")(x))
    model = keras.Model(inputs, layers.Dense(2, name="score")(x), name="broken")
    before = fingerprint(model)
    with pytest.raises(
        ks.SplitError, match="^'broken' cannot be run on random input: [\\s\\S]*no such kernel"
    ) as error:
        ks.profile(model, measure=True)
    assert fingerprint(model) == before
    assert error.value.__cause__ is error.value.__context__ is None


def test_it_runs_as_the_model_was_compiled(monkeypatch):
    """The whole, the blocks and the empty model."""
    backend = keras.backend.backend()
    package, name = {"tensorflow": ("tensorflow", "function"), "jax": ("jax", "jit"), "torch": ("torch", "compile")}[
        backend
    ]
    module = importlib.import_module(package)
    original, seen = getattr(module, name), []

    def watching(function, **options):
        if function.__module__.startswith("kerassplit.graph.backends."):
            seen.append(options.get("jit_compile", True))
        return function if backend == "torch" else original(function, **options)

    model = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="one"), layers.Dense(2, name="two")])
    monkeypatch.setattr(module, name, watching)
    for jit_compile in (True, False):
        seen.clear()
        model.compile(jit_compile=jit_compile)
        ks.profile(model, measure=True)
        assert seen == [jit_compile] * (4 if jit_compile or backend == "tensorflow" else 0)


def test_each_block_gets_what_the_blocks_before_it_made(small, monkeypatch):
    """Includes late inputs, early outputs and masks: each block gets exactly what it was built for."""
    seen = []
    original = timing._durations

    def watching(run, given):
        seen.append([tuple(value.shape) for value in given])
        return original(run, given)

    monkeypatch.setattr(timing, "_durations", watching)
    ks.profile(small, 3, measure=True)
    assert seen[0] == [(3, 8, 8, 3), (3, 4)]  # the whole model
    assert all(shape[0] in (3, 1) for shapes in seen for shape in shapes)
    assert seen[-2] == [(3, 8)]  # `score`, behind the block that takes `extra`
    assert sorted(seen[-3]) == [(3, 4), (3, 4)]


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
    def broken(model, jit_compile, *, stateful, wait):
        def run(tensors):
            if model.name == "small" and len(model.layers) < 6:
                raise RuntimeError("no such kernel")
            return keras.tree.flatten(model(keras.tree.pack_sequence_as(model.input, tensors)))

        return run

    before = fingerprint(small)
    monkeypatch.setattr(timing, "compiled", broken)
    with pytest.raises(
        ks.SplitError, match="The block of 'small' that ends at 'stem' cannot be run on random input: Ru"
    ) as error:
        ks.profile(small, measure=True)
    assert fingerprint(small) == before
    assert error.value.__traceback__ is not None


def test_a_progress_bar_is_shown_when_asked_for(small, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # standard error stands for a terminal
    ks.profile(small, measure=True, verbose=True)
    assert "Measuring small" in capsys.readouterr().err
    ks.profile(small, measure=True, verbose=False)
    assert capsys.readouterr().err == ""
