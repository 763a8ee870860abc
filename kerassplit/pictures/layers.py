"""Draws every layer of a model, as Keras does."""

import html
import re

import keras

from kerassplit.display.colors import CUT, EDITS
from kerassplit.display.units import format_shape
from kerassplit.graph.model_graph import Graph
from kerassplit.graph.reading import read_graph
from kerassplit.pictures.groups import split_points_of
from kerassplit.pictures.wording import edits_of
from kerassplit.pictures.write_dot import BORDERS
from kerassplit.text import printable

_HEADER = "#37474F"


def layers_dot(model: keras.Model, title: str, stage_of: dict[str, int] | None = None) -> str:
    """Returns Graphviz source with every layer, based on `keras.utils.model_to_dot`.

    Keras names nodes by memory address; they get numbers here. It reads shapes off the layers, which have several once
    a sub-model shares them; here they come from the model's own graph.

    Args:
        model: A functional or built Sequential model.
        title: The line above the picture.
        stage_of: From an operation's name to the number of its stage, which determines its color. `None`: there are no
            stages, and split points are marked instead.
    """
    graph = read_graph(model)
    dot = keras.utils.model_to_dot(model, show_shapes=False, show_layer_names=True, rankdir="TB")
    # Keras's default, orthogonal edges, crashes Graphviz on EfficientNetB7.
    dot.set("splines", "spline")
    dot.set("concentrate", "false")
    # Keras's `record` would divide labels at `|`, `{` and `}`.
    dot.get_node("node")[0].set("shape", "plain")
    label = title.replace("\\", "\\\\").replace('"', '\\"')
    for attribute, value in {"label": f'"{label}"', "labelloc": "t", "fontname": "Helvetica", "fontsize": "20"}.items():
        dot.set(attribute, value)
    points = split_points_of(graph) if stage_of is None else set()
    names: dict[str, str] = {}
    calls: dict[str, list[int]] = {}
    for index, call in enumerate(graph.calls):
        address = str(id(call.operation))
        names.setdefault(address, f"n{len(names)}")
        calls.setdefault(address, []).append(index)
    lines = []
    # Whoever draws the picture chooses the resolution.
    for line in (line for line in dot.to_string().splitlines() if not line.startswith("dpi=")):
        found = re.match(r"\d+(?= \[)", line)
        if found and found[0] in calls:
            line = _node(line, graph, calls[found[0]], stage_of or {}, points)
        lines.append(re.sub(r"^\d+(?=( \[|;| ->))|(?<=-> )\d+", lambda found: names.get(found[0], found[0]), line))
    return printable("\n".join([*lines, ""]))


def _node(line: str, graph: Graph, calls: list[int], stage_of: dict[str, int], points: set[int]) -> str:
    operation = graph.calls[calls[0]].operation
    line = line.replace(f"<b>{operation.name}</b>", f"<b>{html.escape(operation.name)}</b>")
    color = BORDERS[stage_of[operation.name] % len(BORDERS)] if operation.name in stage_of else _HEADER
    line = line.replace('bgcolor="black"', f'bgcolor="{color}"').replace('cellpadding="10"', 'cellpadding="6"')
    shapes = dict.fromkeys(
        ", ".join(format_shape(graph.tensors[tensor].symbol.shape) for tensor in graph.calls[call].outputs)
        for call in calls
    )
    open_here = any(tensor in points for call in calls for tensor in graph.calls[call].outputs)
    mark = f'<font color="{CUT}">● </font>' if open_here else ""
    text = html.escape(" | ".join(shapes))
    row = f'<tr><td bgcolor="white"><font point-size="14">{mark}{text}</font></td></tr>'
    for edit in edits_of([operation], operation.name):
        border, fill = EDITS[edit[0]]
        row += f'<tr><td bgcolor="{fill}"><font point-size="14" color="{border}">{edit}</font></td></tr>'
    return line.replace("</table>>", f"{row}</table>>")
