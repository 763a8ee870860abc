"""Position embeddings for another number of positions."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kerassplit.errors import UnsupportedModelError
from kerassplit.graph.declared import check_call

Sides = tuple[int, int]
"""Height and width of an image; for a sequence, its length and 1."""


def layer_for_positions(
    layer: Any,
    before: keras.KerasTensor,
    given: tuple[Sequence[Any], dict[str, Any]],
    sides: tuple[Sides, Sides] | None,
    resize: str | None,
) -> keras.Layer | None:
    """Returns a layer like this one with a position embedding for another number of positions.

    `None` if the layer takes the new size as it is, or if it has no such embedding. The embedding is the weight whose
    shape changes when the layer is built from its configuration again, with the sizes in it adapted. It is interpolated
    as an image over the grid of positions, as usual for vision transformers (Dosovitskiy et al., ICLR 2021, section
    3.2); positions beyond the grid, such as that of a class token, stay.

    Args:
        layer: The layer.
        before: What it received.
        given: The arguments that it receives now.
        sides: Old and new sides of the model's input.
        resize: How to interpolate, as in `keras.ops.image.resize`; `None` to refuse.

    Raises:
        UnsupportedModelError: `resize` is `None`, or the positions are no grid.
    """
    args, kwargs = given
    if not layer.weights or sides is None:
        return None
    try:
        check_call(layer, args, kwargs)
        return None
    except Exception:
        new = _built_for(layer, before, args, kwargs, sides)
    if new is None:
        return None
    changed = [pair for pair in zip(new.variables, layer.variables, strict=True) if pair[0].shape != pair[1].shape]
    if resize is None:
        ours, theirs = changed[0]
        raise UnsupportedModelError(
            f"'{layer.name}' ({type(layer).__name__}) has an embedding for each position, '{theirs.name}' of shape "
            f"{tuple(theirs.shape)}, and {tuple(ours.shape)} are needed now. Pass resize='bilinear' to interpolate it."
        )
    for ours, theirs in zip(new.variables, layer.variables, strict=True):
        value = keras.ops.convert_to_numpy(theirs.value)
        ours.assign(
            value if tuple(ours.shape) == value.shape else _resized(layer, value, tuple(ours.shape), sides, resize)
        )
    return new


def _built_for(
    layer: Any, before: keras.KerasTensor, args: Sequence[Any], kwargs: dict[str, Any], sides: tuple[Sides, Sides]
) -> keras.Layer | None:
    """Returns the layer built again for the new size, if just tables with a row for each position change."""
    old, new = ((one.shape[1],) if len(one.shape) == 3 else () for one in (before, args[0]))
    counts = {was + more: now + more for was, now in zip(old, new, strict=True) for more in (0, 1) if was and now}
    config = layer.get_config()
    for one in (config, _with_sizes(config, counts, sides)):
        try:
            again = type(layer).from_config(one)
            again(*args, **kwargs)  # builds it
            check_call(again, args, kwargs)
        except Exception:  # the configuration of somebody's layer may mean anything
            continue
        pairs = [
            (tuple(ours.shape), tuple(theirs.shape))
            for ours, theirs in zip(again.variables, layer.variables, strict=False)
        ]
        differing = [pair for pair in pairs if pair[0] != pair[1]]
        tables = all(len(a) == len(b) and sum(map(int.__ne__, a, b)) == 1 for a, b in differing)
        if len(again.variables) == len(layer.variables) and differing and tables:
            return again
    return None


def _with_sizes(config: Any, counts: dict[int, int], sides: tuple[Sides, Sides]) -> Any:
    """Returns a configuration in which old sizes of the image, and old numbers of positions, are the new ones."""
    before, now = sides

    def new(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: new(one) for key, one in value.items()}
        if isinstance(value, (list, tuple)):
            same = tuple(value) == before
            return type(value)(now) if same else type(value)(map(new, value))
        if type(value) is int and value in counts:
            return counts[value]
        return now[0] if type(value) is int and value == before[0] == before[1] and now[0] == now[1] else value

    return new(config)


def _resized(layer: Any, table: np.ndarray, shape: tuple[int, ...], sides: tuple[Sides, Sides], how: str) -> np.ndarray:
    """Interpolates a table along the axis in which its shape differs from `shape`."""
    (axis,) = (axis for axis, side in enumerate(shape) if side != table.shape[axis])
    rows = np.moveaxis(table, axis, 0)
    before, after = len(rows), shape[axis]
    for more in range(3):  # a class token, and one for distillation
        old, new = (_grid(count - more, *one) for count, one in zip((before, after), sides, strict=True))
        if old and new:
            break
    else:
        raise UnsupportedModelError(
            f"The {before} positions of '{layer.name}' are no grid of the proportions {sides[0]}, or {after} none of "
            f"{sides[1]}, so they cannot be interpolated. Replace the layer (`kerassplit.replace`)."
        )
    first, grid = rows[:more], rows[more:].reshape(*old, -1)
    grid = keras.ops.convert_to_numpy(keras.ops.image.resize(grid, new, interpolation=how, data_format="channels_last"))
    return np.moveaxis(np.concatenate([first, grid.reshape(-1, *rows.shape[1:])]), 0, axis).astype(table.dtype)


def _grid(count: int, height: int, width: int) -> Sides | None:
    """Returns the rows and columns of a grid with the proportions of an image; `None` if there is none."""
    rows = max(1, round(math.sqrt(count * height / width))) if count > 0 else 0
    return (
        (rows, count // rows)
        if rows and count % rows == 0 and abs(count // rows * height - rows * width) < max(height, width)
        else None
    )
