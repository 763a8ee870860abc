"""Digests that identify a model: of its calls and of its weights."""

import hashlib
import json
from typing import Any

import keras
import numpy as np

from kerassplit.graph.internals.layers import all_layers
from kerassplit.graph.model_graph import Graph
from kerassplit.graph.reading import read_graph

_NO_MATTER = frozenset(["compile_config", "seed", "shared_object_id", "trainable"])
"""Keys of a config that do not affect inference."""
_NAMES = frozenset(["input_layers", "keras_history", "name", "output_layers"])
"""Keys of a config whose values are names of layers."""


def digest_of_calls(model: keras.Model) -> str:
    """Returns the SHA-256 of a model's layers, its operations and how they are connected.

    Names do not count: Keras numbers automatic names across the whole process, so running the same code again
    produces different ones.
    """
    graph = read_graph(model)
    operations = [*all_layers(model), *(call.operation for call in graph.calls)]
    try:
        config = json.loads(model.to_json())
    except Exception:  # a layer has no `get_config` of its own
        config = _outline(graph)
    plain = _without_names(config, {operation.name for operation in operations}, {})
    return hashlib.sha256(json.dumps(plain).encode()).hexdigest()


def digest_of_weights(model: keras.Model) -> str:
    """Returns the SHA-256 of all weights, including batch normalization statistics, and of vocabularies."""
    digest = hashlib.sha256()
    for variable in model.weights:
        digest.update(f"{variable.dtype} {tuple(variable.shape)}".encode())
        digest.update(np.ascontiguousarray(keras.ops.convert_to_numpy(variable)).view("uint8").data)
    for layer in all_layers(model):
        if hasattr(layer, "get_vocabulary"):  # neither a weight nor in the configuration
            digest.update(json.dumps([str(word) for word in layer.get_vocabulary()]).encode())
    return digest.hexdigest()


def _without_names(value: Any, names: set[str], numbers: dict[str, int], key: str = "") -> Any:
    """Replaces each name of a layer in a config by a number, in order of occurrence."""
    if isinstance(value, dict):
        kept = {one: inner for one, inner in value.items() if one not in _NO_MATTER}
        return {one: _without_names(inner, names, numbers, one) for one, inner in kept.items()}
    if isinstance(value, list):
        return [_without_names(inner, names, numbers, key) for inner in value]
    is_name = key in _NAMES and isinstance(value, str) and value in names
    return numbers.setdefault(value, len(numbers)) if is_name else value


def _outline(graph: Graph) -> list[Any]:
    """Lists the calls by class, with the indices of their input and output tensors."""
    return [
        [
            type(call.operation).__name__,
            call.inputs,
            [(index, list(symbol.shape), symbol.dtype) for index, symbol in graph.results(call)],
        ]
        for call in graph.calls
    ]
