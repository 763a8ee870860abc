"""Every architecture is built without its weights; random weights hide nothing, even in very deep models."""

import keras
import numpy as np
import pytest
from applications import parameters

from kerassplit.zoo.models import architecture_module, load_model
from kerassplit.zoo.names import architectures, find_architecture
from kerassplit.zoo.random_weights import smooth_noise


@pytest.mark.parametrize("name", parameters(architectures()))
def test_each_is_built_without_its_weights_and_found_by_its_own_name(name):
    model = load_model(name)
    assert model.count_params() > 1_000_000
    assert find_architecture(model.name) == name
    assert callable(architecture_module(name).preprocess_input)


@pytest.mark.parametrize(
    ("name", "side"), [("ResNet50", 224), ("DenseNet201", 224), ("EfficientNetB7", 128), ("ResNet152V2", 128)]
)
def test_deep_models_neither_explode_nor_die_out(name, side):
    model = load_model(name, weights="random", seed=7, input_shape=(side, side, 3))
    preprocess = architecture_module(name).preprocess_input
    images = np.stack([smooth_noise((side, side, 3), seed) for seed in (1, 2)])
    logits = linear_outputs(model, preprocess(images))
    assert np.isfinite(logits).all()
    assert 0.1 < logits.std() < 10
    assert np.abs(logits[0] - logits[1]).max() > 1e-3  # the image matters


def linear_outputs(model: keras.Model, x: np.ndarray) -> np.ndarray:
    """Returns the outputs before the softmax."""
    probabilities = keras.ops.convert_to_numpy(model(x, training=False)).astype("float64")
    return np.log(probabilities)
