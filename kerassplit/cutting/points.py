"""`split_points`: finds where a model can be cut, and measures what lies before and after."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar

import keras

from kerassplit.cutting.frontiers import split_tensors
from kerassplit.display.rich_table import Records
from kerassplit.display.units import format_count, format_shape
from kerassplit.files.sizes import format_bytes
from kerassplit.flops.formulas import flops_per_sample
from kerassplit.graph.dominators import PostDominators, subtrees
from kerassplit.graph.internals.layers import numbers_in
from kerassplit.graph.model_graph import Graph
from kerassplit.graph.reading import read_graph
from kerassplit.graph.sides import Sides, read_sides
from kerassplit.graph.sizes import Shape, bytes_per_sample, total
from kerassplit.text import shortened

_MERGES = frozenset({"Add", "Average", "Concatenate", "Dot", "Maximum", "Minimum", "Multiply", "Stack", "Subtract"})
SHAPING = frozenset(
    {"Activation", "BatchNormalization", "ELU", "GroupNormalization", "LayerNormalization", "LeakyReLU", "PReLU"}
    | {"RMSNormalization", "ReLU", "Softmax", "UnitNormalization"}
    | {"Elu", "Gelu", "HardSigmoid", "HardSilu", "LeakyRelu", "Relu", "Relu6", "Selu", "Sigmoid", "Silu", "Softplus"}
    | {"Softsign", "Tanh"}
)
"""Classes of activations and normalizations, which belong to the layer before them."""


@dataclass(frozen=True, repr=False)
class SplitPoint:
    """A tensor at which the model can be cut so that nothing else crosses, except inputs of the model and masks.

    Attributes:
        name: The tensor's name.
        layer: The layer or operation that computes it.
        shape: Shape with the batch dimension first; `None` for open dimensions.
        dtype: Dtype, such as `"float32"`.
        bytes: Bytes per sample of everything that crosses, `also` included; `None` if a dimension other than the batch
            is open.
        after_merge: True if it follows a merge (`Add`, `Concatenate`, ...), directly or through activations and
            normalizations only. Most architectures end a block there.
        params_before: Parameters of the layers that it depends on.
        params_after: Parameters of the other layers. A layer with calls on both sides counts on both.
        index: Its index among the model's split points, in execution order.
        also: Names of the tensors sent along with it: inputs of the model that both sides use, such as a
            `padding_mask`, and masks. A mask with more bytes than the inputs it depends on is recomputed instead.
    """

    _columns: ClassVar = (
        *("name", "layer", "shape", "dtype", "bytes", "after_merge", "params_before", "params_after"),
        *("flops_before", "flops_after", "index", "also"),
    )

    name: str
    layer: keras.Operation
    shape: Shape
    dtype: str
    bytes: int | None
    after_merge: bool
    params_before: int
    params_after: int
    index: int
    also: tuple[str, ...]
    _flops: _Flops = field(repr=False, compare=False)
    _call: int = field(repr=False)

    @property
    def flops_before(self) -> int | None:
        """FLOPs per sample of the calls that it depends on; a multiply-add counts as two.

        `None` if unknown: a dimension other than the batch is open, or one of these layers has no formula, such as a
        custom layer (`profile` looks inside those, too). The FLOPs of all of a model's split points are counted the
        first time that any are asked for; until then, the points keep the model alive.
        """
        return self._flops.sums()[0][self._call]

    @property
    def flops_after(self) -> int | None:
        """FLOPs per sample of the other calls. Masks, which either side can compute, count on neither."""
        return self._flops.sums()[1][self._call]

    def to_dict(self) -> dict[str, Any]:
        """Returns the point as plain values for JSON; of the layer, its name."""
        values = {name: getattr(self, name) for name in self._columns}
        return {"index": self.index, **values, "layer": self.layer.name}

    def __repr__(self) -> str:
        parameters = f"{format_count(self.params_before)} parameters before, {format_count(self.params_after)} after"
        return shortened(
            f"<SplitPoint {self.index} {self.name!r}: {format_shape(self.shape)} {self.dtype}, "
            f"{format_bytes(self.bytes)} a sample, {parameters}>"
        )


class _Flops:
    """FLOPs before and after each call of a graph, counted on first use: counting is slow and seldom needed."""

    def __init__(self, sides: Sides, tree: PostDominators):
        self._source: tuple[Sides, PostDominators] | None = (sides, tree)

    def sums(self) -> tuple[list[int | None], list[int | None]]:
        """Returns, for each call that post-dominates its ancestors, the FLOPs of these and of all other calls.

        Sums over subtrees, as in `_parameters`; `None` if the FLOPs of one of the calls are unknown.
        """
        source = self._source
        if source is not None:  # no lock: two threads would get the same result
            self._sums = self._counted(*source)
            self._source = None
        return self._sums

    def _counted(self, sides: Sides, tree: PostDominators) -> tuple[list[int | None], list[int | None]]:
        flops = [0 if call in sides.calls else count for call, count in enumerate(flops_per_sample(sides.graph))]
        known, unknown = [*(one or 0 for one in flops), 0], [*(one is None for one in flops), 0]
        tree.add_up(known)
        tree.add_up(unknown)
        end = len(flops)
        before = [None if unknown[call] else known[call] for call in range(end)]
        after = [None if unknown[end] - unknown[call] else known[end] - known[call] for call in range(end)]
        return before, after

    def __getstate__(self) -> dict[str, Any]:
        self.sums()  # so that a copy or pickle does not contain the graph
        return vars(self)


def split_points(model: keras.Model) -> tuple[SplitPoint, ...]:
    """Finds the tensors at which a model can be cut so that nothing else crosses, in execution order.

    Two kinds of tensors do not count as crossing: inputs of the model that the rest needs, such as a `padding_mask`,
    and masks (boolean tensors that operations without weights compute from inputs). `SplitPoint.also` names those that
    are sent along. The model's inputs, masks and final outputs are not split points. The time is linear in the number
    of calls (times a logarithm if branches nest).

    Args:
        model: A functional or built Sequential model.

    Returns:
        A tuple with one `SplitPoint` per tensor, which prints as a table.

    Raises:
        UnsupportedModelError: The model has no graph.

    Example:

    >>> import keras, kerassplit as ks
    >>> resnet = keras.applications.ResNet50(weights=None)
    >>> [point.name for point in ks.split_points(resnet) if point.after_merge][-1]
    'conv5_block3_out'
    """
    graph = read_graph(model)
    sides = read_sides(graph)
    tree = PostDominators(sides.main)
    found = split_tensors(sides, tree)
    before, after = _parameters(graph, tree)
    flops = _Flops(sides, tree)
    merged = _after_merge(graph)
    along = _along_points(sides, tree, found)
    points = []
    for index, (number, also) in enumerate(zip(found, along, strict=True)):
        tensor = graph.tensors[number]
        crossing = [graph.tensors[one].symbol for one in (number, *also)]
        points.append(
            SplitPoint(
                name=tensor.name,
                layer=graph.calls[tensor.call].operation,
                shape=tuple(tensor.symbol.shape),
                dtype=tensor.symbol.dtype,
                bytes=total(bytes_per_sample(symbol.shape, symbol.dtype) for symbol in crossing),
                after_merge=merged[tensor.call],
                params_before=before[tensor.call],
                params_after=after[tensor.call],
                index=index,
                also=tuple(graph.names(also)),
                _flops=flops,
                _call=tensor.call,
            )
        )
    return Records(points)


def _along_points(sides: Sides, tree: PostDominators, points: Iterable[int]) -> Iterator[list[int]]:
    """Yields the side tensors sent along with a cut at each split point; the calls before it form a subtree."""
    if not sides.users and not sides.results:
        yield from ([] for _ in points)
        return
    entry, size = subtrees(tree)
    entries = {tensor: sorted(entry[user] for user in users) for tensor, users in sides.users.items()}
    for point in points:
        call = sides.graph.tensors[point].call
        first, last = entry[call], entry[call] + size[call]
        before = {tensor: bisect_left(places, last) - bisect_left(places, first) for tensor, places in entries.items()}
        yield sides.chosen(before, [point])


def _after_merge(graph: Graph) -> list[bool]:
    merged = []
    for call in graph.calls:
        kind = type(call.operation).__name__
        if kind in _MERGES:
            merged.append(len(call.inputs) > 1)
        else:
            shaped = kind in SHAPING and len(call.inputs) == 1
            merged.append(shaped and merged[graph.tensors[call.inputs[0]].call])
    return merged


def _parameters(graph: Graph, tree: PostDominators) -> tuple[list[int], list[int]]:
    """Returns, for each call that post-dominates its ancestors, the parameters of these and of all other calls.

    For such a call, its ancestors are its subtree of the post-dominator tree, so sums over subtrees suffice. A variable
    used by several calls counts once: it is subtracted again wherever two of its calls meet.
    """
    calls_of: dict[int, list[int]] = defaultdict(list)
    sizes: dict[int, int] = {}
    weights: dict[int, list[Any]] = {}
    for index, call in enumerate(graph.calls):
        if isinstance(call.operation, keras.Layer):
            key = id(call.operation)
            if key not in weights:
                weights[key] = call.operation.weights
            for variable in weights[key]:
                calls_of[id(variable)].append(index)
                sizes[id(variable)] = numbers_in(variable)
    end = len(graph.calls)
    before = [0] * (end + 1)
    only_before = [0] * (end + 1)
    entry = subtrees(tree)[0] if any(len(calls) > 1 for calls in calls_of.values()) else []
    for variable, calls in calls_of.items():
        size = sizes[variable]
        ordered = sorted(calls, key=lambda call: entry[call]) if len(calls) > 1 else calls
        for call in ordered:
            before[call] += size
        for one, other in pairwise(ordered):
            before[tree.meet([one, other])] -= size
        only_before[tree.meet(ordered)] += size
    tree.add_up(before)
    tree.add_up(only_before)
    return before, [sum(sizes.values()) - inside for inside in only_before]
