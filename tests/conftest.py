"""Models for tests in all folders, and the number of Hypothesis examples."""

import gc
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import numpy as np
import psutil
import pytest
from applications import application
from comparing import collect
from hypothesis import settings
from samples import SAMPLE

from kerassplit.zoo.models import architecture_module
from kerassplit.zoo.names import find_architecture
from kerassplit.zoo.random_weights import smooth_noise

settings.register_profile("some", max_examples=50)
settings.register_profile("few", max_examples=20)
settings.register_profile("long", max_examples=2000, print_blob=True)
settings.load_profile("some")  # unless `--hypothesis-profile` names another


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--every", type=int, default=1, metavar="N", help="run one test in N, others with each commit")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Selects one test in `--every`, the same in each process; each backend begins with another one."""
    turns = config.getoption("every")
    first = (SAMPLE + ("tensorflow", "jax", "torch").index(keras.backend.backend())) % turns
    chosen = items[first::turns]
    if len(chosen) < len(items):
        config.hook.pytest_deselected(items=[item for place, item in enumerate(items) if place % turns != first])
        items[:] = chosen


class _Memory:
    """Memory of this process, in bytes, after the last collection that went through all objects."""

    left = 0


@pytest.fixture(scope="module", autouse=True)
def nothing_of_earlier_files() -> None:
    """Frees what the last file left, so that collections here skip all else; where memory has grown, what all left."""
    process = psutil.Process()
    grown = process.memory_info().rss > _Memory.left + 400 * 2**20
    if grown:
        gc.unfreeze()
    collect()
    gc.freeze()
    if grown:
        _Memory.left = process.memory_info().rss


@pytest.fixture(autouse=True)
def memory_maps() -> Iterator[None]:
    """Clears JAX's caches when it has many memory maps: Linux allows 65,530, and JAX crashes at that limit."""
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
    """Two random images for an architecture, preprocessed for it."""

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
