"""Calls of a part of a model as they are put into a new one: nested models whole where they can be."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from kerassplit.graph.internals.symbols import has_mask
from kerassplit.graph.model_graph import Call, Graph, Nest


def plain_name(call: Call | Nest) -> str:
    """Its name without the numbers of calls: the name of its operation in the model."""
    return "/".join(part.partition("@")[0] for part in call.name.split("/"))


def packed(
    graph: Graph, calls: Sequence[int], given: Iterable[int], wanted: Iterable[int], apart: Iterable[int] = ()
) -> list[Call | Nest]:
    """Calls in execution order, those of a nested model as its one call where it is whole and nobody looks inside.

    Args:
        graph: Where the calls are.
        calls: Their indices, in execution order.
        given: The tensors that are there without them.
        wanted: The tensors that somebody else uses.
        apart: Calls that are to stand by themselves.
    """
    if not graph.nests:
        return [graph.calls[call] for call in calls]
    ours, alone, seen = set(calls), set(apart), set(wanted)
    there = {*given, *(tensor for call in calls for tensor in graph.calls[call].outputs)}
    whole = {
        index
        for index, nest in enumerate(graph.nests)
        if there.issuperset(nest.given) and alone.isdisjoint(nest.calls) and _is_closed(graph, nest, ours, seen)
    }
    # Keras cannot load a file where a layer stands in a nested model and beside it, or in another one.
    before = -1
    while len(whole) != before:
        before = len(whole)
        outer = {
            call: id(graph.nests[index].operation)
            for index in sorted(whole, reverse=True)
            for call in graph.nests[index].calls
        }
        places = defaultdict(set)
        for call in calls:
            places[id(graph.calls[call].operation)].add(outer.get(call))
        whole = {
            index
            for index in whole
            if all(len(places[id(graph.calls[call].operation)]) == 1 for call in graph.nests[index].calls)
        }
    outermost: dict[int, Nest] = {}
    for index in sorted(whole):
        for call in graph.nests[index].calls:
            outermost.setdefault(call, graph.nests[index])
    done: set[int] = set()
    items: list[Call | Nest] = []
    for call in calls:
        nest = outermost.get(call)
        if nest is None:
            items.append(graph.calls[call])
        elif id(nest) not in done:
            done.add(id(nest))
            items.append(nest)
    return items


def _is_closed(graph: Graph, nest: Nest, ours: set[int], seen: set[int]) -> bool:
    """Whether all calls of a nested model are ours, and nothing but its arguments goes in, but its results out."""
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
    """The tensors on which Keras hangs a mask when just these calls run: they make it, or are given it."""
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
    """The calls inside of a nested model's call; of any other call it alone."""
    return [graph.calls[index] for index in call.calls] if isinstance(call, Nest) else [call]
