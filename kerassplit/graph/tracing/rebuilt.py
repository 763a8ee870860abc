"""Builds a functional model from what was recorded inside a layer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras

from kerassplit.graph.building import Builder
from kerassplit.graph.internals.keras_src import SymbolicArguments
from kerassplit.graph.internals.symbols import maker_of
from kerassplit.graph.model_graph import Graph
from kerassplit.graph.tracing.call_forms import with_masks
from kerassplit.graph.tracing.recording import Recorded, Recording


@dataclass
class Opened:
    """A layer opened as a functional model.

    Attributes:
        model: The model.
        takes: Numbers of its input tensors, as `with_masks` counts them; `None` if the inputs are those of the layer.
    """

    model: keras.Model
    takes: list[int] | None

    def arguments(self, call: Recorded) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Converts the arguments of a call of the layer to arguments of the model."""
        if self.takes is None:
            return call.args, call.kwargs
        training = call.kwargs.get("training")
        symbols = with_masks(call.args, {name: x for name, x in call.kwargs.items() if name != "training"})
        given = [symbols[number] for number in self.takes]
        return (given[0] if len(given) == 1 else given,), {} if training is None else {"training": training}


def rebuilt(
    layer: keras.Layer,
    recording: Recording,
    nested: dict[int, Opened],
    inputs: Sequence[keras.KerasTensor],
    names: Sequence[str],
    structure: Any,
) -> keras.Model:
    """Builds the functional model of the recorded calls.

    Args:
        layer: The layer that makes the calls.
        recording: The recorded calls.
        nested: The models that replace layers, by the `id` of the layer.
        inputs: The symbolic input tensors of the model.
        names: The names of its Inputs.
        structure: The `inputs` in the structure that the model accepts.
    """
    graph = Graph(layer)  # type: ignore[arg-type]

    def add(operation: keras.Operation, arguments: Any, outputs: Sequence[keras.KerasTensor]) -> None:
        graph.add_call(operation.name, operation, arguments, graph.scope, outputs)

    for symbol in inputs:
        add(maker_of(symbol).operation, SymbolicArguments(), [symbol])
    for call in recording.calls:
        operation, args, kwargs = call.operation, call.args, call.kwargs
        if id(operation) in nested:
            args, kwargs = nested[id(operation)].arguments(call)
            operation = nested[id(operation)].model
        add(operation, SymbolicArguments(*args, **kwargs), call.outputs)
    with Builder() as builder:
        symbols = {tensor: graph.new_input(tensor, name) for tensor, name in enumerate(names)}
        builder.add_calls(graph, graph.calls[len(inputs) :], symbols)
        sources, results = keras.tree.map_structure(
            lambda symbol: graph.scope[id(symbol)], (structure, recording.outputs)
        )
        return builder.model(symbols, sources, results, layer.name, like=layer)  # type: ignore[arg-type]
