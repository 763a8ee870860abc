"""Models created under a `tf.distribute` strategy: their parts keep it, and train as with `fit`."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import keras
import numpy as np
import pytest
from checkout import ROOT, SUPPORT
from comparing import copied, same_bits
from keras import layers

import kerassplit as ks

if keras.backend.backend() != "tensorflow":
    pytest.skip("tf.distribute is TensorFlow's", allow_module_level=True)

import tensorflow as tf


def build() -> keras.Model:
    keras.utils.set_random_seed(3)
    x = keras.Input((6,), name="x")
    stem = layers.BatchNormalization(name="norm")(layers.Dense(4, "relu", name="stem")(x))
    model = keras.Model(x, layers.Dense(2, name="out")(layers.Dense(5, "tanh", name="wide")(stem)), name="mirrored")
    model.compile(keras.optimizers.Adam(0.05), "mse", metrics=["mae"])
    return model


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(8)
    return generator.normal(size=(16, 6)).astype("float32"), generator.normal(size=(16, 2)).astype("float32")


@pytest.fixture
def strategy() -> tf.distribute.Strategy:
    return tf.distribute.MirroredStrategy(["/cpu:0"])


@pytest.fixture
def model(strategy) -> keras.Model:
    with strategy.scope():
        return build()


def test_it_is_run_proved_and_saved(model, data, tmp_path):
    split, (x, _) = ks.split(model, "norm"), data
    np.testing.assert_allclose(split.predict(x), model(x), rtol=1e-5, atol=1e-6)
    assert split.verify(x).identical
    split.save(tmp_path / "stages")
    assert same_bits(ks.load(tmp_path / "stages")(x), model(x))


def test_its_tail_is_fine_tuned_as_without(model, data, tmp_path):
    plain = build()
    options = {"epochs": 3, "batch_size": 8, "shuffle": False, "verbose": False}
    ours, theirs = (ks.fine_tune(one, "norm", data, tmp_path / str(id(one)), **options) for one in (model, plain))
    for name, values in theirs.history.items():
        np.testing.assert_allclose(ours.history[name], values, rtol=1e-5)
    for one, other in zip(model.weights, plain.weights, strict=True):
        np.testing.assert_allclose(copied(one), copied(other), rtol=1e-4, atol=1e-6)


def test_its_parts_stay_under_it(model, strategy, data):
    tail = ks.build_submodel(model, start="norm")
    assert tail.distribute_strategy is strategy
    assert ks.split(model, "norm")[0].model.distribute_strategy is strategy
    before = copied(model.get_layer("out").kernel)
    with strategy.scope():
        tail.compile("sgd", "mse")
    tail.fit(np.ones((16, 4), "float32"), data[1], verbose=0)
    assert not np.array_equal(copied(model.get_layer("out").kernel), before)


def test_a_step_through_its_stages_is_refused_and_a_copy_takes_it(model, data):
    def step(one: keras.Model) -> float:
        split = ks.split(one, "norm")
        return ks.train_step(split, *data, "mse", ks.stage_optimizers(split, keras.optimizers.Adam(0.01)))

    before = [copied(weight) for weight in model.weights]
    message = (
        "The variables of stage 'stage_0' were created under a MirroredStrategy, which lets only `fit` update them. "
        "Train with `fit` or `ks.fine_tune`; or split a model with its own variables, ks.build_submodel(model, "
        "copy_weights=True), created outside the strategy's scope."
    )
    with pytest.raises(ks.SplitError) as caught:
        step(model)
    assert str(caught.value) == message
    assert same_bits([copied(weight) for weight in model.weights], before)
    assert step(ks.build_submodel(model, copy_weights=True)) == pytest.approx(step(build()), rel=1e-5)


def test_two_replicas_fine_tune_as_one(tmp_path):
    code = """
        import json, sys
        import tensorflow as tf
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
        import keras, numpy as np, kerassplit as ks
        from test_strategies import build
        x, y = np.random.default_rng(8).normal(size=(2, 16, 6)).astype("float32")
        with tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"]).scope():
            mirrored = build()
        options = {"epochs": 2, "batch_size": 8, "shuffle": False, "verbose": False}
        found = [
            ks.fine_tune(one, "norm", (x, y[:, :2]), f"{sys.argv[1]}/{number}", **options).history["loss"]
            for number, one in enumerate((mirrored, build()))
        ]
        print(json.dumps(found))
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    places = map(str, (Path(__file__).parent, SUPPORT, ROOT))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    ours, theirs = json.loads(done.stdout.splitlines()[-1])
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)
