"""Folds a graph into the blocks that its overview shows.

The regions between split points are merged in steps, each linear in the size of the graph: regions of one name
(`conv4`); layers that only shape the block before them; neighboring similar blocks of one image size (`block_3…5 ×3`);
and the layers in a row that are left, at the beginning and end of most models.
"""

from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import replace
from itertools import pairwise

import keras

from kerassplit.graph.model_graph import Graph
from kerassplit.pictures.cells import find_cells
from kerassplit.pictures.groups import Group, branches, find_regions, merge_along
from kerassplit.pictures.layer_names import BlockName, automatic_name, block_name, common_words, is_automatic, joined
from kerassplit.pictures.opening import extent, open_region, repeated_nests
from kerassplit.pictures.wording import SHAPING

_FEW = 8  # a model with at most this many calls shows them all
_BLOCK_CALLS = 3  # layers in a row are a block if there are at least this many, in at least this many places
_BLOCK_PLACES = 3
_SIZES = 3  # a model without blocks is divided by image size if it has this many sizes
_SHARE = 3  # a region is named after a block if at least one in this many of its named layers belongs to the block


def find_blocks(
    graph: Graph, prefix: str = "", *, few: bool = False, divided: Container[str | None] = ()
) -> list[Group]:
    """Groups the calls of a graph, without inputs, into boxes, in topological order.

    Args:
        graph: The model, or one of its stages.
        prefix: Prefix that layer names share with the model's name.
        few: True if the whole model is so small that each region between split points gets its own box.
        divided: Blocks that stages divide, from `divided_blocks`; what is left of them is not folded.
    """
    names = [block_name(call.operation.name.removeprefix(prefix)) for call in graph.calls]
    automatic = [is_automatic(call.operation) for call in graph.calls]
    for nest in repeated_nests(graph):
        for call in nest.calls:
            names[call], automatic[call] = block_name(nest.name), False
    named = [None if automatic[call] else name for call, name in enumerate(names)]
    groups = [group for region in find_regions(graph) for group in _groups(graph, named, region, divided)]
    groups.sort(key=lambda group: group.last)
    if few:
        return groups
    groups = merge_along(graph, groups, lambda one, other: _shapes(graph, automatic, one, other), _join)
    groups = merge_along(
        graph, groups, lambda one, other: one.key is not None and one.key == other.key, _join, any_sides=True
    )
    groups = _pair(graph, groups)
    for group in groups:
        _count_parts(group, names)
    groups = merge_along(graph, groups, _same_number, _join_numbered)
    _mark_blocks(graph, groups)
    groups = _fold_cells(graph, groups)
    groups = merge_along(graph, groups, lambda one, other: _alike(graph, divided, one, other), _fold)
    return _merge_rows(graph, automatic, groups)


def divided_blocks(graphs: Sequence[Graph], prefix: str) -> set[str]:
    """Names the blocks, and parts of blocks, with layers in several graphs, not counting those that only shape."""
    seen: Counter[str] = Counter()
    for graph in graphs:
        operations = (call.operation for call in graph.calls if call.inputs and not is_automatic(call.operation))
        main = (operation for operation in operations if type(operation).__name__ not in SHAPING)
        names = [block_name(operation.name.removeprefix(prefix)) for operation in main]
        seen.update({word for name in names if name is not None for word in (name.key, name.full, _numbered(name))})
    return {word for word, count in seen.items() if count > 1}


def is_small(graphs: Sequence[Graph]) -> bool:
    """True if a model, in one graph or one per stage, has so few calls that each gets a box."""
    return sum(bool(call.inputs) for graph in graphs for call in graph.calls) <= _FEW


def block_title(graph: Graph, group: Group, prefix: str = "") -> str:
    """Returns the title of a group."""
    operations = [graph.calls[call].operation for call in group.calls]
    if group.folded is not None:
        first, last = group.folded, str(group.key)
        number = last.removeprefix(first.rstrip("0123456789"))
        return f"{first}…{number if number.isdigit() else last}"
    if group.is_block and group.key is not None:
        return group.key
    if len(operations) == 1:
        return operations[0].name.removeprefix(prefix)
    nested = [nest.name for nest in graph.nests if set(nest.calls) == set(group.calls)]
    if nested:
        return nested[0].removeprefix(prefix)
    layers = [operation for operation in operations if isinstance(operation, keras.layers.Layer)]
    if len(layers) == 1:
        return layers[0].name.removeprefix(prefix)
    return _row_title(operations, prefix)


def _row_title(operations: Sequence[keras.Operation], prefix: str) -> str:
    """Returns the title of layers in a row: the names that a person gave them, or the first and the last."""
    named = [str(operation.name).removeprefix(prefix) for operation in operations if not is_automatic(operation)]
    main = [operation for operation in operations if type(operation).__name__ not in SHAPING] or operations
    if len(named) * 2 < len(main):
        ends = main[0].name.removeprefix(prefix), main[-1].name.removeprefix(prefix)
        return joined(list(dict.fromkeys((ends[0], *named, ends[1]))), " · " if named else " … ")
    words: dict[str, str] = {}  # start of names -> the words that they have in common
    for name in named:
        found = block_name(name)
        if found is None:
            head = name.split("_")[0]
            words[head] = common_words(words.get(head, name), name)
        else:
            words.setdefault(found.key, found.key)
    kept: list[str] = []
    for word in words.values():
        if not any(f"_{one}_" in f"_{word}_" for one in kept):
            kept.append(word)
    return joined(kept)


def _groups(
    graph: Graph, names: Sequence[BlockName | None], region: list[int], divided: Container[str | None]
) -> list[Group]:
    """Makes groups of a region: one, or one for each block or cell in it."""
    opened = open_region(graph, region, names)
    cells = find_cells(graph, region, names) if len(opened) == 1 else []
    if cells:
        return [
            Group([calls], name.key, name.family, name.number, is_block=True, is_cell=True) for calls, name in cells
        ]
    return [_group(graph, names, part, len(opened) > 1, divided) for part in opened]


def _group(
    graph: Graph, names: Sequence[BlockName | None], region: list[int], opened: bool, divided: Container[str | None]
) -> Group:
    """Makes a group of a region, or of a part of one that was opened, with the block that most names indicate."""
    group = Group([region], is_block=opened or branches(graph, region))
    # From the end: of equally frequent names, the last one wins.
    named = [name for call in reversed(region) if (name := names[call]) is not None]
    [(key, count)] = Counter(name.key for name in named).most_common(1) or [(None, 0)]
    if key is not None and count * _SHARE >= len(named):
        name = next(name for name in named if name.key == key)
        group.key, group.family, group.number = name.full if name.full in divided else key, name.family, name.number
    elif group.is_block and not opened:
        end = graph.calls[region[-1]].operation
        group.key = end.name
        group.family = automatic_name(end) if is_automatic(end) else end.name
    return group


def _join(one: Group, other: Group) -> None:
    one.regions.extend(other.regions)
    one.is_block = one.is_block or other.is_block


def _pair(graph: Graph, groups: list[Group]) -> list[Group]:
    """Merges two kinds of blocks that always alternate: attention and perceptron of a transformer layer."""
    kinds = {id(group): _kind(graph, group) for group in groups if group.is_block}
    order = [kinds.get(id(group), ()) for group in groups]
    pairs = Counter(pairwise(order))
    alternating = {
        (one, other)
        for (one, other), count in pairs.items()
        if one and other and count > 1 and not pairs[one, one] and not pairs[other, other]
    }
    first = {min(pair, key=order.index) for pair in alternating}
    return merge_along(
        graph,
        groups,
        lambda one, other: (
            (kind := kinds.pop(id(one), ())) in first and (kind, kinds.get(id(other), ())) in alternating
        ),
        _join_pair,
    )


def _kind(graph: Graph, group: Group) -> tuple[str, ...]:
    """Returns the classes in a block whose names are all automatic; `()` for other blocks."""
    operations = [graph.calls[call].operation for call in group.calls]
    automatic = all(map(is_automatic, operations))
    return tuple(sorted(type(operation).__name__ for operation in operations)) if automatic else ()


def _join_pair(one: Group, other: Group) -> None:
    _join(one, other)
    one.key = other.key


def _count_parts(group: Group, names: Sequence[BlockName | None]) -> None:
    """Counts the sub-blocks that layer names indicate, where the layers of a region agree on one."""
    branches = [region for region in group.regions if len(region) > 1]
    if not branches:
        named = (names[region[0]] for region in group.regions)
        group.subs = frozenset(name.sub for name in named if name is not None) - {""}
        return
    calls_of: Counter[str] = Counter()
    for region in group.regions:
        named = (names[call] for call in region)
        subs = {name.sub for name in named if name is not None and name.key == group.key} - {""}
        if len(subs) == 1:
            calls_of[subs.pop()] += len(region)
    group.subs = frozenset(sub for sub, calls in calls_of.items() if calls > 1)
    group.count = max(1, len(group.subs))


def _shapes(graph: Graph, automatic: Sequence[bool], one: Group, other: Group) -> bool:
    """True if the second only shapes the output of the first, such as an activation with an automatic name."""
    return (
        one.key is not None
        and len(other.regions[0]) == 1
        and automatic[other.last]
        and type(graph.calls[other.last].operation).__name__ in SHAPING
    )


def _same_number(one: Group, other: Group) -> bool:
    """True if both are parts of one block, such as MobileNet's `conv_dw_3` and `conv_pw_3`."""
    if one.is_block or other.is_block or one.family is None or other.family is None or one.number != other.number:
        return False
    ours, theirs = one.family.split("_"), other.family.split("_")
    return ours[0] == theirs[0] and len(theirs) > 1 and (len(ours) > 1 or one.key == f"{ours[0]}_{one.number}")


def _join_numbered(one: Group, other: Group) -> None:
    _join(one, other)
    one.key, one.family = _numbered(one), str(one.family).split("_")[0]
    one.subs = frozenset()


def _numbered(block: Group | BlockName) -> str:
    """Returns the name of the block that includes this one, such as `conv_3` for `conv_dw_3`."""
    return f"{str(block.family).split('_')[0]}_{block.number}"


def _mark_blocks(graph: Graph, groups: Sequence[Group]) -> None:
    """Marks enough layers in a row as a block, in a family of several such, as in VGG, mostly without sub-blocks.

    Also marks layers of a class that is not Keras's own, such as whole transformer layers, if there are several.
    """
    of_family: dict[str, list[Group]] = {}
    for group in groups:
        if group.family is not None:
            of_family.setdefault(group.family, []).append(group)
    for family in of_family.values():
        divided = sum(group.is_block and bool(group.subs) for group in family) * 2 > len(family)
        for group in family:
            if len(family) >= _BLOCK_PLACES and len(group.calls) >= _BLOCK_CALLS and not divided:
                group.is_block = True
        own = [group for group in family if _is_own_layer(graph, group)]
        for group in own if len(own) > 1 else ():
            group.is_block = True


def _is_own_layer(graph: Graph, group: Group) -> bool:
    operation = graph.calls[group.last].operation
    module = type(operation).__module__.split(".")[0]
    return len(group.calls) == 1 and module != "keras" and bool(getattr(operation, "weights", ()))


def _alike(graph: Graph, divided: Container[str | None], one: Group, other: Group) -> bool:
    """True if two neighbors are whole blocks of one family and image size, without sub-blocks of their own."""
    return (
        one.is_block
        and other.is_block
        and one.family is not None
        and one.family == other.family
        and (one.number is None or other.number is None or one.number < other.number)
        and not (one.count > 1 and one.folded is None)
        and other.count == 1
        and one.key not in divided
        and other.key not in divided
        and _one_size(graph, one, other)
    )


def _fold_cells(graph: Graph, groups: Sequence[Group]) -> list[Group]:
    """Folds similar cells in a row. Others may use tensors from inside the row, but none that it uses later."""
    kept: list[Group] = []
    for group in groups:
        if group.is_cell and kept and kept[-1].is_cell and _alike(graph, (), kept[-1], group):
            _fold(kept[-1], group)
        else:
            kept.append(group)
    return kept


def _fold(one: Group, other: Group) -> None:
    one.parts = [*(one.parts or [replace(one, regions=[*one.regions])]), other]
    one.folded = one.folded or one.key
    one.key, one.number = other.key, other.number
    one.count += 1
    _join(one, other)


def _merge_rows(graph: Graph, automatic: Sequence[bool], groups: list[Group]) -> list[Group]:
    """Merges layers in a row that are not blocks into one box; without any blocks, one for each layer with weights."""
    if any(group.is_block for group in groups):
        return merge_along(graph, groups, lambda one, other: not one.is_block and not other.is_block, _join)
    for group in groups:
        if all(automatic[call] for call in group.calls):
            group.family = group.family or automatic_name(graph.calls[group.calls[0]].operation)
            group.key = group.key or graph.calls[group.calls[0]].operation.name
    if len({extent(graph, group.last) for group in groups} - {()}) >= _SIZES:
        return merge_along(graph, groups, lambda one, other: _one_size(graph, one, other), _join, any_sides=True)
    groups = merge_along(graph, groups, lambda one, other: not _starts_box(graph, other), _join)
    groups = merge_along(graph, groups, lambda one, other: _alike_rows(graph, one, other), _fold)
    if len(groups) <= _FEW:
        return groups
    return merge_along(graph, groups, lambda one, other: one.count == other.count == 1, _join)


def _starts_box(graph: Graph, group: Group) -> bool:
    """True if a new box begins here: with a layer that has weights and is not a normalization."""
    first = graph.calls[group.calls[0]].operation
    return type(first).__name__ not in SHAPING and bool(getattr(first, "weights", ()))


def _alike_rows(graph: Graph, one: Group, other: Group) -> bool:
    return one.family is not None and one.family == other.family and _one_size(graph, one, other)


def _one_size(graph: Graph, one: Group, other: Group) -> bool:
    return extent(graph, one.last) == extent(graph, other.last)
