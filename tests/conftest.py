"""Models that several test files use, built once a session; and how to tell that one was left alone."""

import gc
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import settings

from kerassplit.zoo.models import architecture_module, find_architecture, load_model
from kerassplit.zoo.random_weights import smooth_noise

gc.freeze()  # half a million objects of the libraries, which each of many collections would go through again

settings.register_profile("few", max_examples=20)  # a fifth of as many as by default
settings.register_profile("long", max_examples=2000, print_blob=True)  # twenty times as many as by default

OLD_KERAS = keras.__version__.startswith("3.13.")
NEEDS_NASNET = pytest.mark.skipif(keras.backend.backend() == "torch", reason="Keras does not build NASNet on torch")
NEEDS_STRINGS = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="only TensorFlow has strings")
SMALLEST_SIDE = {"InceptionResNetV2": 75, "InceptionV3": 75, "Xception": 71}  # the others take 64 pixels here


def parameters(names: Iterable[str]) -> list[Any]:
    """Architectures for `pytest.mark.parametrize`, those that the backend does not build skipped."""
    return [pytest.param(name, marks=NEEDS_NASNET if name.startswith("NASNet") else ()) for name in names]


@cache
def application(name: str, side: int | None = None) -> keras.Model:
    """An architecture of `keras.applications` with seeded weights and batch-norm statistics, on small images."""
    side = side or SMALLEST_SIDE.get(name, 64)
    return load_model(name, weights="random", seed=7, input_shape=(side, side, 3))


@pytest.fixture(autouse=True)
def memory_maps() -> Iterator[None]:
    """JAX keeps whatever it compiles, in memory maps; Linux allows 65,530 of them, and JAX crashes at that."""
    yield
    if keras.backend.backend() == "jax":
        import jax

        maps = Path("/proc/self/maps")
        if maps.exists() and maps.read_bytes().count(b"\n") > 20_000:
            jax.clear_caches()


@pytest.fixture(scope="session")
def applications() -> Callable[..., keras.Model]:
    return application


@pytest.fixture(scope="session")
def resnet() -> keras.Model:
    return application("ResNet50")


@pytest.fixture
def images() -> Callable[[keras.Model], np.ndarray]:
    """Two random images for an architecture, preprocessed its way."""

    def draw(model: keras.Model) -> np.ndarray:
        pixels = np.stack([smooth_noise(model.input_shape[1:], seed) for seed in (3, 4)])
        return architecture_module(find_architecture(model.name)).preprocess_input(pixels)

    return draw


@pytest.fixture(scope="session")
def small() -> keras.Model:
    """Two residual blocks, a late input, an early output."""
    image = keras.Input((8, 8, 3), name="image")
    extra = keras.Input((4,), name="extra")
    x = keras.layers.Conv2D(4, 3, padding="same", name="stem")(image)
    for number in (1, 2):
        y = keras.layers.Conv2D(4, 3, padding="same", name=f"block{number}_conv")(x)
        y = keras.layers.BatchNormalization(name=f"block{number}_norm")(y)
        x = keras.layers.Add(name=f"block{number}_add")([x, y])
        x = keras.layers.ReLU(name=f"block{number}_out")(x)
    pooled = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    both = keras.layers.Concatenate(name="both")([pooled, extra])
    score = keras.layers.Dense(3, name="score")(both)
    return keras.Model([image, extra], {"score": score, "pooled": pooled}, name="small")


def same_bits(one: object, other: object) -> bool:
    """Whether two structures of tensors are equal to the bit."""
    ours, theirs = (
        [keras.ops.convert_to_numpy(value) for value in keras.tree.flatten(structure)] for structure in (one, other)
    )
    return [value.tobytes() for value in ours] == [value.tobytes() for value in theirs]


def copied(value: object) -> np.ndarray:
    """A tensor or variable as an array of its own: what Keras gives of torch's tensors is their memory."""
    return np.array(keras.ops.convert_to_numpy(value))


def collect() -> None:
    """Frees all that nothing uses any more: what a dead model has nested goes one level a round."""
    for _ in range(10):
        if not gc.collect():
            return


def _is(node: Any) -> int | None:
    """One node tells itself from others; places that dead sub-models have left empty are all the same."""
    return None if node.operation is None else id(node)


def fingerprint(model: keras.Model, weights: bool = True) -> dict[str, object]:
    """All that must not change about a model, down to the layers of its innermost models, once what is dead has gone.

    Short enough to be printed where it differs: the values are told by their hashes.
    """
    collect()
    own = getattr(model, "operations", model.layers)
    operations = list({id(one): one for one in (*own, *model._flatten_layers())}.values())
    made = [tensor for operation in own for tensor in keras.tree.flatten(operation.output)]
    return {
        "config": model.to_json(),
        "layers": [(one.name, id(one), getattr(one, "trainable", None)) for one in operations],
        "nodes": [([_is(node) for node in one._inbound_nodes], len(one._outbound_nodes)) for one in operations],
        "tensors": [(tensor.name, id(tensor), tensor.shape) for tensor in (*model.inputs, *model.outputs)],
        "histories": [tuple(tensor._keras_history)[1:] for tensor in made],
        "variables": [(id(variable), variable.path) for variable in model.variables],
        "values": [sha256(copied(variable).tobytes()).hexdigest() for variable in model.variables] if weights else [],
    }
