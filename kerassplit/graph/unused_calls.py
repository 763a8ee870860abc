"""Removes calls that lead to no output from a graph."""

import keras

from kerassplit.graph.model_graph import Graph


def without_unused_calls(graph: Graph, asked: dict[int, int]) -> Graph:
    """Removes the calls that lead to none of the model's outputs, as a nested model may contain.

    Changes the graph in place and returns it.
    """
    live = graph.ancestors(graph.flat_outputs())
    live.update(call for call, found in enumerate(graph.calls) if not found.inputs)
    if len(live) == len(graph.calls):
        return graph
    call_at = {call: place for place, call in enumerate(sorted(live))}
    tensors = [tensor for tensor, found in enumerate(graph.tensors) if found.call in live]
    tensor_at = {tensor: place for place, tensor in enumerate(tensors)}
    for scope in (graph.scope, asked, *(nest.inner for nest in graph.nests)):
        kept = {symbol: tensor_at[tensor] for symbol, tensor in scope.items() if tensor in tensor_at}
        scope.clear()
        scope.update(kept)
    graph.calls = [graph.calls[call] for call in call_at]
    for call in graph.calls:
        call.inputs, call.outputs = (
            tuple(tensor_at[tensor] for tensor in some) for some in (call.inputs, call.outputs)
        )
        call.masks = {symbol: tensor_at[tensor] for symbol, tensor in call.masks.items()}
    graph.tensors = [graph.tensors[tensor] for tensor in tensors]
    for tensor in graph.tensors:
        tensor.call = call_at[tensor.call]
        tensor.users = [call_at[user] for user in tensor.users if user in live]
    for nest in graph.nests:
        nest.calls = [call_at[call] for call in nest.calls if call in live]
        nest.given = [tensor_at.get(tensor, -1) for tensor in nest.given]
    graph.inputs, graph.outputs = (
        keras.tree.map_structure(tensor_at.__getitem__, some) for some in (graph.inputs, graph.outputs)
    )
    return graph
