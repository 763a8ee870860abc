"""Finds the tensors that cross where a graph is cut, as tensor indices.

A tensor is a split point if no other output of its ancestors is used outside of them, that is, if the call that
computes it post-dominates all its ancestors. Inputs of the model and masks (`sides.py`) do not count: they are sent
along with the cut.
"""

from collections.abc import Sequence

from kerassplit.errors import InsideBranchError
from kerassplit.graph.dominators import PostDominators
from kerassplit.graph.model_graph import Graph
from kerassplit.graph.sides import Sides
from kerassplit.text import listed


def split_tensors(sides: Sides, tree: PostDominators | None = None) -> list[int]:
    """Returns the split points as tensor indices, in execution order; `tree` is that of the main graph."""
    graph = sides.main
    tree = PostDominators(graph) if tree is None else tree
    top = list(range(len(graph.calls)))  # the call in which all paths from a call and its ancestors meet again
    found = []
    for index, call in enumerate(graph.calls):
        if index not in sides.calls:
            top[index] = tree.meet([index, *(top[graph.tensors[tensor].call] for tensor in call.inputs)])
            used = [tensor for tensor in call.outputs if graph.tensors[tensor].users]
            if top[index] == index and len(used) == 1:
                found.append(used[0])
    return found


def first_cuts(graph: Graph, cuts: Sequence[Sequence[int]]) -> list[int]:
    """Returns, for each call, the index of the first cut that depends on it, or `len(cuts)` if none does."""
    first = [len(cuts)] * len(graph.calls)
    for place in reversed(range(len(cuts))):
        for tensor in cuts[place]:
            first[graph.tensors[tensor].call] = place
    for call in reversed(range(len(graph.calls))):
        for tensor in graph.calls[call].inputs:
            maker = graph.tensors[tensor].call
            first[maker] = min(first[maker], first[call])
    return first


def leaving(graph: Graph, calls: set[int]) -> list[int]:
    """Returns the tensors that these calls compute and other calls use, in execution order."""
    return [
        tensor
        for call in sorted(calls)
        for tensor in graph.calls[call].outputs
        if any(user not in calls for user in graph.tensors[tensor].users)
    ]


def crossing_at(sides: Sides, tensors: Sequence[int]) -> list[int]:
    """Returns what crosses a cut at these tensors: they, and all else that the rest uses of their ancestors.

    Side tensors, which are sent along, are not included.
    """
    return sorted({*tensors, *leaving(sides.main, sides.main.ancestors(tensors))})


def nearest_split_points(sides: Sides, tensors: Sequence[int]) -> tuple[str | None, str | None]:
    """Returns the names of the nearest split points before and after these tensors; `None` if there is none."""
    graph = sides.main
    tree = PostDominators(graph)
    by_call = {graph.tensors[tensor].call: tensor for tensor in split_tensors(sides, tree)}
    makers = {graph.tensors[tensor].call for tensor in tensors}
    before = max((by_call[call] for call in graph.ancestors(tensors) - makers if call in by_call), default=None)
    after = point_after(sides, tree, by_call, tensors)
    return (
        None if before is None else graph.tensors[before].name,
        None if after is None else graph.tensors[after].name,
    )


def point_after(sides: Sides, tree: PostDominators, by_call: dict[int, int], tensors: Sequence[int]) -> int | None:
    """Returns the nearest split point after these tensors; `by_call` maps calls to the split points they compute."""
    makers = {sides.graph.tensors[tensor].call for tensor in tensors}
    onwards = {user for tensor in tensors for user in sides.users.get(tensor, ())}  # of side tensors
    call = tree.meet(onwards | (makers - sides.calls) or makers)
    while call in makers or (call < len(sides.graph.calls) and call not in by_call):
        call = tree.parent[call]
    return by_call.get(call)


def require_whole_crossing(
    sides: Sides,
    tensors: Sequence[int],
    remedy: str,
    *,
    named: Sequence[int] | None = None,
    among: Sequence[int] | None = None,
) -> None:
    """Raises `InsideBranchError` unless these tensors are all that crosses a cut at them.

    Args:
        sides: The model's graph.
        tensors: The tensors; outputs of the model among them that do not cross are computed before the cut, too.
        remedy: Advice to the user, as the last sentence; `{crossing}` stands for the names of the tensors that cross,
            `{carried}` for their number in words.
        named: The tensors that the user named here, for the message; by default all.
        among: The tensors of the crossing that are needed; by default all of them.
    """
    graph = sides.graph
    needed = crossing_at(sides, tensors) if among is None else among
    found = [tensor for tensor in needed if tensor not in set(tensors)]
    if not found:
        return
    place = tensors if named is None else named
    names, others, crossing = graph.names(place), graph.names(found), sorted({*place, *found})
    left = [tensor for tensor in place if graph.tensors[tensor].users] or place
    before, after = nearest_split_points(sides, left)
    be, do = "is" if len(names) == 1 else "are", "crosses" if len(others) == 1 else "cross"
    pass_on = graph.names(crossing) if len(crossing) <= 8 else "`error.crossing`"
    count = len(crossing if named is None else {*left, *found})
    carried = "both tensors" if count == 2 else f"all {count} tensors"
    raise InsideBranchError(
        f"{listed(names)} {be} inside a branch: {listed(others)} {do} there too.\n"
        f"{nearest(before, after)} " + remedy.format(carried=carried, crossing=pass_on),
        name=", ".join(names),
        crossing=graph.names(crossing),
        before=before,
        after=after,
    )


def nearest(before: str | None, after: str | None) -> str:
    """Names the nearest split points in a sentence."""
    first = f"'{before}' before" if before else "none before"
    second = f"'{after}' after" if after else "none after"
    return f"Nearest split points: {first}, {second}."
