"""Inputs and outputs of a model: converts between structures of arrays and dicts by tensor name."""

from collections.abc import Mapping
from numbers import Number
from typing import Any

import keras
import numpy as np
from scipy.sparse import issparse

from kerassplit.cutting.crossing import CrossingTensor
from kerassplit.errors import SplitError
from kerassplit.text import shortened


def named_tensors(x: Any, inputs: Any, model: str) -> dict[str, Any]:
    """Returns the input that a caller passes to a model by tensor name.

    Args:
        x: Arrays or tensors.
        inputs: Tensor names in the structure of the model's inputs.
        model: The model's name, for messages.
    """
    names = keras.tree.flatten(inputs)
    x = keras.tree.traverse(_without_dok, x)
    if isinstance(x, dict) and not isinstance(inputs, dict) and set(x) == set(names):
        return {name: x[name] for name in names}
    if len(names) == 1 and not isinstance(x, dict):
        x = x[0] if isinstance(x, (list, tuple)) and len(x) == 1 else x
        if x is None or isinstance(x, (list, tuple)) or not (hasattr(x, "shape") or np.ndim(x)):
            raise SplitError(f"'{model}' takes one array or tensor; got {_outline(x)}.")
        return {names[0]: x}
    try:
        keras.tree.assert_same_structure(*map(keras.tree.lists_to_tuples, (inputs, x)))
    except (ValueError, TypeError) as error:
        raise SplitError(
            f"The input does not have the structure that '{model}' takes, {inputs!r}. "
            f"Expected arrays or tensors in place of the names; got {_outline(x)}."
        ) from error
    return dict(zip(names, keras.tree.flatten(x), strict=True))


def dense(value: Any) -> Any:
    """Returns SciPy's sparse arrays as dense ones, and all else as it is."""
    return value.toarray() if issparse(value) else value


def _without_dok(value: Any) -> Any:
    """Converts a SciPy sparse array in DOK format, which is a dict, to CSR; `None` leaves all else as it is."""
    return value.tocsr() if issparse(value) and value.format == "dok" else None


def packed_tensors(tensors: Mapping[str, Any], outputs: Any) -> Any:
    """Packs tensors by name into the structure of a model's outputs."""
    packed = keras.tree.map_structure(tensors.__getitem__, outputs)
    return packed[0] if isinstance(packed, (list, tuple)) and len(packed) == 1 else packed


def as_taken(value: Any, taken: CrossingTensor | keras.KerasTensor) -> Any:
    """Converts one input of a model to the dtype and rank that its layers receive, as Keras does."""
    if value is None:
        return None
    tensor = keras.ops.convert_to_tensor(value, dtype=taken.dtype, sparse=getattr(taken, "sparse", None))
    more = len(tensor.shape) - len(taken.shape)
    if more == 1 and tensor.shape[-1] == 1:
        return keras.ops.squeeze(tensor, axis=-1)
    return keras.ops.expand_dims(tensor, axis=-1) if more == -1 and taken.shape[-1] == 1 else tensor


def wrong_batch(tensors: Mapping[str, Any], size: int | None, model: str) -> str | None:
    """Returns an error message if a model built for a fixed batch size got another number of rows, else `None`."""
    given = {np.shape(value)[0] for value in tensors.values() if np.ndim(value)}
    if size is None or given == {size}:
        return None
    return f"'{model}' takes batches of {size}; got {', '.join(map(str, sorted(given)))} rows."


def _outline(x: Any) -> str:
    """Describes a structure by the types of its leaves, short enough for a message."""
    if isinstance(x, (list, tuple)) and any(isinstance(leaf, Number) for leaf in keras.tree.flatten(x)):
        return "lists of numbers; pass NumPy arrays"
    return shortened(repr(keras.tree.map_structure(lambda leaf: type(leaf).__name__, x)))
