"""Masks and logits that Keras attaches to the tensors of a running model."""

from typing import Any

import keras

from kerassplit.graph.internals.keras_src import get_keras_mask, set_keras_mask


def without_mask(tensor: Any) -> Any:
    """Returns a tensor as another process would receive it: without the mask that Keras attached."""
    return tensor if get_keras_mask(tensor) is None else keras.ops.copy(tensor)


def as_received(value: Any) -> Any:
    """Converts an array or tensor to a tensor as another process would receive it; an optional input may be `None`."""
    return None if value is None else without_mask(keras.ops.convert_to_tensor(value))


def mask_on(tensor: Any) -> Any:
    """Returns the mask that Keras attached to a tensor, or `None`."""
    return get_keras_mask(tensor)


def as_made(value: Any, mask: Any, logits: Any) -> Any:
    """Returns a tensor as a layer passed it to a loss, with the mask and logits that Keras attached to it."""
    if mask is None and logits is None:
        return value
    tensor = keras.ops.copy(value)
    if mask is not None:
        set_keras_mask(tensor, mask)
    if logits is not None:
        tensor._keras_logits = logits
    return tensor
