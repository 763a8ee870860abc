"""Carries weights over from a layer to the one that replaces it."""

from typing import Any

import keras


def carry_over(old: Any, new: keras.Layer) -> list[str]:
    """Copies the weights of a layer to another one, where names and shapes agree.

    Returns:
        The weights of the new layer that stay as they were made although the old layer has weights, in words.
    """
    theirs = {_path(old, weight): weight for weight in getattr(old, "variables", ())}
    left = []
    for weight in new.variables:
        source = theirs.get(_path(new, weight))
        if source is not None and tuple(source.shape) == tuple(weight.shape):
            weight.assign(keras.ops.copy(source.value))
        elif theirs and not isinstance(weight, keras.random.SeedGenerator):
            had = "" if source is None else f", which was {tuple(source.shape)}"
            left.append(f"{new.name}/{_path(new, weight)} {tuple(weight.shape)}{had}")
    return left


def _path(layer: Any, weight: keras.Variable) -> str:
    """Returns the name of a weight within its layer: `kernel`, `query/kernel`."""
    return weight.path.rpartition(f"{layer.name}/")[2]
