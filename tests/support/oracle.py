"""Independent reference: reads a model's graph from its public config, and finds split points by brute force."""

from collections import defaultdict
from itertools import combinations, pairwise
from typing import Any

import keras

Call = tuple[str, int]
Made = tuple[str, int, int]


def edges_of(model: keras.Model) -> tuple[dict[Call, list[Made]], set[Made]]:
    """Returns the tensors that each call receives, and the model's output tensors, from `model.get_config()`.

    A call is (operation name, number of the call), a tensor (operation name, number of the call, position). Nested
    models are opened: their operations are named `nested/operation`.
    """
    received: dict[Call, list[Made]] = {}
    outputs = _Config(model.get_config(), "", received).outputs()
    return received, set(outputs)


class _Config:
    """Config of a model, or of one call of a nested model, whose calls are added to `received`."""

    def __init__(self, config: dict[str, Any], path: str, received: dict[Call, list[Made]], given: Any = None):
        self.path, self.received, self.given = path, received, given
        self.layers = {layer["config"]["name"]: layer for layer in config["layers"]}
        self.nodes = {name: layer.get("inbound_nodes", []) for name, layer in self.layers.items()}
        self.inputs: list[Made] = []
        self.results: list[Made] = []
        if "output_layers" in config:
            _collect_outputs(config["input_layers"], self.inputs)
            _collect_outputs(config["output_layers"], self.results)
            # Here, and only here, Keras counts the calls of a nested functional model from 1.
            self.results = [(name, number - self.is_functional(name), place) for name, number, place in self.results]
        else:  # Sequential: a chain
            names = list(self.layers)
            self.nodes = {name: [[(before, 0, 0)]] for before, name in pairwise(names)}
            self.inputs, self.results = [(names[0], 0, 0)], [(names[-1], 0, 0)]
        self.nested: dict[Call, list[Made]] = {}
        for name in self.layers:
            for number in range(len(self.nodes.get(name, [])) or 1):
                self.made_by(name, number)

    def is_functional(self, name: str) -> bool:
        return self.layers[name]["class_name"] == "Functional"

    def outputs(self) -> list[Made]:
        return [self.found(tensor) for tensor in self.results]

    def found(self, tensor: Made) -> Made:
        """Resolves a tensor by its full name: outputs of a nested model come from inside, its inputs from outside."""
        name, number, place = tensor
        if self.given is not None and tensor in self.inputs:
            return self.given[self.inputs.index(tensor)]
        made = self.made_by(name, number)
        return (self.path + name, number, place) if made is None else made[place]

    def made_by(self, name: str, number: int) -> list[Made] | None:
        """Returns the outputs of a nested model's call, or `None` for other layers, and records its inputs."""
        arguments: list[Made] = []
        nodes = self.nodes.get(name, [])
        _collect(nodes[number] if nodes else None, arguments)
        layer = self.layers[name]
        if layer["class_name"] in ("Functional", "Sequential"):
            if (name, number) not in self.nested:
                path = f"{self.path}{name}@{number}/" if len(nodes) > 1 else f"{self.path}{name}/"
                given = [self.found(tensor) for tensor in arguments]
                self.nested[name, number] = _Config(layer["config"], path, self.received, given).outputs()
            return self.nested[name, number]
        key = (self.path + name, number)
        if key not in self.received and not (self.given is not None and layer["class_name"] == "InputLayer"):
            self.received[key] = []
            self.received[key] += [self.found(tensor) for tensor in arguments]
        return None


def side_calls(graph) -> set[int]:
    """Finds, by definition, inputs, calls that compute masks, and calls whose outputs only such calls use.

    A mask is a boolean tensor that depends only on Keras's own operations, without variables and without user code.
    """
    needs = {index: {graph.tensors[one].call for one in call.inputs} for index, call in enumerate(graph.calls)}

    def depends_on(index: int) -> set[int]:
        return {index}.union(*map(depends_on, needs[index]))

    def without_variables(index: int) -> bool:
        operations = [graph.calls[one].operation for one in depends_on(index)]
        return all(
            type(one).__module__.startswith("keras.")
            and not getattr(one, "variables", [])
            and not isinstance(one, keras.layers.Lambda)
            for one in operations
        )

    found = {index for index in needs if not needs[index]}
    found |= {
        index
        for index, call in enumerate(graph.calls)
        if all(graph.tensors[one].symbol.dtype == "bool" for one in call.outputs) and without_variables(index)
    }
    for index in reversed(list(needs)):
        users = {user for one in graph.calls[index].outputs for user in graph.tensors[one].users}
        if users and users <= found and without_variables(index):
            found.add(index)
    return found


def without(received: dict[Call, list[Made]], calls: set[Call]) -> dict[Call, list[Made]]:
    """Returns the edges between the remaining calls."""
    return {
        call: [tensor for tensor in tensors if tensor[:2] not in calls]
        for call, tensors in received.items()
        if call not in calls
    }


def split_tensors(model: keras.Model) -> set[tuple[str, int, int]]:
    """Finds all tensors that are the only outputs of their ancestors used elsewhere. The model has no masks."""
    received, _ = edges_of(model)
    received = without(received, {call for call, tensors in received.items() if not tensors})
    users: dict[tuple[str, int, int], set[tuple[str, int]]] = defaultdict(set)
    for call, tensors in received.items():
        for tensor in tensors:
            users[tensor].add(call)
    made_by: dict[tuple[str, int], set[tuple[str, int, int]]] = defaultdict(set)
    for tensor in users:
        made_by[tensor[:2]].add(tensor)
    found = set()
    for tensor in users:
        before = ancestors(received, tensor)
        used = {other for call in before for other in made_by[call] if users[other] - before}
        if used == {tensor}:
            found.add(tensor)
    return found


def cuts_by_brute_force(received, limit):
    """Finds all sets of up to `limit` tensors that are all the rest uses from their ancestors."""
    users = defaultdict(set)
    for call, tensors in received.items():
        for tensor in tensors:
            users[tensor].add(call)
    depends = {tensor: ancestors(received, tensor) for tensor in users}
    found = set()
    for count in range(1, limit + 1):
        for chosen in combinations(users, count):
            before = set().union(*(depends[tensor] for tensor in chosen))
            crossing = {tensor for tensor in users if tensor[:2] in before and users[tensor] - before}
            if crossing == set(chosen):
                found.add(frozenset(chosen))
    return found


def ancestors(
    received: dict[tuple[str, int], list[tuple[str, int, int]]], tensor: tuple[str, int, int]
) -> set[tuple[str, int]]:
    """Returns the calls that a tensor depends on."""
    found, waiting = {tensor[:2]}, [tensor[:2]]
    while waiting:
        for name, number, _ in received[waiting.pop()]:
            if (name, number) not in found:
                found.add((name, number))
                waiting.append((name, number))
    return found


def _collect(value: Any, found: list[tuple[str, int, int]]) -> None:
    if isinstance(value, dict):
        if value.get("class_name") == "__keras_tensor__":
            found.append(tuple(value["config"]["keras_history"]))
        else:
            for inner in value.values():
                _collect(inner, found)
    elif isinstance(value, tuple) and len(value) == 3 and isinstance(value[0], str):
        found.append(value)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            _collect(inner, found)


def _collect_outputs(value: Any, found: list[tuple[str, int, int]]) -> None:
    if isinstance(value, (list, tuple)) and len(value) == 3 and isinstance(value[0], str):
        found.append(tuple(value))
    else:
        for inner in value.values() if isinstance(value, dict) else value:
            _collect_outputs(inner, found)


def as_in_the_oracle(graph, cut):
    histories = [graph.tensors[tensor].symbol._keras_history for tensor in cut]
    return frozenset((operation.name, number, place) for operation, number, place in histories)
