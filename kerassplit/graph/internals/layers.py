"""What is asked of layers and other operations: what is inside them, and how Keras calls them."""

import math
from collections.abc import Sequence
from typing import Any

import keras

from kerassplit.graph.internals.keras_src import CallSpec, Functional
from kerassplit.graph.internals.symbols import mask_of, set_mask
from kerassplit.graph.unsupported import own_methods, replaces


def opened(operation: Any) -> Functional | None:
    """The functional model inside a nested model; `None` for everything else, and for one called in its own way."""
    return functional_of(operation) if isinstance(operation, keras.Model) else None


def functional_of(model: Any) -> Functional | None:
    """The functional model whose graph says what `model` computes, or `None`."""
    if isinstance(model, keras.Model) and own_methods(model, ("call", "__call__")):
        return None
    if isinstance(model, keras.Sequential):
        own_call = type(model).call is not keras.Sequential.call
        return None if own_call or not model.built else model._functional
    if isinstance(model, Functional) and type(model).call is Functional.call:
        return model
    return None


def all_layers(layer: keras.Layer) -> list[keras.Layer]:
    """A layer and all the layers inside it, at any depth."""
    return layer._flatten_layers()


def numbers_in(variable: Any) -> int:
    """How many numbers a variable holds; its `shape` is made anew on TensorFlow each time that it is asked for."""
    return math.prod(variable._shape)


def is_composite(operation: Any) -> bool:
    """Whether there are layers inside."""
    return isinstance(operation, keras.Layer) and bool(operation._layers)


def replaced_calls(layer: keras.Layer) -> list[str]:
    """Names of the layers in a layer or model whose `call` is replaced on the instance, which no file or copy has."""
    return [one.name for one in all_layers(layer) if replaces(one, "call")]


def stateful_layer(model: keras.Model) -> str | None:
    """The name of a layer of a model that keeps a state from batch to batch, if there is one."""
    return next((layer.name for layer in all_layers(model) if getattr(layer, "stateful", False)), None)


def recurrent_states(model: keras.Model) -> list[Any]:
    """What recurrent layers keep from batch to batch. Keras does not count it among a model's variables."""
    layers = [one for one in all_layers(model) if isinstance(one, keras.layers.RNN) and one.stateful]
    return [state for layer in layers for state in keras.tree.flatten(layer.states)]


def keras_operation_name(operation: Any) -> str | None:
    """The class name of an operation of `keras.ops`; `None` for layers and for operations of others."""
    kind = type(operation)
    own = kind.__module__.startswith("keras.src.ops.") and not isinstance(operation, keras.Layer)
    return kind.__name__ if own else None


def operation_names(functional: Functional) -> set[str]:
    """The names of all operations in a model and in the models nested in it."""
    names: set[str] = set()
    for operation in functional._operations:
        names.add(operation.name)
        inner = opened(operation)
        if inner is not None:
            names |= operation_names(inner)
    return names


def renamed(operation: keras.Operation, name: str) -> keras.Operation:
    """The same operation, which is no layer, under another name and with no calls yet."""
    twin = object.__new__(type(operation))
    twin.__dict__.update(operation.__dict__)
    twin._inbound_nodes, twin._outbound_nodes = [], []
    twin.name = name
    return twin


def found_masks(layer: keras.Layer, args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The mask arguments that Keras fills in when it calls a layer on masked tensors, by name."""
    spec = CallSpec(layer._call_signature, layer._call_context_args, args, {**kwargs})
    masks = {}
    for argument, value in spec.tensor_arguments_dict.items():
        name = "mask" if len(spec.tensor_arguments_dict) == 1 else f"{argument}_mask"
        if name in spec.argument_names and spec.arguments_dict[name] is None:
            found = keras.tree.map_structure(mask_of, value)
            if any(mask is not None for mask in keras.tree.flatten(found)):
                masks[name] = found
    return masks


def looks_for_masks(layer: keras.Layer) -> bool:
    """Whether a layer may look for masks on its arguments itself: some of Keras's do, and all others can."""
    kinds = ("MultiHeadAttention", "Multiply", "Maximum", "Minimum", "Pipeline")
    return isinstance(layer, tuple(getattr(keras.layers, kind) for kind in kinds)) or not type(
        layer
    ).__module__.startswith("keras.src.layers.")


def as_converted(layer: keras.Layer, value: Any) -> Any:
    """An argument as `layer(...)` hands it to `layer.call`: cast to the layer's dtype."""
    if not layer._convert_input_args:
        return value
    converted = layer.dtype_policy.convert_input(value, layer.autocast, layer.input_dtype)
    if isinstance(value, keras.KerasTensor) and mask_of(value) is not None:
        set_mask(converted, mask_of(value))
    return converted
