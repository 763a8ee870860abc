"""Refuses layers that cannot take what they would receive in an edited model."""

import re
from collections.abc import Sequence

import keras

from kerassplit.errors import UnsupportedModelError
from kerassplit.graph.model_graph import Call, Nest

Shape = Sequence[int | None]
_BEFORE_REASON = re.compile(
    r"Exception encountered when calling [^\n]*\n+|Error encountered:\n+|is incompatible with the layer: "
)


def refused(
    item: Call | Nest, before: Sequence[Shape], now: Sequence[Shape], error: Exception
) -> UnsupportedModelError:
    """Returns the error for a layer that cannot be called on another shape, with ways out."""
    text = re.sub(r"\x1b\[\d*m", "", str(error))
    reason = _BEFORE_REASON.split(text)[-1].partition("\n")[0].partition(" for '{{node")[0].rstrip(". ")
    return UnsupportedModelError(
        f"'{item.name}' ({type(item.operation).__name__}) takes {_shapes(before)} in the model and would receive "
        f"{_shapes(now)}, which it cannot take: {reason}. {_remedy(item.operation, before[0], now[0])}"
    )


def _remedy(operation: keras.Operation, before: Shape, now: Shape) -> str:
    axes = getattr(getattr(operation, "input_spec", None), "axes", None) or {}
    if len(before) != len(now) or all(before[axis] == now[axis] for axis in axes):
        return "Replace it in the same way (`kerassplit.replace`), or put a layer before it that makes the shape fit."
    if len(now) == 2:
        return (
            "Its weights are for one size only. Where a `Flatten` stands before it, `GlobalAveragePooling2D` takes any "
            "size but needs other weights; `keras.layers.Resizing` as first layer brings inputs to the old size."
        )
    return (
        "Only the first convolution, and normalizations before it, adapt to other channels. A convolution with a 1x1 "
        "kernel as first layer brings inputs to the old channels."
    )


def _shapes(shapes: Sequence[Shape]) -> str:
    return ", ".join(str(tuple(shape)) for shape in shapes)
