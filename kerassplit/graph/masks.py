"""Masks as edges of a graph, and which masks Keras attaches to a tensor by itself."""

from collections.abc import Iterable, Mapping, Sequence

import keras

from kerassplit.graph.internals.symbols import copy_with_history, mask_of, original
from kerassplit.graph.model_graph import Call, Graph, Nest
from kerassplit.graph.packing import inner_calls, naturally_masked

MASKED = "_with_mask"
"""Suffix of the names of the nested models that attach a mask to a tensor."""


def index_of_mask(symbol: keras.KerasTensor, call: Call | Nest) -> int:
    """Returns the index of the mask of a tensor that `call` produces; -1 if it has none."""
    mask = mask_of(symbol)
    return -1 if mask is None else call.scope.get(id(mask), call.scope.get(id(original(mask)), -1))


def tensor_of_mask(graph: Graph, tensor: int) -> int | None:
    """Returns the mask that Keras attaches to a tensor; `None` if it is not in the graph because no layer uses it."""
    found = graph.tensors[tensor]
    mask = index_of_mask(found.symbol, graph.calls[found.call])
    return mask if mask >= 0 else None


def mask_calls(graph: Graph) -> set[int]:
    """Returns the calls that make masks which Keras attaches to tensors by itself, and nothing else."""
    masks = {tensor_of_mask(graph, tensor) for tensor in range(len(graph.tensors))}
    found: set[int] = set()
    for index in reversed(range(len(graph.calls))):
        made = {tensor: graph.tensors[tensor].users for tensor in graph.calls[index].outputs}
        if all(tensor in masks or (users and found.issuperset(users)) for tensor, users in made.items()):
            found.add(index)
    return found


def hung_masks(graph: Graph, call: Call | Nest) -> dict[int, int]:
    """Returns the masks that a call, or a call inside it, looks for on its input tensors, by tensor."""
    if isinstance(call, Call) and not call.masks:
        return {}
    return {one.scope.get(symbol, -1): mask for one in inner_calls(graph, call) for symbol, mask in one.masks.items()}


def mask_of_twin(
    symbol: keras.KerasTensor, call: Call | Nest, symbols: Mapping[int, keras.KerasTensor]
) -> keras.KerasTensor | None:
    """Returns the new mask of the twin of `symbol`."""
    tensor = index_of_mask(symbol, call)
    return copy_with_history(symbols[tensor]) if tensor in symbols else None


def masked_tensors(graph: Graph, calls: Sequence[Call | Nest], given: Iterable[int]) -> set[int]:
    """Returns the tensors that Keras masks by itself, except those whose masks are given and not used otherwise.

    Attaching those again changes nothing, and Keras 3.13 refuses an input that nothing uses.
    """
    masked = naturally_masked(graph, calls)
    if not masked:
        return masked
    hung = {tensor: mask for call in calls for tensor, mask in hung_masks(graph, call).items()}
    idle = {mask for tensor, mask in hung.items() if tensor in masked}
    idle -= {mask for tensor, mask in hung.items() if tensor not in masked}
    for call in reversed(calls):
        if not idle.issuperset(tensor for tensor, _ in graph.results(call)):
            idle.difference_update(call.scope.get(id(symbol), -1) for symbol in call.arguments.keras_tensors)
    return masked - {tensor for tensor, mask in hung.items() if mask in idle.intersection(given)}


def hands_masks_on(model: keras.Model) -> keras.Model:
    """Makes the nested models of a loaded model support masks again, which Keras does not save; returns the model."""
    for layer in model.layers:
        if layer.name.endswith(MASKED):
            layer.supports_masking = True
    return model
