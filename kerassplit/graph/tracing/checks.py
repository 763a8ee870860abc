"""Checks that a recorded `call` can become a graph, and names the operations that it creates itself."""

import inspect
import re
from collections.abc import Sequence
from typing import Any

import keras

from kerassplit.errors import UnsupportedModelError
from kerassplit.graph.tracing.blame import Refusal, line_with
from kerassplit.graph.tracing.recording import OutsideLayer, Recording
from kerassplit.text import listed, snake_case, unique


def check_outputs(layer: keras.Layer, recording: Recording) -> None:
    """Checks the outputs: a graph returns only tensors that are computed from its inputs."""
    outputs = keras.tree.flatten(recording.outputs)
    wrong = [value for value in outputs if not isinstance(value, keras.KerasTensor)]
    if wrong or not outputs:
        what = "nothing" if not outputs or wrong[0] is None else f"a {type(wrong[0]).__name__}"
        raise Refusal(
            f"It returns {what} where a graph returns a tensor computed from the inputs.",
            "Make it return only such tensors, in lists, tuples or dicts.",
            line_with(layer, r"\breturn\b", last=True),
        )


def check_arguments(layer: keras.Layer, recording: Recording) -> None:
    """Checks the arguments of operations, which a graph keeps: variables and functions would be hidden there."""
    for call in recording.calls:
        own = {} if isinstance(call.operation, keras.Layer) else vars(call.operation)
        for value in keras.tree.flatten((call.args, call.kwargs, list(own.values()))):
            if isinstance(value, keras.Variable):
                attribute = _attribute(layer, value)
                raise OutsideLayer(value, line_with(layer, rf"\b{re.escape(attribute)}\b") if attribute else None)
            if inspect.isroutine(value) and not isinstance(call.operation, keras.Layer):
                name = snake_case(type(call.operation).__name__)
                raise Refusal(
                    f"It passes a function to `keras.ops.{name}`, and what that calls would not be in the graph.",
                    "Move this line into a keras.Layer of its own, which stays one call.",
                    line_with(layer, rf"\b{name}\("),
                )
    if layer.activity_regularizer is not None:
        raise Refusal(
            "It has an `activity_regularizer`, and a graph has none.",
            "Pass it to the layer inside that produces the output.",
        )


def name_operations(layer: keras.Layer, recording: Recording, made: set[int]) -> None:
    """Names the operations that `call` itself creates: Keras numbers their names across the whole process."""
    taken = {call.operation.name for call in recording.calls if id(call.operation) not in made}
    for operation in {id(call.operation): call.operation for call in recording.calls}.values():
        if id(operation) not in made:
            continue
        if isinstance(operation, keras.Layer) and operation.variables:
            raise Refusal(
                f"It creates a new {type(operation).__name__} with variables each time.",
                "Create that layer once, in `__init__`.",
                line_with(layer, rf"\b{type(operation).__name__}\("),
            )
        name = "constant" if id(operation) in recording.constants else snake_case(type(operation).__name__)
        operation.name = unique(name, taken)


def operations_by_name(layer: keras.Layer, path: Sequence[str], recording: Recording) -> dict[str, keras.Operation]:
    """Returns the operations that are called, by name; checks that layer names are unique."""
    operations: dict[str, keras.Operation] = {}
    for call in recording.calls:
        other = operations.setdefault(call.operation.name, call.operation)
        if other is not call.operation:
            both = " and ".join(
                type(one).__name__ + (f" self.{found}" if (found := _attribute(layer, one)) else "")
                for one in (other, call.operation)
            )
            raise UnsupportedModelError(
                f"Two different layers of '{'/'.join(path) or layer.name}' are called "
                f"'{call.operation.name}' ({both}), and Keras accepts a name only once in a model. Give one of "
                "them another name: pass `name=...` where it is created."
            )
    return operations


def check_keys(layer: keras.Layer, names: Sequence[str], operations: dict[str, keras.Operation]) -> None:
    """Checks the keys of a dict of inputs, which become names of Inputs: unique, and not names of layers."""
    for place, name in enumerate(names):
        if name in operations or name in names[:place]:
            raise UnsupportedModelError(
                f"Two inputs of '{layer.name}', or an input and a layer, are called '{name}', and Keras accepts "
                "a name only once in a model. Rename one of them."
            )


def check_used(unused: Sequence[str]) -> None:
    """Refuses inputs, given by their names, that `call` does not use."""
    if unused:
        raise Refusal(
            f"It computes nothing with {listed(unused)}, and a Keras model accepts no unused inputs.",
            "Omit that from `inputs`, and make it optional in `call`.",
        )


def _attribute(layer: keras.Layer, value: Any) -> str | None:
    """Returns the attribute of a layer that holds a value, directly or in a list, tuple or dict."""
    for name, held in (vars(layer) | vars(layer).get("_modules", {})).items():  # PyTorch keeps layers apart
        if held is value:
            return name
        several = isinstance(held, (list, tuple, dict)) and not name.startswith("_")  # Keras's own lists are `_layers`
        if several and any(one is value for one in keras.tree.flatten(held)):
            return name
    return None
