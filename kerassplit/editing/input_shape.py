"""`with_input_shape`: the same model on another input."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from kerassplit.cutting.adapters import data_format_of
from kerassplit.editing.channels import layer_for_channels
from kerassplit.editing.edited import edited, own_copy
from kerassplit.editing.paddings import padding_for
from kerassplit.editing.positions import INTERPOLATIONS, Sides, layer_for_positions
from kerassplit.editing.steps import Edits, Insertion
from kerassplit.errors import SplitError, UnsupportedModelError
from kerassplit.graph.model_graph import Call, Graph, Nest
from kerassplit.graph.reading import read_graph
from kerassplit.text import listed

Shape = Sequence[int | None]


def with_input_shape(
    model: keras.Model,
    shape: Shape | keras.KerasTensor | Mapping[str, Shape | keras.KerasTensor],
    *,
    resize: str | None = None,
    copy_weights: bool = False,
    name: str | None = None,
) -> keras.Model:
    """Builds the same model for another input: another height and width, open sides, channels, batch size or dtype.

    Shapes are inferred again from the input on. Layers and variables stay the model's own, except for:

    - The first convolution, if the number of channels changes. For one channel its kernel is summed over the channels;
      for more, it is repeated and scaled, as timm does (`adapt_input_conv`). Normalizations before it are averaged or
      repeated.
    - Zero paddings that depend on the size, as `keras.applications` has them before strides.
    - Position embeddings, with `resize`.

    A nested model that receives another shape is opened: its layers appear individually. The model is not changed.

    Args:
        model: A functional or built Sequential model.
        shape: The new shape without the batch dimension, `None` for open sides: `(320, 320, 3)`. For several inputs, a
            dict by their names; the others stay. A `keras.Input(...)` in place of a shape sets the batch size and the
            dtype, too; whole numbers are cast to the old dtype, if that is a float.
        resize: How to interpolate position embeddings, which have a row for each position of the old size:
            `"bilinear"`, `"bicubic"`, `"nearest"`, `"lanczos3"` or `"lanczos5"`. `None` refuses them.
            As many positions in another grid need no other table, so they keep their rows.
        copy_weights: Give the result its own layers and variables, with equal values.
        name: Name of the result; by default the model's.

    Returns:
        A `keras.Model` with the inputs and outputs of the model, in the same structure.

    Raises:
        UnsupportedModelError: A layer cannot take its new input: a `Dense` after a `Flatten`, say. The message names
            it, both shapes, and ways out.
        SplitError: `shape` is no shape, or names an input that the model does not have.

    Example:

    >>> larger = ks.with_input_shape(resnet, (320, 320, 3))
    >>> grey = ks.with_input_shape(resnet, (224, 224, 1))
    """
    graph = read_graph(model)
    inputs = _inputs(graph, shape)
    casts = [
        Insertion((tensor,), lambda x, old=graph.tensors[tensor].symbol.dtype: [keras.ops.cast(x, old)])
        for tensor, new in inputs.items()
        if "float" in graph.tensors[tensor].symbol.dtype and "float" not in new.dtype
    ]
    if resize is not None and resize not in INTERPOLATIONS:
        raise SplitError(f"Expected for `resize` one of {listed(INTERPOLATIONS, 'or')}, or None; got {resize!r}.")

    def build(given: Mapping[int, keras.KerasTensor]) -> keras.Model:
        return edited(graph, Edits(casts, inputs=given, adapt=_Adapting(graph, inputs, resize).layer_for), name)

    _check_open_sides(graph, inputs, build)
    result = build(inputs)
    return own_copy(result) if copy_weights else result


def _check_open_sides(graph: Graph, inputs: Mapping[int, keras.KerasTensor], build: Callable[..., Any]) -> None:
    """Refuses to open sides if the model takes neither their double nor their half.

    Keras lets an unknown size pass where only one fits: in a `Dense` after a `Flatten`, in a sum with a table.
    """
    reasons = []
    for other in (lambda side: 2 * side, lambda side: side // 2 or 2):
        tried = {tensor: _closed(new, graph.tensors[tensor].symbol.shape, other) for tensor, new in inputs.items()}
        if all(tried[tensor] is inputs[tensor] for tensor in tried):
            return
        try:
            build(tried)
            return
        except UnsupportedModelError as error:
            sizes = ", ".join(str(tuple(new.shape[1:])) for new in tried.values())
            reasons.append(f"Sides can be open if the model takes other sizes, such as {sizes}. {error}")
    raise UnsupportedModelError(reasons[0])


def _closed(new: keras.KerasTensor, old: Any, other: Callable[[int], int]) -> keras.KerasTensor:
    """Returns an input with other sizes than the old ones in place of the sides that are to be opened."""
    opened = [side is None and was is not None for side, was in zip(new.shape, old, strict=False)]
    if not any(opened[1:]) or len(new.shape) != len(old):
        return new
    sides = [other(was) if open_ else side for side, was, open_ in zip(new.shape, old, opened, strict=True)]
    return keras.KerasTensor((new.shape[0], *sides[1:]), dtype=new.dtype, sparse=new.sparse)


def _inputs(graph: Graph, shape: Any) -> dict[int, keras.KerasTensor]:
    """Returns the new inputs by the tensors of the old ones."""
    tensors = list(dict.fromkeys(graph.flat_inputs()))
    names = graph.names(tensors)
    by_name = shape if isinstance(shape, Mapping) else {names[0]: shape}
    if not set(by_name) <= set(names) or not by_name or (names[1:] and by_name is not shape):
        which = f"has the inputs {listed(names)}" if names[1:] else f"has one input, '{names[0]}'"
        raise SplitError(
            f"'{graph.model.name}' {which}. Expected a shape without the batch, such as (320, 320, 3), or a dict from "
            f"names of inputs to shapes; got {shape!r}."
        )
    named = dict(zip(names, tensors, strict=True))
    return {named[name]: _input(graph, named[name], given) for name, given in by_name.items()}


def _input(graph: Graph, tensor: int, given: Any) -> keras.KerasTensor:
    if isinstance(given, keras.KerasTensor):
        return given
    old = graph.tensors[tensor].symbol
    if not isinstance(given, (list, tuple)) or not all(
        side is None or (type(side) is int and side > 0) for side in given
    ):
        raise SplitError(
            f"Expected a shape without the batch for '{graph.tensors[tensor].name}', whose own is "
            f"{tuple(old.shape[1:])}: positive whole numbers, or None for open sides; got {given!r}."
        )
    return keras.KerasTensor((old.shape[0], *given), dtype=old.dtype, sparse=graph.is_sparse(tensor))


class _Adapting:
    """Chooses layers for changed shapes; a layer that is called several times gets one layer in its place.

    Attributes:
        axis: The axis of channels.
        channels: Old and new numbers of channels of the inputs that have another one.
        sides: Old and new height and width of the image, or length of the sequence, if there is one input that changes.
    """

    def __init__(self, graph: Graph, inputs: Mapping[int, keras.KerasTensor], resize: str | None):
        self.graph, self.resize = graph, resize
        pairs = [(graph.tensors[tensor].symbol.shape, new.shape) for tensor, new in inputs.items()]
        self.axis = 1 if data_format_of(call.operation for call in graph.calls) == "channels_first" else -1
        self.channels = {
            (old[self.axis], new[self.axis])
            for old, new in pairs
            if len(old) == len(new) > 2 and old[self.axis] != new[self.axis]
        }
        self.sides = _sides(*pairs[0], self.axis) if len(pairs) == 1 else None
        self.made: dict[int, keras.Operation] = {}

    def layer_for(self, item: Call | Nest, args: Sequence[Any], kwargs: dict[str, Any]) -> keras.Operation:
        """Returns the layer to call on these arguments in place of a call's own."""
        operation = item.operation
        if id(operation) not in self.made:
            self.made[id(operation)] = self._new(item, args, kwargs) or operation
        return self.made[id(operation)]

    def _new(self, item: Call | Nest, args: Sequence[Any], kwargs: dict[str, Any]) -> keras.Operation | None:
        layer, before, now = item.operation, _first(item.arguments.args, item.arguments.kwargs), _first(args, kwargs)
        if isinstance(item, Nest) or not isinstance(layer, keras.Layer) or not isinstance(now, keras.KerasTensor):
            return None
        new = None
        if len(before.shape) == len(now.shape) > 2:
            channels = before.shape[self.axis], now.shape[self.axis]
            new = layer_for_channels(layer, channels, now) if channels in self.channels else None
        new = new or padding_for(self.graph, item, now)
        shapes = before.shape, now.shape
        given = args, kwargs
        return new or layer_for_positions(layer, shapes, item.arguments, given, self.sides, self.resize)


def _first(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    return next(iter((*args, *kwargs.values())), None)


def _sides(old: Any, new: Any, axis: int) -> tuple[Sides, Sides] | None:
    """Returns the sides of two images, or the lengths of two sequences; `None` if some are open."""
    places = slice(2, 4) if axis == 1 else slice(1, 3)
    ours, theirs = ([*one[places], 1][:2] if len(one) == 4 else [*one[1:2], 1] for one in (old, new))
    if None in (*ours, *theirs) or len(old) != len(new):
        return None
    return (ours[0], ours[1]), (theirs[0], theirs[1])
