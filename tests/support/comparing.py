"""Comparison of structures of tensors, and checks that a model was not changed."""

import gc
from hashlib import sha256
from typing import Any

import keras
import numpy as np
from keras.src.ops import function as keras_function

from kerassplit.graph.internals.map_graph import map_graph


def same_bits(one: object, other: object) -> bool:
    """True if two structures of tensors are equal bit for bit."""
    ours, theirs = (
        [keras.ops.convert_to_numpy(value) for value in keras.tree.flatten(structure)] for structure in (one, other)
    )
    return [value.tobytes() for value in ours] == [value.tobytes() for value in theirs]


def copied(value: object) -> np.ndarray:
    """Copies a tensor or variable to an array: for torch, Keras returns a view of the tensor's memory."""
    return np.array(keras.ops.convert_to_numpy(value))


def collect() -> None:
    """Frees everything unused: each round frees one level of nesting of a dead model."""
    for _ in range(10):
        if not gc.collect():
            return


def _is(node: Any) -> int | None:
    """Identity of a node; empty places of dead sub-models are all equal."""
    return None if node.operation is None else id(node)


def fingerprint(model: keras.Model, weights: bool = True) -> dict[str, object]:
    """Everything that must not change in a model, at any depth of nesting, after dead sub-models are freed.

    Short enough to print when it differs: values are replaced by their hashes.
    """
    collect()
    own = getattr(model, "operations", model.layers)
    operations = list({id(one): one for one in (*own, *model._flatten_layers())}.values())
    made = [tensor for operation in own for tensor in keras.tree.flatten(operation.output)]
    return {
        "config": model.to_json(),
        "layers": [(one.name, id(one), getattr(one, "trainable", None)) for one in operations],
        "nodes": [([_is(node) for node in one._inbound_nodes], len(one._outbound_nodes)) for one in operations],
        "tensors": [(tensor.name, id(tensor), tensor.shape) for tensor in (*model.inputs, *model.outputs)],
        "histories": [tuple(tensor._keras_history)[1:] for tensor in made],
        "variables": [(id(variable), variable.path) for variable in model.variables],
        "values": [sha256(copied(variable).tobytes()).hexdigest() for variable in model.variables] if weights else [],
    }


def assert_same_map(model):
    ours = map_graph(model.inputs, model.outputs)
    theirs = keras_function.map_graph(model.inputs, model.outputs)
    assert ours[0] == theirs[0]
    assert dict(ours[1]) == dict(theirs[1])
    assert ours[2] == theirs[2]
    assert dict(ours[3]) == dict(theirs[3])
