"""Seven architectures, each built once: their stages compute what they compute, bit for bit."""

import gc
from collections.abc import Iterator

import keras
import numpy as np
import pytest
from applications import SMALLEST_SIDE
from comparing import copied, same_bits
from gradients import gradients
from keras.losses import sparse_categorical_crossentropy
from samples import LONG, due
from training_models import of_model, put_back, twin, values_of

import kerassplit as ks
from kerassplit.training.steps.train_step import split_gradients
from kerassplit.zoo.models import load_model

MODELS = ["ResNet50", "MobileNetV2", "DenseNet121", "EfficientNetB0", "InceptionV3", "Xception", "ConvNeXtTiny"]
LABELS = np.array([1, 2])


@pytest.fixture(scope="module", params=MODELS)
def model(request) -> Iterator[keras.Model]:
    side = SMALLEST_SIDE.get(request.param, 64)
    yield load_model(request.param, weights="random", seed=7, input_shape=(side, side, 3))
    gc.collect()


@pytest.fixture
def x(model, images) -> np.ndarray:
    return images(model)


def cuts(model: keras.Model, stages: int) -> list[str]:
    """Returns evenly spaced split points."""
    points = ks.split_points(model)
    return [points[len(points) * number // stages].name for number in range(1, stages)]


def test_head_and_tail_at_split_points_give_the_models_output(model, x):
    expected = copied(model(x))
    assert np.isfinite(expected).all()
    assert len(np.unique(expected)) > 500  # the numbers say something
    for point in due(ks.split_points(model), 8):
        head = ks.build_submodel(model, end=point.name)
        tail = ks.build_submodel(model, start=point.name)
        assert same_bits(tail(head(x)), expected), point.name
        del head, tail
    gc.collect()


@pytest.mark.parametrize("stages", [2, 4, 8])
def test_splits_into_several_stages_give_the_models_output(model, x, stages):
    split = ks.split(model, cuts(model, stages))
    assert len(split) == stages
    assert same_bits(split(x), model(x))
    receipt = split.verify(x)
    assert receipt.ok
    assert receipt.identical
    assert same_bits(split.join()(x), model(x))


def test_gradients_through_the_stages_are_the_models(model, x):
    split = ks.split(model, cuts(model, 4))

    def through(run):
        return gradients(model, lambda: sparse_categorical_crossentropy(LABELS, run(x, training=False)))

    ours, theirs = through(split), through(model)
    assert len(theirs) > 100
    assert all(gradient is not None for gradient in theirs)
    assert same_bits(ours, theirs)


@pytest.mark.parametrize("model", [*MODELS[:2], MODELS[4]], indirect=True)
def test_after_a_training_step_weights_and_batch_norm_statistics_agree(model, x):
    before = [copied(weight) for weight in model.weights]

    def step(run):
        model.set_weights(before)
        keras.utils.set_random_seed(5)  # for dropout
        found = gradients(model, lambda: sparse_categorical_crossentropy(LABELS, run(x, training=True)))
        for weight, gradient in zip(model.trainable_variables, found, strict=True):
            weight.assign_sub(0.01 * gradient)
        return [copied(weight) for weight in model.weights]

    seeds = [variable for variable in model.variables if "seed" in variable.path]
    states = [copied(seed) for seed in seeds]
    theirs = step(model)
    for seed, state in zip(seeds, states, strict=True):
        seed.assign(state)
    ours = step(ks.split(model, cuts(model, 3)))
    model.set_weights(before)
    assert not same_bits(theirs, before)
    assert same_bits(ours, theirs)


def check_gradients(model, x, splits):
    """Compares the gradients and statistics of a step of the whole model and of each split, bit for bit."""
    before = values_of(model)
    theirs = gradients(model, lambda: sparse_categorical_crossentropy(LABELS, model(x, training=True)))
    after = values_of(model)
    assert len(theirs) > 100
    statistics = any("moving" in variable.path for variable in model.variables)  # ConvNeXt has none
    assert same_bits(before, after) != statistics
    assert sum(bool(np.any(copied(one))) for one in theirs) > 50  # the numbers say something
    for split in splits:
        put_back(model, before)
        found = split_gradients(split, x, LABELS, "sparse_categorical_crossentropy")
        assert same_bits(of_model(found, model), theirs), split
        assert same_bits(values_of(model), after), split
    put_back(model, before)


def test_gradients_and_statistics_are_the_models_to_the_bit(model, x):
    points = ks.split_points(model)
    in_two = ks.split(model, points[len(points) * 5 // 8].name)
    check_gradients(model, x, [in_two, ks.split(model, cuts(model, 4))])


@pytest.mark.parametrize("model", MODELS if LONG else ["ResNet50"], indirect=True)
def test_at_every_split_point_the_gradients_are_the_models_to_the_bit(model, x):
    points = [point.name for point in ks.split_points(model)]
    third = -(-len(points) // 3)
    in_four = zip(points[:third], points[third : 2 * third], points[-third:], strict=False)
    splits = [list(at) for at in in_four if len(set(at)) == 3]
    assert {point for at in splits for point in at} == {*points}
    check_gradients(model, x, (ks.split(model, at) for at in [*splits, *(points if LONG else [])]))


@pytest.mark.parametrize("model", MODELS[:2], indirect=True)
def test_a_step_with_adam_is_train_on_batch_to_the_bit(model, x):
    before = values_of(model)
    whole = twin(model)
    whole.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy", run_eagerly=True)
    split = ks.split(model, cuts(model, 3))
    optimizers = ks.stage_optimizers(split, keras.optimizers.Adam(1e-3))
    try:
        loss = ks.train_step(split, x, LABELS, "sparse_categorical_crossentropy", optimizers)
        assert loss == float(whole.train_on_batch(x, LABELS))
        assert not same_bits(values_of(model), before)
        assert same_bits(values_of(model), values_of(whole))
        states = {path: value for one in optimizers.values() for path, value in states_of(one)}
        theirs = dict(states_of(whole.optimizer))
        assert len(theirs) > 300
        assert states.keys() == theirs.keys()
        assert all(same_bits(states[path], theirs[path]) for path in theirs)
    finally:
        put_back(model, before)


def states_of(optimizer):
    return [(variable.path.partition("/")[2], copied(variable)) for variable in optimizer.variables]
