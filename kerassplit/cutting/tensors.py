"""`tensors`: all that can be named in a model."""

from __future__ import annotations

from dataclasses import dataclass

import keras

from kerassplit.display.rich_table import Records
from kerassplit.display.units import format_shape
from kerassplit.graph.reading import read_graph
from kerassplit.graph.sizes import Shape
from kerassplit.text import shortened


@dataclass(frozen=True, repr=False)
class TensorInfo:
    """A tensor of a model.

    Attributes:
        name: Its name, as `tap` and all others take it.
        shape: With the batch dimension first; `None` for open dimensions.
        dtype: Such as `"float32"`.
        layer: The layer or operation that makes it.
    """

    name: str
    shape: Shape
    dtype: str
    layer: keras.Operation

    def __repr__(self) -> str:
        made = type(self.layer).__name__
        return shortened(f"<TensorInfo {self.name!r}: {format_shape(self.shape)} {self.dtype} of {made}>")


def tensors(model: keras.Model) -> tuple[TensorInfo, ...]:
    """Lists the tensors of a model that can be tapped, with their names, in execution order.

    Nested models are opened: their tensors are there as `backbone/conv4_block6_out`. The model's inputs are left out.

    Args:
        model: A functional or built Sequential model.

    Returns:
        A `TensorInfo` for each; the tuple prints as a table.

    Raises:
        UnsupportedModelError: The model has no graph.

    Example:

    >>> [tensor.name for tensor in ks.tensors(resnet) if tensor.name.endswith("_out")][-1]
    'conv5_block3_out'
    """
    graph = read_graph(model)
    return Records(
        TensorInfo(graph.tensors[one].name, tuple(symbol.shape), symbol.dtype, call.operation)
        for call in graph.calls
        if call.inputs
        for one, symbol in graph.results(call)
    )
