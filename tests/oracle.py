"""Another way to the same answers: a model's graph read from its public config, and split points by brute force."""

from collections import defaultdict
from typing import Any

import keras


def edges_of(model: keras.Model) -> tuple[dict[tuple[str, int], list[tuple[str, int, int]]], set[tuple[str, int, int]]]:
    """The tensors that each call receives, and the tensors that the model gives out, from `model.get_config()`.

    A call is (operation name, number of the call), a tensor (operation name, number of the call, place).
    """
    config = model.get_config()
    received: dict[tuple[str, int], list[tuple[str, int, int]]] = {}
    for layer in config["layers"]:
        for number, node in enumerate(layer["inbound_nodes"] or [None]):
            found: list[tuple[str, int, int]] = []
            _collect(node, found)
            received[layer["name"], number] = found
    outputs: list[tuple[str, int, int]] = []
    _collect_outputs(config["output_layers"], outputs)
    return received, set(outputs)


def split_tensors(model: keras.Model) -> set[tuple[str, int, int]]:
    """Every tensor such that, of all its ancestors receive and make, only it is used outside of them."""
    received, _ = edges_of(model)
    users: dict[tuple[str, int, int], set[tuple[str, int]]] = defaultdict(set)
    for call, tensors in received.items():
        for tensor in tensors:
            users[tensor].add(call)
    made_by: dict[tuple[str, int], set[tuple[str, int, int]]] = defaultdict(set)
    for tensor in users:
        made_by[tensor[:2]].add(tensor)
    found = set()
    for tensor in users:
        if not received[tensor[:2]]:
            continue  # an input of the model
        before = ancestors(received, tensor)
        used = {other for call in before for other in made_by[call] if users[other] - before}
        if used == {tensor}:
            found.add(tensor)
    return found


def ancestors(
    received: dict[tuple[str, int], list[tuple[str, int, int]]], tensor: tuple[str, int, int]
) -> set[tuple[str, int]]:
    """The calls that a tensor depends on."""
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
    elif isinstance(value, (list, tuple)):
        for inner in value:
            _collect(inner, found)


def _collect_outputs(value: Any, found: list[tuple[str, int, int]]) -> None:
    if isinstance(value, (list, tuple)) and len(value) == 3 and isinstance(value[0], str):
        found.append(tuple(value))
    else:
        for inner in value.values() if isinstance(value, dict) else value:
            _collect_outputs(inner, found)
