"""Finds a layer that contains most of a model: it is one call in the graph, so no cut divides it, but it may be opened.

Criterion: the layer has layers inside, is not one of Keras's own (`trace` can seldom open these), and has more than
half of the model's parameters or, if all FLOPs were counted, more than half of its FLOPs.
"""

import shlex
from collections.abc import Mapping
from typing import Any

import keras

from kerassplit.graph.internals.layers import is_composite, numbers_in
from kerassplit.graph.model_graph import Graph
from kerassplit.graph.packing import plain_name
from kerassplit.text import package_of

_MOST = 0.5


def closed_layer(graph: Graph, flops: Mapping[int, int | None] | None = None) -> tuple[str, str] | None:
    """Returns the layer's name, as for `trace(model, open=...)`, and advice to the user; `None` if there is none.

    Args:
        graph: The model.
        flops: FLOPs of its calls by index, if they were counted.
    """
    calls: dict[int, list[int]] = {}
    for index, call in enumerate(graph.calls):
        if is_composite(call.operation) and package_of(type(call.operation)) != "keras":
            calls.setdefault(id(call.operation), []).append(index)
    if not calls:
        return None
    counted = None if flops is None or None in flops.values() else {call: one or 0 for call, one in flops.items()}
    every = _parameters([call.operation for call in graph.calls])
    for own in calls.values():
        layer = graph.calls[own[0]].operation
        shares = {"parameters": _parameters([layer]) / max(every, 1)}
        if counted is not None:
            shares["FLOPs"] = sum(counted[call] for call in own) / max(sum(counted.values()), 1)
        what, share = max(shares.items(), key=lambda one: one[1])
        if share > _MOST:
            name = plain_name(graph.calls[own[0]])
            return name, (
                f"{share:.0%} of the {what} are in '{name}' ({type(layer).__name__}), one call that no cut divides.\n"
                f"To cut inside, open it: kerassplit.trace(model, open=[{name!r}]), or --open {shlex.quote(name)}."
            )
    return None


def _parameters(operations: list[Any]) -> int:
    """Counts the parameters of layers; shared weights count once."""
    layers = {id(one): one for one in operations if isinstance(one, keras.Layer)}
    weights = {id(weight): weight for layer in layers.values() for weight in layer.weights}
    return sum(map(numbers_in, weights.values()))
