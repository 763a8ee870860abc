"""Which calls each stage of a split holds, which tensors it takes and gives, and the stage built of them."""

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
        inputs: The tensors it takes.
        outputs: The tensors it gives.
    """

    calls: list[int]
    inputs: list[int]
    outputs: list[int]


def stage_parts(sides: Sides, cuts: Sequence[Sequence[int]]) -> list[StagePart]:
    """What each stage holds, takes and gives.

    A mask is made in the first stage that uses it or sends it. A later one receives it where it is sent over all the
    cuts between, and else makes it again.
    """
    graph = sides.graph
    first_in = _stage_of_calls(sides, cuts)
    own: list[list[int]] = [[] for _ in range(len(cuts) + 1)]
    for call, place in enumerate(first_in):
        if place is not None:
            own[place].append(call)
    sent = [_sent(sides, first_in, place, cut) for place, cut in enumerate(cuts)]
    results = set(graph.flat_outputs())
    there: set[int] = set()  # inputs of the model that the stages so far take
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
    """The stage of these calls."""
    model, taken, made = build_part(graph, calls, inputs, outputs, name)
    return Stage(name, model, tuple(graph.names(taken)), tuple(graph.names(made)))


def _stage_of_calls(sides: Sides, cuts: Sequence[Sequence[int]]) -> list[int | None]:
    """For each call the stage it runs in: the first whose cut depends on it; the last for all the others.

    `None` for side calls, which run where they are needed, but for those whose masks a cut names.
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
    """The masks that are sent over a cut: those that it names, and those that take few bytes."""

    def is_before(call: int) -> bool:
        stage = stage_of[call]
        return stage is not None and stage <= place

    return {*cut, *sides.along(is_before, cut)}


def _is_received(
    sides: Sides, first_in: Sequence[int | None], sent: Sequence[set[int]], tensor: int, place: int
) -> bool:
    """Whether a stage receives a tensor, which other calls make, from an earlier stage."""
    call = sides.graph.tensors[tensor].call
    first = first_in[call]
    if call not in sides.calls:
        return True
    return first is not None and first < place and all(tensor in over for over in sent[first:place])
