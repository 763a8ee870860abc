"""Explains why layers inside another layer, such as a wrapper, have no names, and how to reach their outputs."""

import fnmatch
from collections.abc import Callable, Sequence
from typing import Any

import keras

from kerassplit.graph.internals.layers import all_layers, functional_of, is_composite
from kerassplit.graph.model_graph import Call, Graph
from kerassplit.graph.packing import plain_name
from kerassplit.graph.reading import read_graph
from kerassplit.text import listed, package_of


def why_closed(graph: Graph, name: str) -> str | None:
    """Explains that what a name (or glob) refers to is inside a layer, and what to do; `None` for other names."""
    *_, last = given = name.split("/")
    under = [call for call in graph.calls if _leads_into(call.name.split("/"), given)]
    found = [(call, inner) for call in under or graph.calls if (inner := _inner(call.operation, last))]
    found = found or [(call, None) for call in under if is_composite(call.operation)]
    if not found:
        return None
    call, inner = found[0]
    what = f"'{call.name}' is a layer with other layers inside"
    if inner is not None:
        pair = _pair(call.operation, last)
        what = f"'{last if pair else inner.name}' is inside '{call.name}'{f' as {listed(pair)}' if pair else ''}"
    return (
        f"{what} ({type(call.operation).__name__}), which is closed: it is one call of the model, and nothing inside "
        f"it can be tapped or cut.\n{_way_out(graph, call, inner)}"
    )


def closed_around(graph: Graph, meant: Callable[[keras.Layer], bool]) -> str:
    """Names the first call of a layer with such a layer inside, and says how to edit that; `""` if there is none."""
    for call in graph.calls:
        inner = next(filter(meant, all_layers(call.operation)[1:]), None) if is_composite(call.operation) else None
        if inner is not None:
            return (
                f" But '{call.name}' ({type(call.operation).__name__}) has '{inner.name}' inside, and is one call: "
                f"replace it as a whole, or open it with `kerassplit.trace(model, open='{plain_name(call)}')`, if its "
                "code allows that."
            )
    return ""


def _leads_into(path: Sequence[str], given: Sequence[str]) -> bool:
    """True if a name begins with a call's name, with or without its nested models."""
    ends = [path[start:] for start in range(len(path))]
    return any(len(given) > len(end) and all(map(_is_meant, end, given)) for end in ends)


def _inner(layer: Any, last: str) -> keras.Layer | None:
    """Returns the inner layer that the last part of a name or glob refers to."""
    if not is_composite(layer):
        return None
    names = [last, *_pair(layer, last)]
    glob = last if last.strip("*?") else ""
    inside = all_layers(layer)[1:]
    return next((one for one in inside if one.name in names or fnmatch.fnmatchcase(one.name, glob)), None)


def _pair(layer: Any, name: str) -> list[str]:
    """Returns the names that `Bidirectional` gives to its two copies of a layer called `name`."""
    if not isinstance(layer, keras.layers.Bidirectional):
        return []
    names = [one.name for one in (layer.forward_layer, layer.backward_layer)]
    return [one for one in names if one in (f"forward_{name}", f"backward_{name}")]


def _is_meant(part: str, given: str) -> bool:
    return given in (part, part.partition("@")[0]) or fnmatch.fnmatchcase(part, given)


def _way_out(graph: Graph, call: Call, inner: keras.Layer | None) -> str:
    layer: Any = call.operation
    takes = f"on {listed(graph.names(call.inputs[:1]))}, with `layer` for '{call.name}'"
    if isinstance(layer, keras.layers.TimeDistributed):
        if inner is not None and inner is layer.layer:
            return f"The output of '{inner.name}' for all steps together is the tensor '{call.name}': use that name."
        if functional_of(layer.layer) is not None:
            names = [tensor.name for tensor in read_graph(layer.layer).tensors]
            end = inner.name if inner is not None and inner.name in names else "..."
            return (
                "For all steps at once, call `keras.layers.TimeDistributed(kerassplit.build_submodel(layer.layer, "
                f"end='{end}'))` {takes}."
            )
    if isinstance(layer, keras.layers.Bidirectional):
        return f"Call `layer.forward_layer` or `layer.backward_layer` {takes}."
    if isinstance(layer, keras.layers.RNN):
        return "It runs its cell in a loop; with return_sequences=True, it returns the output of the cell at each step."
    where = ", if its Keras code allows that" if package_of(type(layer)) == "keras" else ""
    opening = f"kerassplit.trace(model, open='{plain_name(call)}')"
    return f"Open it{where}: `{opening}` returns the same model with names for the layers inside."
