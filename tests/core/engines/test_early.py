"""Early exit: cuts that keep exits before them, and batches that go no further than needed."""

import json

import keras
import numpy as np
import pytest
from click.testing import CliRunner
from comparing import copied, same_bits
from early_oracle import chosen
from PIL import Image
from small_models import exit_layers

import kerassplit as ks
from kerassplit.cli import main
from kerassplit.zoo.photos import shipped_photo

layers = keras.layers
CLASSES = 5
ROWS = 103


@keras.saving.register_keras_serializable("kerassplit_tests")
class Counting(layers.Layer):
    """Passes its input on, and counts its calls."""

    def build(self, shape):
        self.runs = self.add_weight(shape=(), initializer="zeros", trainable=False, name="runs")

    def call(self, x):
        self.runs.assign_add(1.0)
        return x


def dense(name, seed, activation="softmax", classes=CLASSES):
    """A classifier that is sure about some rows but not others."""
    return layers.Dense(
        classes, activation, name=name, kernel_initializer=keras.initializers.RandomNormal(0, 2, seed=seed)
    )


def chain(exits, final="softmax", classes=CLASSES):
    """Consecutive dense layers a to d, a counter before each, with these exits by their taps."""
    keras.utils.set_random_seed(5)
    x = inputs = keras.Input((8,), name="x")
    for name in "abcd":
        x = layers.Dense(8, "tanh", name=name)(Counting(name=f"count_{name}")(x))
    return ks.with_outputs(keras.Model(inputs, dense("last", 9, final, classes)(x), name="chain"), exits)


@pytest.fixture(scope="module")
def multi():
    return chain({"a": dense("exit_a", 1), "c": dense("exit_c", 2)})


@pytest.fixture(scope="module")
def early(multi):
    return ks.split(multi, [["a", "exit_a"], ["c", "exit_c"]])


@pytest.fixture(scope="module")
def rows():
    return np.random.default_rng(2).normal(size=(ROWS, 8)).astype("float32")


@pytest.fixture(scope="module")
def everything(early, rows):
    """Returns all outputs for all rows."""
    return early.predict(rows)


def counted(model):
    return {name: int(copied(model.get_layer(f"count_{name}").runs)) for name in "abcd"}


# What follows is about cuts.


def test_an_output_named_with_what_crosses_is_computed_before_the_cut(multi, early, rows):
    assert [stage.outputs for stage in ks.split(multi, "a")] == [("a",), ("exit_a", "exit_c", "last")]
    assert [set(stage.outputs) for stage in ks.split(multi, [["a", "exit_a"]])] == [{"a", "exit_a"}, {"exit_c", "last"}]
    assert [set(stage.outputs) for stage in early] == [{"a", "exit_a"}, {"c", "exit_c"}, {"last"}]
    assert [[tensor.name for tensor in crossing.tensors] for crossing in early.crossings] == [["a"], ["c"]]
    assert same_bits(early(rows), multi(rows))
    receipt = early.verify(rows)
    assert receipt.identical and {"exit_a", "exit_c", "last"} <= {one.tensor for one in receipt.comparisons}
    assert same_bits(early.join()(rows), multi(rows))


def test_later_cuts_know_what_earlier_ones_have_computed_in_whatever_order_they_are_named(multi):
    for at in ([["exit_a", "a"], "b", "c"], ["c", "b", ["a", "exit_a"]], [["b", "exit_a"], ["d", "exit_c"]]):
        split = ks.split(multi, at)
        assert "exit_a" in split[0].outputs
        assert all(len(crossing.tensors) == 1 for crossing in split.crossings[:-1])
    alone = ks.split(multi, [["a", "exit_a"], "a"])  # a stage of the exit alone
    assert [stage.outputs for stage in alone] == [("a",), ("exit_a",), ("exit_c", "last")]


def test_a_cut_behind_an_exit_says_how_to_leave_it_behind(multi):
    with pytest.raises(ks.InsideBranchError) as raised:
        ks.split(multi, ["b"])
    assert str(raised.value) == (
        "'b' is inside a branch: 'a' crosses there too.\n"
        "Nearest split points: 'a' before, none after. To compute 'exit_a' before the cut, so that nothing else "
        "crosses, name it in the same list: at=[['b', 'exit_a']]. To cut here anyway and carry both tensors, "
        "pass allow_crossing=True."
    )
    assert raised.value.crossing == ("a", "b")
    with pytest.raises(ks.InsideBranchError, match=r"name them in the same list: at=\[\['d', 'exit_a', 'exit_c'\]\]"):
        ks.split(multi, ["d"])
    with pytest.raises(ks.InsideBranchError, match=r"'c' crosses there too(.|\n)*at=\[\['d', 'exit_c'\]\]"):
        ks.split(multi, [["a", "exit_a"], "d"])


def test_an_output_alone_is_no_cut_and_belongs_to_what_comes_before(multi):
    for at in ("exit_a", [["exit_a"]], [["exit_a", "exit_c"]]):
        with pytest.raises(ks.SplitError, match="is an output of the model: nothing comes after it"):
            ks.split(multi, at)
    with pytest.raises(ks.InsideBranchError, match="'a' and 'exit_c' are inside a branch: 'c' crosses there too"):
        ks.split(multi, [["a", "exit_c"]])
    with pytest.raises(
        ks.SplitError, match="With 'exit_c' computed before the cut, 'b' would not cross it; 'a' and 'c' would. N"
    ):
        ks.split(multi, [["b", "exit_c"]], allow_crossing=True)
    with pytest.raises(ks.SplitError, match="'exit_a' is an output of the model: nothing comes after it"):
        ks.plan(multi, [ks.Device("one", "1 GFLOPS"), ks.Device("two", "1 GFLOPS")], must_cut=[["a", "exit_a"]])


def test_an_output_inside_the_head_may_be_named(small):
    assert small.output["pooled"] is small.get_layer("pool").output
    split = ks.split(small, [["both", "pool"]])
    assert [set(stage.outputs) for stage in split] == [{"both", "pool"}, {"score"}]


def test_the_command_line_cuts_so_too(multi, rows, tmp_path):
    multi.save(tmp_path / "multi.keras")
    command = ["split", str(tmp_path / "multi.keras"), "--at", "a,exit_a", "-o", str(tmp_path / "out")]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    manifest = json.loads((tmp_path / "out" / "kerassplit.json").read_text())
    assert {spec["tensor"] for spec in manifest["stages"][0]["outputs"]} == {"a", "exit_a"}
    loaded = ks.load(tmp_path / "out")
    assert same_bits(loaded(rows), multi(rows))


def test_pictures_show_the_exit_in_its_stage(early, tmp_path):
    early.plot(tmp_path / "early.txt")
    text = (tmp_path / "early.txt").read_text()
    assert text.index("exit_a") < text.index("exit_c") < text.index("last")


# What follows is about running.


@pytest.mark.parametrize("batch_size", [1, 8, 200])
@pytest.mark.parametrize("confidence", [0.0, 0.5, 0.8, 0.97, 1.0])
def test_rows_get_what_choosing_afterwards_gives_and_stages_that_need_not_run_do_not(
    multi, early, rows, everything, confidence, batch_size
):
    sure = {name: everything[name].max(axis=-1) >= confidence for name in "ac"}
    outputs, exits, ran = chosen(everything, ["a", "c", "last"], sure, batch_size)
    before = counted(multi)
    result = early.predict_early(rows, confidence, batch_size=batch_size)
    np.testing.assert_allclose(result.outputs, outputs, rtol=1e-5, atol=1e-6)  # compilers round by batch size
    assert result.exits.tolist() == exits.tolist()
    assert list(result.ran.values()) == ran and result.batches == -(-ROWS // batch_size)
    really = {name: count - before[name] for name, count in counted(multi).items()}
    assert really == dict(zip("abcd", [ran[0], ran[1], ran[1], ran[2]], strict=True))
    assert result.answered == {name: int((exits == name).sum()) for name in ("a", "c", "last")}
    assert result.outputs.dtype == np.float32 and result.outputs.shape == (ROWS, CLASSES)


def test_the_summary_is_a_table_of_stages_and_exits(early, rows):
    result = early.predict_early(rows, 0.8, batch_size=1)
    text = str(result)
    saved = 3 * ROWS - sum(result.ran.values())
    assert "103 rows in 103 batches through 3 stages" in text
    assert f"{saved} of 309 runs of a stage on a batch were not needed." in text
    assert all(f"{count / ROWS:.1%}" in text for count in result.answered.values())
    assert saved > 50


def test_rows_come_from_whatever_predict_takes(early, rows, tmp_path):
    expected = early.predict_early(rows, 0.8, batch_size=16)
    np.save(tmp_path / "rows.npy", rows)
    batches = [rows[first : first + 16] for first in range(0, ROWS, 16)]
    for source in (
        keras.ops.convert_to_tensor(rows),
        tmp_path / "rows.npy",
        iter(batches),
        ((one, 0) for one in batches),
    ):
        result = early.predict_early(source, 0.8, batch_size=16)
        np.testing.assert_array_equal(result.outputs, expected.outputs)
        assert result.ran == expected.ran


def test_a_folder_of_photographs_goes_through(tmp_path):
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((24, 32, 3), name="pixels")
    x = layers.Conv2D(4, 5, 3, name="conv")(x)
    top = layers.Dense(3, "softmax", name="top")(layers.Flatten(name="flat")(layers.Conv2D(4, 3, name="deep")(x)))
    multi = ks.with_outputs(keras.Model(inputs, top, name="tiny"), {"conv": exit_layers("exit", 3)})
    with shipped_photo().open("rb") as file:
        photo = Image.open(file).copy()
    for number in range(3):
        photo.rotate(90 * number).save(tmp_path / f"{number}.png")
    split = ks.split(multi, [["conv", "exit"]])
    with pytest.warns(UserWarning, match="How 'tiny' wants its images is not known"):
        result = split.predict_early(tmp_path, 0.0, batch_size=2)
    assert result.ran == {"stage_0": 2, "stage_1": 0}
    everything = split.predict(tmp_path, preprocess="none")
    np.testing.assert_allclose(result.outputs, everything["conv"], rtol=1e-5, atol=1e-6)


def test_a_saved_split_ends_early_too(early, rows, tmp_path):
    expected = early.predict_early(rows, 0.8, batch_size=8)
    early.save(tmp_path / "stages")
    result = ks.load(tmp_path / "stages").predict_early(rows, 0.8, batch_size=8)
    np.testing.assert_array_equal(result.outputs, expected.outputs)
    assert (result.exits == expected.exits).all() and result.ran == expected.ran


def test_each_exit_may_have_its_own_threshold(early, rows, everything):
    result = early.predict_early(rows, {"a": 1.0, "c": 0.0}, batch_size=8)
    assert result.answered == {"a": int((everything["a"].max(-1) >= 1).sum()), "c": ROWS, "last": 0} | {
        "c": ROWS - int((everything["a"].max(-1) >= 1).sum())
    }
    assert result.ran["stage_2"] == 0
    with pytest.raises(ks.SplitError, match="`confidence` must have a number for each exit, 'a' and 'c'; got 'a'"):
        early.predict_early(rows, {"a": 0.5})


def test_confidence_may_be_measured_another_way(early, rows, everything):
    def certainty(probabilities):  # BranchyNet's: how little entropy there is
        return np.sum(probabilities * np.log(probabilities + 1e-12), axis=-1)

    sure = {name: certainty(everything[name]) >= -0.9 for name in "ac"}
    outputs, exits, ran = chosen(everything, ["a", "c", "last"], sure, 2)
    result = early.predict_early(rows, -0.9, measure=certainty, batch_size=2)
    np.testing.assert_allclose(result.outputs, outputs, rtol=1e-5, atol=1e-6)
    assert result.exits.tolist() == exits.tolist() and list(result.ran.values()) == ran
    assert 0 < ran[2] < ran[0]  # some batches ended early
    with pytest.raises(
        ks.SplitError, match=r"one number for each row; for the 32 rows of 'a' it gave .* shape \(32, 5\)"
    ):
        early.predict_early(rows, 0.5, measure=lambda probabilities: probabilities)
    with pytest.raises(ks.SplitError, match="`measure` must be a function .*; got 'entropy'"):
        early.predict_early(rows, 0.5, measure="entropy")


def test_logits_are_refused_and_can_be_measured(rows):
    logits = chain({"b": dense("exit_b", 3, None)}, final=None)
    split = ks.split(logits, [["b", "exit_b"]])
    with pytest.raises(ks.SplitError) as raised:
        split.predict_early(rows, 0.9)
    assert "The exit 'b' gives numbers from -" in str(raised.value)
    assert "which are no probabilities. Let it end in a softmax" in str(raised.value)
    assert "measure=lambda logits: scipy.special.softmax(logits, axis=-1).max(axis=-1)" in str(raised.value)
    result = split.predict_early(rows, 2.0, measure=lambda logits: logits.max(axis=-1))
    everything = split.predict(rows)
    sure = everything["b"].max(-1) >= 2.0
    np.testing.assert_allclose(
        result.outputs, np.where(sure[:, None], everything["b"], everything["last"]), rtol=1e-5, atol=1e-6
    )
    assert 0 < sure.sum() < ROWS


def test_of_one_probability_no_is_an_answer_too(rows):
    model = chain({"b": dense("exit_b", 3, "sigmoid", 1)}, "sigmoid", 1)
    split = ks.split(model, [["b", "exit_b"]])
    result = split.predict_early(rows, 0.9, batch_size=1)
    probabilities = split.predict(rows)["b"][:, 0]
    sure = (probabilities >= 0.9) | (probabilities <= 0.1)
    assert (result.exits == "b").tolist() == sure.tolist()
    assert (probabilities[sure] < 0.5).any() and (probabilities[sure] > 0.5).any()


def test_exits_of_half_precision_answer_in_the_final_outputs(rows):
    half = dense("exit_b", 3)
    half.dtype_policy = "mixed_float16" if keras.backend.backend() != "torch" else "mixed_bfloat16"
    split = ks.split(chain({"b": half}), [["b", "exit_b"]])
    result = split.predict_early(rows, 0.8, batch_size=1)
    assert result.outputs.dtype == np.float32 and set(result.exits) == {"b", "last"}


def test_the_final_output_is_named_where_the_last_stage_gives_several(multi, rows, everything):
    split = ks.split(multi, [["a", "exit_a"]])
    with pytest.raises(ks.SplitError) as raised:
        split.predict_early(rows)
    assert (
        "The last stage, 'stage_1', gives 'c' and 'last': say which of them answers when no exit is confident"
        in str(raised.value)
    )
    result = split.predict_early(rows, 0.8, final="last", batch_size=1)
    sure = {name: everything[name].max(axis=-1) >= 0.8 for name in "ac"}
    outputs, exits, _ = chosen(everything, ["a", "c", "last"], sure, 1)
    np.testing.assert_allclose(result.outputs, outputs, rtol=1e-5, atol=1e-6)
    assert result.exits.tolist() == exits.tolist()
    assert result.ran == {"stage_0": ROWS, "stage_1": int((exits != "a").sum())}
    with pytest.raises(ks.SplitError, match="The last stage, 'stage_1', gives no output 'a'. It gives 'c' and 'last'"):
        split.predict_early(rows, final="a")


def test_what_cannot_end_early_is_refused_with_a_way_out(multi, early, rows, small):
    with pytest.raises(
        ks.SplitError, match="All outputs of 'chain' are computed in the last stage, so that no exit is early"
    ):
        ks.split(multi, "a").predict_early(rows, final="last")
    x = keras.Input((8,), name="x")
    plain = keras.Model(x, dense("top", 0)(layers.Dense(8, name="body")(x)), name="plain")
    with pytest.raises(
        ks.SplitError, match="The split of 'plain' has no early exit: 'top' is its only output. Add exits"
    ):
        ks.split(plain, "body").predict_early(rows)
    with pytest.raises(ks.SplitError, match="'pooled' gives 4 for each row and the final output 'score' 3: one cannot"):
        ks.split(small, "pool").predict_early([np.ones((2, 8, 8, 3)), np.ones((2, 4))])
    for confidence in (1.5, -0.1, float("nan")):
        with pytest.raises(ks.SplitError, match=f"`confidence` must be a probability, 0 to 1; got {confidence}"):
            early.predict_early(rows, confidence)
    for confidence in (None, "0.9", True, max):
        with pytest.raises(ks.SplitError, match="`confidence` must be a number, or one for each exit; got"):
            early.predict_early(rows, confidence)
    with pytest.raises(ks.SplitError, match="The input holds no rows"):
        early.predict_early(iter([]))
    with pytest.raises(ks.SplitError, match="`batch_size` must be a whole number, at least 1; got 0"):
        early.predict_early(rows, batch_size=0)


def test_pixels_wise_outputs_need_a_measure():
    inputs = keras.Input((6, 3), name="x")
    x = layers.Dense(4, name="body")(inputs)
    model = keras.Model(inputs, layers.Dense(2, "softmax", name="top")(layers.Dense(4, name="more")(x)), name="words")
    split = ks.split(ks.with_outputs(model, {"body": layers.Dense(2, "softmax", name="exit")}), [["body", "exit"]])
    x = np.random.default_rng(0).normal(size=(4, 6, 3)).astype("float32")
    with pytest.raises(
        ks.SplitError, match="'top' gives 6×2 for each row, not one probability per class. Say how sure"
    ):
        split.predict_early(x)
    result = split.predict_early(x, 0.5, measure=lambda words: words.max(axis=-1).min(axis=-1))
    assert result.outputs.shape == (4, 6, 2) and result.ran["stage_1"] == 0


def test_a_layer_that_keeps_a_state_would_miss_batches():
    inputs = keras.Input(batch_shape=(2, 6, 3), name="x")
    x = layers.LSTM(4, stateful=True, name="memory")(layers.Dense(3, name="body")(inputs))
    model = keras.Model(inputs, layers.Dense(2, "softmax", name="top")(x), name="words")
    exit_ = [layers.GlobalAveragePooling1D(name="exit_pool"), layers.Dense(2, "softmax", name="exit")]
    split = ks.split(ks.with_outputs(model, {"body": exit_}), [["body", "exit"]])
    with pytest.raises(ks.SplitError, match="Layer 'memory' of stage 'stage_1' keeps a state from batch to batch"):
        split.predict_early(np.zeros((4, 6, 3), "float32"), batch_size=2)
