"""Lays out a model for the page: its boxes, and separately the layers inside each box, both from top to bottom.

All lengths are in points, and y points down. Graphviz does the work here, so that the page only has to stretch space
where a box is opened.
"""

from bisect import insort
from collections.abc import Iterable, Mapping, Sequence
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
    """Lays out the calls of a box, with a point for each tensor that enters or leaves it."""
    own = set(calls)
    lines: dict[tuple[str, str], list[int]] = {}
    entering, leaving = dict[int, None](), dict[int, None]()
    for call in calls:
        for tensor in graph.calls[call].inputs:
            maker = graph.tensors[tensor].call
            source = f"c{maker}" if maker in own else f"i{tensor}"
            if maker not in own:
                entering[tensor] = None
            lines.setdefault((source, f"c{call}"), []).append(tensor)
        for tensor in graph.calls[call].outputs:
            if not own.issuperset(graph.tensors[tensor].users):
                leaving[tensor] = None
                lines[f"c{call}", f"o{tensor}"] = [tensor]
    sizes = {call: _layer_size(graph.calls[call].name, words[call]) for call in calls}
    nodes = [_node(f"c{call}", size) for call, size in sizes.items()]
    for rank, side, tensors in (("source", "i", entering), ("sink", "o", leaving)):
        ports = "; ".join(f"{side}{tensor} [{_PORT}]" for tensor in tensors)
        nodes += [f"{{ rank={rank}; {ports} }}"] if tensors else []
    found, curves, whole = _lay_out(nodes, lines)
    return {
        "width": whole[0],
        "height": whole[1],
        "layers": [[place_of[call], *_rectangle(found[f"c{call}"], size).values()] for call, size in sizes.items()],
        "entering": [[tensor, *found[f"i{tensor}"]] for tensor in entering],
        "leaving": [[tensor, *found[f"o{tensor}"]] for tensor in leaving],
        "edges": [
            [tensors, *(place_of[int(end[1:])] if end[0] == "c" else None for end in ends), curves[ends]]
            for ends, tensors in lines.items()
        ],
    }


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
