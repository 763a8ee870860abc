"""What Keras hangs on the tensors of a running model: masks and logits."""

from typing import Any

import keras

from kerassplit.graph.internals.keras_src import get_keras_mask, set_keras_mask


def without_mask(tensor: Any) -> Any:
    """A tensor as another process would get it: without the mask that Keras hangs on it."""
    return tensor if get_keras_mask(tensor) is None else keras.ops.copy(tensor)


def as_received(value: Any) -> Any:
    """An array or tensor as a tensor that another process would get; an optional input may be `None`."""
    return None if value is None else without_mask(keras.ops.convert_to_tensor(value))


def mask_on(tensor: Any) -> Any:
    """The mask that Keras hangs on a tensor, or `None`."""
    return get_keras_mask(tensor)


def as_made(value: Any, mask: Any, logits: Any) -> Any:
    """A tensor as a layer gave it to a loss, with the mask and the logits that Keras hung on it."""
    if mask is None and logits is None:
        return value
    tensor = keras.ops.copy(value)
    if mask is not None:
        set_keras_mask(tensor, mask)
    if logits is not None:
        tensor._keras_logits = logits
    return tensor
