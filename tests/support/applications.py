"""Architectures of `keras.applications` with random weights, and what a backend or version of Keras lacks."""

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import keras
import pytest

from kerassplit.zoo.models import load_model

OLD_KERAS = keras.__version__.startswith("3.13.")
NEEDS_NASNET = pytest.mark.skipif(keras.backend.backend() == "torch", reason="Keras does not build NASNet on torch")
NEEDS_STRINGS = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="only TensorFlow has strings")
SMALLEST_SIDE = {"InceptionResNetV2": 75, "InceptionV3": 75, "Xception": 71}  # the others take 64 pixels here


def parameters(names: Iterable[str]) -> list[Any]:
    """Architectures for `pytest.mark.parametrize`, skipping those that the backend cannot build."""
    return [pytest.param(name, marks=NEEDS_NASNET if name.startswith("NASNet") else ()) for name in names]


@lru_cache(maxsize=2)  # the largest takes half a gigabyte
def application(name: str, side: int | None = None) -> keras.Model:
    """Builds an architecture of `keras.applications` on small images, with seeded weights and batch-norm statistics."""
    side = side or SMALLEST_SIDE.get(name, 64)
    return load_model(name, weights="random", seed=7, input_shape=(side, side, 3))
