"""What tells one model from another: its calls, and its weights."""

import hashlib
import json
from typing import Any

import keras
import numpy as np

from kerassplit.graph.internals.layers import all_layers
from kerassplit.graph.model_graph import Graph
from kerassplit.graph.reading import read_graph

_NO_MATTER = frozenset(["compile_config", "seed", "shared_object_id", "trainable"])
"""What a config says and inference does not depend on."""
_NAMES = frozenset(["input_layers", "keras_history", "name", "output_layers"])
"""Where a config names a layer."""


def digest_of_calls(model: keras.Model) -> str:
    """The SHA-256 of a model's layers, operations and how they are connected.

    Names do not count: Keras numbers those that it gives itself through the whole process, so the same code gives
    others when it is run again.
    """
    graph = read_graph(model)
    operations = [*all_layers(model), *(call.operation for call in graph.calls)]
    try:
        config = json.loads(model.to_json())
    except Exception:  # layers without a configuration of their own
        config = _outline(graph)
    plain = _without_names(config, {operation.name for operation in operations}, {})
    return hashlib.sha256(json.dumps(plain).encode()).hexdigest()


def digest_of_weights(model: keras.Model) -> str:
    """The SHA-256 of all weights, the statistics of batch normalization among them, and of vocabularies."""
    digest = hashlib.sha256()
    for variable in model.weights:
        digest.update(f"{variable.dtype} {tuple(variable.shape)}".encode())
        digest.update(np.ascontiguousarray(keras.ops.convert_to_numpy(variable)).view("uint8").data)
    for layer in all_layers(model):
        if hasattr(layer, "get_vocabulary"):  # what it was adapted to is neither a weight nor in its configuration
            digest.update(json.dumps([str(word) for word in layer.get_vocabulary()]).encode())
    return digest.hexdigest()


def _without_names(value: Any, names: set[str], numbers: dict[str, int], key: str = "") -> Any:
    """A config with a number for each name of a layer, in the order in which they occur."""
    if isinstance(value, dict):
        kept = {one: inner for one, inner in value.items() if one not in _NO_MATTER}
        return {one: _without_names(inner, names, numbers, one) for one, inner in kept.items()}
    if isinstance(value, list):
        return [_without_names(inner, names, numbers, key) for inner in value]
    is_name = key in _NAMES and isinstance(value, str) and value in names
    return numbers.setdefault(value, len(numbers)) if is_name else value


def _outline(graph: Graph) -> list[Any]:
    """The calls by their kinds, with the numbers of the tensors that they take and give."""
    return [
        [
            type(call.operation).__name__,
            call.inputs,
            [(index, list(symbol.shape), symbol.dtype) for index, symbol in graph.results(call)],
        ]
        for call in graph.calls
    ]
