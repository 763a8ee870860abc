"""Checks the config of a stage before Keras builds a model from it.

Some versions of Keras since 3.13 let a config disable safe mode or load another file, or wait forever for cyclic calls.
"""

import json
from collections import defaultdict
from typing import Any

from kerassplit.files.untrusted_json import walked
from kerassplit.graph.limits import too_many_calls

_DEEPEST = 1000
_FUNCTIONS = ("activations", "constraints", "initializers", "losses", "metrics", "ops", "random", "regularizers", "src")
"""Modules of Keras whose functions only compute."""


def wrong_config(text: bytes) -> str | None:
    """Finds content that the config of a saved stage never contains, or `None`."""
    config = json.loads(text)
    for value, depth in walked(config):
        if depth >= _DEEPEST:
            return f"a config nested more than {_DEEPEST} levels deep"
        if not isinstance(value, dict):
            continue
        module = value.get("module")
        if value.get("class_name") == "function" and not _only_computes(module):
            return f"the function {value.get('config')!r} of {module!r} in its config"
        if "input_layers" in value and isinstance(value.get("layers"), list) and _has_cycle(value["layers"]):
            return "calls in its config that depend on each other in a cycle, or on missing calls"
    many = too_many_calls(_calls_in(config))
    return f"a config of which {many}" if many else None


def _calls_in(config: Any) -> int:
    """Counts the calls that the models in a config make; calls in a nested model count once per call of that model."""
    counts: dict[int, int] = {}
    for value in reversed(
        [value for value, _ in walked(config) if isinstance(value, (dict, list))]
    ):  # inner ones first
        if isinstance(value, list):
            counts[id(value)] = sum(counts.get(id(one), 0) for one in value)
            continue
        count = sum(counts.get(id(one), 0) for one in value.values())
        nodes = value.get("inbound_nodes")
        if isinstance(nodes, list) and value.get("class_name") != "InputLayer":
            count = max(1, count) * max(1, len(nodes))
        counts[id(value)] = count
    return counts.get(id(config), 0)


def _only_computes(module: object) -> bool:
    """Returns True if functions of a module are allowed in a config; the user registered those outside Keras."""
    parts = str(module).split(".")
    return parts[0] != "keras" or (len(parts) > 1 and parts[1] in _FUNCTIONS)


def _has_cycle(layers: list[Any]) -> bool:
    """Returns True if the calls of a model have no topological order."""
    needs: dict[tuple[str, int], set[tuple[str, int]]] = {}
    users: defaultdict[tuple[str, int], list[tuple[str, int]]] = defaultdict(list)
    ready = []
    for layer in layers:
        for number, arguments in enumerate(layer["inbound_nodes"] or [[]]):
            call = (layer["name"], number)
            needs[call] = _origins(arguments)
            for origin in needs[call]:
                users[origin].append(call)
            if not needs[call]:
                ready.append(call)
    first_call = {layer["name"]: _first_calls(layer) for layer in layers}
    left = set(needs)
    while ready:
        call = ready.pop()
        left.discard(call)
        name, number = call
        for first in first_call[name]:
            for user in users.pop((name, number + first), ()):
                needs[user].discard((name, number + first))
                if not needs[user]:
                    ready.append(user)
    return bool(left)


def _origins(arguments: Any) -> set[tuple[str, int]]:
    """Returns the calls whose outputs are arguments of a call, as layer names and call numbers."""
    return {
        tuple(value["config"]["keras_history"][:2])
        for value, _ in walked(arguments)
        if isinstance(value, dict) and value.get("class_name") == "__keras_tensor__"
    }


def _first_calls(layer: dict[str, Any]) -> tuple[int, ...]:
    """Returns possible numbers of a layer's first call: building a nested model may or may not count as call 0."""
    is_layer = str(layer.get("module")).startswith("keras.") and "input_layers" not in layer["config"]
    return (0,) if is_layer else (0, 1)
