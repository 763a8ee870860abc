"""Regions of a model: the calls between one split point and the next, in the order in which a split runs them."""

from dataclasses import dataclass

from kerassplit.cutting.frontiers import first_cuts, split_tensors
from kerassplit.graph.model_graph import Graph
from kerassplit.graph.sides import Sides, read_sides


@dataclass(frozen=True, slots=True)
class Region:
    """The calls between two neighboring split points.

    Attributes:
        end: The tensor that it ends at: a split point, or an output of the model for the last region.
        calls: Indices of its calls in execution order.
        given: Tensors that it receives, inputs of the model included.
        made: Tensors that it computes for later regions or as outputs of the model.
        crossing: All tensors that cross a cut after it, including those that pass over it. Empty for the last region.
        also: Side tensors sent along with these: inputs of the model that both sides use, and masks.
    """

    end: int
    calls: tuple[int, ...]
    given: tuple[int, ...]
    made: tuple[int, ...]
    crossing: tuple[int, ...]
    also: tuple[int, ...]


def regions(graph: Graph) -> list[Region]:
    """Divides a model at its split points; stages cut at split points consist of whole regions.

    Takes linear time, plus the length of `crossing`: a tensor that passes over regions is listed for each of them.
    """
    sides = read_sides(graph)
    groups = _groups(graph, sides)
    place_of = {call: place for place, (_, calls) in enumerate(groups) for call in calls}
    outputs = set(graph.flat_outputs())
    found: list[tuple[set[int], set[int]]] = [(set(), set()) for _ in groups]
    crossing: list[list[int]] = [[] for _ in groups]
    for index, tensor in enumerate(graph.tensors):
        users = {place_of[user] for user in tensor.users}
        last_use = max((place_of[user] for user in sides.main.tensors[index].users), default=-1)
        maker = place_of.get(tensor.call)  # `None` for an input of the model
        for user in users:
            if user != maker:
                found[user][0].add(index)
        if maker is not None and (index in outputs or users - {maker}):
            found[maker][1].add(index)
        if last_use >= 0:
            for place in range(place_of[tensor.call], last_use):
                crossing[place].append(index)
    divided = []
    for place, ((end, calls), (given, made), across) in enumerate(zip(groups, found, crossing, strict=True)):
        last = place == len(groups) - 1
        also = [] if last else sides.along(lambda call, place=place: place_of[call] <= place, across)
        divided.append(Region(end, tuple(calls), tuple(sorted(given)), tuple(sorted(made)), tuple(across), tuple(also)))
    return divided


def _groups(graph: Graph, sides: Sides) -> list[tuple[int, list[int]]]:
    """Returns, for each region, the tensor that it ends at and its calls."""
    ends = split_tensors(sides)
    calls: list[list[int]] = [[] for _ in (*ends, None)]
    for call, first in enumerate(first_cuts(graph, [[end] for end in ends])):
        if graph.calls[call].inputs:
            calls[first].append(call)
    *blocks, rest = calls
    groups = [(end, own) for end, own in zip(ends, blocks, strict=True) if own]
    if rest:
        last = set(rest)
        end = next((tensor for tensor in graph.flat_outputs() if graph.tensors[tensor].call in last), None)
        groups.append((graph.calls[rest[-1]].outputs[0] if end is None else end, rest))
    return groups
