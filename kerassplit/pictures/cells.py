"""Divides regions without a split point inside into cells, which pass on a few tensors each, as in NASNet.

Inside a cell, many tensors wait to be used; between two cells, few. A cell ends in a valley: where no more than half as
many tensors wait as at the peaks before and after it.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import accumulate

from kerassplit.graph.model_graph import Graph
from kerassplit.pictures.layer_names import BlockName, block_name

_FEWEST = 30  # calls in a region that is divided
_SHARE = 0.75  # of the names in a cell that a word is in, if it names the cell


def find_cells(
    graph: Graph, region: Sequence[int], names: Sequence[BlockName | None]
) -> list[tuple[list[int], BlockName]]:
    """Divides a region into cells, each with a name; returns none if it is a single one, or small.

    Args:
        graph: The graph.
        region: Calls in execution order.
        names: The block of each call of the graph; `None` if its name does not say.
    """
    if len(region) < _FEWEST:
        return []
    ends = [*_valleys(_waiting(graph, region)), len(region) - 1]
    cells = [list(region[start + 1 : end + 1]) for start, end in zip([-1, *ends[:-1]], ends, strict=True)]
    if len(cells) < 2:
        return []
    found = [
        block_name("_".join(_common(graph.calls[call].operation.name for call in cell if names[call])))
        for cell in cells
    ]
    if None in found or len({name.key for name in found if name}) < len(cells):
        found = [_last_name(graph, cell) for cell in cells]
    return [(cell, name) for cell, name in zip(cells, found, strict=True) if name is not None]


def _waiting(graph: Graph, region: Sequence[int]) -> list[int]:
    """Counts, after each call, the tensors that calls of the region or others use later."""
    changes = [0] * (len(region) + 1)
    place_of = {call: place for place, call in enumerate(region)}
    for tensor in {one for call in region for one in (*graph.calls[call].inputs, *graph.calls[call].outputs)}:
        first = place_of.get(graph.tensors[tensor].call, 0)
        last = bisect_left(region, max(graph.tensors[tensor].users, default=-1))
        if last > first:
            changes[first] += 1
            changes[last] -= 1
    return list(accumulate(changes[:-1]))


def _valleys(counts: Sequence[int]) -> list[int]:
    """Returns the places of the first lowest count between two peaks at least twice as high."""
    found = []
    peak, low, place = counts[0], 0, 0
    for position, count in enumerate(counts):
        if not low:  # after a valley
            peak = max(peak, count)
            if count * 2 <= peak:
                low, place = count, position
        elif count < low:
            low, place = count, position
        elif count >= 2 * low:
            found.append(place)
            peak, low = count, 0
    return found


def _common(names: Iterable[str]) -> list[str]:
    """Returns the words that most names have in common, in the order of the last name that has all of them."""
    divided = [name.split("_") for name in names]
    counts = Counter(word for words in divided for word in set(words))
    common = {word for word, count in counts.items() if count >= _SHARE * len(divided)}
    return next(
        (
            list(dict.fromkeys(word for word in words if word in common))
            for words in reversed(divided)
            if common <= {*words}
        ),
        [],
    )


def _last_name(graph: Graph, cell: Sequence[int]) -> BlockName:
    name = graph.calls[cell[-1]].operation.name
    return block_name(name) or BlockName(name, name, 0, "", name)
