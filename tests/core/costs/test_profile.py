"""ks.profile: parameters, bytes, blocks, liveness, display and saving."""

import json
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from applications import OLD_KERAS
from click.testing import CliRunner
from comparing import copied
from hypothesis import given, settings, strategies as st
from keras import layers, ops
from menagerie import Kind, kinds

import kerassplit as ks
from kerassplit.cli import main
from kerassplit.costs.memory import peaks
from kerassplit.display.colors import CUT
from kerassplit.graph.reading import read_graph


@pytest.fixture(scope="module")
def residual() -> keras.Model:
    """A stem, a residual block, a head; 8×8×4 floats (1 KiB) between them."""
    x = inputs = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(4, 3, padding="same", name="stem")(x)
    y = layers.Conv2D(4, 3, padding="same", name="inner")(x)
    x = layers.Add(name="sum")([x, y])
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(2, name="score")(x), name="residual")


@pytest.fixture(scope="module")
def twins() -> keras.Model:
    """One layer with two calls, in different blocks."""
    shared = layers.Dense(4, name="shared")
    x = inputs = keras.Input((4,), name="x")
    for number in range(2):
        x = layers.ReLU(name=f"relu{number}")(shared(x))
    return keras.Model(inputs, layers.Dense(2, name="score")(x), name="twins")


@pytest.fixture(scope="module")
def file(residual, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "residual.keras"
    residual.save(path)
    return path


class TestFigures:
    def test_blocks_lie_between_the_split_points(self, residual):
        profile = ks.profile(residual)
        assert [block.name for block in profile.blocks] == ["stem", "sum", "pool", "score"]
        assert [[profile.calls[call].name for call in block.calls] for block in profile.blocks] == [
            *(["stem"], ["inner", "sum"], ["pool"], ["score"])
        ]
        points = ks.split_points(residual)
        assert [block.name for block in profile.blocks[:-1]] == [point.name for point in points]

    def test_bytes_are_those_of_the_batch(self, residual):
        one, four = ks.profile(residual), ks.profile(residual, 4)
        assert [block.crossing_bytes for block in one.blocks] == [1024, 1024, 16, 0]
        assert [block.crossing_bytes for block in four.blocks] == [4096, 4096, 64, 0]
        assert [block.activation_bytes for block in one.blocks] == [1024, 2048, 16, 8]
        assert four.activation_bytes == 4 * one.activation_bytes == 4 * (3 * 1024 + 16 + 8)
        assert one.parameter_bytes == four.parameter_bytes == 4 * residual.count_params()

    def test_what_lives_at_one_time_is_what_is_still_needed(self, residual):
        profile = ks.profile(residual)
        image = 8 * 8 * 3 * 4
        assert [block.peak_live_bytes for block in profile.blocks] == [image + 1024, 3 * 1024, 1024 + 16, 16 + 8]
        assert profile.peak_live_bytes == 3 * 1024

    def test_a_shared_weight_counts_once_and_is_known_in_every_block(self, twins):
        profile = ks.profile(twins)
        assert profile.parameters == twins.count_params() == 20 + 10
        first, second = (block for block in profile.blocks if block.name.startswith("shared"))
        assert first.variables == second.variables
        assert [profile.variables[index].path for index in first.variables] == ["shared/kernel", "shared/bias"]
        assert first.parameters == second.parameters == 20
        assert profile.parameter_bytes_of(0, 0) == profile.parameter_bytes_of(0, 3) == 80
        assert profile.parameter_bytes_of(0, 4) == 120

    def test_totals_are_sums_of_calls_and_of_blocks(self, resnet):
        profile = ks.profile(resnet)
        assert profile.parameters == resnet.count_params()
        assert profile.flops == sum(call.flops for call in profile.calls) == sum(b.flops for b in profile.blocks)
        assert profile.multiply_adds == sum(block.multiply_adds for block in profile.blocks)
        assert len(profile.blocks) == 40
        assert len(profile.calls) == 176
        assert all(call.counted_by == "formula" for call in profile.calls)

    def test_a_batch_that_a_reshape_merges_with_time_is_followed(self):
        inputs = keras.Input((6, 4), name="x")
        x = ops.reshape(inputs, (-1, 4))
        x = layers.Dense(5, name="dense")(x)
        model = keras.Model(inputs, ops.reshape(x, (-1, 6, 5)))
        profile = ks.profile(model, 3)
        (dense,) = [call for call in profile.calls if call.name == "dense"]
        assert profile.tensors[dense.outputs[0]].shape == (18, 5)
        assert dense.multiply_adds == 18 * 4 * 5

    def test_sides_that_only_running_decides_are_unknown(self):
        inputs = keras.Input((4,), name="x")
        found = ops.nonzero(inputs)[0]
        profile = ks.profile(keras.Model(inputs, ops.cast(found, "float32") * 2.0))
        assert profile.activation_bytes is None
        assert profile.peak_live_bytes is None
        assert profile.flops is None
        assert "?" in str(profile)

    def test_integers_of_8_bits_take_a_quarter_of_the_bytes(self):
        model = keras.Sequential([keras.Input((64,)), layers.Dense(64, use_bias=False)])
        before = ks.profile(model)
        model.layers[0].quantize("int8")
        after = ks.profile(model)
        assert before.parameter_bytes == 64 * 64 * 4
        assert after.parameter_bytes == 64 * 64 + 64 * 4  # a scale for each column
        assert after.multiply_adds == before.multiply_adds

    def test_calls_inside_nested_models_are_listed(self):
        inner = keras.Sequential(
            [keras.Input((4,)), layers.Dense(4, name="one"), layers.ReLU(name="two")], name="inner"
        )
        profile = ks.profile(keras.Sequential([keras.Input((4,)), inner, layers.Dense(2, name="score")]))
        assert [call.name for call in profile.calls] == ["inner/one", "inner/two", "score"]


@pytest.mark.filterwarnings("ignore:[\\s\\S]*was passed an input with a mask:UserWarning")
@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.name)
def test_every_kind_of_model_is_profiled_and_left_alone(kind: Kind, tmp_path):
    specimen = kind.build()
    model = specimen.model
    values = keras.tree.flatten(specimen.x)
    open_sides = {
        symbol.name: tuple(value.shape[1:])
        for symbol, value in zip(model.inputs, values, strict=True)
        if None in symbol.shape[1:]
    }
    before = nodes_and_values(model)
    profile = ks.profile(model, int(values[0].shape[0]), open_sides=open_sides or None)
    assert nodes_and_values(model) == before
    assert sorted(call for block in profile.blocks for call in block.calls) == list(range(len(profile.calls)))
    assert [block.name for block in profile.blocks[:-1]] == [point.name for point in ks.split_points(model)]
    assert (profile.flops is None) == bool(profile.unknown)
    profile.save(tmp_path / "profile.json")
    assert ks.Profile.load(tmp_path / "profile.json") == profile


def nodes_and_values(model: keras.Model) -> list[object]:
    operations = {id(call.operation): call.operation for call in read_graph(model).calls}.values()
    nodes = [(one.name, len(one._inbound_nodes), len(one._outbound_nodes)) for one in operations]
    return [model.get_config(), nodes, [copied(variable).tobytes() for variable in model.variables]]


class TestCrossings:
    def test_what_crosses_is_what_crosses_in_a_split_at_every_point(self, small):
        """`extra` is used late, `pooled` is computed early."""
        profile = ks.profile(small)
        split = ks.split(small, ks.split_points(small))
        assert [[profile.tensors[one].name for one in block.crossing] for block in profile.blocks[:-1]] == [
            [one.name for one in crossing.tensors] for crossing in split.crossings
        ]
        assert [block.crossing_bytes for block in profile.blocks[:-1]] == [one.bytes for one in split.crossings]

    def test_an_output_made_early_lives_to_the_end(self, small):
        profile = ks.profile(small)
        assert profile.peak_live_bytes_of(3, len(profile.blocks) - 1) >= 16 + 12
        names = [profile.tensors[tensor].name for tensor in profile.outputs]
        assert sorted(names) == ["pool", "score"]


@st.composite
def programs(draw):
    """Blocks of steps on numbered tensors: the inputs and outputs of each step."""
    sizes = draw(st.lists(st.integers(0, 9), min_size=3, max_size=12))
    steps, known = [], [0, 1]
    for tensor in range(2, len(sizes)):
        steps.append((tuple(draw(st.lists(st.sampled_from(known), min_size=1, max_size=3, unique=True))), (tensor,)))
        known.append(tensor)
    ends = sorted(draw(st.sets(st.integers(1, len(steps) - 1)))) if len(steps) > 1 else []
    blocks = [steps[first:last] for first, last in zip([0, *ends], [*ends, len(steps)], strict=True)]
    return blocks, sizes, draw(st.sets(st.sampled_from(known)))


@given(programs())
@settings(max_examples=200, deadline=None)
def test_peaks_are_those_found_by_looking_at_every_step(program):
    blocks, sizes, kept = program
    steps = [step for block in blocks for step in block]
    made = {tensor: number for number, (_, outputs) in enumerate(steps) for tensor in outputs}

    def lives(tensor: int, now: int) -> bool:
        uses = [number for number, (given, outputs) in enumerate(steps) if tensor in (*given, *outputs)]
        return bool(uses) and made.get(tensor, 0) <= now <= (len(steps) if tensor in kept else max(uses))

    expected, number = [], 0
    for block in blocks:
        totals = []
        for _ in block:
            totals.append(sum(size for tensor, size in enumerate(sizes) if lives(tensor, number)))
            number += 1
        expected.append(max(totals))
    assert peaks(blocks, sizes, kept) == expected


@given(st.integers(0, 39), st.integers(0, 39))
@settings(max_examples=30, deadline=None)
def test_a_stage_needs_no_more_than_the_most_of_its_blocks(resnet, one, other):
    profile = ks.profile(resnet)
    first, last = sorted((one, other))
    most = max(block.peak_live_bytes for block in profile.blocks[first : last + 1])
    assert profile.peak_live_bytes_of(first, last) == most


class TestMistakes:
    @pytest.mark.parametrize("batch_size", [0, -1, 1.5, True, np.True_, np.int64(0), np.float32(2)])
    def test_a_batch_size_is_a_whole_number(self, residual, batch_size):
        with pytest.raises(ks.SplitError, match="`batch_size` must be a whole number, at least 1; got "):
            ks.profile(residual, batch_size)

    def test_a_model_built_for_one_batch_size_has_that_one(self):
        model = keras.Sequential([keras.Input(batch_shape=(8, 4), name="x"), layers.Dense(2)])
        with pytest.raises(ks.SplitError, match="'x' of '.*' is built for batches of 8: pass batch_size=8 .*; got 1."):
            ks.profile(model, 1)
        assert ks.profile(model, 8).multiply_adds == ks.profile(model).multiply_adds == 8 * 4 * 2
        assert ks.profile(model).batch_size == 8

    def test_an_input_of_any_batch_beside_one_of_a_fixed_batch_has_that(self):
        one, other = keras.Input(batch_shape=(8, 4), name="one"), keras.Input((4,), name="other")
        model = keras.Model([one, other], layers.Add()([layers.Dense(4)(one), layers.Dense(4)(other)]))
        costs = ks.profile(model)
        assert (costs.batch_size, costs.multiply_adds) == (8, 2 * 8 * 4 * 4)
        assert ks.plan(model, 1, profile=costs).batch_size == 8

    def test_all_open_inputs_are_named_so_that_following_the_message_works(self):
        ids, mask = (keras.Input((None,), dtype="int32", name=name) for name in ("ids", "mask"))
        closed = keras.Input((3, 2), name="closed")
        x = layers.Multiply()([layers.Embedding(9, 2)(ids), layers.Embedding(2, 2)(mask)])
        model = keras.Model([ids, mask, closed], [layers.Dense(2)(x), layers.Dense(2)(closed)], name="text")
        with pytest.raises(ks.SplitError) as error:
            ks.profile(model)
        told = "Inputs 'ids' and 'mask' of 'text' have open sides: their shapes are (None, None) and (None, None). "
        assert str(error.value).startswith(told)
        assert str(error.value).endswith("open_sides={'ids': (128,), 'mask': (128,)}.")
        assert (
            ks.profile(model, open_sides={"ids": (128,), "mask": (128,)}).flops
            == ks.profile(model, open_sides=128).flops
        )
        with pytest.raises(ks.SplitError, match=r"Input 'mask' of .*open_sides=\{'ids': \(7,\), 'mask': \(128,\)\}"):
            ks.profile(model, open_sides={"ids": (7,)})

    def test_open_sides_are_asked_for(self):
        model = keras.Sequential([keras.Input((None, 4), name="x"), layers.Dense(2)], name="text")
        with pytest.raises(ks.SplitError) as error:
            ks.profile(model)
        assert str(error.value) == (
            "Input 'x' of 'text' has open sides: its shape is (None, None, 4). "
            "Pass open_sides=128 (--open-sides 128), one size for all of them; or in Python, for each input, a shape "
            "without the batch: open_sides={'x': (128, 4)}."
        )
        assert ks.profile(model, open_sides=7).multiply_adds == 7 * 4 * 2
        assert ks.profile(model, open_sides={"x": (5, 4)}).multiply_adds == 5 * 4 * 2

    @pytest.mark.parametrize(
        ("open_sides", "message"),
        [
            ({"y": (5, 4)}, "`open_sides` names 'y', but the inputs of 'text' are 'x'."),
            (
                {"x": (5, 3)},
                r"`open_sides` gives 'x' the shape \(5, 3\), which does not fit its own, \(None, None, 4\).",
            ),
            ({"x": (5,)}, "does not fit its own"),
            ({"x": 5}, r"`open_sides` gives 'x' 5. Expected a shape without the batch: its own is \(None, None, 4\)."),
            ({"x": None}, "`open_sides` gives 'x' None. Expected a shape without the batch"),
            (0, r"`open_sides` must be one whole number .* such as \{'x': \(224, 224, 3\)\}; got 0."),
            ("7", "`open_sides` must be one whole number"),
        ],
    )
    def test_open_sides_that_do_not_fit_are_refused(self, open_sides, message):
        model = keras.Sequential([keras.Input((None, 4), name="x"), layers.Dense(2)], name="text")
        with pytest.raises(ks.SplitError, match=message):
            ks.profile(model, open_sides=open_sides)

    def test_numpys_whole_numbers_are_whole_numbers(self):
        model = keras.Sequential([keras.Input((None, 4), name="x"), layers.Dense(2)], name="text")
        expected = ks.profile(model, 3, open_sides=7)
        for open_sides in (np.int64(7), {"x": np.array([7, 4])}):
            assert ks.profile(model, np.int64(3), open_sides=open_sides) == expected

    @pytest.mark.skipif(OLD_KERAS, reason="Keras 3.13 lets sides of 0 pass")
    def test_sides_that_a_call_cannot_take_are_told_with_the_reason(self):
        image = keras.Input((None, None, 3), name="image")
        model = keras.Model(image, layers.Conv2D(4, 3, name="conv")(image), name="seer")
        with pytest.raises(ks.SplitError) as error:
            ks.profile(model, open_sides=2)
        assert str(error.value).startswith("'conv' of 'seer' cannot take tensors of shape (1, 2, 2, 3): Computed ")
        assert str(error.value).endswith(". Pass another `open_sides` or `batch_size`.")

    def test_a_batch_that_cannot_be_reshaped_is_told(self):
        inputs = keras.Input((5,), name="x")
        model = keras.Model(inputs, ops.reshape(inputs, (4, -1)), name="fours")
        with pytest.raises(ks.SplitError, match=r"of 'fours' cannot take tensors of shape \(3, 5\): "):
            ks.profile(model, 3)
        assert ks.profile(model, 4).flops == 0

    def test_a_layer_that_cannot_be_asked_keeps_the_shape_on_record(self):
        class Once(layers.Layer):
            """Answers the first request for its shape only."""

            asked = 0

            def compute_output_spec(self, x):
                Once.asked += 1
                if Once.asked > 1:
                    raise RuntimeError("not again")
                return keras.KerasTensor((*x.shape[:-1], 7), x.dtype)

            def call(self, x):
                raise RuntimeError("never")

        inputs = keras.Input((5,), name="x")
        profile = ks.profile(keras.Model(inputs, Once(name="once")(inputs)), 3)
        assert profile.tensors[-1].shape == (3, 7)

    @pytest.mark.parametrize(("first", "last"), [(1, 0), (-1, 0), (0, 4), (4, 4)])
    def test_a_stage_is_made_of_blocks_that_there_are(self, residual, first, last):
        profile = ks.profile(residual)
        for method in (profile.peak_live_bytes_of, profile.parameter_bytes_of):
            with pytest.raises(ks.SplitError) as error:
                method(first, last)
            assert str(error.value) == (
                f"Blocks {first} to {last} are not a stage of 'residual'. Expected the numbers of its first and last "
                "block: the blocks are numbered 0 to 3."
            )

    def test_a_model_without_a_graph_has_no_profile(self):
        with pytest.raises(ks.UnsupportedModelError, match="a name, not a model"):
            ks.profile("ResNet50")

    @pytest.mark.parametrize("text", ["", "{}", "[]", '{"format_version": 1}', '{"format_version": 1, "calls": 3}'])
    def test_text_that_is_no_profile(self, text, tmp_path):
        file = tmp_path / "profile.json"
        file.write_text(text)
        with pytest.raises(ks.SplitError, match=r"profile.json' holds no profile\. Expected a file that `Profile.save"):
            ks.Profile.load(file)

    @pytest.mark.parametrize(
        ("place", "value"),
        [
            (("calls",), [1, 2]),
            (("calls", 0), None),
            (("calls", 0, "flops"), "many"),
            (("calls", 0, "counted_by"), "hand"),
            (("calls", 0, "inputs"), [99]),
            (("calls", 0, "variables"), [-1]),
            (("calls", 0, "block"), 4),
            (("blocks", 1, "calls"), [0, 5]),
            (("blocks", 1, "crossing"), "stem"),
            (("tensors", 0, "shape"), [1, "8"]),
            (("outputs",), [99]),
            (("batch_size",), None),
            (("whole",), 0.5),
        ],
        ids=lambda part: ".".join(map(str, part)) if isinstance(part, tuple) else "",
    )
    def test_a_profile_with_something_else_in_its_place(self, residual, place, value, tmp_path):
        data = json.loads(json.dumps(ks.profile(residual).to_dict()))
        around = data
        for step in place[:-1]:
            around = around[step]
        around[place[-1]] = value
        (tmp_path / "profile.json").write_text(json.dumps(data))
        with pytest.raises(ks.SplitError, match=r"holds no profile\. Expected a file that `Profile.save"):
            ks.Profile.load(tmp_path / "profile.json")

    def test_a_profile_of_a_later_version(self, residual, tmp_path):
        data = {**ks.profile(residual).to_dict(), "format_version": 99}
        (tmp_path / "profile.json").write_text(json.dumps(data))
        with pytest.raises(ks.SplitError, match="holds a profile of format 99, but this kerassplit reads 1"):
            ks.Profile.load(tmp_path / "profile.json")


class TestShown:
    def test_the_table_has_every_block_and_the_totals(self, residual):
        text = str(ks.profile(residual, 4))
        assert "residual, batches of 4" in text
        for name in ("stem", "sum", "pool", "score", "whole model"):
            assert name in text
        assert "4.0 KiB" in text
        assert "time" not in text
        assert repr(ks.profile(residual)) == "<Profile of residual: 5 calls in 4 blocks, batch size 1>"

    def test_json_goes_into_a_file(self, residual, tmp_path):
        profile = ks.profile(residual)
        profile.save(tmp_path / "profile.json")
        assert json.loads((tmp_path / "profile.json").read_text())["totals"]["flops"] == profile.flops
        with pytest.raises(ks.SplitError, match="cannot be written: No such file"):
            profile.save(tmp_path / "no" / "profile.json")

    def test_the_old_names_work_and_say_what_to_use(self, residual, tmp_path):
        profile = ks.profile(residual)
        with pytest.warns(DeprecationWarning, match=r"use `json.dumps\(profile.to_dict\(\)\)`") as caught:
            text = profile.to_json()
        assert caught[0].filename == __file__
        with pytest.warns(DeprecationWarning, match=r"use `profile.save\(path\)`"):
            assert profile.to_json(tmp_path / "profile.json") is None
        assert json.loads((tmp_path / "profile.json").read_text()) == json.loads(text)
        with pytest.warns(DeprecationWarning, match=r"use `kerassplit.Profile.load\(path\)`"):
            assert ks.Profile.from_json(text) == profile
        with (
            pytest.warns(DeprecationWarning, match="from_json"),
            pytest.raises(ks.SplitError, match=r"This is not a profile\. Expected the text that `Profile.to_json"),
        ):
            ks.Profile.from_json("{}")

    def test_a_file_is_written_whole_or_not_at_all(self, residual, tmp_path):
        resource = pytest.importorskip("resource", reason="limits of POSIX")
        target = tmp_path / "profile.json"
        target.write_text("before")
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        profile = ks.profile(residual)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
        try:
            with pytest.raises(ks.SplitError, match="profile.json' cannot be written: File too large."):
                profile.save(target)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert list(tmp_path.iterdir()) == [target]
        assert target.read_text() == "before"

    @pytest.mark.parametrize("of", ["blocks", "calls"])
    def test_a_summary_has_a_row_for_each(self, residual, capsys, of):
        profile = ks.profile(residual)
        profile.summary(of)
        printed = capsys.readouterr().out
        for item in getattr(profile, of):
            assert item.name in printed
        assert ("GlobalAveragePooling2D" in printed) == (of == "calls")
        assert "Multiply-adds of matrix products" in printed
        with pytest.raises(ks.SplitError, match="`of` must be 'blocks' or 'calls'; got 'layers'"):
            profile.summary("layers")

    @pytest.mark.skipif(OLD_KERAS, reason="Keras 3.13 makes no such model")
    def test_a_model_that_gives_what_it_is_given_has_a_profile(self, tmp_path):
        pytest.importorskip("pandas")
        x = keras.Input((4,), name="x")
        profile = ks.profile(keras.Model(x, x, name="same"), measure=True)
        assert (profile.calls, profile.blocks, profile.flops, profile.peak_live_bytes) == ((), (), 0, 0)
        assert profile.whole is None
        assert "same, 1 sample" in str(profile)
        for of in ("blocks", "calls"):
            frame = profile.to_pandas(of)
            assert len(frame) == 0
            assert "flops" in frame.columns
        profile.save(tmp_path / "profile.json")
        assert ks.Profile.load(tmp_path / "profile.json") == profile

    def test_data_frames_have_a_row_for_each_block_or_call(self, residual):
        pytest.importorskip("pandas")
        profile = ks.profile(residual)
        blocks, calls = profile.to_pandas(), profile.to_pandas("calls")
        assert list(blocks.index) == ["stem", "sum", "pool", "score"]
        assert blocks.loc["sum", "calls"] == 2
        assert blocks.loc["stem", "crossing"] == "stem"
        assert calls["flops"].sum() == profile.flops
        assert calls.loc["sum", "inputs"] == "stem, inner"
        with pytest.raises(ks.SplitError, match="`of` must be 'blocks' or 'calls'; got 'layers'"):
            profile.to_pandas("layers")

    @pytest.mark.parametrize(
        ("package", "method", "message"),
        [("pandas", "to_pandas", "needs pandas: `pip install pandas`"), ("matplotlib", "plot", "kerassplit.charts.")],
    )
    def test_a_package_that_is_missing_is_named(self, residual, monkeypatch, package, method, message):
        monkeypatch.setitem(sys.modules, package, None)
        monkeypatch.delitem(sys.modules, f"{package}.figure", raising=False)
        with pytest.raises(ks.SplitError, match=message):
            getattr(ks.profile(residual), method)()


class TestPlot:
    @pytest.fixture(autouse=True)
    def _matplotlib(self):
        pytest.importorskip("matplotlib")

    def test_bars_are_what_crosses_and_the_line_is_the_work(self, resnet):
        profile = ks.profile(resnet)
        work, sizes = profile.plot().figure.axes
        heights = [bar.get_height() * 1024 for bar in sizes.patches]
        image = profile.tensors[profile.inputs[0]].bytes
        assert heights == pytest.approx([image, *(block.crossing_bytes for block in profile.blocks[:-1])])
        (line,) = work.lines
        assert line.get_ydata()[0] == 0
        assert line.get_ydata()[-1] == pytest.approx(100 * (1 - profile.blocks[-1].flops / profile.flops))

    def test_cuts_with_less_than_all_before_are_red_and_named(self, resnet):
        from matplotlib.colors import to_hex

        profile = ks.profile(resnet)
        _, sizes = profile.plot().figure.axes
        red = [place - 1 for place, bar in enumerate(sizes.patches) if to_hex(bar.get_facecolor()).upper() == CUT]
        least = profile.tensors[profile.inputs[0]].bytes
        expected = []
        for place, block in enumerate(profile.blocks[:-1]):
            if block.crossing_bytes < least:
                least = block.crossing_bytes
                expected.append(place)
        assert red == expected
        named = {text.get_text().split()[0] for text in sizes.texts}
        assert profile.blocks[red[-1]].name in named
        assert named <= {profile.blocks[place].name for place in red}

    @pytest.mark.parametrize(("extension", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
    def test_it_is_written_the_same_every_time(self, residual, tmp_path, extension, start):
        files = [tmp_path / f"{number}.{extension}" for number in range(2)]
        for file in files:
            ks.profile(residual).plot(file)
        assert files[0].read_bytes().startswith(start)
        assert files[0].read_bytes() == files[1].read_bytes()
        assert sorted(tmp_path.iterdir()) == files

    def test_a_format_that_is_none_is_refused(self, residual, tmp_path):
        with pytest.raises(ks.SplitError, match=r"Charts are written as \.png, \.svg, \.pdf; got 'x\.doc'\."):
            ks.profile(residual).plot(tmp_path / "x.doc")
        with pytest.raises(ks.SplitError, match="cannot be written: No such file"):
            ks.profile(residual).plot(tmp_path / "no" / "x.png")

    def test_a_notebook_shows_it_and_other_figures_are_left_alone(self, residual):
        import matplotlib

        settings_before = dict(matplotlib.rcParams)
        assert ks.profile(residual).plot()._repr_svg_().startswith("<?xml")
        assert dict(matplotlib.rcParams) == settings_before

    def test_bytes_that_are_not_known_are_a_hatched_bar_and_no_advice(self):
        inputs = keras.Input((4,), name="x")
        x = layers.Dense(8, name="dense")(inputs)
        x = ops.cast(ops.nonzero(x)[0], "float32") * 2.0
        profile = ks.profile(keras.Model(inputs, ops.sum(x)))
        sizes = [block.crossing_bytes for block in profile.blocks[:-1]]
        assert sizes[0] == 32
        assert None in sizes[1:]
        _, axes = profile.plot().figure.axes
        hatched = [bar.get_hatch() is not None for bar in axes.patches]
        assert hatched == [False, *(size is None for size in sizes)]
        assert [text.get_text() for text in axes.texts].count("?") == sizes.count(None)
        assert not [text.get_text() for text in axes.texts if "?" not in text.get_text()]

    def test_a_model_of_one_block_has_no_cuts_to_draw_but_its_input(self):
        model = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
        _, sizes = ks.profile(model).plot().figure.axes
        assert len(sizes.patches) == 1


class TestCommand:
    def run(self, *arguments: object, status: int = 0):
        result = CliRunner().invoke(main, ["profile", *map(str, arguments)])
        assert result.exit_code == status, (result.output, result.exception)
        return result

    def test_the_table_and_the_json_say_what_python_says(self, file, residual):
        printed = self.run(file, "--batch-size", 4).stdout
        assert "residual, batches of 4" in printed
        data = json.loads(self.run(file, "--batch-size", 4, "--json").stdout)
        assert data == json.loads(json.dumps(ks.profile(residual, 4).to_dict()))

    def test_calls_instead_of_blocks(self, file):
        printed = self.run(file, "--calls").stdout
        assert "residual: 5 calls" in printed
        assert "GlobalAveragePooling2D" in printed
        assert "formula" in printed

    def test_measuring(self, file):
        data = json.loads(self.run(file, "--measure", "--json").stdout)
        assert all(block["seconds"] is not None for block in data["blocks"])
        assert data["totals"]["whole_seconds"] is not None

    def test_an_architecture_by_name_needs_no_weights(self):
        data = json.loads(self.run("MobileNet", "--input-shape", "64x64x3", "--json").stdout)
        assert data["totals"]["multiply_adds"] > 1e7

    def test_drawing(self, file, tmp_path):
        pytest.importorskip("matplotlib")
        printed = self.run(file, "--plot", tmp_path / "chart.svg").stdout
        assert f"Wrote {tmp_path / 'chart.svg'}." in printed
        assert (tmp_path / "chart.svg").is_file()

    @pytest.mark.parametrize(
        ("command", "options"), [("profile", ["--measure"]), ("plan", ["--devices", "2", "--balance", "time"])]
    )
    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("chart.txt", "Charts are written as .png, .svg, .pdf{page}; got 'chart.txt'."),
            ("no/chart.png", "to write 'chart.png' to: make it first."),
            ("chart.png", "Charts need matplotlib: `pip install 'kerassplit[charts]'`."),
        ],
    )
    def test_a_chart_that_cannot_be_written_is_told_before_the_work(
        self, tmp_path, monkeypatch, command, options, name, message
    ):
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        file = tmp_path / "no_such_model.keras"  # which would be the next thing to be told
        result = CliRunner().invoke(main, [command, str(file), *options, "--plot", str(tmp_path / name)])
        assert result.exit_code == 2
        page = ", .html" if command == "plan" else ""
        assert message.format(page=page) in result.stderr.replace("\n", " ")

    def test_open_sides_are_told_in_the_words_of_the_command(self, tmp_path):
        model = keras.Sequential([keras.Input((None, 4), name="x"), layers.Dense(2)], name="text")
        model.save(tmp_path / "text.keras")
        message = self.run(tmp_path / "text.keras", status=2).stderr
        assert "Pass --open-sides 128, one size for all of them" in message
        data = json.loads(self.run(tmp_path / "text.keras", "--open-sides", 7, "--json").stdout)
        assert data["totals"]["multiply_adds"] == 7 * 4 * 2
