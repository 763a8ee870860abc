"""Masks as edges of a graph, and which of them hang on a tensor without our doing."""

from collections.abc import Iterable, Mapping, Sequence

import keras

from kerassplit.graph.internals.symbols import bare, mask_of, original
from kerassplit.graph.model_graph import Call, Graph, Nest
from kerassplit.graph.packing import inner_calls, naturally_masked

MASKED = "_with_mask"
"""How the names of the nested models end that hang a mask on a tensor."""


def index_of_mask(symbol: keras.KerasTensor, call: Call | Nest) -> int:
    """The tensor that is the mask of one that `call` makes; -1 where none is."""
    mask = mask_of(symbol)
    return -1 if mask is None else call.scope.get(id(mask), call.scope.get(id(original(mask)), -1))


def tensor_of_mask(graph: Graph, tensor: int) -> int | None:
    """The mask that Keras lets travel with a tensor, where it is a tensor of the graph: where some layer takes it."""
    found = graph.tensors[tensor]
    mask = index_of_mask(found.symbol, graph.calls[found.call])
    return mask if mask >= 0 else None


def hung_masks(graph: Graph, call: Call | Nest) -> dict[int, int]:
    """The masks that a call, or a call inside of it, looks for on the tensors that it is given, by tensor."""
    if isinstance(call, Call) and not call.masks:
        return {}
    return {one.scope.get(symbol, -1): mask for one in inner_calls(graph, call) for symbol, mask in one.masks.items()}


def mask_of_twin(
    symbol: keras.KerasTensor, call: Call | Nest, symbols: Mapping[int, keras.KerasTensor]
) -> keras.KerasTensor | None:
    """The new mask of the twin of `symbol`.

    A copy with the same history: the twin lives as long as its layer, and must not keep an output of the model alive.
    """
    tensor = index_of_mask(symbol, call)
    if tensor not in symbols:
        return None
    copy = bare(symbols[tensor])
    copy._keras_history = symbols[tensor]._keras_history  # type: ignore[attr-defined]
    return copy


def masked_tensors(graph: Graph, calls: Sequence[Call | Nest], given: Iterable[int]) -> set[int]:
    """The tensors that have their masks without our doing, but for those whose masks are given and not used else.

    To hang those on again changes nothing, and Keras 3.13 refuses an input that nothing takes.
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
    """The model, loaded from a file: Keras does not save that those nested models support masks."""
    for layer in model.layers:
        if layer.name.endswith(MASKED):
            layer.supports_masking = True
    return model
