"""Divides a model into boxes within boxes, one level for each click: nested models, blocks, parts of blocks, layers.

Each level is a graph of its own, in which a call of a nested model counts as one call, and is folded like a model.
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace

from kerassplit.graph.model_graph import Call, Graph, Tensor
from kerassplit.pictures.folding import block_title, find_blocks, is_small
from kerassplit.pictures.groups import Group
from kerassplit.pictures.layer_names import block_name, common_prefix
from kerassplit.pictures.overview import about_model, block_box, input_box
from kerassplit.pictures.picture import Box

_FEW = 30  # the most calls that a box shows where it could show blocks


@dataclass(frozen=True, slots=True)
class Item:
    """A box, or a layer.

    Attributes:
        calls: Its calls, in execution order.
        box: The box; `None` for a layer.
        inside: What a click opens.
    """

    calls: list[int]
    box: Box | None = None
    inside: "Level | None" = None


@dataclass(frozen=True, slots=True)
class Level:
    """What is shown together.

    Attributes:
        items: In an order in which they can be run.
        scope: Of the nested model that it belongs to, what the names of all its calls begin with.
    """

    items: list[Item]
    scope: str = ""


@dataclass(frozen=True, slots=True)
class _Unit:
    """A call; or several, of the nested model `nest`."""

    calls: list[int]
    nest: int | None = None


def levels_of(graph: Graph) -> Level:
    """Divides a whole model."""
    given = list(dict.fromkeys(graph.flat_inputs()))
    alone = len(given) == 1
    inputs = [Item([graph.tensors[one].call], input_box(graph, one, "", alone=alone)) for one in given]
    levels = _Levels(graph)
    return Level([*inputs, *levels.items(levels.fold(levels.units(None), graph.model.name))])


@dataclass(frozen=True, slots=True)
class _Folded:
    """Units, and the groups that they are folded into.

    Attributes:
        units: The units.
        outline: The graph of the units, with what enters as inputs.
        groups: Groups of calls of the outline.
        prefix: Prefix that their names share.
    """

    units: Sequence[_Unit]
    outline: Graph
    groups: list[Group]
    prefix: str

    def units_of(self, calls: Sequence[int]) -> list[_Unit]:
        first = len(self.outline.calls) - len(self.units)  # after the inputs
        return [self.units[call - first] for call in calls]


class _Levels:
    """The levels of a graph."""

    def __init__(self, graph: Graph):
        self._graph = graph
        self._about = about_model(graph)
        self._nests: dict[int | None, list[int]] = {}
        self._nest_of: dict[int, int] = {}
        for place, nest in enumerate(graph.nests):
            if len(nest.calls) > 1:
                self._nests.setdefault(nest.outer, []).append(place)
                self._nest_of.update(dict.fromkeys(nest.calls, place))

    def units(self, nest: int | None) -> list[_Unit]:
        """Returns the calls, and the calls of nested models, that a nested model or the whole one consists of."""
        graph = self._graph
        inner = {call: one for one in self._nests.get(nest, ()) for call in graph.nests[one].calls}
        found: list[_Unit] = []
        for call in range(len(graph.calls)) if nest is None else graph.nests[nest].calls:
            one = inner.get(call)
            if one is None and graph.calls[call].inputs:
                found.append(_Unit([call]))
            elif one is not None and (not found or found[-1].nest != one):
                found.append(_Unit(graph.nests[one].calls, one))
        return found

    def fold(self, units: Sequence[_Unit], name: str, *, parts: bool = False) -> _Folded:
        """Folds units into blocks; into parts of blocks if these are of one block, which bears the name."""
        outline = _outline(self._graph, units)
        names = [call.operation.name for call in outline.calls if call.inputs]
        prefix = common_prefix(name, names)
        found = [block_name(one.removeprefix(prefix)) for one in names] if parts else []
        divided = {one.full for one in found if one is not None}
        few = is_small([outline])
        if few and any(unit.nest is not None for unit in units):
            groups = [Group([[place]]) for place, call in enumerate(outline.calls) if call.inputs]
        else:
            groups = find_blocks(outline, prefix, few=few, divided=divided)
        return _Folded(units, outline, groups, prefix)

    def items(self, folded: _Folded) -> list[Item]:
        """Makes an item of each group."""
        return [self._item(folded, group) for group in folded.groups]

    def _item(self, folded: _Folded, group: Group) -> Item:
        units = folded.units_of(group.calls)
        if len(units) == 1 and units[0].nest is not None:
            return self._nested(units[0], units[0].nest, folded.prefix)
        regions = [_calls(folded.units_of(region)) for region in group.regions]
        title = block_title(folded.outline, group, folded.prefix)
        box = block_box(self._graph, Group(regions, count=group.count), "", title, self._about)
        if len(units) == 1:
            return Item(units[0].calls, box)
        if group.parts and len(units) > _FEW:
            inside = self.items(replace(folded, groups=group.parts))
        else:
            inside = self._inside(units, folded.prefix + title, parts=True)
        return Item(_calls(units), box, Level(inside, self._scope(units)))

    def _nested(self, unit: _Unit, nest: int, prefix: str = "") -> Item:
        """Makes the box of a call of a nested model."""
        title = self._graph.nests[nest].name.removeprefix(self._scope([unit])).removeprefix(prefix)
        box = block_box(self._graph, Group([unit.calls]), "", title, self._about, "nested model")
        units = self.units(nest)
        while len(units) == 1 and units[0].nest is not None:  # a level of one box would be a click in vain
            units = self.units(units[0].nest)
        return Item(unit.calls, box, Level(self._inside(units, title), self._scope(units)))

    def _inside(self, units: Sequence[_Unit], name: str, *, parts: bool = False) -> list[Item]:
        """Returns what a box shows once it is opened: blocks if it has many units that form several, else the units."""
        if len(units) > _FEW:
            folded = self.fold(units, name, parts=parts)
            if len(folded.groups) == 1:
                folded = replace(folded, groups=folded.groups[0].parts)
            largest = max((len(group.calls) for group in folded.groups if not group.parts), default=0)
            if folded.groups and largest * 2 <= len(units):
                return self.items(folded)
        return [Item(unit.calls) if unit.nest is None else self._nested(unit, unit.nest) for unit in units]

    def _scope(self, units: Sequence[_Unit]) -> str:
        """Returns what the names of these units begin with: they are of the same nested model."""
        [first, *_] = units
        nest = self._nest_of.get(first.calls[0]) if first.nest is None else self._graph.nests[first.nest].outer
        return "" if nest is None else f"{self._graph.nests[nest].name}/"


def _calls(units: Sequence[_Unit]) -> list[int]:
    return sorted(call for unit in units for call in unit.calls)


def _outline(graph: Graph, units: Sequence[_Unit]) -> Graph:
    """Returns the graph of some units: each is one call, and what enters is an input."""
    own = {call: place for place, unit in enumerate(units) for call in unit.calls}
    results = {*graph.flat_outputs()}
    inputs = [_entering(graph, unit) for unit in units]
    outputs = [_leaving(graph, unit, results) for unit in units]
    entering = sorted({one for given in inputs for one in given if graph.tensors[one].call not in own})
    number = {tensor: place for place, tensor in enumerate([*entering, *(one for made in outputs for one in made)])}
    first = len(entering)
    calls, tensors = list[Call](), list[Tensor]()
    for tensor in entering:
        maker = graph.calls[graph.tensors[tensor].call]
        calls.append(Call(maker.name, maker.operation, None, {}, (), (number[tensor],)))
    for unit, given, made in zip(units, inputs, outputs, strict=True):
        call = graph.calls[unit.calls[0]] if unit.nest is None else graph.nests[unit.nest]
        taken = tuple(number[one] for one in given)
        calls.append(Call(call.name, call.operation, None, {}, taken, tuple(number[one] for one in made)))
    for tensor in number:
        maker, users = graph.tensors[tensor].call, graph.tensors[tensor].users
        place = first + own[maker] if maker in own else number[tensor]
        others = sorted({first + own[user] for user in users if user in own} - {place})
        tensors.append(Tensor(graph.tensors[tensor].name, graph.tensors[tensor].symbol, place, others))
    ends = [
        number[one]
        for made in outputs
        for one in made
        if one in results or any(user not in own for user in graph.tensors[one].users)
    ]
    return Graph(graph.model, calls, tensors, inputs=[*range(first)], outputs=ends)


def _entering(graph: Graph, unit: _Unit) -> list[int]:
    """Returns the tensors that a unit receives."""
    own = {*unit.calls}
    given = (tensor for call in unit.calls for tensor in graph.calls[call].inputs)
    return [tensor for tensor in dict.fromkeys(given) if graph.tensors[tensor].call not in own]


def _leaving(graph: Graph, unit: _Unit, results: Container[int]) -> list[int]:
    """Returns the outputs of a unit: all of a call, what others use of a nested model."""
    own = {*unit.calls}
    made = [tensor for call in unit.calls for tensor in graph.calls[call].outputs]
    return [
        tensor
        for tensor in made
        if unit.nest is None or tensor in results or any(user not in own for user in graph.tensors[tensor].users)
    ]
