"""`explain`: says if a model can be cut at a tensor, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import keras

from kerassplit.cutting.crossings import crossing_everywhere, sides_along
from kerassplit.cutting.frontiers import crossing_at, nearest, nearest_split_points, point_after, split_tensors
from kerassplit.cutting.largest_layer import closed_layer
from kerassplit.graph.dominators import PostDominators
from kerassplit.graph.model_graph import Graph
from kerassplit.graph.packing import plain_name
from kerassplit.graph.reading import read_graph
from kerassplit.graph.references import TensorRef, find_nest, given_by, resolve
from kerassplit.graph.sides import Sides, read_sides
from kerassplit.text import enumerated, listed, printable, shortened


@dataclass(frozen=True, repr=False)
class Explanation:
    """Answer to whether a model can be cut at a tensor, with the reason.

    Attributes:
        name: The tensor's name.
        is_split_point: True if it is a split point.
        crossing: Names of all tensors that would cross there, in execution order, without those in `also`.
        reason: The reason, in one sentence.
        before: Name of the nearest split point before it, or `None`.
        after: Name of the nearest split point after it, or `None`.
        inside: If `name` is a nested model: names of the split points inside it.
        also: Names of the tensors sent along with a cut there: inputs of the model that both sides use, and masks.
        advice: If one layer that no cut divides contains most of the model (`largest_layer.py`): how to open it.
            `None` if there is no such layer, and at split points outside it.
    """

    name: str
    is_split_point: bool
    crossing: tuple[str, ...]
    reason: str
    before: str | None
    after: str | None
    inside: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    advice: str | None = None

    def __str__(self) -> str:
        lines = [self.reason, nearest(self.before, self.after), *([self.advice] if self.advice else [])]
        return printable("\n".join(lines))

    def __repr__(self) -> str:
        return shortened(f"<Explanation: {self.reason}>")


def explain(model: keras.Model, name: TensorRef) -> Explanation:
    """Says if a model can be cut at a tensor, what crosses there, and where the nearest split points are.

    Args:
        model: A functional or built Sequential model.
        name: The tensor: its name, the layer that computes it, or its `KerasTensor`. A nested model stands for its
            outputs.

    Returns:
        An `Explanation`, which prints as two sentences. For a nested model, it also describes the inside.

    Raises:
        UnknownTensorError, AmbiguousTensorError: `name` does not stand for exactly one tensor of the model.

    Example:

    >>> print(ks.explain(resnet, "conv4_block6_2_relu"))
    'conv4_block6_2_relu' is inside a branch: 'conv4_block5_out' crosses there too.
    Nearest split points: 'conv4_block5_out' before, 'conv4_block6_add' after.
    """
    graph = read_graph(model)
    sides = read_sides(graph)
    nest = find_nest(graph, name)
    tensors = [resolve(graph, name)] if nest is None else list(dict.fromkeys(given_by(graph, nest)))
    crossing = crossing_at(sides, tensors)
    also = sides.along(sides.main.ancestors(tensors).__contains__, tensors)
    is_split_point, reason = _reason(sides, tensors, crossing, also)
    inside: list[str] = []
    if nest is not None:
        calls = set(nest.calls)
        inside = graph.names(tensor for tensor in split_tensors(sides) if graph.tensors[tensor].call in calls)
        points = f"{len(inside)} of its tensors are split points" if inside else "none of its tensors is a split point"
        if len(inside) == 1:
            points = f"'{inside[0]}' is the split point inside"
        reason = f"'{nest.name}' is a nested model of {len(calls)} calls; {points}. {reason}"
    before, after = nearest_split_points(sides, tensors)
    title = nest.name if nest else graph.tensors[tensors[0]].name
    return Explanation(
        name=title,
        is_split_point=is_split_point,
        crossing=tuple(graph.names(crossing)),
        reason=reason,
        before=before,
        after=after,
        inside=tuple(inside),
        also=tuple(graph.names(also)),
        advice=_advice(graph, tensors, is_split_point, closed_layer(graph)),
    )


def explain_all(graph: Graph) -> list[Explanation]:
    """Explains every tensor of a graph as `explain` does, but all in about linear time."""
    sides = read_sides(graph)
    tree = PostDominators(sides.main)
    by_call = {graph.tensors[tensor].call: tensor for tensor in split_tensors(sides, tree)}
    before: list[int | None] = []  # for each call, the nearest split point among its ancestors
    for call in sides.main.calls:
        makers = [graph.tensors[tensor].call for tensor in call.inputs]
        before.append(max((by_call.get(one, before[one]) for one in makers), key=_or_first, default=None))
    along, closed, found = sides_along(sides), closed_layer(graph), []
    for index, crossing in enumerate(crossing_everywhere(sides)):
        also = along([index])
        is_split_point, reason = _reason(sides, [index], crossing, also)
        points = before[graph.tensors[index].call], point_after(sides, tree, by_call, [index])
        nearby = [None if point is None else graph.tensors[point].name for point in points]
        found.append(
            Explanation(
                name=graph.tensors[index].name,
                is_split_point=is_split_point,
                crossing=tuple(graph.names(crossing)),
                reason=reason,
                before=nearby[0],
                after=nearby[1],
                also=tuple(graph.names(also)),
                advice=_advice(graph, [index], is_split_point, closed),
            )
        )
    return found


def _or_first(point: int | None) -> int:
    return -1 if point is None else point


def _advice(graph: Graph, tensors: Sequence[int], is_split_point: bool, closed: tuple[str, str] | None) -> str | None:
    """Returns advice about a layer that contains most of the model, except at split points that it does not compute."""
    name, advice = closed or (None, None)
    made_by_it = any(plain_name(graph.calls[graph.tensors[tensor].call]) == name for tensor in tensors)
    return None if is_split_point and not made_by_it else advice


def _reason(sides: Sides, tensors: Sequence[int], crossing: Sequence[int], also: Sequence[int]) -> tuple[bool, str]:
    """Returns if these tensors (several only for a nested model) are a split point, and why."""
    graph = sides.graph
    names = listed(graph.names(tensors))
    others = graph.names(other for other in crossing if other not in tensors)
    if len(tensors) > 1:
        return False, f"It returns {len(tensors)} tensors: {names}."
    tensor = graph.tensors[tensors[0]]
    if not graph.calls[tensor.call].inputs:
        return False, f"{names} is an input of the model: nothing comes before it."
    if not tensor.users:
        what = "an output of the model" if tensors[0] in graph.flat_outputs() else "used by no call of the model"
        return False, f"{names} is {what}: nothing comes after it."
    if tensor.call in sides.calls:
        return False, (
            f"{names} is computed from inputs of the model to mask other tensors ({sides.describe(tensors[0])}): it is "
            "sent along with a cut, or computed again after it, and is no place to cut."
        )
    if others:
        verb = "crosses" if len(others) == 1 else "cross"
        return False, f"{names} is inside a branch: {listed(others)} {verb} there too."
    if also:
        come = "comes" if len(also) == 1 else "come"
        along = enumerated([sides.describe(tensor) for tensor in also])
        return True, f"{names} is a split point: it alone crosses a cut there; {along} {come} along."
    return True, f"{names} is a split point: it alone crosses a cut there."
