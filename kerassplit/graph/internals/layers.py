"""Queries about layers and other operations: what is inside them, and how Keras calls them."""

import math
from collections.abc import Sequence
from typing import Any

import keras

from kerassplit.graph.internals.keras_src import CallSpec, Functional
from kerassplit.graph.internals.symbols import mask_of, set_mask
from kerassplit.graph.unsupported import has_own, replaces


def functional_of(model: Any) -> Functional | None:
    """Returns the functional model whose graph describes what `model` computes; `None` for anything else."""
    if isinstance(model, keras.Model) and (has_own(model, "call") or has_own(model, "__call__")):
        return None
    if isinstance(model, keras.Sequential):
        own_call = type(model).call is not keras.Sequential.call
        return None if own_call or not model.built else model._functional
    if isinstance(model, Functional) and type(model).call is Functional.call:
        return model
    return None


def all_layers(layer: keras.Layer) -> list[keras.Layer]:
    """Returns a layer and all layers inside it, at any depth."""
    return layer._flatten_layers()


def numbers_in(variable: Any) -> int:
    """Returns the number of elements of a variable; its `shape` is created anew on each access on TensorFlow."""
    return math.prod(variable._shape)


def is_new(layer: keras.Operation) -> bool:
    """True if a layer, which may be an unbuilt model, belongs to no model yet, so that it can be renamed."""
    if not isinstance(layer, keras.Layer):
        return False
    return not layer.built or not (layer._inbound_nodes or isinstance(layer, keras.Model))


def is_composite(operation: Any) -> bool:
    """True if an operation contains layers."""
    return isinstance(operation, keras.Layer) and bool(operation._layers)


def replaced_calls(layer: keras.Layer) -> list[str]:
    """Returns the names of the layers inside whose `call` is replaced on the instance, which files and copies lose."""
    return [one.name for one in all_layers(layer) if replaces(one, "call")]


def stateful_layer(model: keras.Model) -> str | None:
    """Returns the name of a layer that keeps state between batches, or `None`."""
    return next((layer.name for layer in all_layers(model) if getattr(layer, "stateful", False)), None)


def untrained_variables(model: keras.Model) -> list[keras.Variable]:
    """Returns the variables that a call of a model may assign to.

    They include the states that recurrent layers keep between batches, which Keras does not count among its variables.
    """
    known = {id(variable) for variable in model.variables}
    layers = [one for one in all_layers(model) if isinstance(one, keras.layers.RNN) and one.stateful]
    states = [state for layer in layers for state in keras.tree.flatten(layer.states)]
    hidden = [state for state in states if isinstance(state, keras.Variable) and id(state) not in known]
    return [*model.non_trainable_variables, *hidden]


def keras_operation_name(operation: Any) -> str | None:
    """Returns the class name of a `keras.ops` operation; `None` for layers and for other operations."""
    kind = type(operation)
    own = kind.__module__.startswith("keras.src.ops.") and not isinstance(operation, keras.Layer)
    return kind.__name__ if own else None


def operation_names(functional: Functional) -> set[str]:
    """Returns the names of all operations in a model and in its nested models."""
    names: set[str] = set()
    for operation in functional._operations:
        names.add(operation.name)
        inner = functional_of(operation)
        if inner is not None:
            names |= operation_names(inner)
    return names


def renamed(operation: keras.Operation, name: str) -> keras.Operation:
    """Returns a copy of an operation (not a layer) under another name, without calls."""
    twin = object.__new__(type(operation))
    twin.__dict__.update(operation.__dict__)
    twin._inbound_nodes, twin._outbound_nodes = [], []
    twin.name = name
    return twin


def found_masks(layer: keras.Layer, args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Returns the mask arguments that Keras fills in when it calls a layer on masked tensors, by name."""
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
    """True if a layer may look for masks on its arguments itself: some Keras layers do, and any other layer may."""
    kinds = ("MultiHeadAttention", "Multiply", "Maximum", "Minimum", "Pipeline")
    is_one = isinstance(layer, tuple(getattr(keras.layers, kind) for kind in kinds))
    return is_one or not type(layer).__module__.startswith("keras.src.layers.")


def makes_masks(operation: keras.Operation) -> bool:
    """True if a layer may attach a mask to what it makes of a tensor without one, as `Masking` does."""
    return isinstance(operation, keras.Layer) and type(operation).compute_mask is not keras.Layer.compute_mask


def as_converted(layer: keras.Layer, value: Any) -> Any:
    """Returns an argument as `layer(...)` passes it to `layer.call`: cast to the layer's dtype."""
    if not layer._convert_input_args:
        return value
    converted = layer.dtype_policy.convert_input(value, layer.autocast, layer.input_dtype)
    if isinstance(value, keras.KerasTensor) and mask_of(value) is not None:
        set_mask(converted, mask_of(value))
    return converted


_BY_SHAPE = ("keras.src.layers.layer", "keras.src.layers.merging.base_merge")


def infers_shape(operation: keras.Operation) -> bool:
    """True if a built layer of Keras computes the shape of its output from that of its input, without a call."""
    kind = type(operation)
    if not isinstance(operation, keras.Layer) or not kind.__module__.startswith("keras.src.layers."):
        return False
    by_shape = kind.compute_output_spec.__module__ in _BY_SHAPE
    own = kind.compute_output_shape is not keras.Layer.compute_output_shape
    return by_shape and own and operation.built and not replaces(operation, "call")


def inferred_shape(layer: keras.Layer, given: keras.KerasTensor | list[keras.KerasTensor]) -> Sequence[int | None]:
    """Returns the shape of what such a layer makes of a tensor, or of a list of tensors: a tenth of a call's time.

    Raises:
        ValueError: The layer does not accept tensors of this shape.
    """
    layer._assert_input_compatibility(given)
    return layer.compute_output_shape([one.shape for one in given] if isinstance(given, list) else given.shape)
