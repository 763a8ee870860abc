"""Model inputs and masks cross with a cut: they do not prevent it, and are reported, counted in bytes and routed."""

import keras
import numpy as np
import pytest
from comparing import same_bits
from small_models import LENGTH, attention, narrow, transformer

import kerassplit as ks
from kerassplit.graph.reading import read_graph

layers, ops = keras.layers, keras.ops
IDS = np.random.default_rng(0).integers(0, 4, (2, LENGTH)).astype("int32")


def square(ids):
    """A flag for each pair of tokens: more bytes than the ids, and no intermediate tensor has fewer."""
    return ops.equal(ops.expand_dims(ids, 1), ops.expand_dims(ids, 2))


def points_of(model):
    return {point.name: point for point in ks.split_points(model)}


def check(model, at, x=IDS):
    """Checks that stages compute what the model does, in every way to run them; also the last tail alone."""
    split = ks.split(model, at)
    assert split.verify(x).check().identical
    expected = model(x)
    assert same_bits(split(x), expected)
    assert same_bits(split.join()(x), expected)
    np.testing.assert_allclose(split.predict(x), keras.ops.convert_to_numpy(expected), rtol=1e-4, atol=1e-5)
    return split


def test_a_padding_mask_that_every_block_takes_is_no_obstacle():
    ids = keras.Input((LENGTH,), dtype="int32", name="ids")
    padding = keras.Input((LENGTH,), dtype="int32", name="padding_mask")
    x = layers.Embedding(9, 8, name="embedding")(ids)
    for number in range(4):
        x = layers.Dense(8, "tanh", name=f"dense{number}")(x)
        x = layers.Multiply(name=f"block{number}")([x, ops.expand_dims(ops.cast(padding, "float32"), -1)])
    model = keras.Model({"ids": ids, "padding_mask": padding}, layers.Dense(2, name="logits")(x))
    points = points_of(model)
    assert {"block0", "block1", "block2", "block3"} <= points.keys()
    assert points["block1"].also == ("padding_mask",)
    assert points["block1"].bytes == LENGTH * 8 * 4 + LENGTH * 4
    assert points["embedding"].also == points["block3"].also == ()
    x = {"ids": IDS, "padding_mask": (IDS != 0).astype("int32")}
    check(model, ["block0", "block1", "block2"], x)
    tail = ks.build_submodel(model, start="block1")
    assert set(tail.input) == {"block1", "padding_mask"}
    cut = ks.tap(model, "block1")(x)
    assert same_bits(tail({**cut, "padding_mask": ops.convert_to_tensor(x["padding_mask"])}), model(x))
    plan = ks.plan(model, 2)
    assert plan.optimal and plan.at == ["block1"]
    assert (plan.stages[0].also, plan.stages[0].crossing_bytes) == (("padding_mask",), points["block1"].bytes)


def test_a_mask_of_few_bytes_crosses_with_the_point():
    model = transformer(narrow)
    (mask,) = points_of(model)["block0"].also
    assert mask.startswith("not_equal")  # as few bytes as what is made of it, and earlier
    split = check(model, ["block0", "block1"])
    assert [set(stage.inputs) for stage in split] == [{"ids"}, {mask, "block0"}, {mask, "block1"}]


@pytest.mark.parametrize(("blocks", "also"), [(4, "expand_dims"), (9, "ids")])
def test_masks_that_each_block_makes_for_itself_are_weighed_together(blocks, also):
    """Each takes a quarter of the bytes of the ids that it is computed from."""
    ids = keras.Input((LENGTH,), dtype="int32", name="ids")
    x = layers.Embedding(9, 8, name="embedding")(ids)
    for number in range(blocks):
        x = attention(x, narrow(ids), number)
    model = keras.Model(ids, x)
    names = points_of(model)["block0"].also
    assert all(name.startswith(also) for name in names)
    assert len(names) == (1 if also == "ids" else blocks - 1)
    check(model, ["block0", "block1"])


@pytest.mark.parametrize("blocks", [4, 9])
def test_of_masks_made_of_one_small_mask_that_one_is_sent(blocks):
    ids = keras.Input((LENGTH,), dtype="int32", name="ids")
    there = ops.not_equal(ids, 0)
    x = layers.Embedding(9, 8, name="embedding")(ids)
    for number in range(blocks):
        x = attention(x, ops.logical_and(ops.expand_dims(there, 1), ops.expand_dims(there, 2)), number)
    model = keras.Model(ids, x)
    (mask,) = points_of(model)["block0"].also
    assert mask.startswith("not_equal")
    split = check(model, ["block0", "block1"])
    assert all(set(stage.inputs) == {mask, f"block{place}"} for place, stage in enumerate(split.stages[1:]))


def test_a_mask_of_many_bytes_is_made_again_in_the_stage_that_needs_it(tmp_path):
    model = transformer(square)
    point = points_of(model)["block0"]
    assert (point.also, point.bytes) == (("ids",), LENGTH * 8 * 4 + LENGTH * 4)
    split = check(model, ["block0", "block1"])
    assert [set(stage.inputs) for stage in split] == [{"ids"}, {"ids", "block0"}, {"ids", "block1"}]
    split.save(tmp_path / "out")
    loaded = ks.load(tmp_path / "out")
    assert same_bits(loaded(IDS), model(IDS))
    assert loaded.verify(IDS).check().identical
    assert ks.verify(model, loaded, IDS).check().identical
    names = [tensor.name for tensor in read_graph(model).tensors]
    for one in (split.join(), loaded.join()):
        assert [tensor.name for tensor in read_graph(one).tensors] == names


def test_a_mask_is_made_again_where_its_ids_are_needed_anyway():
    model = transformer(narrow, late=True)
    assert points_of(model)["block0"].also == ("ids",)
    check(model, ["block0", "block1"])


def test_a_cut_may_name_the_mask_and_it_is_sent_then():
    model = transformer(square)
    mask = next(tensor.name for tensor in read_graph(model).tensors if tensor.name.startswith("equal"))
    split = check(model, [["block0", mask]])
    assert set(split[1].inputs) == {"block0", mask}
    split = check(model, mask)  # alone: the first stage makes it, the second does all the rest
    assert [set(stage.inputs) for stage in split] == [{"ids"}, {"ids", mask}]
    assert [len(read_graph(stage.model).calls) for stage in split] == [4, len(read_graph(model).calls) - 2]


def test_an_operation_that_a_mask_shares_with_the_rest_is_repeated_with_the_mask():
    ids = keras.Input((LENGTH,), dtype="float32", name="ids")
    whole = ops.cast(ids, "int32")
    x = layers.Embedding(9, 8, name="embedding")(whole)
    for number in range(3):  # each makes its mask of the same cast
        x = attention(x, ops.expand_dims(ops.greater(whole, number), 1), number)
    model = keras.Model(ids, x)
    assert {"block0", "block1"} <= points_of(model).keys()
    check(model, ["block0", "block1"], IDS.astype("float32"))


def test_a_mask_that_is_an_output_of_the_model_is_given_once():
    ids = keras.Input((LENGTH,), dtype="int32", name="ids")
    mask = square(ids)
    x = layers.Embedding(9, 8, name="embedding")(ids)
    for number in range(3):
        x = attention(x, mask, number)
    model = keras.Model(ids, {"states": x, "mask": mask, "positive": ops.greater(ids, 0)})
    split = ks.split(model, ["block0", "block1"])
    assert split.verify(IDS).check().identical
    made = [name for stage in split for name in stage.outputs]
    assert len(made) == len(set(made))
    ours, theirs = split(IDS), model(IDS)
    assert all(same_bits(ours[key], theirs[key]) for key in theirs)


def test_an_early_input_beside_the_cut_does_not_bring_the_head_along():
    """`start` must be complete even if it names an input of the model."""
    ids = keras.Input((4,), name="ids")
    index = keras.Input((4,), name="cache_index")
    stem = layers.Dense(4, name="stem")(layers.Add(name="sum")([ids, index]))
    hidden = layers.Dense(4, name="hidden")(stem)
    skip = layers.Add(name="skip")([stem, hidden, index])
    model = keras.Model([ids, index], layers.Dense(2, name="out")(skip))
    message = "'hidden' and 'cache_index' are inside a branch: 'stem' crosses there too."
    with pytest.raises(ks.InsideBranchError, match=message):
        ks.build_submodel(model, start=["hidden", "cache_index"])
    tail = ks.build_submodel(model, start=["stem", "cache_index"])
    assert set(tail.input) == {"stem", "cache_index"}
    assert [layer.name for layer in tail.layers if layer.weights] == ["hidden", "out"]


def test_explain_calls_a_mask_by_what_it_masks():
    ids = keras.Input((LENGTH,), dtype="int32", name="ids")
    x = layers.Embedding(9, 8, mask_zero=True, name="embedding")(ids)
    x = layers.LSTM(8, return_sequences=True, name="first")(x)
    model = keras.Model(ids, layers.LSTM(8, name="second")(x))
    explanation = ks.explain(model, "first")
    (mask,) = explanation.also
    assert str(explanation) == (
        "'first' is a split point: it alone crosses a cut there; the mask of 'embedding' comes along.\n"
        "Nearest split points: 'embedding' before, none after."
    )
    assert not ks.explain(model, mask).is_split_point
    assert ks.explain(model, mask).reason == (
        f"'{mask}' is computed from inputs of the model to mask other tensors (the mask of 'embedding'): it is sent "
        "along with a cut, or computed again after it, and is no place to cut."
    )


def residuals():
    """A residual block within another one."""
    i = keras.Input((8,), name="i")
    a = layers.Dense(8, name="a")(i)
    b = layers.Dense(8, name="b")(a)
    c = layers.Dense(8, name="c")(b)
    inner = layers.Add(name="inner")([c, b])
    return keras.Model(i, layers.Add(name="outer")([layers.Dense(8, name="d")(inner), a]))


def test_between_a_start_and_an_end_only_what_is_needed_there_must_be_named():
    model, x = residuals(), np.random.default_rng(0).normal(size=(2, 8)).astype("float32")
    made = ks.tap(model, ["a", "b", "c", "inner"])(x)
    section = ks.build_submodel(model, start=["b", "c"], end="inner")
    assert same_bits(section({"b": made["b"], "c": made["c"]}), made["inner"])
    assert same_bits(ks.build_submodel(model, start="b", end="inner")(made["b"]), made["inner"])
    with pytest.raises(ks.InsideBranchError, match="'c' is inside a branch: 'b' crosses there too.") as error:
        ks.build_submodel(model, start="c", end="inner")
    assert str(error.value).endswith("To build on both tensors, pass ['b', 'c'].")
    with pytest.raises(ks.InsideBranchError, match="'b' is inside a branch: 'a' crosses there too."):
        ks.build_submodel(model, start="b")
    with pytest.raises(ks.NotConnectedError, match="'a' does not depend on 'c'"):
        ks.build_submodel(model, start="c", end="a")


def test_a_section_does_not_bring_what_is_computed_of_inputs_alone_before_it():
    image = keras.Input((8,), name="image")
    scaled = layers.Rescaling(0.5, name="scaled")(image)
    hidden = layers.Dense(8, name="hidden")(scaled)
    model = keras.Model(image, layers.Add(name="sum")([hidden, scaled]))
    for end in (None, "sum"):
        with pytest.raises(ks.InsideBranchError, match="'hidden' is inside a branch: 'scaled' crosses there too."):
            ks.build_submodel(model, start="hidden", end=end)


@pytest.mark.parametrize("make_mask", [narrow, square])
def test_head_and_tail_of_one_cut_fit_together(make_mask):
    """The tail recomputes the mask from the model's input; a mask in `start` is an input instead."""
    model = transformer(make_mask)
    head, tail = ks.build_submodel(model, end="block0"), ks.build_submodel(model, start="block0")
    assert set(tail.input) == {"block0", "ids"}
    joined = ks.join([head, tail])
    assert [tensor.name for tensor in joined.inputs] == ["ids"]
    assert same_bits(joined(IDS), model(IDS))
    mask = [tensor.name for tensor in read_graph(model).tensors if tensor.symbol.dtype == "bool"][-1]
    made = ks.tap(model, ["block0", mask])(IDS)
    assert same_bits(ks.build_submodel(model, start=["block0", mask])(made), model(IDS))


def test_a_mask_of_the_cut_tensor_itself_is_made_behind_the_cut():
    raw = keras.Input((LENGTH,), dtype="int32", name="raw")
    ids = ops.minimum(raw, 8)
    x = layers.Embedding(9, 8, mask_zero=True, name="embedding")(ids)
    model = keras.Model(raw, layers.LSTM(4, name="lstm")(x))
    point = ks.split_points(model)[0]
    assert (point.also, point.bytes) == ((), LENGTH * 4)
    assert [tensor.name for tensor in ks.build_submodel(model, start=point.name).inputs] == [point.name]
    assert check(model, point.name)[1].inputs == (point.name,)


@keras.saving.register_keras_serializable("tests")
class TokenDrop(layers.Layer):
    """Draws new random numbers in each call, and has no variables."""

    def call(self, ids):
        return keras.random.uniform(ops.shape(ids)) > 0.5

    def compute_output_spec(self, ids):
        return keras.KerasTensor(ids.shape, "bool")


def test_a_boolean_tensor_of_a_layer_of_ones_own_is_made_once():
    ids = keras.Input((LENGTH,), dtype="int32", name="ids")
    keep = ops.expand_dims(TokenDrop(name="keep")(ids), -1)
    x = ops.where(keep, layers.Embedding(9, 8, name="embedding")(ids), 0.0)
    model = keras.Model(ids, {"a": x, "b": ops.where(keep, layers.Dense(8, "sigmoid", name="dense")(x), 0.0)})
    assert "dense" not in points_of(model)
    split = ks.split(model, "dense", allow_crossing=True)
    outputs = split(IDS)
    assert np.array_equal(*(keras.ops.convert_to_numpy(outputs[name]) != 0 for name in "ab"))


def test_a_mask_that_is_only_an_output_is_made_where_its_inputs_are():
    steps = keras.Input((LENGTH, 4), name="steps")
    x = layers.LSTM(4, name="last")(layers.LSTM(4, return_sequences=True, name="first")(steps))
    there = ops.any(ops.not_equal(steps, 0), axis=-1)
    model = keras.Model(steps, {"y": layers.Dense(2, name="dense")(x), "there": there})
    x = np.random.default_rng(0).normal(size=(2, LENGTH, 4)).astype("float32")
    for point in ks.split_points(model):
        split = check_outputs(model, point.name, x)
        assert point.also == () and split.crossings[0].bytes == point.bytes
        assert len(split[0].outputs) == 2
    two = keras.Input((3,), name="two")
    model = keras.Model(
        [steps, two], [layers.Dense(2, name="out")(layers.Flatten(name="flat")(steps)), ops.greater(two, 0)]
    )
    check_outputs(model, "flat", [x, np.eye(2, 3, dtype="float32")])


def check_outputs(model, at, x):
    split = ks.split(model, at)
    assert split.verify(x).check().identical
    assert same_bits(split(x), model(x)) and same_bits(split.join()(x), model(x))
    return split
