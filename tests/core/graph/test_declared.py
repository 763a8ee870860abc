"""Layers that do not return what they declare: stages use the actual outputs."""

from typing import Any

import keras
import numpy as np
import pytest
from comparing import fingerprint, same_bits
from keras import layers
from samples import due

import kerassplit as ks
from kerassplit.graph.reading import read_graph

register = keras.saving.register_keras_serializable("test_declared")
X = np.random.default_rng(21).normal(size=(3, 5, 4)).astype("float32")


@register
class Longer(layers.Layer):
    """Declares one row more than it returns, if told to."""

    def call(self, x):
        return keras.ops.tanh(x)

    def compute_output_shape(self, shape):
        return (shape[0], shape[1] + 1, shape[2])


@register
class Counted(layers.Layer):
    """Declares floats but returns integers, too large for the declared type."""

    def call(self, x):
        return keras.ops.cast(x > 0, "int32") + 2**24

    def compute_output_shape(self, shape):
        return shape


@register
class Twice(layers.Layer):
    """Returns what it declares, but only supports known dimensions."""

    def call(self, x):
        return keras.ops.concatenate([x, x], axis=1)

    def compute_output_shape(self, shape):
        return (shape[0], 2 * shape[1], shape[2])


@register
class Pair(layers.Layer):
    """Declares the wrong rank for its second output."""

    def call(self, x):
        return x * 2, x[:, 0]

    def compute_output_shape(self, shape):
        return shape, shape


@register
class Joined(keras.Operation):
    """A custom operation that declares half as many rows as it returns."""

    def call(self, x):
        return keras.ops.concatenate([x, x], axis=1)

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, dtype=x.dtype)


def between(make: Any) -> keras.Model:
    """A model with this layer between its first and its last layer."""
    inputs = keras.Input((5, 4), name="inputs")
    x = make(layers.Dense(4, name="stem")(inputs))
    return keras.Model(inputs, layers.Dense(2, name="out")(layers.Activation("relu", name="relu")(x)), name="model")


def nested(x):
    inner = keras.Input((5, 4))
    model = keras.Model(inner, layers.Dense(4, name="after")(Longer(name="longer")(inner)), name="nested")
    return model(x)


MAKERS = {
    "side": lambda x: Longer(name="longer")(x),
    "twice": lambda x: Longer(name="again")(layers.Dense(4, name="between")(Longer(name="longer")(x))),
    "dtype": lambda x: keras.ops.cast(Counted(name="counted")(x) - 2**24, "float32"),
    "unknown": lambda x: Twice(name="double")(Longer(name="longer")(x)),
    "rank": lambda x: keras.ops.expand_dims(Pair(name="pair")(x)[1], 1) + Pair(name="other")(x)[0],
    "operation": lambda x: Joined(name="joined")(x),
    "nested": nested,
}
"""Ways to break one's word."""


def points(model: keras.Model) -> list[str]:
    """Returns all tensors that one call of the model takes and another creates."""
    graph = read_graph(model)
    return [tensor.name for tensor in graph.tensors if tensor.users and graph.calls[tensor.call].inputs]


@pytest.mark.parametrize("kind", due(list(MAKERS), 2))
def test_a_model_is_cut_proved_and_run_wherever_its_layers_do_not_keep_their_word(kind):
    model = between(MAKERS[kind])
    expected = model(X)
    before = fingerprint(model)
    assert points(model)
    for name in points(model):
        split = ks.split(model, [name], allow_crossing=True)
        assert same_bits(split(X), expected), name
        assert split.verify(X).ok
        assert split.verify().ok
        np.testing.assert_allclose(split.predict(X, batch_size=2), keras.ops.convert_to_numpy(expected), rtol=1e-5)
        assert same_bits(split.join()(X), expected), name
    del split
    assert fingerprint(model) == before


def test_sides_and_dtypes_that_are_not_as_declared_are_so_in_points_and_inputs():
    found = {point.name: (point.shape, point.dtype) for point in ks.split_points(between(MAKERS["twice"]))}
    assert found["stem"] == ((None, 5, 4), "float32")
    assert found["longer"] == found["between"] == found["relu"] == ((None, None, 4), "float32")
    model = between(MAKERS["dtype"])
    tail = ks.build_submodel(model, start="counted")
    assert (tail.input.shape, tail.input.dtype) == ((None, 5, 4), "int32")
    assert same_bits(tail(ks.build_submodel(model, end="counted")(X)), model(X))
    inner = ks.build_submodel(between(nested), start="nested/longer")
    assert inner.input.shape == (None, None, 4)
    tapped = ks.tap(between(nested), ["nested/longer", "nested/after"])(X)
    assert {name: tuple(value.shape) for name, value in tapped.items()} == {
        "nested/longer": (3, 5, 4),
        "nested/after": (3, 5, 4),
    }


@pytest.mark.parametrize("make", ["side", "dtype", "nested"])
def test_stages_of_layers_that_do_not_keep_their_word_are_saved_and_loaded(make, tmp_path):
    model = between(MAKERS[make])
    name = {"side": "longer", "dtype": "counted", "nested": "nested/longer"}[make]
    ks.split(model, [name]).save(tmp_path / "stages")
    loaded = ks.load(tmp_path / "stages")
    assert same_bits(loaded(X), model(X))
    assert loaded.verify(X).ok
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert same_bits(ks.split(again, [name])(X), model(X))


def test_layers_that_keep_their_word_are_taken_at_it():
    class Lazy(layers.Layer):
        """A layer whose output is unknown when it runs without values."""

        def call(self, x):
            keras.ops.convert_to_numpy(x)
            return x

        def compute_output_shape(self, shape):
            return shape

    assert ks.split_points(between(Lazy(name="lazy")))[1].shape == (None, 5, 4)


@register
class Window(layers.Layer):
    """Declares all dimensions and returns the first four."""

    def call(self, x):
        return x[:, :4]

    def compute_output_shape(self, shape):
        return shape


@pytest.mark.parametrize("place", ["in the model", "in a nested model"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_plans_and_profiles_count_what_is_given(place, batch_size):
    inputs = keras.Input((8,), name="inputs")
    x = layers.Dense(8, name="stem")(inputs)
    if place == "in the model":
        x, name = Window(name="window")(x), "window"
    else:
        nested = keras.Input((8,))
        inner = keras.Model(nested, layers.Activation("relu", name="relu")(Window(name="window")(nested)), name="inner")
        x, name = inner(x), "inner/window"
    model = keras.Model(inputs, layers.Dense(4, name="out")(x), name="model")
    plan = ks.plan(model, 2, must_cut=name, largest_crossing=20 * batch_size, batch_size=batch_size)
    assert [stage.crossing_bytes for stage in plan.stages[:-1]] == [16 * batch_size]
    profile = ks.profile(model, batch_size=batch_size)
    crosses = {profile.tensors[i].name: block.crossing_bytes for block in profile.blocks for i in block.crossing}
    assert crosses[name] == 16 * batch_size
    split = ks.split(model, plan)
    made = split[0].model(np.ones((batch_size, 8), "float32"))
    assert keras.ops.convert_to_numpy(made).nbytes == 16 * batch_size
