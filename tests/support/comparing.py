"""Whether two structures of tensors are equal, and whether a model was left alone."""

import gc
from hashlib import sha256
from typing import Any

import keras
import numpy as np
from keras.src.ops import function as keras_function

from kerassplit.graph.internals.map_graph import map_graph


def same_bits(one: object, other: object) -> bool:
    """Whether two structures of tensors are equal to the bit."""
    ours, theirs = (
        [keras.ops.convert_to_numpy(value) for value in keras.tree.flatten(structure)] for structure in (one, other)
    )
    return [value.tobytes() for value in ours] == [value.tobytes() for value in theirs]


def copied(value: object) -> np.ndarray:
    """A tensor or variable as an array of its own: what Keras gives of torch's tensors is their memory."""
    return np.array(keras.ops.convert_to_numpy(value))


def collect() -> None:
    """Frees all that nothing uses any more: what a dead model has nested goes one level a round."""
    for _ in range(10):
        if not gc.collect():
            return


def _is(node: Any) -> int | None:
    """One node tells itself from others; places that dead sub-models have left empty are all the same."""
    return None if node.operation is None else id(node)


def fingerprint(model: keras.Model, weights: bool = True) -> dict[str, object]:
    """All that must not change about a model, down to the layers of its innermost models, once what is dead has gone.

    Short enough to be printed where it differs: the values are told by their hashes.
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
