"""Groups of calls between split points, and merging them into larger groups."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from kerassplit.cutting.frontiers import split_tensors
from kerassplit.graph.dominators import PostDominators
from kerassplit.graph.model_graph import Graph
from kerassplit.graph.sides import read_sides


@dataclass(slots=True)
class Group:
    """Calls that are drawn as one box. It grows as similar groups are folded into it.

    Attributes:
        regions: Its calls, one list per region between split points, in order.
        key: The block that it belongs to, or `None`.
        family: The common part of the keys of similar blocks.
        number: Number of its last block.
        is_block: True if it is a block rather than a few layers in a row.
        count: Number of blocks in it.
        folded: Key of its first block, if several blocks were folded.
        subs: Names of its sub-blocks.
        parts: The blocks, if several were folded.
        is_cell: True if other tensors than its last one leave it, too (`cells.py`).
    """

    regions: list[list[int]]
    key: str | None = None
    family: str | None = None
    number: int | None = None
    is_block: bool = False
    count: int = 1
    folded: str | None = None
    subs: frozenset[str] = field(default_factory=frozenset)
    parts: list["Group"] = field(default_factory=list)
    is_cell: bool = False

    @property
    def calls(self) -> list[int]:
        """All its calls, in execution order."""
        return sorted(call for region in self.regions for call in region)

    @property
    def last(self) -> int:
        """The last call."""
        return self.regions[-1][-1]


def find_regions(graph: Graph) -> list[list[int]]:
    """Divides the calls of a graph into regions that end at split points, in topological order.

    A call belongs to the nearest split point that all paths from it go through. The calls after the last split point
    form one region per connected component. Inputs are in no region.
    """
    end = len(graph.calls)
    # A float input counts as a tensor like others: layers and a bypass around them are one block. A `padding_mask` does
    # not: it would turn all layers that it passes into one block.
    given = {graph.tensors[one].call for one in graph.flat_inputs() if "float" in graph.tensors[one].symbol.dtype}
    sides = read_sides(graph, given)
    tree = PostDominators(sides.main)
    ends = {graph.tensors[tensor].call for tensor in split_tensors(sides, tree)} - given
    region_of = [end] * (end + 1)
    for call in range(end - 1, -1, -1):
        if call in sides.calls:  # a mask is drawn where it is first used
            users = [user for tensor in graph.calls[call].outputs for user in graph.tensors[tensor].users]
            region_of[call] = region_of[min(users)] if users else end
        else:
            region_of[call] = call if call in ends else region_of[tree.parent[call]]
    rest = {index for index, call in enumerate(graph.calls) if call.inputs and region_of[index] == end}
    links = [(graph.tensors[tensor].call, index) for index in rest for tensor in graph.calls[index].inputs]
    links = np.array([link for link in links if link[0] in rest], int).reshape(-1, 2)
    _, part = connected_components(coo_array((np.ones(len(links)), links.T), (end, end)), directed=False)
    members: dict[tuple[int, int], list[int]] = {}
    for index, call in enumerate(graph.calls):
        if call.inputs:
            members.setdefault((region_of[index], part[index] if index in rest else 0), []).append(index)
    return sorted(members.values(), key=lambda calls: calls[-1])


def branches(graph: Graph, region: Sequence[int]) -> bool:
    """True if a tensor has several uses inside a region."""
    users = Counter(tensor for call in region for tensor in graph.calls[call].inputs)
    return any(count > 1 for count in users.values())


def neighbors(graph: Graph, groups: Sequence[Group]) -> list[set[int]]:
    """Returns, for each group, the groups that it receives tensors from; -1 - call for an input of the model."""
    owner = {call: place for place, group in enumerate(groups) for region in group.regions for call in region}
    before: list[set[int]] = [set() for _ in groups]
    for index, place in owner.items():
        for tensor in graph.calls[index].inputs:
            call = graph.tensors[tensor].call
            before[place].add(owner.get(call, -1 - call))
    return [places - {place} for place, places in enumerate(before)]


def merge_along(
    graph: Graph,
    groups: list[Group],
    alike: Callable[[Group, Group], bool],
    merge: Callable[[Group, Group], None],
    *,
    any_sides: bool = False,
) -> list[Group]:
    """Merges each group into the one before it if the two form a chain and are `alike`.

    Both may receive other tensors, such as a mask, if these are the same for both.

    Args:
        graph: The graph.
        groups: Its groups, in topological order.
        alike: Decides if a group (second) is merged into the one before it (first, with all merged into it so far).
        merge: Changes the first group so that it includes the second.
        any_sides: Allow the second to receive tensors that the first does not.
    """
    before = neighbors(graph, groups)
    users = Counter(place for places in before for place in places)
    into = list(range(len(groups)))
    given: list[set[int]] = []  # for each group, the groups that it receives from, after merging
    kept = []
    for place, group in enumerate(groups):
        given.append({into[one] if one >= 0 else one for one in before[place]})
        for one in sorted(before[place], reverse=True):
            first = into[one] if 0 <= one < place else -1
            same = first >= 0 and (any_sides or given[place] - {first} <= given[first])
            if same and users[one] == 1 and alike(groups[first], group):
                into[place] = first
                given[first] |= given[place] - {first}
                merge(groups[first], group)
                break
        else:
            kept.append(group)
    return sorted(kept, key=lambda group: group.last)


def split_points_of(graph: Graph) -> set[int]:
    """Returns the split points as tensor indices."""
    return set(split_tensors(read_sides(graph)))
