"""Selects the calls to repeat when a part of a model is built: nested models stay whole where possible."""

from collections import defaultdict
from collections.abc import Container, Iterable, Sequence

from kerassplit.graph.internals.symbols import has_mask
from kerassplit.graph.model_graph import Call, Graph, Nest


def plain_name(call: Call | Nest) -> str:
    """Returns a call's name without call numbers: the name of its operation in the model."""
    return "/".join(part.partition("@")[0] for part in call.name.split("/"))


def packed(
    graph: Graph, calls: Sequence[int], given: Iterable[int], wanted: Iterable[int], opened: Container[int] = ()
) -> list[Call | Nest]:
    """Returns calls in execution order; a nested model becomes its single call if it is complete and unobserved inside.

    Args:
        graph: The graph of the calls.
        calls: Their indices, in execution order.
        given: Tensors that are available without them.
        wanted: Tensors that are used elsewhere.
        opened: Nests that must not become one call; those inside them may.
    """
    if not graph.nests:
        return [graph.calls[call] for call in calls]
    ours, seen = set(calls), set(wanted)
    there = {*given, *(tensor for call in calls for tensor in graph.calls[call].outputs)}
    whole = {
        index
        for index, nest in enumerate(graph.nests)
        if index not in opened and there.issuperset(nest.given) and _is_closed(graph, nest, ours, seen)
    }
    # Keras cannot load a file in which a layer is both in a nested model and outside it, or in two nested models.
    outermost = _outermost(graph, whole)
    before = -1
    while len(whole) != before:
        before = len(whole)
        places = defaultdict(set)
        for call in calls:
            nest = outermost.get(call)
            places[id(graph.calls[call].operation)].add(None if nest is None else id(nest.operation))
        whole = {
            index
            for index in whole
            if all(len(places[id(graph.calls[call].operation)]) == 1 for call in graph.nests[index].calls)
        }
        outermost = _outermost(graph, whole)
    items = [outermost.get(call, graph.calls[call]) for call in calls]
    return list({id(item): item for item in items}.values())  # each nested model once, where its first call is


def _outermost(graph: Graph, whole: Iterable[int]) -> dict[int, Nest]:
    """Returns the outermost of these nests around each call inside them."""
    inward = [graph.nests[index] for index in sorted(whole)]
    return {call: nest for nest in reversed(inward) for call in nest.calls}


def _is_closed(graph: Graph, nest: Nest, ours: set[int], seen: set[int]) -> bool:
    """True if all calls of a nested model are ours, only its arguments enter it, and only its results leave it."""
    inside = set(nest.calls)
    results = {tensor for tensor, _ in graph.results(nest)}
    given = {nest.scope.get(id(symbol)) for symbol in nest.arguments.keras_tensors}
    return (
        inside <= ours
        and all(
            tensor in given or graph.tensors[tensor].call in inside
            for call in nest.calls
            for tensor in graph.calls[call].inputs
        )
        and all(
            tensor in results
            or (tensor not in seen and all(user in inside or user not in ours for user in graph.tensors[tensor].users))
            for call in nest.calls
            for tensor in graph.calls[call].outputs
        )
    )


def naturally_masked(graph: Graph, calls: Iterable[Call | Nest]) -> set[int]:
    """Returns the tensors that Keras attaches a mask to when just these calls run: they compute or receive the mask."""
    masked: set[int] = set()
    if not any(has_mask(tensor.symbol) for tensor in graph.tensors):
        return masked
    for call in (inner for one in calls for inner in inner_calls(graph, one)):
        before = [tensor for tensor in call.inputs if has_mask(graph.tensors[tensor].symbol)]
        explicit = any(key.endswith("mask") and value is not None for key, value in call.arguments.kwargs.items())
        if explicit or call.masks or not before or not masked.isdisjoint(before):
            masked.update(tensor for tensor in call.outputs if has_mask(graph.tensors[tensor].symbol))
    return masked


def inner_calls(graph: Graph, call: Call | Nest) -> list[Call]:
    """Returns the calls inside a nested model's call; for any other call, the call itself."""
    return [graph.calls[index] for index in call.calls] if isinstance(call, Nest) else [call]
