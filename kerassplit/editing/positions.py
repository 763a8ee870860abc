"""Position embeddings for another number of positions."""

import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from kerassplit.errors import UnsupportedModelError
from kerassplit.graph.declared import check_call
from kerassplit.text import package_of

Sides = tuple[int, int]
"""Height and width of an image; for a sequence, its length and 1."""
Shape = Sequence[int | None]
INTERPOLATIONS = ("bilinear", "bicubic", "nearest", "lanczos3", "lanczos5")
_NO_TABLES = frozenset({"kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance"})


def layer_for_positions(
    layer: Any,
    shapes: tuple[Shape, Shape],
    before: Any,
    given: tuple[Sequence[Any], Mapping[str, Any]],
    sides: tuple[Sides, Sides] | None,
    resize: str | None,
) -> keras.Layer | None:
    """Returns a layer like this one with a position embedding for another number of positions.

    `None` if the layer takes the new size as it is, or if it has no such embedding. The embedding is the weight whose
    shape changes when the layer is built from its configuration again, with the sizes in it adapted; Keras's own layers
    have none. It is interpolated as an image over the grid of positions, as usual for vision transformers (Dosovitskiy
    et al., ICLR 2021, section 3.2); positions beyond the grid, such as that of a class token, stay.

    Args:
        layer: The layer.
        shapes: The shapes of what it received, and of what it receives now.
        before: The arguments that it received, with `args` and `kwargs`.
        given: The arguments that it receives now.
        sides: Old and new sides of the model's input.
        resize: How to interpolate, as in `keras.ops.image.resize`; `None` to refuse.

    Raises:
        UnsupportedModelError: `resize` is `None`, or the positions are no grid.
    """
    args, kwargs = given
    if not layer.weights or sides is None or package_of(type(layer)) == "keras":
        return None
    try:
        check_call(layer, args, kwargs, before)
        return None
    except Exception:
        new = _built_for(layer, shapes, args, kwargs, sides)
    if new is None:
        return None
    pairs = list(zip(new.variables, layer.variables, strict=True))
    if resize is None:
        ours, theirs = next(pair for pair in pairs if pair[0].shape != pair[1].shape)
        raise UnsupportedModelError(
            f"'{layer.name}' ({type(layer).__name__}) has an embedding for each position, '{theirs.name}' of shape "
            f"{tuple(theirs.shape)}, and {tuple(ours.shape)} are needed now. Pass resize='bilinear' to interpolate it."
        )
    for ours, theirs in pairs:
        value = keras.ops.convert_to_numpy(theirs.value)
        ours.assign(
            value if tuple(ours.shape) == value.shape else _resized(layer, value, tuple(ours.shape), sides, resize)
        )
    return new


def _built_for(
    layer: Any,
    shapes: tuple[Shape, Shape],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    sides: tuple[Sides, Sides],
) -> keras.Layer | None:
    """Returns the layer built again for the new size, if just tables with a row for each position change."""
    for config in _configs(layer, shapes, sides):
        try:
            again = type(layer).from_config(config)
            again(*args, **kwargs)  # builds it
            check_call(again, args, kwargs)
            pairs = list(zip(again.variables, layer.variables, strict=True))
        except Exception:  # the configuration of somebody's layer may mean anything
            continue
        differing = [(ours, theirs) for ours, theirs in pairs if ours.shape != theirs.shape]
        if differing and all(map(_is_table, *zip(*differing, strict=True))):
            return again
    return None


def _is_table(ours: keras.Variable, theirs: keras.Variable) -> bool:
    """True if two weights can be tables of positions of different numbers."""
    axes = [axis for axis, pair in enumerate(zip(ours.shape, theirs.shape, strict=False)) if pair[0] != pair[1]]
    grid = len(axes) == 1 or (len(axes) == 2 and axes[1] == axes[0] + 1)
    return len(ours.shape) == len(theirs.shape) and grid and theirs.name not in _NO_TABLES


def _configs(layer: Any, shapes: tuple[Shape, Shape], sides: tuple[Sides, Sides]) -> Iterator[dict[str, Any]]:
    """Yields configurations to try: the layer's; with all old sizes made new; with those of one setting."""
    old, new = (shape[1:2] if len(shape) == 3 else () for shape in shapes)
    counts = {was + more: now + more for was, now in zip(old, new, strict=False) for more in (0, 1) if was and now}
    yield layer.get_config()
    changed = {name: _with_sizes(value, counts, sides) for name, value in layer.get_config().items()}
    yield changed
    for name, value in layer.get_config().items():
        if changed[name] != value:
            yield {**layer.get_config(), name: changed[name]}
    accepted = {*inspect.signature(type(layer).__init__).parameters, *keras.Layer.get_config(layer)}
    yield {name: value for name, value in changed.items() if name in accepted}  # KerasHub's says more than it takes


def _with_sizes(setting: Any, counts: Mapping[int, int], sides: tuple[Sides, Sides]) -> Any:
    """Returns a setting in which old sizes of the image, and old numbers of positions, are the new ones."""
    before, now = sides
    if isinstance(setting, dict):
        return {key: _with_sizes(one, counts, sides) for key, one in setting.items()}
    if isinstance(setting, (list, tuple)):
        same = tuple(setting) == before
        return type(setting)(now if same else (_with_sizes(one, counts, sides) for one in setting))
    if type(setting) is not int:
        return setting
    square = setting == before[0] == before[1] and now[0] == now[1]
    return counts.get(setting, now[0] if square else setting)


def _resized(layer: Any, table: np.ndarray, shape: tuple[int, ...], sides: tuple[Sides, Sides], how: str) -> np.ndarray:
    """Interpolates a table over the grid of positions in the axes in which its shape differs from `shape`."""
    first = next(axis for axis, side in enumerate(shape) if side != table.shape[axis])
    for axis in (first - 1, first):  # rows and columns are two axes; those of channels come after
        ours, theirs = shape[axis : axis + 2], table.shape[axis : axis + 2]
        if 0 <= axis < len(shape) - 2 and _proportional(theirs, sides[0]) and _proportional(ours, sides[1]):
            return _interpolated(table, axis, ours, how)
    fitting = []
    for more in range(3):  # a class token, and one for distillation
        counts = table.shape[first] - more, shape[first] - more
        old, new = map(_grid, counts, sides)
        if old and new:
            fitting.append((abs(counts[0] * math.prod(sides[1]) - counts[1] * math.prod(sides[0])), more, old, new))
    if not fitting:
        raise UnsupportedModelError(
            f"The {table.shape[first]} positions of '{layer.name}' are no grid of the proportions {sides[0]}, or "
            f"{shape[first]} none of {sides[1]}, so they cannot be interpolated. Replace the layer "
            "(`kerassplit.replace`)."
        )
    _, more, old, new = min(fitting)
    head, tail = np.split(table, [more], axis=first)
    grid = _interpolated(tail.reshape(*tail.shape[:first], *old, *tail.shape[first + 1 :]), first, new, how)
    return np.concatenate([head, grid.reshape(*tail.shape[:first], -1, *tail.shape[first + 1 :])], axis=first)


def _interpolated(table: np.ndarray, axis: int, size: Sequence[int], how: str) -> np.ndarray:
    """Resizes a table as an image whose rows and columns are `axis` and the next one."""
    image = np.moveaxis(table, (axis, axis + 1), (0, 1))
    pixels = image.reshape(*image.shape[:2], -1)
    resized = keras.ops.image.resize(pixels, tuple(size), interpolation=how, data_format="channels_last")
    new = keras.ops.convert_to_numpy(resized).reshape(*size, *image.shape[2:]).astype(table.dtype)
    return np.moveaxis(new, (0, 1), (axis, axis + 1))


def _grid(count: int, sides: Sides) -> Sides | None:
    """Returns the rows and columns of so many positions with the proportions of an image; `None` if there are none."""
    if count <= 0:
        return None
    rows = count if sides[1] == 1 else max(1, round(math.sqrt(count * sides[0] / sides[1])))
    grid = rows, count // rows
    return grid if count % rows == 0 and (sides[1] == 1 or _proportional(grid, sides)) else None


def _proportional(grid: Sequence[int], sides: Sides) -> bool:
    """True if a grid has the proportions of an image, but for a part of a row or column."""
    return abs(grid[1] * sides[0] - grid[0] * sides[1]) < max(sides)
