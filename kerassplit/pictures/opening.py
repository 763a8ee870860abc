"""Divides regions without a split point inside that are several blocks: a U-Net, a decoder that attends to an encoder.

The parts of a region are intervals of the execution order, so no part depends on a later one.
"""

from collections import Counter
from collections.abc import Sequence

import keras

from kerassplit.graph.model_graph import Graph, Nest
from kerassplit.pictures.layer_names import BlockName, block_name

_LEVELS = 3  # a region with this many image sizes is not a single block


def repeated_nests(graph: Graph) -> list[Nest]:
    """Finds the outermost nested models that are called several times or have siblings (`layer_0`, `layer_1`)."""
    calls = Counter(id(nest.operation) for nest in graph.nests)
    families = [(nest.outer, name.family) if (name := block_name(nest.name)) else None for nest in graph.nests]
    siblings = Counter(families)
    found: dict[int, Nest] = {}
    inside: set[int | None] = set()
    for place, nest in enumerate(graph.nests):
        family = families[place]
        if nest.outer in inside:
            inside.add(place)
        elif family is not None and (calls[id(nest.operation)] > 1 or siblings[family] > 1):
            found[place] = nest
            inside.add(place)
    return list(found.values())


def open_region(graph: Graph, region: list[int], names: Sequence[BlockName | None]) -> list[list[int]]:
    """Divides a region into the blocks that layer names indicate, or by image size; keeps it whole if it is one block.

    Args:
        graph: The graph.
        region: Calls in execution order.
        names: The block of each call of the graph; `None` if its name does not say.
    """
    named = [name for call in region if (name := names[call]) is not None]
    keys = {name.key for name in named}
    if len(named) * 2 > len(region):
        parts = _intervals(region, [name.key if (name := names[call]) else None for call in region])
        siblings = len(keys) > len({name.family for name in named})
        if len(parts) == len(keys) and (len(keys) == 1 or siblings):
            return parts
    sizes = [_size(graph, call) for call in region]
    parts = _intervals(region, sizes)
    # A U-Net goes down and up again, so it has each size twice. In NASNet, cells of several sizes run side by side.
    counted = len({*sizes} - {None})
    lonely = sum(len(part) == 1 for part in parts)
    return parts if counted >= _LEVELS and len(parts) <= 2 * counted and lonely * 4 <= len(parts) else [region]


def extent(graph: Graph, call: int) -> tuple[int | None, ...]:
    """Returns the height and width (or length) of a call's output; if these are open, with the channels."""
    shape = tuple(graph.tensors[graph.calls[call].outputs[0]].symbol.shape)
    size = shape[2:] if keras.config.image_data_format() == "channels_first" and len(shape) == 4 else shape[1:-1]
    return shape[1:] if None in size else size


def _size(graph: Graph, call: int) -> tuple[int | None, ...] | None:
    """Returns the extent; `None` if there is none or it is one pixel, as inside squeeze-and-excitation."""
    size = extent(graph, call)
    return size if any(side != 1 for side in size) else None


def _intervals(calls: Sequence[int], keys: Sequence[object]) -> list[list[int]]:
    """Splits the calls wherever the key changes; a key of `None` changes nothing."""
    parts: list[list[int]] = [[]]
    current = None
    for call, key in zip(calls, keys, strict=True):
        if key is not None and key != current:
            if current is not None:
                parts.append([])
            current = key
        parts[-1].append(call)
    return parts
