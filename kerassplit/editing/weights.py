"""Carries weights over from a layer to the one that replaces it."""

from typing import Any

import keras


def carry_over(old: Any, new: keras.Layer) -> tuple[list[str], list[str]]:
    """Copies the weights of a layer to another one, where names and shapes agree.

    Integers are not copied to floats, or back: those of a quantized kernel mean nothing without its scale.

    Returns:
        In words: the weights of the new layer that stay as they were made although the old layer has weights; and
        those of the old layer that the new one, which has weights, does not have.
    """
    theirs = {_path(old, weight): weight for weight in getattr(old, "weights", ())}
    alike = type(old) is type(new) and [*map(_looks, old.weights)] == [*map(_looks, new.weights)]
    left, taken = [], set()
    for place, weight in enumerate(new.weights):
        path = _path(new, weight)
        source = old.weights[place] if alike else theirs.get(path)  # layers inside may have automatic names
        if source is not None and _looks(source) == _looks(weight):
            weight.assign(keras.ops.copy(source.value))  # JAX would share the array, and training deletes it
        elif theirs:
            before = "" if source is None else f", which was {_described(source, weight)}"
            left.append(f"{new.name}/{path} {_described(weight, source)}{before}")
        taken.add(id(source))
    if isinstance(new, keras.layers.Normalization) and new.built:
        new.finalize_state()  # computes with constants made from its weights
    gone = [one for one in theirs.items() if new.weights and id(one[1]) not in taken]
    return left, [f"{old.name}/{path} {tuple(weight.shape)}" for path, weight in gone]


def _looks(weight: keras.Variable) -> tuple[str, tuple[int, ...], bool]:
    return weight.name, tuple(weight.shape), keras.backend.is_float_dtype(weight.dtype)


def _described(weight: keras.Variable, other: keras.Variable | None) -> str:
    """Returns the shape of a weight, and its dtype if only that differs from another one's."""
    alike = other is not None and tuple(weight.shape) == tuple(other.shape)
    return f"{tuple(weight.shape)} {weight.dtype}" if alike else f"{tuple(weight.shape)}"


def _path(layer: Any, weight: keras.Variable) -> str:
    """Returns the name of a weight within its layer: `kernel`, `query/kernel`."""
    return weight.path.removeprefix(f"{layer.path or layer.name}/")
