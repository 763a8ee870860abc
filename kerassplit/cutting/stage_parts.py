"""Assigns calls and tensors to the stages of a split, and builds the stages."""

from collections.abc import Sequence
from dataclasses import dataclass

from kerassplit.cutting.frontiers import first_cuts
from kerassplit.cutting.stages import Stage
from kerassplit.cutting.submodel import build_part, part
from kerassplit.errors import SplitError
from kerassplit.graph.model_graph import Graph
from kerassplit.graph.sides import Sides
from kerassplit.text import listed


@dataclass(frozen=True)
class StagePart:
    """A stage before it is built, in indices of the graph.

    Attributes:
        calls: Its calls, in execution order.
        inputs: Its input tensors.
        outputs: Its output tensors.
    """

    calls: list[int]
    inputs: list[int]
    outputs: list[int]


def stage_parts(sides: Sides, cuts: Sequence[Sequence[int]]) -> list[StagePart]:
    """Determines the calls, inputs and outputs of each stage.

    A mask is computed in the first stage that uses or sends it. A later stage receives it if it is sent over all the
    cuts between them, and recomputes it otherwise.
    """
    graph = sides.graph
    first_in = _stage_of_calls(sides, cuts)
    own: list[list[int]] = [[] for _ in range(len(cuts) + 1)]
    for call, place in enumerate(first_in):
        if place is not None:
            own[place].append(call)
    sent = [_sent(sides, first_in, place, cut) for place, cut in enumerate(cuts)]
    results = set(graph.flat_outputs())
    there: set[int] = set()  # inputs of the model that the stages so far use
    parts: list[tuple[list[int], list[int]]] = []
    for place, calls in enumerate(own):
        made = {tensor for call in calls for tensor in graph.calls[call].outputs}
        wanted = {tensor for call in calls for tensor in graph.calls[call].inputs} - made
        there.update(*(sides.sources[tensor] for tensor in wanted if tensor in sides.users))
        last = place == len(cuts)
        made_here = {one for one in sides.results if last or sides.sources[one] <= there} | (
            sent[place] if not last else set()
        )
        wanted |= {one for one in made_here if first_in[graph.tensors[one].call] is None and not sides.is_input(one)}
        arriving = sent[place - 1] if place else set()
        received = {tensor for tensor in wanted | arriving if _is_received(sides, first_in, sent, tensor, place)}
        again, inputs = part(graph, [*received, *made], sorted(wanted))
        for call in again:
            first_in[call] = place if first_in[call] is None else first_in[call]
        parts.append((sorted({*calls, *again}), [tensor for tensor in inputs if tensor not in made]))
    last_use = {tensor: place for place, (_, inputs) in enumerate(parts) for tensor in inputs}
    return [
        StagePart(
            calls,
            inputs,
            [
                tensor
                for call in calls
                if first_in[call] == place
                for tensor in graph.calls[call].outputs
                if tensor in results or last_use.get(tensor, place) > place
            ],
        )
        for place, (calls, inputs) in enumerate(parts)
    ]


def build_stage(graph: Graph, calls: Sequence[int], inputs: Sequence[int], outputs: Sequence[int], name: str) -> Stage:
    """Builds the stage with these calls."""
    model, taken, made = build_part(graph, calls, inputs, outputs, name)
    return Stage(name, model, tuple(graph.names(taken)), tuple(graph.names(made)))


def _stage_of_calls(sides: Sides, cuts: Sequence[Sequence[int]]) -> list[int | None]:
    """Returns the stage of each call: the first whose cut depends on it, or the last stage if none does.

    `None` for side calls, which run wherever they are needed, unless a cut names their masks.
    """
    graph = sides.graph
    stage_of = [
        None if index in sides.calls and (first == len(cuts) or not graph.calls[index].inputs) else first
        for index, first in enumerate(first_cuts(sides.main, cuts))
    ]
    filled = set(stage_of)
    for place, cut in enumerate(cuts):
        if place not in filled:
            raise SplitError(
                f"No call would be left for the stage that ends at {listed(graph.names(cut))}: an earlier cut covers "
                "it. Leave one of the two out."
            )
    return stage_of


def _sent(sides: Sides, stage_of: Sequence[int | None], place: int, cut: Sequence[int]) -> set[int]:
    """Returns the tensors sent over a cut: those that it names, and the side tensors sent along."""

    def is_before(call: int) -> bool:
        stage = stage_of[call]
        return stage is not None and stage <= place

    return {*cut, *sides.along(is_before, cut)}


def _is_received(
    sides: Sides, first_in: Sequence[int | None], sent: Sequence[set[int]], tensor: int, place: int
) -> bool:
    """True if a stage receives a tensor, which calls outside it compute, from an earlier stage."""
    call = sides.graph.tensors[tensor].call
    first = first_in[call]
    if call not in sides.calls:
        return True
    return first is not None and first < place and all(tensor in over for over in sent[first:place])
