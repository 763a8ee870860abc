"""compare: the first tensor in which two models differ, and why."""

import json
import re

import keras
import menagerie
import numpy as np
import pytest
from command_line import run
from every_kind import cached
from keras import layers
from menagerie import Kind
from samples import due

import kerassplit as ks

pytestmark = pytest.mark.filterwarnings("ignore:Layer '.*' .* was passed an input with a mask:UserWarning")


def chain(names="abcd", seed=3, activation="relu") -> keras.Model:
    """A chain of Dense layers with these names; equal names and seeds make equal weights."""
    x = inputs = keras.Input((4,), name="x")
    for name in names:
        x = layers.Dense(
            4, activation, kernel_initializer=keras.initializers.GlorotUniform(ord(name) + seed), name=name
        )(x)
    return keras.Model(
        inputs, layers.Dense(2, name="out", kernel_initializer=keras.initializers.GlorotUniform(1))(x), name="chain"
    )


def test_equal_models_agree_bit_for_bit():
    comparison = ks.compare(chain(), chain())
    assert comparison
    assert (comparison.ok, comparison.identical, comparison.max_difference, comparison.first) == (True, True, 0.0, None)
    assert [one.tensor for one in comparison.comparisons] == ["a", "b", "c", "d", "out"]
    assert (comparison.only_in_model, comparison.only_in_other, comparison.weights, comparison.settings) == (
        (),
        (),
        (),
        {},
    )
    assert comparison.verdict() == "The two models 'chain' compute the same numbers, bit for bit, in 5 tensors."
    assert comparison.check() is comparison


def test_the_one_changed_weight_is_named():
    model, other = chain(activation=None), chain(activation=None)
    other.get_layer("c").bias.assign([0, 0, 0.5, 0])
    comparison = ks.compare(model, other)
    assert not comparison
    first = comparison.first
    assert (first.tensor, first.stage, first.max_difference) == ("c", "c", pytest.approx(0.5))
    assert [(one.layer, one.weight, one.max_difference) for one in comparison.weights] == [("c", "bias", 0.5)]
    assert [one.tensor for one in comparison.comparisons if one.identical] == ["a", "b"]
    said = (
        "The two models 'chain' part at 'c': the largest difference is 0.5 (0 allowed). Weights of 'c' differ: 'bias' "
        "by 0.5."
    )
    assert comparison.verdict() == said
    assert said in " ".join(str(comparison).split())
    with pytest.raises(ks.VerificationError, match=re.escape(said)):
        comparison.check()


def test_two_layers_that_changed_places_are_found():
    comparison = ks.compare(chain("abcd"), chain("acbd"))
    assert comparison.first_difference == "b"
    assert comparison.weights == ()
    assert "Weights and configuration of its layer are equal: what it receives, or its code, differs." in str(
        comparison
    )


def test_a_setting_that_differs_is_told_with_both_values():
    model, other = chain(), chain()
    other.get_layer("b").activation = keras.activations.tanh
    comparison = ks.compare(model, other)
    assert comparison.first_difference == "b"
    assert comparison.settings == {"b": {"activation": ("'relu'", "'tanh'")}}
    assert "Its configuration differs: activation ('relu' and 'tanh')." in comparison.verdict()


def test_a_setting_inside_an_object_is_told_by_its_path():
    """Long configurations that begin alike, and names of layers inside layers, which do not count."""
    x = keras.Input((4, 3), name="x")

    def model(policy, factor):
        y = layers.Dense(3, name="a", dtype=policy, kernel_regularizer=keras.regularizers.L2(factor))(x)
        return keras.Model(x, layers.TimeDistributed(layers.Dense(2, kernel_initializer="ones"), name="b")(y))

    comparison = ks.compare(model("float32", 0.1), model("mixed_bfloat16", 0.2), tolerance=10)
    assert comparison.settings == {
        "a": {"dtype.name": ("'float32'", "'mixed_bfloat16'"), "kernel_regularizer.l2": ("0.1", "0.2")}
    }


def test_long_arrays_in_settings_are_compared_whole():
    x = keras.Input((4,), name="x")

    class Scaled(keras.layers.Layer):
        def __init__(self, factors, **options):
            super().__init__(**options)
            self.factors = factors

        def call(self, x):
            return x * self.factors[1000]

        def get_config(self):
            return super().get_config() | {"factors": self.factors}

    models = [keras.Model(x, Scaled(np.eye(1, 2000, k=k)[0], name="a")(x)) for k in (1000, 1001)]
    assert list(ks.compare(*models).settings["a"]) == ["factors"]


def test_up_to_the_tolerance_models_agree():
    model, other = chain(), chain()
    other.get_layer("out").bias.assign([0.25, 0])
    x = np.zeros((3, 4), "float32")
    assert not ks.compare(model, other, x, tolerance=0.125)
    comparison = ks.compare(model, other, x, tolerance=0.25)
    assert comparison.ok and not comparison.identical
    assert comparison.verdict().endswith("agree in 5 tensors; the largest difference is 0.25 (0.25 allowed).")


def test_tensors_of_one_model_only_are_listed():
    model = chain()
    longer = ks.join(
        [ks.build_submodel(model, end="b"), layers.Identity(name="more"), ks.build_submodel(model, start="b")]
    )
    comparison = ks.compare(model, longer)
    assert comparison.identical
    assert (comparison.only_in_model, comparison.only_in_other) == ((), ("more",))
    assert "Only in 'joined': 'more'." in comparison.verdict()
    same = ks.compare(model, ks.remove(model, "b"))
    assert same.verdict().endswith("Only in the first: 'b'.")


def test_other_names_are_matched_as_told_and_outputs_by_position():
    model = chain()
    other = keras.models.clone_model(
        model,
        clone_function=lambda layer: type(layer).from_config(
            {**layer.get_config(), "name": f"{layer.name}_new"} if layer.name in ("b", "out") else layer.get_config()
        ),
    )
    other.set_weights(model.get_weights())
    comparison = ks.compare(model, other)
    assert [(one.tensor, one.other) for one in comparison.comparisons] == [
        ("a", "a"),
        ("c", "c"),
        ("d", "d"),
        ("out", "out_new"),
    ]
    assert (comparison.only_in_model, comparison.only_in_other) == (("b",), ("b_new",))
    named = ks.compare(model, other, names={"b": "b_new"})
    assert ("b", "b_new") in [(one.tensor, one.other) for one in named.comparisons]
    assert named.identical and not named.only_in_model
    with pytest.raises(ks.UnknownTensorError, match="Model 'chain' has no tensor 'q'"):
        ks.compare(model, other, names={"b": "q"})


def test_layers_within_a_nested_model_are_those_of_the_flat_one():
    taken = keras.Input((4,), name="x")
    nested = keras.Model(taken, layers.Dense(2, name="top")(chain()(taken)), name="nested")
    flat = ks.flatten(nested, copy_weights=True)
    assert ks.compare(nested, flat).identical
    flat.get_layer("b").bias.assign(np.ones(4))
    comparison = ks.compare(nested, flat)
    assert (comparison.first.tensor, comparison.first.other) == ("chain/b", "b")
    assert [(one.layer, one.weight) for one in comparison.weights] == [("chain/b", "bias")]


def test_splits_are_compared_by_what_their_stages_compute(tmp_path):
    model = chain()
    split = ks.split(model, ["a", "c"])
    split.save(tmp_path / "out")
    loaded = ks.load(tmp_path / "out")
    assert ks.compare(model, loaded).identical
    assert ks.compare(split, loaded).identical
    loaded["stage_1"].model.get_layer("c").bias.assign(np.ones(4))
    assert ks.compare(split, loaded).first_difference == "c"
    assert ks.compare(loaded, model).first_difference == "c"


def test_shapes_that_differ_are_told():
    inputs = keras.Input((6, 2), name="x")
    models = [
        keras.Model(inputs, layers.GlobalMaxPooling1D(name="most")(layers.Conv1D(2, 2, strides, name="conv")(inputs)))
        for strides in (1, 2)
    ]
    verdict = ks.compare(*models).verdict()
    assert "part at 'conv': its shape is (2, 5, 2) in the one and (2, 3, 2) in the other." in verdict
    assert "strides ((1,) and (2,))" in verdict


def test_models_that_cannot_take_one_input_are_refused():
    x = keras.Input((5,), name="x")
    with pytest.raises(
        ks.SplitError, match=r"cannot run on one input: the first takes 'x' \(None, 4\) float32, the second 'x'"
    ):
        ks.compare(chain(), keras.Model(x, layers.Dense(2)(x)))
    with pytest.raises(ks.SplitError, match="The input does not go through 'chain'"):
        ks.compare(chain(), chain(), np.zeros((2, 7), "float32"))
    with pytest.raises(ks.SplitError, match="'chain' takes one array or tensor; got"):
        ks.compare(chain(), chain(), [np.zeros((2, 4))] * 2)


def two_inputs(order: str) -> keras.Model:
    """Two inputs of one shape, of which only one is scaled, declared in this order."""
    ends = {name: keras.Input((3,), name=name) for name in "ab"}
    total = layers.Add(name="sum")([layers.Rescaling(2.0, name="twice")(ends["b"]), ends["a"]])
    return keras.Model([ends[name] for name in order], total, name="pair")


def test_inputs_of_equal_names_get_the_same_arrays_in_whatever_order_they_are():
    arrays = {name: np.full((2, 3), value, "float32") for name, value in (("a", 1), ("b", 10))}
    for x in (None, arrays, [arrays["b"], arrays["a"]]):
        assert ks.compare(two_inputs("ba"), two_inputs("ab"), x).identical
    other = two_inputs("ab")
    other.get_layer("twice").scale = 3.0
    comparison = ks.compare(two_inputs("ba"), other, arrays)
    assert (comparison.first_difference, comparison.max_difference) == ("twice", 10.0)  # of b, not of a


def test_where_only_one_side_is_nan_they_differ():
    model, other = chain(), chain()
    other.get_layer("b").bias.assign([np.nan, 0, 0, 0])
    comparison = ks.compare(model, other)
    assert (comparison.first_difference, comparison.max_difference) == ("b", float("inf"))


@pytest.mark.parametrize("kind", due(menagerie.kinds(), 3), ids=lambda kind: kind.name)
def test_every_kind_of_model_equals_itself(kind: Kind):
    animal = cached(kind)
    comparison = ks.compare(animal.model, animal.model, animal.x)
    assert comparison.identical or not comparison.compared
    assert not comparison.only_in_model


def test_a_comparison_is_saved_and_read(tmp_path):
    other = chain()
    other.get_layer("c").bias.assign([0, 0, 0.5, np.inf])
    comparison = ks.compare(chain(), other)
    comparison.save(tmp_path / "comparison.json")
    assert ks.Comparison.load(tmp_path / "comparison.json") == comparison
    assert json.loads((tmp_path / "comparison.json").read_text())["first_difference"] == "c"


def test_on_the_command_line_the_exit_code_tells(tmp_path):
    model, other = chain(activation=None), chain(activation=None)
    other.get_layer("c").bias.assign([0, 0, 0.5, 0])
    model.save(tmp_path / "model.keras")
    other.save(tmp_path / "other.keras")
    ks.split(model, "b").save(tmp_path / "out")
    same = run("compare", tmp_path / "model.keras", tmp_path / "out", "--json")
    assert json.loads(same.stdout)["identical"] is True
    found = run("compare", tmp_path / "model.keras", tmp_path / "other.keras", status=1)
    assert "part at 'c': the largest difference is 0.5" in " ".join(found.stdout.split())
    assert run("compare", tmp_path / "model.keras", tmp_path / "other.keras", "--tolerance", 9).exit_code == 0
    np.save(tmp_path / "x.npy", np.full((1, 4), np.nan, "float32"))
    nothing = run("compare", tmp_path / "model.keras", tmp_path / "out", "--input", tmp_path / "x.npy", status=1)
    assert "Nothing was compared: on this input, the outputs of 'chain' are all NaN." in " ".join(
        nothing.stdout.split()
    )
    wrong = run("compare", tmp_path / "model.keras", tmp_path / "out", "--same", "a", status=2)
    assert "--same is 'a'. Expected two names, such as --same conv1=stem/conv." in wrong.stderr
