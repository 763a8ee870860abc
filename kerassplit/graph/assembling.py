"""Builds whole models from graphs: joins pieces."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from kerassplit.errors import UnsupportedModelError
from kerassplit.graph.building import Builder
from kerassplit.graph.internals.process_state import deep_recursion, lock
from kerassplit.graph.model_graph import Call, Graph, Nest
from kerassplit.graph.packing import packed
from kerassplit.graph.reading import read_graph
from kerassplit.graph.sides import read_sides
from kerassplit.text import safe_name


def whole(graph: Graph) -> list[Call | Nest]:
    """Returns all calls of a model, with nested models as one call each."""
    calls = [index for index, call in enumerate(graph.calls) if call.inputs]
    return packed(graph, calls, graph.flat_inputs(), graph.flat_outputs())


def whole_model(graph: Graph, symbols: Sequence[keras.KerasTensor]) -> keras.Model:
    """Rebuilds a model with these of its own tensors as outputs (a list, also for one), by Keras alone."""
    own = graph.own_symbols()
    with deep_recursion():
        return keras.Model([own[tensor] for tensor in graph.flat_inputs()], list(symbols), name=graph.model.name)


def graph_of_call(layer: keras.Layer, inputs: Any) -> Graph:
    """Returns the graph of one call of a layer. The call builds the layer and is removed from it again."""
    with lock:
        count = len(layer._inbound_nodes)
        try:
            return read_graph(keras.Model(inputs, layer(inputs)))
        finally:
            del layer._inbound_nodes[count:]


def joined(
    pieces: Sequence[tuple[Graph, Sequence[str], Sequence[str]]],
    inputs: Any,
    outputs: Any,
    name: str,
    unused: Sequence[Any] = (),
) -> tuple[keras.Model, dict[str, keras.KerasTensor]]:
    """Joins pieces that pass tensors to each other by name, in execution order, into one model.

    Args:
        pieces: For each piece, its graph and the names of its inputs and outputs in Keras's order.
        inputs: Names of the model's inputs, in the structure it accepts.
        outputs: Names of its outputs, likewise.
        name: Its name.
        unused: Inputs that no piece uses, each with name, shape and dtype.

    Returns:
        The model, and its symbolic tensors by name.

    Raises:
        UnsupportedModelError: The pieces do not fit, or contain different layers with the same name. Equal layers, such
            as copies of a layer that several saved stages share, become one; so do masks that several stages compute.
    """
    wholes = [whole(graph) for graph, _, _ in pieces]
    operations = _tied([call for calls in wholes for call in calls])
    made: dict[Any, list[keras.KerasTensor]] = {}
    with Builder() as builder:
        named = {one.name: keras.Input(batch_shape=one.shape, dtype=one.dtype, name=one.name) for one in unused}
        for symbol in named.values():
            builder.add_dead_end(symbol)
        for (graph, takes, gives), calls in zip(pieces, wholes, strict=True):
            symbols = {}
            for tensor, key in zip(graph.flat_inputs(), takes, strict=True):
                if key not in named:
                    named[key] = graph.new_input(tensor, safe_name(key))
                symbols[tensor] = named[key]
            repeatable = _repeatable(graph, calls)
            again = _made_before(repeatable, symbols, operations, made)
            builder.add_calls(graph, [call for call in calls if id(call) not in again], symbols, operations)
            for call in repeatable:
                made[_key(call, symbols, operations)] = [symbols[tensor] for tensor in call.outputs]
            named.update({key: symbols[tensor] for tensor, key in zip(graph.flat_outputs(), gives, strict=True)})
        for key in keras.tree.flatten((inputs, outputs)):
            if key not in named:
                raise UnsupportedModelError(
                    f"The pieces cannot be joined into '{name}': none of them has an input or output '{key}'."
                )
        return builder.model(named, inputs, outputs, name, like=pieces[0][0].model), named


def _repeatable(graph: Graph, calls: Sequence[Call | Nest]) -> list[Call]:
    """Returns the calls that several stages may repeat: on inputs alone, without variables."""
    of_inputs = {id(graph.calls[index]) for index in read_sides(graph).of_inputs}
    return [call for call in calls if isinstance(call, Call) and id(call) in of_inputs]


def _made_before(
    calls: Sequence[Call],
    symbols: dict[int, keras.KerasTensor],
    operations: Mapping[int, keras.Operation],
    made: Mapping[Any, Sequence[keras.KerasTensor]],
) -> set[int]:
    """Returns the `id`s of the calls that an earlier piece has made, and adds their outputs to `symbols`."""
    found = set()
    for call in calls:
        if symbols.keys() >= set(call.inputs):
            outputs = made.get(_key(call, symbols, operations))
            if outputs is not None:
                symbols.update(zip(call.outputs, outputs, strict=True))
                found.add(id(call))
    return found


def _key(
    call: Call, symbols: Mapping[int, keras.KerasTensor], operations: Mapping[int, keras.Operation]
) -> tuple[Any, ...]:
    """Returns a key that is equal for calls of one operation on the same tensors and equal constants."""

    def plain(leaf: Any) -> Any:
        if isinstance(leaf, keras.KerasTensor):
            return id(symbols[call.scope[id(leaf)]])
        if hasattr(leaf, "dtype") and hasattr(leaf, "shape"):
            leaf = keras.ops.convert_to_numpy(leaf)
            return str(leaf.dtype), leaf.shape, leaf.tobytes()
        return repr(leaf)

    operation = operations.get(id(call.operation), call.operation)
    leaves = keras.tree.flatten((call.arguments.args, call.arguments.kwargs))
    return id(operation), *map(plain, leaves)


def _tied(calls: Sequence[Call | Nest]) -> dict[int, keras.Operation]:
    """Maps each operation that equals an earlier one of the same name to that one, by `id`."""
    first: dict[str, keras.Operation] = {}
    tied: dict[int, keras.Operation] = {}
    for call in calls:
        earlier = first.setdefault(call.operation.name, call.operation)
        if earlier is not call.operation and _equal(earlier, call.operation):
            tied[id(call.operation)] = earlier
    return tied


def _equal(one: keras.Operation, other: keras.Operation) -> bool:
    """True if two operations are the same object, or equal in configuration and weights."""
    if one is other:
        return True
    if type(one) is not type(other) or one.get_config() != other.get_config():
        return False
    ours, theirs = ([*layer.weights] if isinstance(layer, keras.Layer) else [] for layer in (one, other))
    return len(ours) == len(theirs) and all(
        np.array_equal(*map(keras.ops.convert_to_numpy, pair), equal_nan=True)
        for pair in zip(ours, theirs, strict=True)
    )
