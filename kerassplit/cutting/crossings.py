"""Enumerates all cuts that few tensors cross.

The calls before a cut are closed under dependencies: with each call, they contain all its ancestors. The search goes
backwards through the execution order and decides for each call whether it lies before the cut. A tensor's users are
therefore decided before the call that computes it, a tensor once found to cross stays so, and the search backtracks as
soon as too many cross. Compilers find groups of instructions with few results in this way (Atasu, Pozzi and Ienne,
"Automatic Application-Specific Instruction-Set Extensions under Microarchitectural Constraints", DAC 2003).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import reduce
from itertools import chain
from numbers import Integral
from operator import and_, or_

import keras

from kerassplit.cutting.crossing import Crossing, crossing_tensor
from kerassplit.display.rich_table import Records
from kerassplit.errors import SplitError
from kerassplit.graph.model_graph import Graph
from kerassplit.graph.reading import read_graph
from kerassplit.graph.sides import Sides, read_sides


def crossings(model: keras.Model, max_tensors: int = 2) -> tuple[Crossing, ...]:
    """Finds all places where a model can be cut so that at most `max_tensors` tensors cross, in execution order.

    A place where one tensor crosses is a split point. Models with few split points, such as NASNet and U-Nets, have
    many more places where two or three tensors cross. Inputs of the model and masks do not count; `Crossing.also`
    lists those that are sent along. `split` accepts each `Crossing` as a cut.

    The time is about linear for chains of blocks. Two parallel towers of n calls have n * n cuts of two tensors, and
    all of them are returned.

    Args:
        model: A functional or built Sequential model.
        max_tensors: Largest number of tensors that may cross; at least 1.

    Returns:
        A tuple with a `Crossing` for each cut, in the order of the last call before each cut; it prints as a table.

    Raises:
        SplitError: `max_tensors` is not a whole number above 0.
        UnsupportedModelError: The model has no graph.

    Example:

    >>> nasnet = keras.applications.NASNetMobile(weights=None)
    >>> [len(ks.crossings(nasnet, max_tensors)) for max_tensors in (1, 2, 3)]
    [5, 104, 1785]
    """
    if not isinstance(max_tensors, Integral) or isinstance(max_tensors, bool) or max_tensors < 1:
        raise SplitError(
            f"`max_tensors` says how many tensors may cross: a whole number, 1 or more; got {max_tensors!r}."
        )
    graph = read_graph(model)
    sides = read_sides(graph)
    described = [crossing_tensor(tensor.name, tensor.symbol) for tensor in graph.tensors]

    along = sides_along(sides)

    def crossing(cut: list[int]) -> Crossing:
        return Crossing(
            tuple([described[tensor] for tensor in cut]), tuple([described[tensor] for tensor in along(cut)])
        )

    return Records(map(crossing, cuts(sides, int(max_tensors)) or ()))


def sides_along(sides: Sides) -> Callable[[Sequence[int]], list[int]]:
    """Prepares for many cuts: returns a function from the tensors at a cut to the side tensors sent along with it."""
    place_of = {call: place for place, call in enumerate(sorted(set(chain(*sides.users.values()))))}
    using = {tensor: _bits(place_of[call] for call in users) for tensor, users in sides.users.items()}
    every = (1 << len(place_of)) - 1
    before: list[int] = []  # for each call, the users of side tensors among its ancestors and itself
    for index, call in enumerate(sides.main.calls):
        own = 1 << place_of[index] if index in place_of else 0
        before.append(reduce(or_, (before[sides.graph.tensors[tensor].call] for tensor in call.inputs), own))

    def along(cut: Sequence[int]) -> list[int]:
        there = reduce(or_, (before[sides.graph.tensors[tensor].call] for tensor in cut))
        if there == every and not sides.results:
            return []
        return sides.chosen({tensor: (there & users).bit_count() for tensor, users in using.items()}, cut)

    return along


def crossing_everywhere(sides: Sides) -> list[list[int]]:
    """Returns, for each tensor, what crosses a cut at it, as `crossing_at` does, but for all in about linear time."""
    graph = sides.main
    _, leaving = _heads(graph, _received_later(graph, [True] * len(graph.calls)))
    found = []
    for index, tensor in enumerate(graph.tensors):
        newest = graph.calls[tensor.call].outputs[-1]
        found.append(sorted({index, *(newest - place for place in _places(leaving[tensor.call]))}))
    return found


def cuts(sides: Sides, limit: int, *, most: int | None = None) -> list[list[int]] | None:
    """Finds all cuts that at most `limit` tensors cross; returns the tensor indices of each, in execution order.

    Returns `None` if there are more than `most` cuts.

    For each call, the search starts from it and its ancestors, as if it were the last call before the cut. It then
    goes back through the remaining calls. Including a call includes all its ancestors, and one of its own tensors
    crosses; excluding a call makes the tensors that it receives cross.

    Sets are stored as bits of integers. Calls and tensors are counted backwards from the last call before the cut and
    its last output, so the integers are only as long as the branches that they describe.
    """
    graph = sides.main
    calls = graph.calls
    used = [any(graph.tensors[tensor].users for tensor in call.outputs) for call in calls]
    may_be_before = [one and call not in sides.calls for call, one in enumerate(used)]
    received = _received_later(graph, used)
    apart, leaving = _heads(graph, received)
    found = []
    for last, call in enumerate(calls):
        newest = call.outputs[-1]
        waiting = [(apart[last], leaving[last], received[last])] if may_be_before[last] else []
        while waiting:
            undecided, crossing, outside = waiting.pop()
            crossing = _without_covered(graph, last, undecided, crossing, outside)
            if crossing.bit_count() <= limit:
                found.append([newest - place for place in _places(crossing)][::-1])
                if most is not None and len(found) > most:
                    return None
            while undecided and (crossing & outside).bit_count() < limit:
                distance = next(_places(undecided))
                undecided ^= 1 << distance
                other = last - distance
                more = crossing | leaving[other] << newest - calls[other].outputs[-1]
                if may_be_before[other] and (more & outside).bit_count() <= limit:
                    waiting.append((undecided & apart[other] << distance, more, outside))
                outside |= _bits(newest - tensor for tensor in calls[other].inputs)
    return sorted(found, key=lambda cut: cut[::-1])


def _received_later(graph: Graph, used: Sequence[bool]) -> list[int]:
    """Returns, for each call, the tensors computed so far that a later call receives, or a call that is not `used`.

    Unused calls never lie before a cut: nothing depends on them, so their outputs cannot cross.
    """
    newest = len(graph.tensors) - 1
    unused = [call for call, one in zip(graph.calls, used, strict=True) if not one]
    received = _bits(newest - tensor for call in unused for tensor in call.inputs)
    later = []
    for call in reversed(graph.calls):
        later.append(received)
        received |= _bits(call.outputs[-1] - tensor for tensor in call.inputs)
        received >>= len(call.outputs)
    return later[::-1]


def _heads(graph: Graph, received: list[int]) -> tuple[list[int], list[int]]:
    """Returns, for each call, the earlier calls that are not its ancestors, and the tensors leaving it and these."""
    apart: list[int] = []
    leaving: list[int] = []
    for index, call in enumerate(graph.calls):
        newest = call.outputs[-1]
        makers = {graph.tensors[tensor].call for tensor in call.inputs}
        views = [apart[maker] << index - maker | (1 << index - maker) - 2 for maker in makers]
        apart.append(reduce(and_, views) if views else (1 << index + 1) - 2)
        crossing = _bits(newest - tensor for tensor in call.outputs if graph.tensors[tensor].users)
        for maker in makers:
            crossing |= leaving[maker] << newest - graph.calls[maker].outputs[-1]
        leaving.append(_without_covered(graph, index, apart[index], crossing, received[index]))
    return apart, leaving


def _without_covered(graph: Graph, last: int, left: int, crossing: int, outside: int) -> int:
    """Removes from `crossing` the tensors that no undecided call and no call known to be outside receives."""
    newest = graph.calls[last].outputs[-1]
    for place in _places(crossing & ~outside):
        if not any(left >> last - user & 1 for user in graph.tensors[newest - place].users):
            crossing ^= 1 << place
    return crossing


def _bits(places: Iterable[int]) -> int:
    bits = 0
    for place in places:
        bits |= 1 << place
    return bits


def _places(bits: int) -> Iterator[int]:
    """Yields the positions of the set bits, lowest first."""
    while bits:
        yield (bits & -bits).bit_length() - 1
        bits &= bits - 1
