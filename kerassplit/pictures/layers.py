"""Every layer of a model, a stage or a split."""

import html
import re
from collections.abc import Callable

import keras

from kerassplit.graph import Graph, read_graph
from kerassplit.pictures.dot import BORDERS
from kerassplit.pictures.overview import describe_crossings, facts
from kerassplit.pictures.picture import Box, Cluster, Edge, Picture
from kerassplit.pictures.wording import describe
from kerassplit.stages import Split
from kerassplit.units import format_shape

_HEADER = "#37474F"


def layers_dot(model: keras.Model, title: str, stage_of: dict[str, int] | None = None) -> str:
    """Graphviz source with every layer, made by `keras.utils.model_to_dot`.

    Keras names its nodes by address: they get numbers here. It reads shapes off the layers, which have several once
    a sub-model shares them: they come from the model's own graph.

    Args:
        model: A functional or built Sequential model.
        title: The line above the picture.
        stage_of: From an operation's name to the number of its stage, which gives it its colour.
    """
    graph = read_graph(model)
    dot = keras.utils.model_to_dot(model, show_shapes=False, show_layer_names=True, rankdir="TB")
    # Orthogonal edges, Keras's default, abort Graphviz on EfficientNetB7.
    for attribute, value in {"splines": "spline", "dpi": "72", "concentrate": "false"}.items():
        dot.set(attribute, value)
    for attribute, value in {"label": _quoted(title), "labelloc": "t", "fontname": "Helvetica", "fontsize": "20"}.items():
        dot.set(attribute, value)
    names: dict[str, str] = {}
    calls: dict[str, list[int]] = {}
    for index, call in enumerate(graph.calls):
        address = str(id(call.operation))
        names.setdefault(address, f"n{len(names)}")
        calls.setdefault(address, []).append(index)
    lines = []
    for line in dot.to_string().splitlines():
        found = re.match(r"\d+(?= \[)", line)
        if found and found[0] in calls:
            line = _node(line, graph, calls[found[0]], stage_of or {})
        lines.append(re.sub(r"^\d+(?=( \[|;| ->))|(?<=-> )\d+", _renamed(names), line))
    return "\n".join([*lines, ""])


def layers_picture(model_or_split: keras.Model | Split, title: str) -> Picture:
    """A picture with a box for every call."""
    if not isinstance(model_or_split, Split):
        graph = read_graph(model_or_split)
        return Picture(title, " · ".join(facts(graph)), (Cluster(_boxes(graph, "n")),), _edges(graph, "n"))
    return describe_crossings(model_or_split, title, _boxes, _edges)


def _node(line: str, graph: Graph, calls: list[int], stage_of: dict[str, int]) -> str:
    operation = graph.calls[calls[0]].operation
    line = line.replace(f"<b>{operation.name}</b>", f"<b>{html.escape(operation.name)}</b>")
    color = BORDERS[stage_of[operation.name] % len(BORDERS)] if operation.name in stage_of else _HEADER
    line = line.replace('bgcolor="black"', f'bgcolor="{color}"').replace('cellpadding="10"', 'cellpadding="6"')
    shapes = dict.fromkeys(
        ", ".join(format_shape(graph.tensors[tensor].symbol.shape) for tensor in graph.calls[call].outputs)
        for call in calls
    )
    row = f'<tr><td bgcolor="white"><font point-size="14">{html.escape(" | ".join(shapes))}</font></td></tr>'
    return line.replace("</table>>", f"{row}</table>>")


def _renamed(names: dict[str, str]) -> Callable[[re.Match[str]], str]:
    return lambda found: names.get(found[0], found[0])


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
