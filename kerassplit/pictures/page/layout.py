"""Lays out a model for the page: each level on its own, from top to bottom, as if all boxes were closed.

All lengths are in points, and y points down. Graphviz does the work here, so that the page only has to stretch space
where a box is opened.
"""

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
from kerassplit.pictures.page.levels import Item, Level
from kerassplit.pictures.render import lay_out
from kerassplit.text import printable

Size = tuple[float, float]
_Lines = dict[tuple[str, str], list[int]]

_LAYER_PADDING = 16, 12
_PORTION = 60
"""The fewest boxes or layers that are laid out at once, if a level has as many."""
_PORT = "shape=circle, width=0.06, height=0.06"


class Layout:
    """Places boxes, layers and lines of a model.

    Args:
        graph: The model's graph.
        words: The second line of text of each call.
    """

    def __init__(self, graph: Graph, words: Mapping[int, str]):
        self._graph = graph
        self._words = words
        called = (call for call, one in enumerate(graph.calls) if one.inputs)
        self._place_of = {call: place for place, call in enumerate(called)}

    def of(self, level: Level) -> dict[str, Any]:
        """Lays out a level, and those inside its boxes.

        Many items are laid out in portions, one below the other, because Graphviz's time grows faster than their
        number.

        Returns:
            `left`, `width`, `height`: what it covers. `boxes`: for each layer a list of its call, the x and y of its
            center, its width and height; for each box a mapping with these, its texts, its `calls`, and `inside`: its
            own level, or `None`. `edges`: tensors, source, target (places in `boxes`, or `None` outside), and the
            points of Bézier curves. `entering` and `leaving`: the tensors that do so, with x and y. `skip`: how many
            letters of the names of calls say where the level is. Calls are counted as in a profile, without inputs of
            the model.
        """
        sizes = [self._size(item, level) for item in level.items]
        lines = self._lines(level)
        at: list[list[float]] = []
        found: dict[str, Any] = {"skip": len(level.scope), "entering": [], "leaving": [], "edges": []}
        left = right = bottom = 0.0
        for portion in _portions(lines, len(level.items)):
            nodes, own = _source(lines, sizes, portion)
            centers, curves, whole = _lay_out(nodes, own)
            last = len(at) - 1  # of the portion before
            x, y = (at[last][axis] - centers[f"b{last}"][axis] if at else 0.0 for axis in (0, 1))
            moved = {name: [round(center[0] + x, 1), round(center[1] + y, 1)] for name, center in centers.items()}
            at += [moved[f"b{place}"] for place in portion]
            for side, kind in (("entering", "i"), ("leaving", "o")):
                found[side] += [[int(name[1:]), *center] for name, center in moved.items() if name[0] == kind]
            for ends, points in curves.items():
                shifted = [round(number + (y if index % 2 else x), 1) for index, number in enumerate(points)]
                found["edges"].append([own[ends], *(int(end[1:]) if end[0] == "b" else None for end in ends), shifted])
            left, right, bottom = min(left, x), max(right, x + whole[0]), y + whole[1]
        boxes = [self._box(*each) for each in zip(level.items, at, sizes, strict=True)]
        return {
            "left": round(left, 1), "width": round(right - left, 1), "height": round(bottom, 1), "boxes": boxes, **found
        }  # fmt: skip

    def _size(self, item: Item, level: Level) -> Size:
        if item.box is not None:
            return box_size(item.box)
        name = self._graph.calls[item.calls[0]].name.removeprefix(level.scope)
        wide = max(text_width(name, TEXT, bold=True), text_width(self._words[item.calls[0]], TEXT))
        return wide + _LAYER_PADDING[0], 2 * NAME_LINE * TEXT / NAME + _LAYER_PADDING[1]

    def _box(self, item: Item, center: Sequence[float], size: Size) -> dict[str, Any] | list[float]:
        calls, box = [self._place_of[call] for call in item.calls if call in self._place_of], item.box
        wide, high = round(size[0], 1), round(size[1], 1)
        if box is None:
            return [*calls, *center, wide, high]
        made = [tensor for call in item.calls for tensor in self._graph.calls[call].outputs]
        return {
            "x": center[0],
            "y": center[1],
            "width": wide,
            "height": high,
            "title": _printable(name_lines(box)),
            "lines": _printable(text_lines(box)),
            "mark": _printable(mark_lines(box)),
            "ends_at": next((one for one in made if self._graph.tensors[one].name == box.mark), None),
            "several": box.count > 1,
            "input": made[0] if box.is_input else None,
            "calls": calls,
            "inside": None if item.inside is None else self.of(item.inside),
        }

    def _lines(self, level: Level) -> _Lines:
        """Returns the tensors between items (`b0`), and from (`i5`) and to (`o5`) where they enter and leave."""
        graph = self._graph
        place_of = {call: place for place, item in enumerate(level.items) for call in item.calls}
        lines: _Lines = {}
        for call, place in place_of.items():
            for tensor in graph.calls[call].inputs:
                maker = place_of.get(graph.tensors[tensor].call)
                if maker != place:
                    source = f"i{tensor}" if maker is None else f"b{maker}"
                    tensors = lines.setdefault((source, f"b{place}"), [])
                    tensors += [] if tensor in tensors else [tensor]
            for tensor in graph.calls[call].outputs:
                if any(user not in place_of for user in graph.tensors[tensor].users):
                    lines[f"b{place}", f"o{tensor}"] = [tensor]
        return lines


def _portions(lines: _Lines, count: int) -> list[range]:
    """Divides items where later ones and the outside use one tensor only, of the last item."""
    last: dict[int, tuple[int, int]] = {}  # of each tensor, its maker and its last user
    for (source, target), tensors in lines.items():
        if source[0] == "b":
            user = int(target[1:]) if target[0] == "b" else count
            for tensor in tensors:
                last[tensor] = int(source[1:]), max(user, last.get(tensor, (0, 0))[1])
    found, first, waiting = [], 0, set[int]()
    made: dict[int, list[int]] = {}
    for tensor, (maker, _) in last.items():
        made.setdefault(maker, []).append(tensor)
    for place in range(count):
        waiting = {one for one in (*waiting, *made.get(place, ())) if last[one][1] > place}
        is_end = place + 1 - first >= _PORTION and len(waiting) == 1 and last[min(waiting)][0] == place
        if is_end or place == count - 1:
            found.append(range(first, place + 1))
            first = place + 1
    return found


def _source(lines: _Lines, sizes: Sequence[Size], portion: range) -> tuple[list[str], _Lines]:
    """Returns the nodes and lines of a portion in Graphviz's notation, with the last item before it."""
    own = {f"b{place}" for place in portion}
    before = {f"b{portion[0] - 1}"} - {"b-1"}
    found = {
        (source, target): tensors
        for (source, target), tensors in lines.items()
        if (target in own and (source[0] == "i" or source in own | before)) or (target[0] == "o" and source in own)
    }
    nodes = [_node(name, sizes[int(name[1:])]) for name in (*before, *(f"b{place}" for place in portion))]
    for end, letter, rank in ((0, "i", "min" if before else "source"), (1, "o", "sink")):
        points = dict.fromkeys(ends[end] for ends in found if ends[end][0] == letter)
        nodes += [f"{{ rank={rank}; {'; '.join(f'{name} [{_PORT}]' for name in points)} }}"] if points else []
    return nodes, found


def _printable(lines: Iterable[str]) -> list[str]:
    return [printable(line, kept="") for line in lines]


def _node(name: str, size: Size) -> str:
    return f"{name} [shape=box, width={size[0] / 72:.3f}, height={size[1] / 72:.3f}]"


def _lay_out(
    nodes: Iterable[str], lines: Mapping[tuple[str, str], Sequence[int]]
) -> tuple[dict[str, list[float]], dict[tuple[str, str], list[float]], list[float]]:
    """Returns the center of each node, the points of each line, and the whole width and height."""
    head = 'graph [nodesep=0.25, ranksep=0.4, pad=0]; node [label="", fixedsize=true]; edge [arrowhead=none]'
    source = "\n".join(["digraph {", head, *nodes, *(f"{one} -> {other}" for one, other in lines), "}"])
    return lay_out(source)
