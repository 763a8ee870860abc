"""What `compare` compares with what: outputs as outputs, tensors whatever their automatic names, weights in layers."""

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
X = keras.Input((6,), name="x")
HIDDEN = layers.Dense(4, name="hidden")(X)
BOXES, SCORES = (layers.Dense(3, name=name)(HIDDEN) for name in ("boxes", "scores"))


def models(one, other) -> list[keras.Model]:
    return [keras.Model(X, outputs, name="m") for outputs in (one, other)]


class TestOutputs:
    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ([BOXES, SCORES], (BOXES, SCORES)),
            ([BOXES], BOXES),
            ([BOXES, BOXES], [BOXES, BOXES]),
            ({"b": BOXES, "s": SCORES}, {"s": SCORES, "b": BOXES}),
            ({"b": [BOXES, SCORES], "x": X}, {"b": [BOXES, SCORES], "x": X}),
            (X, X),
        ],
    )
    def test_equal_ones(self, one, other):
        comparison = ks.compare(*models(one, other))
        assert comparison and comparison.identical
        assert comparison.outputs == {}

    @pytest.mark.parametrize(
        ("one", "other", "outputs"),
        [
            ([BOXES, SCORES], [SCORES, BOXES], {"0": ("boxes", "scores"), "1": ("scores", "boxes")}),
            (
                {"b": BOXES, "s": SCORES},
                {"b": SCORES, "s": BOXES},
                {"b": ("boxes", "scores"), "s": ("scores", "boxes")},
            ),
            ({"a": [BOXES, SCORES]}, {"a": [BOXES, HIDDEN]}, {"a.1": ("scores", "hidden")}),
            ([BOXES, SCORES], [BOXES, BOXES], {"1": ("scores", "boxes")}),
            ([BOXES, SCORES], BOXES, {"1": ("scores", "-")}),
            (BOXES, [HIDDEN, BOXES], {"0": ("boxes", "hidden"), "1": ("-", "boxes")}),
            ([X, BOXES], BOXES, {"0": ("x", "boxes"), "1": ("boxes", "-")}),
            ({"b": BOXES, "s": SCORES}, {"b": BOXES}, {"s": ("scores", "-")}),
            ({"b": BOXES, "s": SCORES}, [BOXES, SCORES], {"structure": ("a dict", "no dict")}),
            (HIDDEN, X, {"0": ("hidden", "x")}),
        ],
    )
    def test_other_ones_are_told(self, one, other, outputs):
        comparison = ks.compare(*models(one, other))
        assert (comparison.ok, comparison.identical, comparison.outputs) == (False, False, outputs)
        assert comparison.weights == () and comparison.settings == {}
        assert comparison.verdict().startswith("The two models 'm' give other outputs: ")
        with pytest.raises(ks.VerificationError, match="give other outputs"):
            comparison.check()

    def test_in_words(self):
        exchanged = "'0' ('boxes' and 'scores') and '1' ('scores' and 'boxes')"
        said = ks.compare(*models([BOXES, SCORES], [SCORES, BOXES])).verdict()
        assert said == f"The two models 'm' give other outputs: {exchanged}. All else that both compute agrees."
        said = ks.compare(*models({"b": BOXES, "s": SCORES}, [BOXES])).verdict()
        assert "outputs: 'b' (only in the first)" not in said
        assert "'1' (only in the first) and their structure (a dict and no dict)." in said

    def test_what_parts_inside_is_told_as_well(self):
        one = keras.Model(X, [BOXES, SCORES], name="m")
        other = ks.build_submodel(one, copy_weights=True, name="m")
        other.get_layer("hidden").bias.assign(np.ones(4))
        swapped = keras.Model(other.input, other.output[::-1], name="m")
        comparison = ks.compare(one, swapped)
        assert comparison.first_difference == "hidden"
        assert " They part at 'hidden': " in comparison.verdict()
        assert "Weights of 'hidden' differ: 'bias' by 1." in comparison.verdict()

    def test_a_comparison_of_other_ones_is_saved_and_read(self, tmp_path):
        comparison = ks.compare(*models([BOXES, SCORES], SCORES))
        comparison.save(tmp_path / "comparison.json")
        assert ks.Comparison.load(tmp_path / "comparison.json").outputs == {
            "0": ("boxes", "scores"),
            "1": ("scores", "-"),
        }

    def test_on_the_command_line(self, tmp_path):
        for name, model in zip(("a", "b"), models([BOXES, SCORES], [SCORES, BOXES]), strict=True):
            model.save(tmp_path / f"{name}.keras")
        found = run("compare", tmp_path / "a.keras", tmp_path / "b.keras", status=1)
        assert "give other outputs: '0' ('boxes' and 'scores')" in " ".join(found.stdout.split())


def chain(*more) -> keras.Model:
    return keras.Sequential([keras.Input((6,)), layers.Dense(6), layers.Dense(6), *more], name="chain")


class TestAutomaticNames:
    @pytest.fixture
    def shifted(self, tmp_path):
        """Loads the first model as if in another process, in which one layer was built before."""

        def shift(model: keras.Model, build) -> keras.Model:
            model.save(tmp_path / "model.keras")
            keras.backend.clear_session()
            layers.Dense(3)
            other = build()
            other.set_weights(model.get_weights())
            return other

        keras.backend.clear_session()
        return shift

    def test_of_a_model_built_after_another_layer(self, shifted):
        model = chain()
        other = shifted(model, chain)
        comparison = ks.compare(model, other)
        assert [(one.tensor, one.other) for one in comparison.comparisons] == [
            ("dense", "dense_1"),
            ("dense_1", "dense_2"),
        ]
        assert comparison.verdict() == "The two models 'chain' compute the same numbers, bit for bit, in 2 tensors."
        other.layers[0].bias.assign(np.ones(6))
        comparison = ks.compare(model, other)
        assert [(one.layer, one.weight) for one in comparison.weights] == [("dense", "bias")]

    def test_inside_a_nested_model(self, shifted):
        def build():
            return keras.Sequential([keras.Input((6,)), keras.Sequential([layers.Dense(6), layers.Dense(6)])])

        model = build()
        comparison = ks.compare(model, shifted(model, build))
        assert comparison.identical and len(comparison.comparisons) == 2

    def test_where_the_classes_are_not_equally_often_there(self, shifted):
        """One more layer in the second model computes nothing: the outputs are compared, not what has equal names."""
        model = chain()
        other = shifted(model, chain)
        same = layers.Dense(6, kernel_initializer="identity")
        longer = keras.Model(other.inputs, same(other.outputs[0]), name="chain")
        comparison = ks.compare(model, longer)
        assert comparison.identical
        assert [(one.tensor, one.other) for one in comparison.comparisons] == [("dense_1", "dense_3")]
        assert (comparison.only_in_model, comparison.only_in_other) == (("dense",), ("dense_1", "dense_2"))

    def test_of_shared_layers_count(self):
        """One Dense was removed and one inserted: there are equally many, but the others are the same objects."""
        model = chain(layers.Dense(6, kernel_initializer="identity"))
        first, second, third = model.layers
        edited = ks.insert(ks.remove(model, third.name), first.name, layers.Dense(6, kernel_initializer="identity"))
        comparison = ks.compare(model, edited)
        assert comparison.identical
        assert (comparison.only_in_model, len(comparison.only_in_other)) == ((third.name,), 1)
        assert (second.name, second.name) in [(one.tensor, one.other) for one in comparison.comparisons]

    @pytest.mark.parametrize("kind", due(menagerie.kinds(), 6), ids=lambda kind: kind.name)
    def test_of_every_kind_of_model_built_twice(self, kind: Kind):
        animal, again = cached(kind), kind.build().model
        again.set_weights(animal.model.get_weights())
        comparison = ks.compare(animal.model, again, animal.x)
        assert comparison.identical or not comparison.compared
        assert comparison.weights == ()


class Twice(layers.Layer):
    """Two weights of one name, and a layer inside whose name ends in this one's."""

    def build(self, shape):
        self.inner = layers.Dense(shape[-1], name=f"more_{self.name}")
        self.inner.build(shape)
        self.factor, self.summand = (self.add_weight(name="w", shape=(1,), initializer="ones") for _ in range(2))

    def call(self, x):
        return self.inner(x) * self.factor + self.summand


class Block(layers.Layer):
    """Two layers inside, with automatic names."""

    def build(self, shape):
        self.inner = [layers.Dense(shape[-1]), layers.Dense(shape[-1])]
        for one in self.inner:
            one.build(shape)

    def call(self, x):
        return self.inner[1](self.inner[0](x))


COMPOSITES = {
    "bidirectional": lambda: layers.Bidirectional(layers.LSTM(3, return_sequences=True), name="a"),
    "cells": lambda: layers.RNN([layers.GRUCell(3), layers.GRUCell(3)], return_sequences=True, name="a"),
    "time": lambda: layers.TimeDistributed(layers.Dense(3), name="a"),
    "custom": lambda: Block(name="a"),
    "twice": lambda: Twice(name="a"),
}


class TestWeights:
    @pytest.mark.parametrize("reloads", [False, True])
    @pytest.mark.parametrize("name", COMPOSITES)
    def test_of_layers_inside_are_compared_one_by_one(self, name, reloads, tmp_path):
        model, other = (keras.Sequential([keras.Input((5, 4)), COMPOSITES[name]()], name="m") for _ in range(2))
        other.set_weights(model.get_weights())
        if reloads:
            other.save(tmp_path / "other.keras")
            with keras.utils.custom_object_scope({"Block": Block, "Twice": Twice}):
                other = keras.models.load_model(tmp_path / "other.keras")
        comparison = ks.compare(model, other)
        assert comparison.identical and comparison.weights == ()
        for place, weight in enumerate(other.layers[0].weights):
            before = keras.ops.convert_to_numpy(weight)
            weight.assign(before + 1)
            comparison = ks.compare(model, other)
            assert [one.max_difference for one in comparison.weights] == [pytest.approx(1)]
            assert comparison.weights[0].weight.partition("@")[0].endswith(model.layers[0].weights[place].name)
            weight.assign(before)

    def test_names(self):
        model, other = (keras.Sequential([keras.Input((5, 4)), Twice(name="a")], name="m") for _ in range(2))
        weights = ks.compare(model, other).weights
        assert [one.weight for one in weights] == ["more_a/kernel"]
        for weight in (other.layers[0].factor, other.layers[0].summand):
            weight.assign([3.0])
        assert [one.weight for one in ks.compare(model, other).weights] == ["w", "w@1", "more_a/kernel"]

    def test_of_other_shapes(self):
        """Each is told with both shapes, although the layers inside have other names."""
        model, other = (
            keras.Sequential([keras.Input((5, 4)), layers.Bidirectional(layers.SimpleRNN(units), name="a")])
            for units in (2, 3)
        )
        weights = ks.compare(model, other).weights
        assert [(one.shape, one.other_shape) for one in weights[:3]] == [
            ((4, 2), (4, 3)),
            ((2, 2), (3, 3)),
            ((2,), (3,)),
        ]
        assert len(weights) == 6

    @pytest.mark.parametrize("name", COMPOSITES)
    def test_go_one_by_one_to_the_layer_that_replaces_theirs(self, name):
        model = keras.Sequential([keras.Input((5, 4)), COMPOSITES[name]()], name="m")
        model.layers[0].set_weights([place + weight for place, weight in enumerate(model.get_weights())])
        edited = ks.replace(model, {"a": lambda _: COMPOSITES[name]()})
        assert ks.compare(model, edited).identical
        for one, other in zip(model.get_weights(), edited.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)
