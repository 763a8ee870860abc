"""`tensors`: lists the names of all tensors in a model."""

from __future__ import annotations

import keras

from kerassplit.graph.reading import read_graph


def tensors(model: keras.Model) -> tuple[str, ...]:
    """Lists all tensors that can be tapped, or cut at with `allow_crossing=True`, by name in execution order.

    Tensors inside nested models are included, as `backbone/conv4_block6_out`. The model's inputs are not.

    Args:
        model: A functional or built Sequential model.

    Raises:
        UnsupportedModelError: The model has no graph.

    Example:

    >>> [name for name in ks.tensors(resnet) if name.endswith("_out")][-1]
    'conv5_block3_out'
    """
    graph = read_graph(model)
    return tuple(graph.tensors[one].name for call in graph.calls if call.inputs for one, _ in graph.results(call))
