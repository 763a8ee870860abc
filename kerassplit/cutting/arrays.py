"""What a model is given and gives: structures of arrays, and the same by tensor name."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from scipy.sparse import issparse

from kerassplit.cutting.crossing import CrossingTensor
from kerassplit.errors import SplitError


def named_tensors(x: Any, inputs: Any, model: str) -> dict[str, Any]:
    """What a caller passes as a model's input, by tensor name.

    Args:
        x: Arrays or tensors.
        inputs: Names of tensors in the structure in which the model takes them.
        model: Its name, for messages.
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
            f"Expected arrays or tensors in the places of the names; got {_outline(x)}."
        ) from error
    return dict(zip(names, keras.tree.flatten(x), strict=True))


def _without_dok(value: Any) -> Any:
    """One of SciPy's sparse arrays as CSR where it is a dict (DOK); `None`, "leave it", for all else."""
    return value.tocsr() if issparse(value) and value.format == "dok" else None


def packed_tensors(tensors: Mapping[str, Any], outputs: Any) -> Any:
    """Tensors by name in the structure of a model's outputs."""
    packed = keras.tree.map_structure(tensors.__getitem__, outputs)
    return packed[0] if isinstance(packed, (list, tuple)) and len(packed) == 1 else packed


def as_taken(value: Any, taken: CrossingTensor | keras.KerasTensor) -> Any:
    """What a caller passes as one input of a model, as Keras hands it to the layers: of its dtype and rank."""
    if value is None:
        return None
    tensor = keras.ops.convert_to_tensor(value, dtype=taken.dtype, sparse=getattr(taken, "sparse", None))
    more = len(tensor.shape) - len(taken.shape)
    if more == 1 and tensor.shape[-1] == 1:
        return keras.ops.squeeze(tensor, axis=-1)
    return keras.ops.expand_dims(tensor, axis=-1) if more == -1 and taken.shape[-1] == 1 else tensor


def wrong_batch(tensors: Mapping[str, Any], size: int | None, model: str) -> str | None:
    """What to say where a model that is built for batches of one size got other ones, and failed on them."""
    given = {np.shape(value)[0] for value in tensors.values() if np.ndim(value)}
    if size is None or given == {size}:
        return None
    return f"'{model}' takes batches of {size}; got {', '.join(map(str, sorted(given)))} rows."


def _outline(x: Any) -> str:
    """A structure with the types of its leaves: short enough for a message."""
    return repr(keras.tree.map_structure(lambda leaf: type(leaf).__name__, x))
