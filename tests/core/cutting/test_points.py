"""Split points: complete, ordered, described."""

import pickle
from itertools import pairwise

import keras
import menagerie
import numpy as np
import pytest
from applications import application
from comparing import copied
from menagerie import Kind
from oracle import ancestors, edges_of
from samples import due

import kerassplit as ks
from kerassplit.cutting.explaining import explain_all
from kerassplit.graph.reading import read_graph
from kerassplit.zoo.names import architectures


def test_there_are_forty_architectures():
    assert len(architectures()) == 40


def test_split_points_come_in_execution_order_without_inputs_and_final_outputs(resnet):
    points = ks.split_points(resnet)
    assert [point.index for point in points] == list(range(39))
    assert points[0].name == "conv1_pad"
    assert points[-1].name == "avg_pool"
    received, _ = edges_of(resnet)
    for before, after in pairwise(points):
        assert (before.name, 0) in ancestors(received, (after.name, 0, 0))


def test_a_split_point_says_what_it_is(resnet):
    point = {point.name: point for point in ks.split_points(resnet)}["conv4_block6_out"]
    assert point.layer is resnet.get_layer("conv4_block6_out")
    assert point.shape == (None, 4, 4, 1024)
    assert point.dtype == "float32"
    assert point.bytes == 4 * 4 * 1024 * 4
    assert point.after_merge
    before = ks.build_submodel(resnet, end="conv4_block6_out").count_params()
    assert point.params_before == before
    assert point.params_after == resnet.count_params() - before


def test_after_merge_marks_the_ends_of_blocks(resnet):
    merged = [point.name for point in ks.split_points(resnet) if point.after_merge]
    blocks = [(stage, block) for stage, count in zip((2, 3, 4, 5), (3, 4, 6, 3), strict=True) for block in range(count)]
    expected = [f"conv{stage}_block{block + 1}_{part}" for stage, block in blocks for part in ("add", "out")]
    assert merged == expected


def test_parameters_before_and_after_agree_with_the_sub_models(applications):
    model = applications("MobileNetV2")
    for point in due(ks.split_points(model), 3):
        assert point.params_before == ks.build_submodel(model, end=point.name).count_params()
        assert point.params_after == ks.build_submodel(model, start=point.name).count_params()


def test_a_shared_layer_counts_once_before_and_once_after():
    x = inputs = keras.Input((4,))
    dense = keras.layers.Dense(4, name="dense")
    for _ in range(3):
        x = dense(x)
    model = keras.Model(inputs, keras.layers.Dense(2, name="last")(x))
    points = ks.split_points(model)
    assert [point.name for point in points] == ["dense@0", "dense@1", "dense@2"]
    assert [point.params_before for point in points] == [20, 20, 20]
    assert [point.params_after for point in points] == [30, 30, 10]


def flops_by_profile(model, point, batch_size=1):
    """FLOPs before and after a split point, from the profile's counts for the calls of the two sub-models."""
    calls = {call.name: call.flops for call in ks.profile(model, batch_size).calls}
    head = {call.name for call in ks.profile(ks.build_submodel(model, end=point.name), batch_size).calls}
    return sum(calls[name] for name in head), sum(flops for name, flops in calls.items() if name not in head)


@pytest.mark.parametrize("name", ["MobileNetV2", "small"])
def test_flops_before_and_after_are_those_of_the_profile(name, applications, small):
    model = small if name == "small" else applications(name)
    for point in ks.split_points(model)[:: 1 if name == "small" else 9]:
        assert (point.flops_before, point.flops_after) == flops_by_profile(model, point)
    assert ks.split_points(model)[-1].flops_before > 1000


def test_flops_are_of_one_sample_where_the_batch_is_fixed_or_folded_into_another_side():
    fixed = keras.Input((6,), batch_size=4, name="fixed")
    x = keras.layers.Dense(8, name="wide")(fixed)
    model = keras.Model(fixed, keras.layers.Dense(2, name="last")(x))
    (point,) = ks.split_points(model)
    assert (point.flops_before, point.flops_after) == (2 * 6 * 8 + 8, 2 * 8 * 2 + 2)
    steps = keras.Input((5, 6), name="steps")
    x = keras.layers.Dense(8, name="each")(keras.ops.reshape(steps, (-1, 6)))
    model = keras.Model(steps, keras.layers.Dense(2, name="end")(x))
    point = next(point for point in ks.split_points(model) if point.name == "each")
    assert (point.flops_before, point.flops_after) == (5 * (2 * 6 * 8 + 8), 5 * (2 * 8 * 2 + 2))


def test_flops_of_a_layer_without_a_formula_are_not_known_on_its_side_and_it_is_not_run():
    class Own(keras.layers.Layer):
        runs = 0

        def call(self, x):
            Own.runs += 1
            return x * 2.0

    x = inputs = keras.Input((4,))
    x = keras.layers.Dense(3, name="first")(x)
    x = Own(name="own")(x)
    x = keras.layers.Dense(2, name="second")(x)
    model = keras.Model(inputs, keras.layers.Dense(1, name="last")(x))
    runs = Own.runs
    first, own, second = ks.split_points(model)
    assert Own.runs == runs
    assert (first.flops_before, first.flops_after) == (2 * 4 * 3 + 3, None)
    assert (own.flops_before, own.flops_after) == (None, 2 * 3 * 2 + 2 + 2 * 2 + 1)
    assert (second.flops_before, second.flops_after) == (None, 2 * 2 + 1)


def test_flops_are_told_of_points_that_are_pickled_and_of_models_that_are_gone():
    def points():
        x = keras.Input((4,))
        return ks.split_points(keras.Model(x, keras.layers.Dense(2)(keras.layers.Dense(3, name="first")(x))))

    (point,) = points()
    (again,) = pickle.loads(pickle.dumps(points()))
    assert (point.flops_before, point.flops_after) == (2 * 4 * 3 + 3, 2 * 3 * 2 + 2)
    assert (again.flops_before, again.flops_after) == (point.flops_before, point.flops_after)
    assert "_flops" not in repr(point)


def test_an_edited_model_has_other_points_and_flops():
    x = keras.Input((4,))
    model = keras.Sequential([x, keras.layers.Dense(3, name="first"), keras.layers.Dense(2)])
    (before,) = ks.split_points(model)
    assert before.flops_after == 2 * 3 * 2 + 2
    model.add(keras.layers.Dense(5))
    model.get_layer("first").activation = keras.activations.relu
    first, second = ks.split_points(model)
    assert (first.flops_before, first.flops_after) == (2 * 4 * 3 + 3 + 3, 2 * 3 * 2 + 2 + 2 * 2 * 5 + 5)
    assert second.flops_after == 2 * 2 * 5 + 5


def test_open_dimensions_have_no_size():
    inputs = keras.Input((None, None, 3))
    outputs = keras.layers.Conv2D(2, 1, name="out")(keras.layers.Conv2D(4, 1, name="conv")(inputs))
    (point,) = ks.split_points(keras.Model(inputs, outputs))
    assert point.shape == (None, None, None, 4)
    assert point.bytes is None
    assert point.flops_before is None
    assert point.flops_after is None


def test_the_end_of_each_tower_is_a_split_point():
    left, right = keras.Input((4,), name="left"), keras.Input((4,), name="right")
    a = keras.layers.Dense(4, name="a2")(keras.layers.Dense(4, name="a1")(left))
    b = keras.layers.Dense(4, name="b2")(keras.layers.Dense(4, name="b1")(right))
    model = keras.Model([left, right], keras.layers.Dense(1, name="top")(keras.layers.Add(name="sum")([a, b])))
    assert {point.name for point in ks.split_points(model)} == {"a1", "a2", "b1", "b2", "sum"}


def test_an_early_output_does_not_cross(small):
    points = {point.name for point in ks.split_points(small)}
    assert {"pool", "both"} <= points
    assert "score" not in points


def test_an_input_used_on_both_sides_comes_along():
    image = keras.Input((4,), name="image")
    hidden = keras.layers.Dense(4, name="hidden")(image)
    model = keras.Model(image, keras.layers.Add(name="sum")([hidden, image]))
    (point,) = ks.split_points(model)
    assert (point.name, point.also, point.bytes) == ("hidden", ("image",), 32)
    explanation = ks.explain(model, "hidden")
    assert (explanation.crossing, explanation.also) == (("hidden",), ("image",))
    assert explanation.reason == (
        "'hidden' is a split point: it alone crosses a cut there; the input 'image' comes along."
    )


def test_explain_of_a_tensor_inside_a_branch_names_what_else_crosses(resnet):
    explanation = ks.explain(resnet, "conv4_block6_2_relu")
    assert not explanation.is_split_point
    assert explanation.crossing == ("conv4_block5_out", "conv4_block6_2_relu")
    assert explanation.before == "conv4_block5_out"
    assert explanation.after == "conv4_block6_add"
    assert str(explanation) == (
        "'conv4_block6_2_relu' is inside a branch: 'conv4_block5_out' crosses there too.\n"
        "Nearest split points: 'conv4_block5_out' before, 'conv4_block6_add' after."
    )


@pytest.mark.parametrize("kind", due(menagerie.kinds(), 3), ids=lambda kind: kind.name)
@pytest.mark.filterwarnings("ignore:Layer:UserWarning")  # of a mask that a layer drops
def test_all_tensors_are_explained_at_once_as_one_by_one(kind: Kind):
    model = kind.build().model
    explained = explain_all(read_graph(model))
    assert explained == [ks.explain(model, explanation.name) for explanation in explained]


def test_explain_of_a_split_point_an_input_and_an_output(resnet):
    at = ks.explain(resnet, resnet.get_layer("conv4_block6_out"))
    assert at.is_split_point
    assert (at.before, at.after) == ("conv4_block6_add", "conv5_block1_add")
    assert at.crossing == ("conv4_block6_out",)
    assert str(at).startswith("'conv4_block6_out' is a split point: it alone crosses a cut there.")
    first = ks.explain(resnet, resnet.input)
    assert (first.before, first.after) == (None, "conv1_pad")
    assert "is an input of the model" in first.reason
    last = ks.explain(resnet, "predictions")
    assert (last.before, last.after) == ("avg_pool", None)
    assert "is an output of the model" in last.reason


def test_an_unknown_name_gets_close_matches_and_no_list_of_all_layers(resnet):
    with pytest.raises(
        ks.UnknownTensorError, match="has no tensor 'conv4_blok6_out'. Did you mean 'conv4_block6_out'"
    ) as error:
        ks.explain(resnet, "conv4_blok6_out")
    assert error.value.name == "conv4_blok6_out"
    assert error.value.matches[0] == "conv4_block6_out"
    assert len(error.value.matches) <= 3
    with pytest.raises(ks.UnknownTensorError, match="`kerassplit.split_points\\(model\\)` lists the names"):
        ks.explain(resnet, "zzz")


def test_a_layer_called_twice_is_ambiguous_by_its_bare_name():
    inputs = keras.Input((4,))
    relu = keras.layers.ReLU(name="relu")
    model = keras.Model(inputs, relu(keras.layers.Dense(4, name="dense")(relu(inputs))))
    with pytest.raises(ks.AmbiguousTensorError, match="'relu' stands for 2 tensors .* 'relu@0' and 'relu@1'") as error:
        ks.explain(model, "relu")
    assert error.value.matches == ("relu@0", "relu@1")
    assert ks.explain(model, "relu@0").is_split_point


def test_what_has_no_graph_is_refused_with_the_way_out():
    class Own(keras.Model):
        def call(self, x):
            return x

    own = Own()
    with pytest.raises(ks.UnsupportedModelError, match=r"\(Own\) is not built: .* Call it on data once"):
        ks.split_points(own)
    own(np.zeros((1, 2)))
    with pytest.raises(ks.UnsupportedModelError, match=r"\(Own\) computes in its own `call`.*kerassplit.trace"):
        ks.split_points(own)
    with pytest.raises(ks.UnsupportedModelError, match="is not built"):
        ks.split_points(keras.Sequential([keras.layers.Dense(3)]))
    with pytest.raises(ks.UnsupportedModelError, match="'ResNet50' is a name, not a model. Load it first"):
        ks.split_points("ResNet50")


def test_a_built_sequential_model_can_be_cut():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="a"), keras.layers.Dense(2, name="b")])
    assert [point.name for point in ks.split_points(model)] == ["a"]


def test_application_models_have_batch_norm_statistics_that_are_not_zero():
    layer = application("ResNet50").get_layer("conv4_block6_2_bn")
    assert all(copied(weight).std() > 0 for weight in layer.weights)
