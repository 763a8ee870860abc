"""split, Split and Stage."""

import keras
import numpy as np
import pytest
from comparing import same_bits

import kerassplit as ks


@pytest.fixture(scope="module")
def three(resnet):
    return ks.split(resnet, ["conv4_block6_out", "conv3_block4_out"], names=["features", "middle", "classifier"])


def test_the_order_of_the_cuts_does_not_matter(resnet, three):
    other = ks.split(resnet, ["conv3_block4_out", resnet.get_layer("conv4_block6_out")])
    assert [stage.outputs for stage in other] == [stage.outputs for stage in three]
    assert [stage.name for stage in other] == ["stage_0", "stage_1", "stage_2"]


def test_stages_can_be_asked_for_by_number_and_name(three):
    assert three[1] is three["middle"] is three.stages[1]
    assert len(three) == 3
    assert [stage.model.name for stage in three] == ["features", "middle", "classifier"]
    with pytest.raises(ks.SplitError, match="has no stage 'tail'. Its stages: 'features', 'middle' and 'classifier'"):
        three["tail"]


def test_stages_name_what_they_take_and_give(three, resnet):
    assert [(stage.inputs, stage.outputs) for stage in three] == [
        ((resnet.layers[0].name,), ("conv3_block4_out",)),
        (("conv3_block4_out",), ("conv4_block6_out",)),
        (("conv4_block6_out",), ("predictions",)),
    ]


def test_crossings_tell_shape_and_bytes_of_a_sample(three):
    first, second = three.crossings
    (tensor,) = first.tensors
    assert (tensor.name, tensor.shape, tensor.dtype) == ("conv3_block4_out", (None, 8, 8, 512), "float32")
    assert first.bytes == tensor.bytes == 8 * 8 * 512 * 4
    assert str(second) == "conv4_block6_out 4×4×1024 float32"


def test_a_number_of_stages_makes_the_stages_of_an_even_plan(resnet, small):
    for model, stages in ((small, 2), (small, 3), (resnet, np.int64(4))):
        split = ks.split(model, stages=stages)
        assert len(split) == stages
        cuts = tuple(tensor.name for crossing in split.crossings for tensor in crossing.tensors)
        assert [cut for cut in cuts if cut in ks.plan(model, int(stages)).at] == list(ks.plan(model, int(stages)).at)
    assert [stage.name for stage in ks.split(small, stages=2, names=["head", "tail"])] == ["head", "tail"]


@pytest.mark.parametrize("at", [1, 3, np.int64(3)])
def test_a_bare_number_cuts_at_that_split_point_and_says_so(small, at):
    name = ks.split_points(small)[at].name
    warning = (
        rf"at={at} cuts at split point {at}, '{name}', and makes two .* stages={max(at, 2)}; to cut here, at=\[{at}\]"
    )
    with pytest.warns(UserWarning, match=warning):
        split = ks.split(small, at)
    assert [stage.outputs for stage in split] == [stage.outputs for stage in ks.split(small, [at])]
    assert len(ks.split(small, stages=max(at, 2))) == max(at, 2)


def test_a_number_that_can_only_be_a_place_is_silent(small):
    points = ks.split_points(small)
    assert ks.split(small, 0)[0].outputs == (points[0].name,)
    assert points[-1].name in ks.split(small, -1)[0].outputs


def test_where_to_cut_is_said_in_one_way(small):
    with pytest.raises(ks.SplitError, match=r"Say where to cut with `at`, or how many stages .* `stages`; got none"):
        ks.split(small)
    with pytest.raises(ks.SplitError, match="got both"):
        ks.split(small, "pool", stages=2)
    for stages in (1, 0, -2, 2.0, "3", True):
        with pytest.raises(ks.SplitError, match=rf"whole number, 2 or more; got {stages!r}"):
            ks.split(small, stages=stages)
    with pytest.raises(
        ks.SplitError, match=r"there are 99 devices. Use fewer, (.|\n)* those of `kerassplit.plan`: pass the"
    ):
        ks.split(small, stages=99)


def test_even_stages_of_open_sides_lead_to_a_plan_that_knows_their_size():
    inputs = keras.Input((None, 4), name="steps")
    model = keras.Model(inputs, keras.layers.Dense(2, name="last")(keras.layers.Dense(3, name="first")(inputs)))
    with pytest.raises(
        ks.SplitError, match=r"open_sides=128 (.|\n)* those of `kerassplit.plan`: pass the plan as `at`"
    ):
        ks.split(model, stages=2)
    assert [stage.outputs for stage in ks.split(model, ks.plan(model, 2, open_sides=128))] == [("first",), ("last",)]


def test_indices_count_split_points(resnet):
    points = ks.split_points(resnet)
    split = ks.split(resnet, [3, -1])
    assert [stage.outputs[0] for stage in split] == [points[3].name, points[-1].name, "predictions"]
    assert ks.split(resnet, [3])[0].outputs == (points[3].name,)
    with pytest.raises(ks.SplitError, match="has 39 split points, numbered 0 to 38; got 39"):
        ks.split(resnet, [39])


def test_a_glob_cuts_at_every_match(resnet):
    split = ks.split(resnet, ["conv3_block[12]_out", "conv5_*_add"])
    assert [stage.outputs[0] for stage in split][:-1] == [
        "conv3_block1_out",
        "conv3_block2_out",
        "conv5_block1_add",
        "conv5_block2_add",
        "conv5_block3_add",
    ]
    with pytest.raises(ks.UnknownTensorError, match=r"No tensor of model 'resnet50' matches 'conv9_\*'"):
        ks.split(resnet, "conv9_*")
    with pytest.raises(ks.InsideBranchError, match="'conv4_block1_1_relu' is inside a branch"):
        ks.split(resnet, "conv4_*_relu")


def test_cuts_that_make_no_sense_are_refused_with_the_reason(resnet):
    with pytest.raises(ks.SplitError, match="'conv4_block6_out' is named twice in `at`"):
        ks.split(resnet, ["conv4_block6_out", resnet.get_layer("conv4_block6_out")])
    with pytest.raises(ks.SplitError, match="`at` is empty: name at least one tensor to cut at"):
        ks.split(resnet, [])
    with pytest.raises(ks.SplitError, match="'predictions' is an output of the model: nothing comes after it"):
        ks.split(resnet, ["predictions"])
    with pytest.raises(ks.SplitError, match="is an input of the model: nothing comes before it"):
        ks.split(resnet, [resnet.input])
    with pytest.raises(ks.UnknownTensorError, match="Did you mean 'conv4_block6_out'"):
        ks.split(resnet, ["conv4_block6_ot"])
    with pytest.raises(ks.SplitError, match="Expected a single item or a list, got a dict: {'conv4_block6_out': 1}"):
        ks.split(resnet, {"conv4_block6_out": 1})
    with pytest.raises(ks.SplitError, match="1 cut makes 2 stages; `names` has 1: '5'"):
        ks.split(resnet, "conv4_block6_out", names=5)


def test_a_cut_inside_a_branch_is_refused_or_carried_as_asked(resnet, images):
    with pytest.raises(ks.InsideBranchError) as error:
        ks.split(resnet, "conv4_block6_2_relu")
    assert str(error.value) == (
        "'conv4_block6_2_relu' is inside a branch: 'conv4_block5_out' crosses there too.\n"
        "Nearest split points: 'conv4_block5_out' before, 'conv4_block6_add' after. "
        "To cut here anyway and carry both tensors, pass allow_crossing=True."
    )
    x = images(resnet)
    for split in (
        ks.split(resnet, "conv4_block6_2_relu", allow_crossing=True),
        ks.split(resnet, [["conv4_block5_out", "conv4_block6_2_relu"]]),
    ):
        assert [tensor.name for tensor in split.crossings[0].tensors] == ["conv4_block5_out", "conv4_block6_2_relu"]
        assert same_bits(split(x), resnet(x))
        assert split.verify(x).identical


def test_names_must_fit_the_stages(resnet):
    with pytest.raises(ks.SplitError, match="1 cut makes 2 stages; `names` has 1: 'head'"):
        ks.split(resnet, [3], names=["head"])
    with pytest.raises(ks.SplitError, match="'a/b' cannot name a stage"):
        ks.split(resnet, [3], names=["a/b", "c"])
    with pytest.raises(ks.SplitError, match="'' cannot name a stage"):
        ks.split(resnet, [3], names=["", "c"])
    with pytest.raises(ks.SplitError, match="names of stages must differ"):
        ks.split(resnet, [3], names=["a", "A"])


def test_a_split_has_the_models_own_inputs_and_outputs(small):
    split = ks.split(small, ["block1_out", "pool"])
    data = [np.random.default_rng(1).normal(size=(5, 8, 8, 3)).astype("float32"), np.ones((5, 4), "float32")]
    expected = small(data)
    result = split(data)
    assert set(result) == {"score", "pooled"}
    assert same_bits(result, expected)
    assert same_bits(split({"image": data[0], "extra": data[1]}), expected)
    predicted = split.predict(data, batch_size=2)
    assert {name: value.shape for name, value in predicted.items()} == {"score": (5, 3), "pooled": (5, 4)}
    assert [stage.inputs for stage in split] == [("image",), ("block1_out",), ("extra", "pool")]
    assert [stage.outputs for stage in split] == [("block1_out",), ("pool",), ("score",)]


def test_towers_are_cut_into_stages_of_their_own():
    left, right = keras.Input((4,), name="left"), keras.Input((4,), name="right")
    a = keras.layers.Dense(4, name="a")(left)
    b = keras.layers.Dense(4, name="b")(right)
    model = keras.Model({"left": left, "right": right}, keras.layers.Add(name="sum")([a, b]))
    split = ks.split(model, ["b", "a"])
    assert sorted(stage.outputs for stage in split) == [("a",), ("b",), ("sum",)]
    data = {"left": np.ones((2, 4), "float32"), "right": np.zeros((2, 4), "float32")}
    assert same_bits(split(data), model(data))
    assert [tensor.name for tensor in split.crossings[1].tensors] == ["a", "b"]
    assert split.verify().identical
    with pytest.raises(ks.SplitError, match="does not have the structure that"):
        split({"left": data["left"], "wrong": data["right"]})


def test_input_of_the_wrong_structure_is_refused(small, resnet):
    split = ks.split(small, "pool")
    with pytest.raises(ks.SplitError, match=r"\['image', 'extra'\].*got 'ndarray'"):
        split(np.ones((1, 8, 8, 3)))
    with pytest.raises(ks.SplitError, match="same number of samples"):
        split.predict([np.ones((2, 8, 8, 3), "float32"), np.ones((3, 4), "float32")])
    with pytest.raises(ks.SplitError, match="`batch_size` must be a whole number, at least 1; got 0"):
        ks.split(resnet, [3]).predict(np.ones((1, 64, 64, 3), "float32"), batch_size=0)


def test_the_summary_is_a_table_of_the_stages(three, capsys):
    three.summary()
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    rows = {words[0]: words for words in lines if words and words[0] in ("features", "middle", "classifier")}
    assert rows["features"][:6] == ["features", "conv3_block4_out", "128.0", "KiB", "8×8×512", "float32"]
    assert "7.1" in rows["middle"]
    assert rows["middle"][-1] == "62"
    assert "conv4_block6_out" not in rows["classifier"]


def test_the_joined_stages_are_the_model_again(three, resnet, images):
    joined = three.join()
    assert [layer.name for layer in joined.layers] == [layer.name for layer in resnet.layers]
    assert joined.get_layer("conv4_block6_2_conv") is resnet.get_layer("conv4_block6_2_conv")
    assert same_bits(joined(images(resnet)), resnet(images(resnet)))
    assert three.model is resnet


def test_progress_is_shown_on_standard_error_when_asked_for(three, images, resnet, capsys, monkeypatch):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    three.predict(images(resnet), batch_size=1, verbose=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "resnet50, 3 stages" in captured.err
    assert "rows/s" in captured.err
    three.predict(images(resnet), batch_size=1, verbose=False)
    assert capsys.readouterr().err == ""


def test_cuts_can_be_given_as_points_numpy_numbers_and_any_iterable(resnet):
    points = ks.split_points(resnet)
    expected = [points[3].name, points[8].name, "predictions"]
    for at in ([points[3], points[8]], np.array([3, 8]), range(3, 9, 5), {3, 8}, (index for index in (8, 3))):
        assert [stage.outputs[0] for stage in ks.split(resnet, at)] == expected
    with pytest.raises(ks.SplitError, match="`at` is empty"):
        ks.split(resnet, [[]])
    with pytest.raises(ks.SplitError, match="named twice in the crossing"):
        ks.split(resnet, [["conv4_block6_out", "conv4_block6_out"]])


def test_what_is_no_array_is_refused(resnet):
    split = ks.split(resnet, [3])
    for wrong in (None, iter([1]), [np.ones((1, 64, 64, 3)), np.ones((1, 64, 64, 3))]):
        with pytest.raises(ks.SplitError, match="'resnet50' takes one array or tensor; got"):
            split.predict(wrong)
    assert split.predict([np.ones((1, 64, 64, 3), "float32")]).shape == (1, 1000)


def test_lists_of_numbers_are_refused_briefly(resnet, small):
    one, two = ks.split(resnet, [3]), ks.split(small, ["block1_out"])
    lists = np.zeros((1, 64, 64, 3)).tolist()
    for split, x in ((one, lists), (one, [lists]), (two, [lists, [[0.0] * 4]]), (two, lists)):
        for work in (split.predict, split.verify, split):
            with pytest.raises(ks.SplitError, match="got lists of numbers; pass NumPy arrays") as refused:
                work(x)
            assert len(str(refused.value)) < 300


def test_a_stage_is_called_predicts_and_sums_up_as_its_model(three, images, resnet, capsys):
    x = images(resnet)
    first = three["features"]
    assert same_bits(first(x), first.model(x))
    assert same_bits(first(x, training=True), first.model(x, training=True))
    np.testing.assert_array_equal(
        first.predict(x, batch_size=1, verbose=0), first.model.predict(x, batch_size=1, verbose=0)
    )
    first.summary(line_length=80)
    assert "conv3_block4_out" in capsys.readouterr().out


def test_a_notebook_shows_the_picture(three):
    assert three._repr_svg_().lstrip().startswith(("<?xml", "<svg"))
    assert repr(three) == "<Split of resnet50: features, middle, classifier>"


def test_the_numbers_of_calls_are_the_same_in_the_joined_model():
    """`relu@0` is created first here, but runs after `relu@1`."""
    x = keras.Input((4,), name="x")
    relu = keras.layers.ReLU(name="relu")
    deep = relu(keras.layers.Dense(4, name="d2")(keras.layers.Dense(4, name="d1")(x)))
    flat = keras.layers.Dense(4, name="e2")(keras.layers.Dense(4, name="e1")(relu(x)))
    model = keras.Model(x, keras.layers.Dense(4, name="y")(keras.layers.Concatenate(name="both")([deep, flat])))
    split = ks.split(model, [["relu@0", "relu@1"]])
    joined = split.join()
    assert ks.explain(model, "relu@0").crossing == ks.explain(joined, "relu@0").crossing
    assert ks.verify(joined, split).identical


def test_names_that_two_tensors_would_bear_are_refused():
    x = keras.Input((4,), name="x")
    relu = keras.layers.ReLU(name="relu")
    model = keras.Model(x, relu(keras.layers.Dense(4, name="relu@0")(relu(x))))
    with pytest.raises(ks.UnsupportedModelError, match="Two tensors of model .* are called 'relu@0'"):
        ks.split_points(model)
