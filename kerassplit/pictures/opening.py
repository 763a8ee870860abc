"""Opens what has no split point inside but is no single block: a U-Net, a decoder whose layers all use the encoder's end.

Parts of a region are intervals of the execution order, so no part depends on a later one.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

import keras

from kerassplit.graph.model_graph import Graph, Nest
from kerassplit.pictures.layer_names import BlockName, block_name

_LEVELS = 3  # a region on so many image sizes is no single block


def repeated_nests(graph: Graph) -> list[Nest]:
    """Nested models that are called several times, or have siblings (`layer_0`, `layer_1`); each outside all others."""
    calls = Counter(id(nest.operation) for nest in graph.nests)
    names = {place: block_name(nest.name) for place, nest in enumerate(graph.nests)}
    siblings = Counter(
        (nest.outer, name.family) for nest, name in zip(graph.nests, names.values(), strict=True) if name
    )
    found: dict[int, Nest] = {}
    inside: set[int] = set()
    for place, nest in enumerate(graph.nests):
        name = names[place]
        if nest.outer in inside:
            inside.add(place)
        elif name is not None and (calls[id(nest.operation)] > 1 or siblings[nest.outer, name.family] > 1):
            found[place] = nest
            inside.add(place)
    return list(found.values())


def open_region(graph: Graph, region: list[int], names: Sequence[BlockName | None]) -> list[list[int]]:
    """The parts of a region: the blocks that names tell of, or its levels; the region itself where it is one block.

    Args:
        graph: The graph.
        region: Calls in execution order.
        names: The block of each call of the graph; `None` where its name tells none.
    """
    told = [name for call in region if (name := names[call]) is not None]
    keys = {name.key for name in told}
    if len(keys) > len({name.family for name in told}):
        parts = _intervals(region, [name.key if (name := names[call]) else None for call in region])
        if len(parts) == len(keys):
            return parts
    if len(keys) == 1 and len(told) * 2 > len(region):
        return [region]
    parts = levels(graph, region)
    return parts if _LEVELS <= len(parts) <= len(region) / 2 else [region]


def levels(graph: Graph, region: Iterable[int]) -> list[list[int]]:
    """Calls in parts that work on one image size each; what has no size or a single pixel belongs to the part before."""
    calls = [call for call in region if graph.calls[call].inputs]
    sizes = [extent(graph, call) for call in calls]
    return _intervals(calls, [size if any(side != 1 for side in size) else None for size in sizes])


def extent(graph: Graph, call: int) -> tuple[int | None, ...]:
    """Height and width (or length) of what a call gives; with the channels where these are open."""
    shape = tuple(graph.tensors[graph.calls[call].outputs[0]].symbol.shape)
    size = shape[2:] if keras.config.image_data_format() == "channels_first" and len(shape) == 4 else shape[1:-1]
    return shape[1:] if None in size else size


def _intervals(calls: Sequence[int], keys: Sequence[object]) -> list[list[int]]:
    """The calls in a new list wherever the key changes; `None` changes nothing."""
    parts: list[list[int]] = [[]]
    current = None
    for call, key in zip(calls, keys, strict=True):
        if key is not None and key != current:
            if current is not None:
                parts.append([])
            current = key
        parts[-1].append(call)
    return parts
