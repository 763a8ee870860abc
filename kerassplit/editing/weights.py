"""Carries weights over from a layer to the one that replaces it."""

import warnings
from typing import Any

import keras
import numpy as np

from kerassplit.cutting.layer_weights import match_weights, weight_names


def array_of(weight: keras.Variable) -> np.ndarray:
    """Returns the values of a weight, without NumPy's warning about how Keras and torch hand them over."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return keras.ops.convert_to_numpy(weight)


def carry_over(old: Any, new: keras.Layer) -> tuple[list[str], list[str]]:
    """Copies the weights of a layer to another one, where names and shapes agree.

    Integers are not copied to floats, or back: those of a quantized kernel mean nothing without its scale.

    Returns:
        In words: the weights of the new layer that stay as they were made although the old layer has weights; and
        those of the old layer that the new one, which has weights, does not have.
    """
    theirs, places = getattr(old, "weights", ()), match_weights(new, old)
    left, taken = [], set()
    for place, (name, weight) in enumerate(zip(weight_names(new), new.weights, strict=True)):
        source = theirs[places[place]] if place in places else None
        if source is not None and _looks(source) == _looks(weight):
            weight.assign(keras.ops.copy(source.value))  # JAX would share the array, and training deletes it
        elif theirs:
            before = "" if source is None else f", which was {_described(source, weight)}"
            left.append(f"{new.name}/{name} {_described(weight, source)}{before}")
        taken.add(id(source))
    if isinstance(new, keras.layers.Normalization) and new.built:
        new.finalize_state()  # computes with constants made from its weights
    gone = [one for one in zip(weight_names(old), theirs, strict=True) if new.weights and id(one[1]) not in taken]
    return left, [f"{old.name}/{name} {tuple(weight.shape)}" for name, weight in gone]


def _looks(weight: keras.Variable) -> tuple[tuple[int, ...], bool]:
    return tuple(weight.shape), keras.backend.is_float_dtype(weight.dtype)


def _described(weight: keras.Variable, other: keras.Variable | None) -> str:
    """Returns the shape of a weight, and its dtype if only that differs from another one's."""
    alike = other is not None and tuple(weight.shape) == tuple(other.shape)
    return f"{tuple(weight.shape)} {weight.dtype}" if alike else f"{tuple(weight.shape)}"
