"""Training on Ray: real processes; the same weights as in one process; what remains when one dies."""

import os
import time
from collections.abc import Iterator

import keras
import numpy as np
import pytest
from actors import gone, processes_of
from comparing import copied, same_bits
from training_models import IN_BLOCKS, LOSSES, batch, everything, put_back, twin, values_of

import kerassplit as ks

if "CI" in os.environ:
    import ray
else:
    ray = pytest.importorskip("ray")

from kerassplit.training.ray import RayTraining
from kerassplit.zoo.random_weights import randomize

ADAM = {"class_name": "adam", "config": {"learning_rate": 0.01}}


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield
    ray.shutdown()


pytestmark = pytest.mark.usefixtures("cluster")


def our_processes():
    return processes_of("TrainingActor")


def pair():
    x = keras.Input((4,), name="x")
    first = keras.layers.Dense(4, name="first")(x)
    model = keras.Model(x, keras.layers.Dense(2, name="second")(first), name="pair")
    return ks.split(model, "first", names=["a", "b"])


X, Y = np.ones((6, 4), "float32"), np.ones((6, 2), "float32")


@IN_BLOCKS
def test_after_twenty_steps_the_weights_are_those_of_training_in_one_process():
    model = everything(activity="l2")
    randomize(model, 3)
    other = twin(model)
    split, alone = (ks.split(one, ["relu", "shared@0"], allow_crossing=True) for one in (model, other))
    optimizers, theirs = (ks.stage_optimizers(one, ADAM) for one in (split, alone))
    before = values_of(model)
    with RayTraining(split, LOSSES, optimizers, micro_batches=4, num_cpus=0.5) as training:
        for seed in range(20):
            loss = training.step(*batch(8, seed))
            expected = ks.train_step(alone, *batch(8, seed), LOSSES, theirs, micro_batches=4)
            np.testing.assert_allclose(loss, expected, rtol=1e-4)
            if seed == 0:
                assert same_bits(values_of(model), before)  # nothing comes back unasked
    assert gone(our_processes())
    assert not same_bits(values_of(model), before)
    for variable, one, expected in zip(model.variables, values_of(model), values_of(other), strict=True):
        np.testing.assert_allclose(one, expected, rtol=1e-5, atol=1e-5, err_msg=variable.path)
    for name, optimizer in optimizers.items():
        for one, expected in zip(optimizer.variables, theirs[name].variables, strict=True):
            np.testing.assert_allclose(copied(one), copied(expected), rtol=1e-4, atol=1e-5)


def test_a_killed_process_is_named_with_its_step_and_the_split_is_as_last_brought_back():
    split = pair()
    optimizers = ks.stage_optimizers(split, ADAM)
    with (
        pytest.raises(
            ks.RunError, match=r"Stage '[ab]', step 2: its process died .*those of the last `bring_back`"
        ) as caught,
        RayTraining(split, "mse", optimizers, micro_batches=2) as training,
    ):
        training.step(X, Y)
        training.bring_back()
        kept, slots = values_of(split.model), [copied(one) for one in optimizers["a"].variables]
        training.step(X, Y)
        our_processes()[0].kill()
        training.step(X, Y)
    assert caught.value.batch == 2
    assert caught.value.stage in ("a", "b")
    assert same_bits(values_of(split.model), kept)
    assert same_bits([copied(one) for one in optimizers["a"].variables], slots)
    with pytest.raises(ks.SplitError, match="begin another one after a RunError"):
        training.step(X, Y)
    with RayTraining(split, "mse", optimizers) as again:  # goes on where it was
        again.step(X, Y)
    assert int(optimizers["a"].iterations) == 2
    assert not same_bits(values_of(split.model), kept)


def test_mistakes_between_steps_lose_nothing():
    split = pair()
    before = values_of(split.model)
    with pytest.raises(ZeroDivisionError), RayTraining(split, "mse", "sgd", micro_batches=3) as training:
        training.step(X, Y)
        with pytest.raises(ks.SplitError, match="The loss cannot be computed"):
            training.step(X, np.ones((5, 2)))
        with pytest.raises(ks.SplitError, match="does not go into 3 equal micro-batches"):
            training.step(X[:4], Y[:4])
        with pytest.raises(ks.SplitError, match=r"There is an array of shape \(6, 5\)"):
            training.step(np.ones((6, 5)), Y)
        training.step(X, Y)
        raise ZeroDivisionError
    after = values_of(split.model)
    put_back(split.model, before)
    optimizers = ks.stage_optimizers(split, "sgd")
    for _ in range(2):
        ks.train_step(split, X, Y, "mse", optimizers, micro_batches=3)
    for one, other in zip(after, values_of(split.model), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    assert gone(our_processes())


def test_what_fails_in_a_stage_is_said_with_its_name():
    x = keras.Input((4,), name="x")
    fails = keras.layers.Lambda(lambda x: {}["broken"], output_shape=(4,), name="fails")
    first = fails(keras.layers.Dense(4, name="first")(x))
    split = ks.split(keras.Model(x, keras.layers.Dense(2, name="second")(first)), "fails", names=["a", "b"])
    with (
        pytest.raises(ks.RunError, match=r"Stage 'a', step 0: (.|\n)*broken"),
        RayTraining(split, "mse", "sgd") as training,
    ):
        training.step(X, Y)


def test_optimisers_go_on_as_they_are_told_and_only_with_their_own_variables():
    split, other = pair(), pair()
    put_back(other.model, values_of(split.model))
    decaying = keras.optimizers.AdamW(keras.optimizers.schedules.ExponentialDecay(0.1, 1, 0.5), weight_decay=0.5)
    decaying.exclude_from_weight_decay(var_names=["bias"])
    for one in (split, other):
        for layer in ("first", "second"):
            one.model.get_layer(layer).bias.assign(np.full(one.model.get_layer(layer).bias.shape, 3.0))
    optimizers, theirs = (ks.stage_optimizers(one, decaying) for one in (split, other))
    for one, some in ((split, optimizers), (other, theirs), (other, theirs)):
        ks.train_step(one, X, Y, "mse", some)
    with RayTraining(split, "mse", optimizers, num_cpus=0.5) as training:
        training.step(X, Y)
    for one, expected in zip(values_of(split.model), values_of(other.model), strict=True):
        np.testing.assert_allclose(one, expected, rtol=1e-5)
    for wrong in (theirs, {"a": optimizers["b"], "b": optimizers["a"]}):
        with pytest.raises(ks.SplitError, match="The optimizer of stage 'a' has been used for other variables"):
            RayTraining(split, "mse", wrong)
    split.model.get_layer("first").bias.trainable = False
    with pytest.raises(ks.SplitError, match="once other layers are trainable, take a new one"):
        RayTraining(split, "mse", optimizers)


def test_stages_work_at_the_same_time():
    nap = lambda x: __import__("time").sleep(0.4) or x  # noqa: E731 (Keras saves lambdas, and no functions)
    x = keras.Input((4,), name="x")
    first = keras.layers.Lambda(nap, output_shape=(4,), name="nap1")(keras.layers.Dense(4, name="first")(x))
    second = keras.layers.Lambda(nap, output_shape=(2,), name="nap2")(keras.layers.Dense(2, name="second")(first))
    split = ks.split(keras.Model(x, second, name="naps"), "nap1")
    with RayTraining(split, "mse", "sgd", micro_batches=6) as training:
        training.step(X, Y)
        began = time.perf_counter()
        training.step(X, Y)
        took = time.perf_counter() - began
    assert 7 * 0.4 < took < 11 * 0.4  # one after the other, it would be 12 naps


def test_what_makes_no_sense_is_refused_before_a_process_starts():
    before = {one.pid for one in our_processes()}  # some of an earlier test may still be ending
    for message, split, options in [
        ("`split` must be a Split, .*; got Functional", pair().model, {}),
        ("`micro_batches` must be a whole number, at least 1; got 0", pair(), {"micro_batches": 0}),
        ("`num_cpus`", pair(), {"num_cpus": -1}),
    ]:
        with pytest.raises(ks.SplitError, match=message):
            RayTraining(split, "mse", "sgd", **options)
    assert {one.pid for one in our_processes()} <= before


def test_a_layer_with_statistics_in_two_stages_is_refused():
    x = keras.Input((4,), name="x")
    norm = keras.layers.BatchNormalization(name="norm")
    first = keras.layers.Dense(4, name="first")(norm(x))
    split = ks.split(keras.Model(x, norm(first), name="twice"), "first")
    with pytest.raises(ks.SplitError, match="Stages 'stage_0' and 'stage_1' share layer 'norm', whose statistics"):
        RayTraining(split, "mse", "sgd")
