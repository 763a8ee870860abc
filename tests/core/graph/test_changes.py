"""Layers that change after splitting, and after compiling: every way to run the stages reflects it."""

import keras
import numpy as np
import pytest

import kerassplit as ks
from kerassplit.graph.backends import backend

pytestmark = pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method:UserWarning")


class Settings:
    def __init__(self):
        self.factor = 1.0


@keras.saving.register_keras_serializable("test_changes")
class Scaled(keras.layers.Layer):
    """Multiplies by numbers that are stored as Python attributes, in several ways."""

    everywhere = 1.0

    def __init__(self, factor=2.0, **options):
        super().__init__(**options)
        self.factor = factor
        self.table = np.ones(8, "float32")
        self.settings = Settings()
        self.by_name = {"list": [1.0]}
        self.runs = 0

    def call(self, x):
        self.runs += 1
        factor = self.factor * self.settings.factor * self.by_name["list"][0] * self.everywhere
        return x * factor * keras.ops.convert_to_tensor(self.table, x.dtype)

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}


def build() -> keras.Model:
    x = keras.Input((8,), name="x")
    normalize = keras.layers.Normalization(name="normalize")
    normalize.adapt(np.random.default_rng(1).normal(size=(9, 8)))
    inner = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8, "relu", name="dense")], name="inner")
    y = Scaled(name="scaled")(inner(normalize(x)))
    return keras.Model(x, keras.layers.Dense(2, name="out")(keras.layers.Dense(4, name="middle")(y)), name="changing")


def _lora(model):
    dense = model.get_layer("middle")
    dense.enable_lora(2)
    dense.lora_kernel_b.assign(np.ones(dense.lora_kernel_b.shape))


CHANGES = {
    "quantize": lambda model: model.quantize("int8"),
    "activation": lambda model: setattr(model.get_layer("middle"), "activation", keras.activations.tanh),
    "activation in a nested model": lambda model: setattr(
        model.get_layer("inner").get_layer("dense"), "activation", keras.activations.tanh
    ),
    "dtype": lambda model: setattr(model.get_layer("out"), "dtype_policy", "float16"),
    "attribute": lambda model: setattr(model.get_layer("scaled"), "factor", 3.0),
    "attribute of the class": lambda model: setattr(Scaled, "everywhere", 3.0),
    "attribute of an object": lambda model: setattr(model.get_layer("scaled").settings, "factor", 3.0),
    "item of a list in a dict": lambda model: model.get_layer("scaled").by_name["list"].__setitem__(0, 3.0),
    "array": lambda model: model.get_layer("scaled").table.fill(3.0),
    "adapt": lambda model: model.get_layer("normalize").adapt(np.full((9, 8), 3.0) + np.eye(9, 8)),
    "lora": _lora,
    "weights": lambda model: model.set_weights([weight + 1 for weight in model.get_weights()]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_predict_follows_a_change_of_the_layers(change, monkeypatch):
    monkeypatch.setattr(Scaled, "everywhere", 1.0)
    model = build()
    split = ks.split(model, ["scaled", "middle"])
    x = np.random.default_rng(0).normal(size=(4, 8)).astype("float32")
    before = split.predict(x)
    CHANGES[change](model)
    expected = keras.ops.convert_to_numpy(model(x)).astype("float32")
    assert np.abs(expected - before).max() > 1e-4
    np.testing.assert_allclose(split.predict(x).astype("float32"), expected, rtol=1e-4, atol=1e-4)


def test_early_exits_follow_a_change_of_the_layers():
    x = keras.Input((4,), name="x")
    a = keras.layers.Dense(4, name="a")(x)
    first = keras.layers.Dense(2, "softmax", name="first")(a)
    second = keras.layers.Dense(2, "softmax", name="second")(keras.layers.Dense(4, name="b")(a))
    model = keras.Model(x, [first, second])
    split = ks.split(model, [["a", "first"]])
    data = np.random.default_rng(0).normal(size=(4, 4)).astype("float32")
    split.predict_early(data, 1.0)
    model.get_layer("b").activation = keras.activations.tanh
    expected = keras.ops.convert_to_numpy(split(data)[1])
    np.testing.assert_allclose(split.predict_early(data, 1.0).outputs, expected, rtol=1e-4)


@pytest.mark.parametrize("change", ["quantize", "activation", "attribute"])
def test_copies_for_devices_follow_a_change_of_the_layers(change):
    model = build()
    split = ks.split(model, "middle")
    x = np.random.default_rng(0).normal(size=(4, 8)).astype("float32")
    device = backend().devices()[-1]
    split.predict(x, devices=[device, device])
    CHANGES[change](model)
    given = split.predict(x, devices=[device, device])
    np.testing.assert_allclose(given, keras.ops.convert_to_numpy(model(x)), rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="Keras does not compile on torch by default")
def test_a_layer_that_notes_something_on_itself_is_compiled_once():
    model = build()
    split = ks.split(model, "scaled")
    x = np.ones((4, 8), "float32")
    split.predict(x)
    runs = model.get_layer("scaled").runs
    split.predict(x)
    assert model.get_layer("scaled").runs == runs


def test_training_and_other_cuts_are_no_change():
    x = keras.Input((8,), name="x")
    model = keras.Model(x, keras.layers.Dense(2, name="b")(keras.layers.BatchNormalization(name="a")(x)))
    split = ks.split(model, "a")
    data = np.random.default_rng(0).normal(size=(4, 8)).astype("float32")
    split.predict(data)
    programs = [stage.compiled for stage in split]
    model.compile("sgd", "mse")
    model.fit(data, np.ones((4, 2)), verbose=0)
    model.predict(data, verbose=0)
    ks.tap(model, "a")
    ks.split(model, "a").verify()
    assert [stage.compiled for stage in split] == programs
    np.testing.assert_allclose(split.predict(data), keras.ops.convert_to_numpy(model(data)), rtol=1e-4, atol=1e-6)
