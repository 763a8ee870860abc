"""Where a model can be cut: split points, the tensors that cross elsewhere, and why.

A tensor is a split point when nothing else that its ancestors receive or make is used outside of them: when the call
that makes it post-dominates every call it depends on.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import keras
import numpy as np

from kerassplit.dominators import PostDominators, preorder
from kerassplit.errors import InsideBranchError
from kerassplit.graph import Graph, bytes_per_sample, read_graph
from kerassplit.names import listed
from kerassplit.references import TensorRef, find_nest, given_by, resolve

_MERGES = frozenset({"Add", "Average", "Concatenate", "Dot", "Maximum", "Minimum", "Multiply", "Stack", "Subtract"})
SHAPING = frozenset(
    {"Activation", "BatchNormalization", "ELU", "GroupNormalization", "LayerNormalization", "LeakyReLU", "PReLU"}
    | {"RMSNormalization", "ReLU", "Softmax", "UnitNormalization"}
    | {"Elu", "Gelu", "HardSigmoid", "HardSilu", "LeakyRelu", "Relu", "Relu6", "Selu", "Sigmoid", "Silu", "Softplus"}
    | {"Softsign", "Tanh"}
)
"""Classes of activations and normalisations: they belong to what comes before them."""


@dataclass(frozen=True)
class SplitPoint:
    """A tensor where the model can be cut and nothing else crosses.

    Attributes:
        name: The tensor's name.
        layer: The layer or operation that makes it.
        shape: With the batch dimension first; `None` for open dimensions.
        dtype: Such as `"float32"`.
        bytes: Bytes of one sample; `None` where a dimension other than the batch is open.
        after_merge: Whether it follows a merge (`Add`, `Concatenate`, ...), directly or through activations and
            normalisation only: the end of a block in most architectures.
        params_before: Parameters of the layers that it depends on.
        params_after: Parameters of the other layers. A layer with calls on both sides counts on both.
        index: Its place among the model's split points, in execution order.
    """

    name: str
    layer: keras.Operation
    shape: tuple[int | None, ...]
    dtype: str
    bytes: int | None
    after_merge: bool
    params_before: int
    params_after: int
    index: int


@dataclass(frozen=True)
class Explanation:
    """Whether a model can be cut at a tensor, and why.

    Attributes:
        name: The tensor's name.
        is_split_point: Whether it is one.
        crossing: Names of all the tensors that would cross there, in execution order.
        reason: One sentence.
        before: The nearest split point before it, or `None`.
        after: The nearest split point after it, or `None`.
        inside: Names of the split points inside, where `name` is that of a nested model.
    """

    name: str
    is_split_point: bool
    crossing: tuple[str, ...]
    reason: str
    before: str | None
    after: str | None
    inside: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.reason}\n{_nearest(self.before, self.after)}"


def split_points(model: keras.Model) -> tuple[SplitPoint, ...]:
    """The tensors where a model can be cut and nothing else crosses, in execution order.

    The model's inputs and its final outputs are not among them. Takes time linear in the calls of the model (times a
    logarithm where branches nest).

    Args:
        model: A functional or built Sequential model.

    Returns:
        One `SplitPoint` per tensor.

    Raises:
        UnsupportedModelError: The model has no graph.

    Example:

    >>> import keras, kerassplit as ks
    >>> resnet = keras.applications.ResNet50(weights=None)
    >>> [point.name for point in ks.split_points(resnet) if point.after_merge][-1]
    'conv5_block3_out'
    """
    graph = read_graph(model)
    tree = PostDominators(graph)
    found = split_tensors(graph, tree)
    before, after = _parameters(graph, tree)
    merged = _after_merge(graph)
    points = []
    for index, number in enumerate(found):
        tensor = graph.tensors[number]
        points.append(
            SplitPoint(
                name=tensor.name,
                layer=graph.calls[tensor.call].operation,
                shape=tuple(tensor.symbol.shape),
                dtype=tensor.symbol.dtype,
                bytes=bytes_per_sample(tensor.symbol.shape, tensor.symbol.dtype),
                after_merge=merged[tensor.call],
                params_before=before[tensor.call],
                params_after=after[tensor.call],
                index=index,
            )
        )
    return tuple(points)


def explain(model: keras.Model, name: TensorRef) -> Explanation:
    """Says whether a model can be cut at a tensor, what crosses there, and where the nearest split points are.

    Args:
        model: A functional or built Sequential model.
        name: The tensor: its name, the layer that makes it, or its `KerasTensor`. A nested model stands for the tensors
            it gives.

    Returns:
        An `Explanation`; printed, it reads as two sentences. That of a nested model says what is inside, too.

    Raises:
        UnknownTensorError, AmbiguousTensorError: `name` is not one tensor of the model.

    Example:

    >>> print(ks.explain(resnet, "conv4_block6_2_relu"))
    'conv4_block6_2_relu' is inside a branch: 'conv4_block5_out' crosses there too.
    Nearest split points: 'conv4_block5_out' before, 'conv4_block6_add' after.
    """
    graph = read_graph(model)
    nest = find_nest(graph, name)
    tensors = [resolve(graph, name)] if nest is None else list(dict.fromkeys(given_by(graph, nest)))
    crossing = crossing_at(graph, tensors)
    is_split_point, reason = _reason(graph, tensors, crossing)
    inside: list[str] = []
    if nest is not None:
        calls = set(nest.calls)
        found = split_tensors(graph, PostDominators(graph))
        inside = graph.names(tensor for tensor in found if graph.tensors[tensor].call in calls)
        points = f"{len(inside)} of its tensors are split points" if inside else "none of its tensors is a split point"
        if len(inside) == 1:
            points = f"'{inside[0]}' is the split point inside"
        reason = f"'{nest.name}' is a nested model of {len(calls)} calls; {points}. {reason}"
    before, after = nearest_split_points(graph, tensors)
    title = nest.name if nest else graph.tensors[tensors[0]].name
    return Explanation(title, is_split_point, tuple(graph.names(crossing)), reason, before, after, tuple(inside))


def _reason(graph: Graph, tensors: Sequence[int], crossing: Sequence[int]) -> tuple[bool, str]:
    """Whether these tensors (several only for a nested model) are a split point, and why."""
    names = listed(graph.names(tensors))
    others = graph.names(other for other in crossing if other not in tensors)
    if len(tensors) > 1:
        return False, f"It gives {len(tensors)} tensors: {names}."
    tensor = graph.tensors[tensors[0]]
    if not graph.calls[tensor.call].inputs:
        return False, f"{names} is an input of the model: there is nothing before it to cut off."
    if not tensor.users:
        what = "an output of the model" if tensors[0] in graph.flat_outputs() else "used by no call of the model"
        return False, f"{names} is {what}: there is nothing behind it to cut off."
    if others:
        verb = "crosses" if len(others) == 1 else "cross"
        return False, f"{names} is inside a branch: {listed(others)} {verb} there too."
    return True, f"{names} is a split point: cut there, and it alone crosses."


def split_tensors(graph: Graph, tree: PostDominators) -> list[int]:
    """The split points as indices of tensors, in execution order."""
    top = list(range(len(graph.calls)))  # where all that a call depends on comes together again
    found = []
    for index, call in enumerate(graph.calls):
        if call.inputs:
            top[index] = tree.meet([index, *(top[graph.tensors[tensor].call] for tensor in call.inputs)])
            used = [tensor for tensor in call.outputs if graph.tensors[tensor].users]
            if top[index] == index and len(used) == 1:
                found.append(used[0])
    return found


def ancestors(graph: Graph, tensors: Iterable[int]) -> set[int]:
    """The calls that these tensors depend on, those that make them included."""
    waiting = [graph.tensors[tensor].call for tensor in tensors]
    found = set(waiting)
    while waiting:
        for tensor in graph.calls[waiting.pop()].inputs:
            call = graph.tensors[tensor].call
            if call not in found:
                found.add(call)
                waiting.append(call)
    return found


def leaving(graph: Graph, calls: set[int]) -> list[int]:
    """The tensors that these calls make and others use, in execution order."""
    return [
        tensor
        for call in sorted(calls)
        for tensor in graph.calls[call].outputs
        if any(user not in calls for user in graph.tensors[tensor].users)
    ]


def crossing_at(graph: Graph, tensors: Sequence[int]) -> list[int]:
    """All the tensors that cross when the model is cut at these: they, and what else their ancestors give the rest."""
    return sorted({*tensors, *leaving(graph, ancestors(graph, tensors))})


def nearest_split_points(graph: Graph, tensors: Sequence[int]) -> tuple[str | None, str | None]:
    """The nearest split points before and after these tensors, by name; `None` where there is none."""
    tree = PostDominators(graph)
    by_call = {graph.tensors[tensor].call: tensor for tensor in split_tensors(graph, tree)}
    makers = {graph.tensors[tensor].call for tensor in tensors}
    before = max((by_call[call] for call in ancestors(graph, tensors) - makers if call in by_call), default=None)
    call = tree.meet(makers)
    while call in makers or (call < len(graph.calls) and call not in by_call):
        call = tree.parent[call]
    after = by_call.get(call)
    return (
        None if before is None else graph.tensors[before].name,
        None if after is None else graph.tensors[after].name,
    )


def require_whole_crossing(
    graph: Graph, tensors: Sequence[int], remedy: str, *, named: Sequence[int] | None = None
) -> None:
    """Raises `InsideBranchError` unless these tensors are all that crosses where they are.

    Args:
        graph: The model.
        tensors: They; outputs of the model among them that do not cross are computed before the cut, too.
        named: Those that the user has named at this place, for the message; by default all.
        remedy: What the user can do about it, as the last sentence; `{crossing}` stands for the tensors' names.
    """
    found = [tensor for tensor in crossing_at(graph, tensors) if tensor not in set(tensors)]
    if not found:
        return
    place = tensors if named is None else named
    names, others, crossing = graph.names(place), graph.names(found), sorted({*place, *found})
    left = [tensor for tensor in place if graph.tensors[tensor].users] or place
    before, after = nearest_split_points(graph, left)
    be, do = "is" if len(names) == 1 else "are", "crosses" if len(others) == 1 else "cross"
    pass_on = graph.names(crossing) if len(crossing) <= 8 else "`error.crossing`"
    count = len(crossing if named is None else {*left, *found})
    carried = "both tensors" if count == 2 else f"all {count} tensors"
    raise InsideBranchError(
        f"{listed(names)} {be} inside a branch: {listed(others)} {do} there too.\n"
        f"{_nearest(before, after)} " + remedy.format(carried=carried, crossing=pass_on),
        name=", ".join(names),
        crossing=graph.names(crossing),
        before=before,
        after=after,
    )


def _nearest(before: str | None, after: str | None) -> str:
    first = f"'{before}' before" if before else "none before"
    second = f"'{after}' after" if after else "none after"
    return f"Nearest split points: {first}, {second}."


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
    """For each call that post-dominates all it depends on: the parameters of these calls, and of all the others.

    There, the calls it depends on are its subtree of the post-dominator tree: sums over subtrees do. A variable used
    by several calls counts once: it is taken off again wherever two of its calls meet.
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
                sizes[id(variable)] = int(np.prod(variable.shape))
    end = len(graph.calls)
    before = [0] * (end + 1)
    only_before = [0] * (end + 1)
    entry = preorder(tree) if any(len(calls) > 1 for calls in calls_of.values()) else []
    for variable, calls in calls_of.items():
        size = sizes[variable]
        ordered = sorted(calls, key=lambda call: entry[call]) if len(calls) > 1 else calls
        for call in ordered:
            before[call] += size
        for one, other in pairwise(ordered):
            before[tree.meet([one, other])] -= size
        only_before[tree.meet(ordered)] += size
    for call in range(end):
        before[tree.parent[call]] += before[call]
        only_before[tree.parent[call]] += only_before[call]
    return before, [sum(sizes.values()) - inside for inside in only_before]
