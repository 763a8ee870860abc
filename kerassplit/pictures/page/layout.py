"""Lays out a model for the page: its boxes, and separately the layers inside each box, both from top to bottom.

All lengths are in points, and y points down. Graphviz does the work here, so that the page only has to stretch space
where a box is opened.
"""

from bisect import bisect_left, insort
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from kerassplit.graph.model_graph import Graph
from kerassplit.pictures.lettering import (
    NAME,
    NAME_LINE,
    TEXT,
    box_size,
    mark_lines,
    name_lines,
    text_lines,
    text_width,
)
from kerassplit.pictures.overview import Part, flows
from kerassplit.pictures.render import lay_out
from kerassplit.text import printable

Size = tuple[float, float]

_LAYER_PADDING = 16, 12
_PORTION = 60
"""The fewest calls that are laid out at once, if a box has as many."""
_PORT = "shape=circle, width=0.06, height=0.06"


def layout_of(graph: Graph, part: Part, words: Mapping[int, str]) -> dict[str, Any]:
    """Returns the places of boxes, layers and lines.

    Args:
        graph: The model's graph.
        part: Its boxes.
        words: The second line of text of each call.

    Returns:
        `boxes`: for each box its center, size and texts, its `calls`, and `inside`: the same for its layers and for the
        tensors that enter and leave it, or `None` if it stands for one call. `edges`: tensors, source, target, and the
        points of Bézier curves. Calls are counted as in a profile, without inputs of the model.
    """
    place_of = {call: place for place, call in enumerate(call for call, one in enumerate(graph.calls) if one.inputs)}
    number = {box.id: index for index, box in enumerate(part.boxes)}
    calls: list[list[int]] = [[] for _ in part.boxes]
    for call, box in part.box_of.items():
        insort(calls[number[box]], call)
    lines: dict[tuple[str, str], list[int]] = {}
    for tensor, source, targets in flows(part):
        for target in targets:
            lines.setdefault((source, target), []).append(tensor)
    sizes = {box.id: box_size(box) for box in part.boxes}
    found, curves, whole = _lay_out([_node(name, size) for name, size in sizes.items()], lines)
    boxes = [
        {
            **_rectangle(found[box.id], sizes[box.id]),
            "title": _lines(name_lines(box)),
            "lines": _lines(text_lines(box)),
            "mark": _lines(mark_lines(box)),
            "ends_at": next((one for one in _made(graph, own) if graph.tensors[one].name == box.mark), None),
            "several": box.count > 1,
            "input": graph.calls[own[0]].outputs[0] if box.is_input else None,
            "calls": [] if box.is_input else [place_of[call] for call in own],
            "inside": _inside(graph, own, words, place_of) if len(own) > 1 else None,
        }
        for box, own in zip(part.boxes, calls, strict=True)
    ]
    edges = [
        [tensors, number[source], number[target], curves[source, target]] for (source, target), tensors in lines.items()
    ]
    return {"width": whole[0], "height": whole[1], "boxes": boxes, "edges": edges}


def _inside(
    graph: Graph, calls: Sequence[int], words: Mapping[int, str], place_of: Mapping[int, int]
) -> dict[str, Any]:
    """Lays out the calls of a box, with points for the tensors that enter or leave it.

    Many calls are laid out in portions, one below the other, because Graphviz's time grows faster than their number.
    """
    sizes = {call: _layer_size(graph.calls[call].name, words[call]) for call in calls}
    found: dict[str, Any] = {"layers": [], "entering": [], "leaving": [], "edges": []}
    left = right = bottom = 0.0
    head, origin = None, (0.0, 0.0)
    for portion in _portions(graph, calls):
        nodes, lines = _sources(graph, portion, set(calls), head, sizes)
        at, curves, whole = _lay_out(nodes, lines)
        x, y = (0.0, 0.0) if head is None else (origin[0] - at[f"c{head}"][0], origin[1] - at[f"c{head}"][1])
        moved = {name: [round(center[0] + x, 1), round(center[1] + y, 1)] for name, center in at.items()}
        found["layers"] += [[place_of[call], *_rectangle(moved[f"c{call}"], sizes[call]).values()] for call in portion]
        for side, names in (("entering", "i"), ("leaving", "o")):
            found[side] += [[int(name[1:]), *center] for name, center in moved.items() if name[0] == names]
        for ends, tensors in lines.items():
            points = [round(number + (y if index % 2 else x), 1) for index, number in enumerate(curves[ends])]
            found["edges"].append(
                [tensors, *(place_of[int(end[1:])] if end[0] == "c" else None for end in ends), points]
            )
        left, right, bottom = min(left, x), max(right, x + whole[0]), y + whole[1]
        head = portion[-1]
        origin = moved[f"c{head}"]
    return {"left": round(left, 1), "width": round(right - left, 1), "height": round(bottom, 1), **found}


def _portions(graph: Graph, calls: Sequence[int]) -> list[list[int]]:
    """Divides the calls of a box where of all that they compute, later ones and other boxes use one tensor only."""
    found, portion = [], list[int]()
    last_use = {tensor: _last_use(graph, tensor, calls) for tensor in _made(graph, calls)}
    waiting: set[int] = set()
    for call in calls:
        portion.append(call)
        waiting = {tensor for tensor in (*waiting, *graph.calls[call].outputs) if last_use[tensor] > call}
        if (
            len(portion) >= _PORTION
            and call != calls[-1]
            and len(waiting) == 1
            and waiting <= {*graph.calls[call].outputs}
        ):
            found.append(portion)
            portion = []
    return [*found, portion]


def _last_use(graph: Graph, tensor: int, calls: Sequence[int]) -> int:
    """Returns the last of these calls that uses a tensor; the number of all calls if others use it."""
    users = graph.tensors[tensor].users
    inside = all(calls[min(bisect_left(calls, user), len(calls) - 1)] == user for user in users)
    return max(users, default=-1) if inside else len(graph.calls)


def _sources(
    graph: Graph, calls: Sequence[int], box: Collection[int], head: int | None, sizes: Mapping[int, Size]
) -> tuple[list[str], dict[tuple[str, str], list[int]]]:
    """Returns the nodes and lines of some calls of a box in Graphviz's notation; `head` is the last call before."""
    own = {*calls} if head is None else {*calls, head}
    lines: dict[tuple[str, str], list[int]] = {}
    ports: dict[str, list[str]] = {"min": [], "sink": []}
    for call in calls:
        for tensor in graph.calls[call].inputs:
            maker = graph.tensors[tensor].call
            lines.setdefault((f"c{maker}" if maker in own else f"i{tensor}", f"c{call}"), []).append(tensor)
            ports["min"] += [] if maker in own else [f"i{tensor}"]
        for tensor in graph.calls[call].outputs:
            if any(user not in box for user in graph.tensors[tensor].users):
                ports["sink"].append(f"o{tensor}")
                lines[f"c{call}", f"o{tensor}"] = [tensor]
    nodes = [_node(f"c{call}", sizes[call]) for call in (*([] if head is None else [head]), *calls)]
    if head is None:
        ports["source"] = ports.pop("min")
    for rank, names in ports.items():
        points = "; ".join(f"{name} [{_PORT}]" for name in dict.fromkeys(names))
        nodes += [f"{{ rank={rank}; {points} }}"] if names else []
    return nodes, lines


def _lines(lines: Iterable[str]) -> list[str]:
    return [printable(line, kept="") for line in lines]


def _made(graph: Graph, calls: Iterable[int]) -> Iterable[int]:
    return (tensor for call in calls for tensor in graph.calls[call].outputs)


def _layer_size(name: str, words: str) -> Size:
    wide = max(text_width(name, TEXT, bold=True), text_width(words, TEXT))
    return wide + _LAYER_PADDING[0], 2 * NAME_LINE * TEXT / NAME + _LAYER_PADDING[1]


def _node(name: str, size: Size) -> str:
    return f"{name} [shape=box, width={size[0] / 72:.3f}, height={size[1] / 72:.3f}]"


def _rectangle(center: Sequence[float], size: Size) -> dict[str, float]:
    return {"x": center[0], "y": center[1], "width": round(size[0], 1), "height": round(size[1], 1)}


def _lay_out(
    nodes: Iterable[str], lines: Mapping[tuple[str, str], Sequence[int]]
) -> tuple[dict[str, list[float]], dict[tuple[str, str], list[float]], list[float]]:
    """Returns the center of each node, the points of each line, and the whole width and height."""
    head = 'graph [nodesep=0.25, ranksep=0.4, pad=0]; node [label="", fixedsize=true]; edge [arrowhead=none]'
    source = "\n".join(["digraph {", head, *nodes, *(f"{one} -> {other}" for one, other in lines), "}"])
    return lay_out(source)
