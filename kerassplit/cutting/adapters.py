"""Checks if a tensor fits where another is expected, and suggests layers, as source code, that make it fit."""

import contextlib
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import keras

from kerassplit.cutting.piece_tensors import PieceTensor, Shape
from kerassplit.errors import UnsupportedModelError
from kerassplit.text import listed


def fits(given: Shape, wanted: Shape) -> bool:
    """True if a tensor of one shape can be used where the other is expected; open dimensions match any size."""
    return len(given) == len(wanted) and all(map(_same, given, wanted))


def adapters(
    given: Shape, given_dtype: str, wanted: Shape, wanted_dtype: str, data_format: str | None = None
) -> list[str]:
    """Returns expressions for Keras layers that, one after another, convert a tensor to another shape and dtype.

    Args:
        given: The shape of the tensor, with the batch dimension first.
        given_dtype: Its dtype.
        wanted: The required shape.
        wanted_dtype: The required dtype.
        data_format: Image data format, as in Keras; by default Keras's configured one.

    Returns:
        The expressions; empty if both agree, or if no suitable layers are known.

    Example:

    >>> adapters((None, 28, 28, 512), "float32", (None, 14, 14, 256), "float32")
    ['keras.layers.Resizing(14, 14)', 'keras.layers.Conv2D(256, 1)']
    """
    data_format = data_format or keras.config.image_data_format()
    layers = _reshaping(given, wanted, data_format == "channels_first")
    if layers is None or "string" in (given_dtype, wanted_dtype):
        return []
    to_float = "float" in wanted_dtype
    if not to_float and any(name != "Reshape" for name, _ in layers):
        return []
    from_float = "float" in given_dtype
    options = f', data_format="{data_format}"' if data_format != keras.config.image_data_format() else ""
    dtype = (
        f', dtype="{wanted_dtype}"' if to_float and keras.config.dtype_policy().compute_dtype != wanted_dtype else ""
    )
    expressions = [
        f"keras.layers.{name}({arguments}{options if name in _IMAGES else ''}{dtype})".replace("(, ", "(")
        for name, arguments in layers
    ]
    if given_dtype == wanted_dtype or (layers and from_float and to_float):  # layers cast floats to their own dtype
        return expressions
    return [*_casts(from_float, wanted_dtype), *expressions]


@contextlib.contextmanager
def fitting(layer: keras.Layer, takes: Sequence[PieceTensor], masks: Sequence[PieceTensor] = ()) -> Iterator[None]:
    """Context for calling a layer on `takes`, without `masks`: errors say which piece gives what, and what would fit.

    Raises:
        UnsupportedModelError: The layer cannot be called on these tensors.
    """
    wanted = _wanted(layer, takes[0]) if len(takes) == 1 else None
    if wanted and not fits(takes[0].shape, wanted.shape):
        raise misfit(takes[0], wanted, True, data_format_of([layer]))
    try:
        yield
    except Exception as error:
        remedy = ""
        if masks:
            ends = ", ".join(map(_input, [*takes, *masks]))
            remedy = (
                f"\n{listed(one.name for one in masks)}, given too, passes by layers, as masks do. To pass all of them "
                f"to the layer, use a model whose Inputs have these names: `x = [{ends}]` and "
                "`keras.Model(x, layer(x))`."
            )
        elif len(takes) > 1:
            remedy = (
                f"\nTo pass one of them, use a model whose Input has its name: `x = {_input(takes[0])}` and "
                "`keras.Model(x, layer(x))`."
            )
        raise UnsupportedModelError(
            f"{takes[0].giver} gives {', '.join(map(str, takes))}, but the layer '{layer.name}' after it cannot be "
            f"called on that: {error}{remedy}"
        ) from error


def _input(tensor: PieceTensor) -> str:
    """Returns source code for an Input like a tensor, with its name."""
    dtype = "" if tensor.dtype == keras.config.floatx() else f", dtype='{tensor.dtype}'"
    return f"keras.Input({tuple(tensor.shape[1:])}, name='{tensor.name}'{dtype})"


def misfit(given: PieceTensor, wanted: PieceTensor, alone: bool, data_format: str | None) -> UnsupportedModelError:
    """Builds the error for a tensor that does not fit, with layers that would help, placed between if `alone`."""
    layers = ", ".join(adapters(given.shape, given.dtype, wanted.shape, wanted.dtype, data_format))
    remedy = "No Keras layers are known that would convert it: use layers of your own."
    if layers:
        remedy = f"To make it fit, put between them: `{layers}`."
        if not alone:
            remedy = f"To make it fit, pass '{given.name}' at the end of {given.giver} through: `{layers}`."
    return UnsupportedModelError(f"{given.giver} gives {given}, but {wanted.giver} takes {wanted}.\n{remedy}")


def data_format_of(operations: Iterable[Any]) -> str | None:
    """Returns the image data format of the first of these operations that has one."""
    return next((form for one in operations if (form := getattr(one, "data_format", None))), None)


_IMAGES = frozenset({"Conv2D", "GlobalAveragePooling2D", "Resizing"})


def _wanted(layer: keras.Layer, given: PieceTensor) -> PieceTensor | None:
    """Returns the input that a built layer requires, as far as its `input_spec` says; `None` if unknown."""
    spec = layer.input_spec
    rank = len(given.shape)
    if not isinstance(spec, keras.InputSpec) or not layer.built or rank < (spec.min_ndim or 0):
        return None
    shape = list(spec.shape or (given.shape if spec.ndim in (None, rank) else [None] * spec.ndim))
    for axis, side in (spec.axes or {}).items():
        if side is not None and -len(shape) <= axis < len(shape):
            shape[axis] = side
    return PieceTensor("", "", f"the layer '{layer.name}'", shape, given.dtype)


def _same(one: int | None, other: int | None) -> bool:
    return one is None or other is None or one == other


def _casts(from_float: bool, wanted: str) -> list[str]:
    """Returns layers that cast: Keras has no such layer, but all layers cast floats, and `Rescaling` casts integers."""
    if from_float:
        return [f'keras.layers.Identity(dtype="{wanted}")']
    if wanted == "bool":
        return ['keras.layers.Rescaling(1.0, dtype="float32")', 'keras.layers.Identity(dtype="bool")']
    return [f'keras.layers.Rescaling(1.0, dtype="{wanted}")']


def _reshaping(given: Shape, wanted: Shape, channels_first: bool) -> list[tuple[str, str]] | None:
    """Returns the names and arguments of layers that change the shape; `None` if none are known."""
    if fits(given, wanted):
        return []
    if not given or not wanted or not _same(given[0], wanted[0]):
        return None
    if len(given) == len(wanted) == 4:
        return _image(given, wanted, channels_first)
    if reshaped := _reshaped(given, wanted):
        return [reshaped]
    channels = given[1] if channels_first and len(given) == 4 else given[-1]
    width = wanted[-1]
    if channels is None or width is None:
        return None
    dense = [] if channels == width else [("Dense", f"{width}")]
    if len(given) == len(wanted) and fits(given[:-1], wanted[:-1]):
        return dense
    if (len(given), len(wanted)) == (4, 2):
        return [("GlobalAveragePooling2D", ""), *dense]
    if len(given) == 2 and None not in wanted[1:]:
        return [("Dense", f"{math.prod(wanted[1:])}"), ("Reshape", f"{tuple(wanted[1:])}")]  # type: ignore[arg-type]
    if not channels_first and (reshaped := _reshaped(given, (*wanted[:-1], channels))):
        return [reshaped, *dense]
    return None


def _image(given: Shape, wanted: Shape, channels_first: bool) -> list[tuple[str, str]] | None:
    channel, sides = (1, (2, 3)) if channels_first else (3, (1, 2))
    layers = []
    if not all(_same(given[side], wanted[side]) for side in sides):
        size = [given[side] if wanted[side] is None else wanted[side] for side in sides]
        if None in size:
            return None
        layers.append(("Resizing", f"{size[0]}, {size[1]}"))
    if not _same(given[channel], wanted[channel]):
        layers.append(("Conv2D", f"{wanted[channel]}, 1"))
    return layers


def _reshaped(given: Shape, wanted: Shape) -> tuple[str, str] | None:
    """Returns `Reshape` and its argument if the numbers of elements agree; one dimension may be open."""
    known = [side for side in wanted[1:] if side is not None]
    if None in given[1:] or len(known) < len(wanted) - 2:
        return None
    elements, wanted_elements = math.prod(side for side in given[1:] if side is not None), math.prod(known)
    whole = len(known) == len(wanted) - 1
    if not wanted_elements or (elements != wanted_elements if whole else elements % wanted_elements):
        return None
    return "Reshape", f"{tuple(-1 if side is None else side for side in wanted[1:])}"
