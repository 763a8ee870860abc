"""Sums gradients during backpropagation through the stages."""

from typing import Any

import keras

from kerassplit.graph.backends import backend


def is_real(value: Any) -> bool:
    """True if a value is a tensor that can have a gradient."""
    return keras.ops.is_tensor(value) and keras.backend.is_float_dtype(keras.backend.standardize_dtype(value.dtype))


def plus(one: Any, other: Any) -> Any:
    """Adds two gradients, either of which may be `None`."""
    if one is None or other is None:
        return other if one is None else one
    return backend().dense(one) + backend().dense(other)
