"""The blocks of a model: the calls between one split point and the next, in the order in which a split runs them."""

from dataclasses import dataclass

from kerassplit.dominators import PostDominators
from kerassplit.graph import Graph
from kerassplit.points import split_tensors


@dataclass(frozen=True, slots=True)
class Region:
    """The calls between two neighbouring split points.

    Attributes:
        end: The tensor that it ends at: a split point; for the last one an output of the model.
        calls: Indices of its calls in execution order.
        given: Tensors that it receives, inputs of the model included.
        made: Tensors that it makes and that later ones, or the model's user, receive.
        crossing: All the tensors that cross when the model is cut behind it: inputs of the model that it or an earlier
            one and a later one use, and those that pass over it, are among them. Empty for the last one.
    """

    end: int
    calls: tuple[int, ...]
    given: tuple[int, ...]
    made: tuple[int, ...]
    crossing: tuple[int, ...]


def regions(graph: Graph) -> list[Region]:
    """The model between its split points: cut there, `split` makes stages of whole numbers of regions.

    Takes linear time, but for what crosses: tensors that pass over regions are listed for each.
    """
    groups = _groups(graph)
    place_of = {call: place for place, (_, calls) in enumerate(groups) for call in calls}
    outputs = set(graph.flat_outputs())
    found: list[tuple[set[int], set[int]]] = [(set(), set()) for _ in groups]
    crossing: list[list[int]] = [[] for _ in groups]
    for index, tensor in enumerate(graph.tensors):
        users = {place_of[user] for user in tensor.users}
        maker = place_of.get(tensor.call)  # `None` for an input of the model
        for user in users:
            if user != maker:
                found[user][0].add(index)
        if maker is not None and (index in outputs or users - {maker}):
            found[maker][1].add(index)
        if users:
            for place in range(min(users) if maker is None else maker, max(users)):
                crossing[place].append(index)
    return [
        Region(end, tuple(calls), tuple(sorted(given)), tuple(sorted(made)), tuple(across))
        for (end, calls), (given, made), across in zip(groups, found, crossing, strict=True)
    ]


def _groups(graph: Graph) -> list[tuple[int, list[int]]]:
    """The calls of each region, after the tensor that it ends at."""
    groups = []
    taken: set[int] = set()
    for end in split_tensors(graph, PostDominators(graph)):
        calls = _new_ancestors(graph, end, taken)
        if calls:
            groups.append((end, calls))
    rest = [index for index, call in enumerate(graph.calls) if call.inputs and index not in taken]
    if rest:
        last = set(rest)
        end = next((tensor for tensor in graph.flat_outputs() if graph.tensors[tensor].call in last), None)
        groups.append((graph.calls[rest[-1]].outputs[0] if end is None else end, rest))
    return groups


def _new_ancestors(graph: Graph, tensor: int, taken: set[int]) -> list[int]:
    """The calls that a tensor depends on and that are not yet taken; they are now."""
    waiting = [graph.tensors[tensor].call]
    found = []
    while waiting:
        call = waiting.pop()
        if call not in taken and graph.calls[call].inputs:
            taken.add(call)
            found.append(call)
            waiting += [graph.tensors[one].call for one in graph.calls[call].inputs]
    return sorted(found)
