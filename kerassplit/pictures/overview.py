"""Turns a model or a split into a picture, with a box for each block or each layer."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import keras

from kerassplit.cutting.stages import Stages
from kerassplit.display.units import format_count, format_shape
from kerassplit.files.sizes import format_bytes
from kerassplit.graph.model_graph import Call, Graph
from kerassplit.graph.reading import read_graph
from kerassplit.graph.sizes import bytes_per_sample
from kerassplit.pictures.folding import block_title, divided_blocks, find_blocks, is_small
from kerassplit.pictures.groups import Group, branches, split_points_of
from kerassplit.pictures.layer_names import common_prefix, is_automatic
from kerassplit.pictures.picture import Box, Cluster, Edge, EdgeKind, Picture
from kerassplit.pictures.wording import block_kind, count_layers, count_parameters, describe, edits_of, summary

_Grouping = tuple[Callable[[Graph], list[Group]], Callable[[Graph, Group], str]]


@dataclass(frozen=True, slots=True)
class Part:
    """The boxes of one graph; `box_of` maps each call to the id of its box. Inputs that cross have none."""

    graph: Graph
    boxes: list[Box]
    box_of: dict[int, str]


@dataclass(frozen=True, slots=True)
class About:
    """Facts that boxes show in addition to their layers.

    Attributes:
        counts: Number of calls of each layer.
        outputs: From calls to the names of the outputs to show.
        points: The split points to show, as tensor indices.
    """

    counts: Counter[str]
    outputs: dict[int, str]
    points: set[int] = field(default_factory=set)


def model_picture(model: keras.Model, title: str | None = None, *, layers: bool = False) -> Picture:
    """Draws a model in blocks; a box names the tensor at its end if the model can be cut there.

    Args:
        model: The model.
        title: The first line; by default the model's name.
        layers: Give each call a box of its own.
    """
    graph = read_graph(model)
    about = about_model(graph)
    part = _part(graph, "b", _grouping(model.name, [graph], layers), graph.flat_inputs(), about)
    points = about.points
    edges = [Edge(source, targets, "open" if tensor in points else "flow") for tensor, source, targets in flows(part)]
    places = f"● can be cut here: {len(points)} split point{'' if len(points) == 1 else 's'}"
    more = ", the others inside blocks" if len(points) > sum(edge.kind == "open" for edge in edges) else ""
    operations = [call.operation for call in graph.calls]
    return Picture(
        title or model.name,
        " · ".join([*_facts(operations), places + more if points else "cannot be cut at a single tensor"]),
        (Cluster(tuple(part.boxes)),),
        tuple(edges),
    )


def about_model(graph: Graph) -> About:
    """Returns the facts that the boxes of a whole model show."""
    outputs = list(dict.fromkeys(graph.flat_outputs()))
    made = {graph.tensors[tensor].call: graph.tensors[tensor].name for tensor in outputs}
    return About(_call_counts([graph]), made if len(outputs) > 1 else {}, split_points_of(graph))


def split_picture(split: Stages, title: str | None = None, *, layers: bool = False) -> Picture:
    """Draws the stages of a split in blocks (or layers), with all tensors that cross between them.

    Each stage is read separately, so a loaded split does not need the whole model.
    """
    graphs = [read_graph(stage.model) for stage in split.stages]
    group = _grouping(split.name, graphs, layers)
    counts = _call_counts(graphs)
    results = set(keras.tree.flatten(split.outputs))
    given = set(keras.tree.flatten(split.inputs))
    # From a tensor's name to the stage and the box that have it first, and its symbol.
    makers: dict[str, tuple[int, str, keras.KerasTensor]] = {}
    clusters = []
    edges: list[Edge] = []
    crossing: dict[tuple[str, EdgeKind], list[str]] = {}  # tensor name and kind of edge -> boxes that use it
    for place, (stage, graph) in enumerate(zip(split.stages, graphs, strict=True)):
        taken = dict(zip((graph.scope[id(symbol)] for symbol in stage.model.inputs), stage.inputs, strict=True))
        own = [tensor for tensor, name in taken.items() if name not in makers]
        made = {
            graph.tensors[graph.scope[id(symbol)]].call: name
            for symbol, name in zip(stage.model.outputs, stage.outputs, strict=True)
            if name in results
        }
        part = _part(graph, f"s{place}_", group, own, About(counts, made if len(results) > 1 else {}))
        facts = _facts(call.operation for call in graph.calls)
        clusters.append(Cluster(tuple(part.boxes), stage.name, tuple(facts)))
        edges.extend(Edge(source, targets) for _, source, targets in flows(part))
        for tensor, name in taken.items():
            if tensor in own:
                makers[name] = place, part.box_of[graph.tensors[tensor].call], graph.tensors[tensor].symbol
                continue
            users = dict.fromkeys(part.box_of[user] for user in graph.tensors[tensor].users)
            # A thick edge as far as the first stage that uses it; beyond that, and for the model's inputs, `carried`.
            kind: EdgeKind = "carried" if name in given or (name, "cut") in crossing else "cut"
            crossing.setdefault((name, kind), []).extend(users)
        for symbol, name in zip(stage.model.outputs, stage.outputs, strict=True):
            box = part.box_of.get(graph.tensors[graph.scope[id(symbol)]].call)
            if box is not None:
                makers.setdefault(name, (place, box, symbol))
    across = [makers[name][0] for name, kind in crossing if kind == "cut"]
    seen: Counter[int] = Counter()
    for (name, kind), users in crossing.items():
        place, source, symbol = makers[name]
        seen[place] += kind == "cut"
        cut = f"cut {place}" if across.count(place) == 1 else f"cut {place}, {seen[place]} of {across.count(place)}"
        label = _crossing_label(name, symbol, cut if kind == "cut" else "")
        edges.append(Edge(source, tuple(users), kind, label))
    operations = [call.operation for graph in graphs for call in graph.calls]
    count = len(split.stages)
    return Picture(
        title or split.name,
        " · ".join([*_facts(operations), f"cut into {count} stage{'' if count == 1 else 's'}"]),
        tuple(clusters),
        tuple(edges),
    )


def _facts(operations: Iterable[keras.Operation]) -> list[str]:
    """Returns the numbers of parameters and layers, and what an edit has changed, as texts."""
    # By name: the stages of a loaded split have their own copies of a shared layer.
    layers = (operation for operation in operations if not isinstance(operation, keras.layers.InputLayer))
    distinct = {operation.name: operation for operation in layers}.values()
    return [f"{format_count(count_parameters(distinct))} parameters", count_layers(distinct), *edits_of(distinct)]


def _grouping(name: str, graphs: Sequence[Graph], layers: bool) -> _Grouping:
    """Returns two functions: one groups the calls of a graph into boxes, the other returns a group's title."""
    if layers:
        return (
            lambda graph: [Group([[index]]) for index, call in enumerate(graph.calls) if call.inputs],
            lambda graph, group: graph.calls[group.last].name,
        )
    prefix = common_prefix(name, (call.operation.name for graph in graphs for call in graph.calls if call.inputs))
    few, divided = is_small(graphs), divided_blocks(graphs, prefix)
    return (
        lambda graph: find_blocks(graph, prefix, few=few, divided=divided),
        lambda graph, group: block_title(graph, group, prefix),
    )


def _call_counts(graphs: Iterable[Graph]) -> Counter[str]:
    """Counts the calls of each layer by name, since the stages of a loaded split have their own copies."""
    return Counter(_layer_of(call) for graph in graphs for call in graph.calls if call.inputs)


def _layer_of(call: Call) -> str:
    return re.sub(r"@\d+", "", call.name)


def _part(graph: Graph, stem: str, grouping: _Grouping, inputs: Sequence[int], about: About) -> Part:
    """Makes the boxes of a graph, first those of `inputs`, then its blocks; their ids begin with `stem`."""
    boxes: list[Box] = []
    box_of: dict[int, str] = {}
    for tensor in dict.fromkeys(inputs):
        identity = f"{stem}{len(boxes)}"
        boxes.append(input_box(graph, tensor, identity, alone=len(inputs) == 1))
        box_of[graph.tensors[tensor].call] = identity
    find, title = grouping
    for group in find(graph):
        identity = f"{stem}{len(boxes)}"
        boxes.append(block_box(graph, group, identity, title(graph, group), about))
        box_of.update(dict.fromkeys(group.calls, identity))
    return Part(graph, boxes, box_of)


def input_box(graph: Graph, tensor: int, identity: str, *, alone: bool) -> Box:
    """Makes the box of an input of the model; `alone`: it is the only one."""
    call, symbol = graph.calls[graph.tensors[tensor].call], graph.tensors[tensor].symbol
    name = "input" if is_automatic(call.operation) and alone else call.name
    dtype = () if symbol.dtype == "float32" else (symbol.dtype,)
    return Box(identity, name, lines=dtype, shape=format_shape(symbol.shape), is_input=True)


def block_box(graph: Graph, group: Group, identity: str, title: str, about: About, kind: str = "") -> Box:
    """Makes the box of a group; `kind` says what it is if its calls do not."""
    calls = group.calls
    operations = [graph.calls[call].operation for call in calls]
    layers = [operation for operation in operations if isinstance(operation, keras.Layer)]
    if kind:
        lines = [kind, count_layers(operations)]
    elif len(calls) == 1 or len(layers) == 1:
        words = describe((layers or operations)[0])
        lines = [words] if words.replace(" ", "_") != title else []
        lines += [count_layers(operations)] if len(calls) > 1 else []
    else:
        merged = [region for region in group.regions if branches(graph, region)]
        what = block_kind(graph, merged, group.count) if merged else summary(operations)
        lines = [what, count_layers(operations)]
    parameters = count_parameters(operations)
    if parameters:
        lines.append(f"{format_count(parameters)} params")
    lines.extend(_shared(graph, calls, about.counts))
    lines.extend(f"output {name}" for call, name in about.outputs.items() if call in set(calls))
    ends = graph.calls[group.last].outputs
    shape = format_shape(graph.tensors[ends[0]].symbol.shape) if len(ends) == 1 else ""
    mark = next((graph.tensors[tensor].name for tensor in ends if tensor in about.points), None)
    return Box(identity, title, group.count, tuple(lines), shape, mark, edits=tuple(edits_of(operations, title)))


def _shared(graph: Graph, calls: Sequence[int], counts: Counter[str]) -> list[str]:
    """Returns a line on how many layers of a box the model calls more than once, or none."""
    layers = {_layer_of(graph.calls[call]) for call in calls}
    shared = [layer for layer in layers if counts[layer] > 1]
    if not shared:
        return []
    if len(shared) == len(layers):
        return [f"shared, called {max(counts[layer] for layer in shared)}×"]
    return [f"{len(shared)} of these shared"]


def flows(part: Part) -> list[tuple[int, str, tuple[str, ...]]]:
    """Returns the tensors that go from one box to others: the tensor, its box, and the boxes that use it."""
    flows = []
    for number, tensor in enumerate(part.graph.tensors):
        source = part.box_of.get(tensor.call)
        targets = tuple(dict.fromkeys(part.box_of[user] for user in tensor.users if part.box_of[user] != source))
        if source is not None and targets:
            flows.append((number, source, targets))
    return flows


def _crossing_label(name: str, symbol: keras.KerasTensor, cut: str) -> tuple[str, ...]:
    size = format_bytes(bytes_per_sample(tuple(symbol.shape), symbol.dtype))
    lines = (name, f"{format_shape(symbol.shape)} {symbol.dtype}", f"{size} per sample")
    return (cut, *lines) if cut else lines
