"""What a recorded `call` must be to become a graph, and the names of what it makes itself."""

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
    """A graph gives tensors that are made of its inputs, and nothing else."""
    outputs = keras.tree.flatten(recording.outputs)
    wrong = [value for value in outputs if not isinstance(value, keras.KerasTensor)]
    if wrong or not outputs:
        what = "nothing" if not outputs or wrong[0] is None else f"a {type(wrong[0]).__name__}"
        raise Refusal(
            f"It gives back {what} where a graph gives a tensor made of the inputs.",
            "Let it return such tensors only, in lists, tuples or dicts.",
            line_with(layer, r"\breturn\b", last=True),
        )


def check_arguments(layer: keras.Layer, recording: Recording) -> None:
    """What an operation is given stays in the graph: variables and functions would be out of sight there."""
    for call in recording.calls:
        own = {} if isinstance(call.operation, keras.Layer) else vars(call.operation)
        for value in keras.tree.flatten((call.args, call.kwargs, list(own.values()))):
            if isinstance(value, keras.Variable):
                attribute = _attribute(layer, value)
                raise OutsideLayer(value, line_with(layer, rf"\b{re.escape(attribute)}\b") if attribute else None)
            if inspect.isroutine(value) and not isinstance(call.operation, keras.Layer):
                name = snake_case(type(call.operation).__name__)
                raise Refusal(
                    f"It hands a function to `keras.ops.{name}`, and what that calls would not be in the graph.",
                    "Put this line into a keras.Layer of its own, which stays one call.",
                    line_with(layer, rf"\b{name}\("),
                )
    if layer.activity_regularizer is not None:
        raise Refusal(
            "It has an `activity_regularizer`, and no graph has one.",
            "Give it to the layer inside that makes the output.",
        )


def name_operations(layer: keras.Layer, recording: Recording, made: set[int]) -> None:
    """Names what `call` itself makes, raw operations above all: Keras numbers these through the whole process."""
    taken = {call.operation.name for call in recording.calls if id(call.operation) not in made}
    for operation in {id(call.operation): call.operation for call in recording.calls}.values():
        if id(operation) not in made:
            continue
        if isinstance(operation, keras.Layer) and operation.variables:
            raise Refusal(
                f"It makes a new {type(operation).__name__} with variables each time.",
                "Make that layer once, in `__init__`.",
                line_with(layer, rf"\b{type(operation).__name__}\("),
            )
        name = "constant" if id(operation) in recording.constants else snake_case(type(operation).__name__)
        operation.name = unique(name, taken)


def operations_by_name(layer: keras.Layer, path: Sequence[str], recording: Recording) -> dict[str, keras.Operation]:
    """What is called here, by name."""
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
                f"'{call.operation.name}' ({both}), and Keras takes a name only once in one model. Give one of "
                "them another: pass `name=...` where it is made."
            )
    return operations


def check_keys(layer: keras.Layer, names: Sequence[str], operations: dict[str, keras.Operation]) -> None:
    """The Inputs of a model that takes a dict bear the names of its keys, and these none of a layer's."""
    for place, name in enumerate(names):
        if name in operations or name in names[:place]:
            raise UnsupportedModelError(
                f"Two inputs of '{layer.name}', or an input and a layer, are called '{name}', and Keras takes "
                "a name only once in one model. Rename one of them."
            )


def check_used(unused: Sequence[str]) -> None:
    """Refuses inputs, given by what they are called, that `call` computes nothing with."""
    if unused:
        raise Refusal(
            f"It computes nothing with {listed(unused)}, and a Keras model takes no input that leads nowhere.",
            "Leave that out of `inputs`, and let `call` do without.",
        )


def _attribute(layer: keras.Layer, value: Any) -> str | None:
    """The attribute of a layer that holds a value, itself or in a list, tuple or dict."""
    for name, held in (vars(layer) | vars(layer).get("_modules", {})).items():  # PyTorch keeps layers apart
        if held is value:
            return name
        several = isinstance(held, (list, tuple, dict)) and not name.startswith("_")  # Keras's own lists are `_layers`
        if several and any(one is value for one in keras.tree.flatten(held)):
            return name
    return None
