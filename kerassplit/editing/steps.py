"""An edit as data, and the order in which the edited model is built."""

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras

from kerassplit.cutting.submodel import part
from kerassplit.errors import SplitError
from kerassplit.graph.masks import tensor_of_mask
from kerassplit.graph.model_graph import Call, Graph, Nest
from kerassplit.graph.packing import packed
from kerassplit.text import listed


@dataclass(frozen=True, eq=False)
class Insertion:
    """A function whose results replace the tensors that it gets.

    Attributes:
        takes: The tensors.
        function: It gets their symbolic tensors and returns as many.
        into: The calls that receive the results; `None` for all that use the tensors, and the model's outputs. If
            there are none, a result can be an output of the edited model.
    """

    takes: tuple[int, ...]
    function: Callable[..., Any]
    into: frozenset[int] | None = None


@dataclass(frozen=True, eq=False)
class Replacement:
    """A layer that is called in place of another, on its arguments; or a call that is left out.

    Attributes:
        old: The call, which may be one of a nested model.
        new: The layer or model; or the tensor that takes the place of what the call produces.
    """

    old: Call | Nest
    new: keras.Operation | int


@dataclass(frozen=True, eq=False)
class Edits:
    """What to change in a model.

    Attributes:
        insertions: Where something is inserted; no tensor stands in two of them.
        replacements: Calls that are replaced or removed.
        inputs: Shape and dtype of inputs that change, by tensor.
        adapt: Returns the layer to call in place of a call's own, given the call and its arguments, which differ from
            the model's in shape, dtype or mask.
    """

    insertions: Sequence[Insertion] = ()
    replacements: Sequence[Replacement] = ()
    inputs: Mapping[int, keras.KerasTensor] = field(default_factory=dict)
    adapt: Callable[[Call | Nest, Sequence[Any], dict[str, Any]], keras.Operation] = lambda item, *_: item.operation


@dataclass(eq=False)
class Step:
    """A call to repeat, or an edit.

    Attributes:
        does: The call or the edit.
        calls: The indices of the calls that it stands for.
        takes: The tensors it needs.
        makes: The tensors it produces.
        place: Its place in the model's order.
        own: Symbolic tensors that it receives in place of those that others receive, by tensor.
    """

    does: Call | Nest | Replacement | Insertion
    calls: frozenset[int]
    takes: frozenset[int]
    makes: tuple[int, ...]
    place: float
    own: dict[int, keras.KerasTensor] = field(default_factory=dict)

    def receives(self, insertion: Insertion, tensor: int) -> bool:
        """True if it receives the result of an insertion in place of this tensor."""
        if self.does is insertion or tensor not in self.takes:
            return False
        return insertion.into is None or not self.calls.isdisjoint(insertion.into)


def steps_of(graph: Graph, edits: Edits, opened: Iterable[int]) -> list[Step]:
    """Returns the steps that build the edited model, in order; each stands after those that it needs.

    A nested model stays one call if no edit is inside it, unless it is in `opened`.

    Raises:
        SplitError: What is inserted depends on something that it is to go into.
    """
    index = {id(call): place for place, call in enumerate(graph.calls)}
    outputs = list(dict.fromkeys(graph.flat_outputs()))
    calls, inputs = part(graph, [], outputs)
    steps = []
    for one in edits.replacements:
        inside = one.old.calls if isinstance(one.old, Nest) else [index[id(one.old)]]
        steps.append(Step(one, frozenset(inside), *_ends(graph, one.old), min(inside)))
    gone = {call for step in steps for call in step.calls}
    given = [*inputs, *(tensor for step in steps for tensor in step.makes)]
    taken = [tensor for one in edits.insertions for tensor in one.takes]
    rest = [call for call in calls if call not in gone]
    for item in packed(graph, rest, given, [*outputs, *taken], {*opened, *_touched(graph, edits.insertions)}):
        inside = item.calls if isinstance(item, Nest) else [index[id(item)]]
        steps.append(Step(item, frozenset(inside), *_ends(graph, item), min(inside)))
    there = {tensor for step in steps for tensor in step.makes}
    for one in edits.insertions:
        masks = there.intersection(tensor_of_mask(graph, tensor) for tensor in one.takes)
        place = max(graph.tensors[tensor].call for tensor in one.takes) + 0.5
        steps.append(Step(one, frozenset(), frozenset({*one.takes, *masks}), (), place))
    return _in_order(graph, steps)


def steps_inside(graph: Graph, step: Step) -> list[Step]:
    """Returns the calls of a nested model, in place of the step that calls it."""
    calls = [(index, graph.calls[index]) for index in sorted(step.calls)]
    return [Step(call, frozenset({index}), *_ends(graph, call), index, step.own) for index, call in calls]


def _ends(graph: Graph, item: Call | Nest) -> tuple[frozenset[int], tuple[int, ...]]:
    """Returns the tensors that a call needs, and those that it produces."""
    if isinstance(item, Call):
        return frozenset(item.inputs), item.outputs
    inside = {tensor for call in item.calls for tensor in graph.calls[call].outputs}
    needed = {tensor for call in item.calls for tensor in graph.calls[call].inputs}
    needed |= {item.scope[id(symbol)] for symbol in item.arguments.keras_tensors if id(symbol) in item.scope}
    return frozenset(needed - inside), tuple(tensor for tensor, _ in graph.results(item) if tensor in inside)


def _touched(graph: Graph, insertions: Iterable[Insertion]) -> set[int]:
    """Returns the nested models in which an insertion gives a call something else than the model receives or made."""
    touched = set()
    for one in insertions:
        for tensor in one.takes:
            maker, users = graph.tensors[tensor].call, graph.tensors[tensor].users
            new = set(users) if one.into is None else one.into.intersection(users)
            for index, nest in enumerate(graph.nests):
                inside = new.intersection(nest.calls)
                if inside and (maker in nest.calls or not inside.issuperset(set(users).intersection(nest.calls))):
                    touched.add(index)
    return touched


def _in_order(graph: Graph, steps: Sequence[Step]) -> list[Step]:
    """Sorts steps by their places, each after those that it needs."""
    maker = {tensor: step for step in steps for tensor in step.makes}
    insertions = {tensor: step for step in steps if isinstance(step.does, Insertion) for tensor in step.does.takes}
    users: dict[int, list[Step]] = {id(step): [] for step in steps}
    missing = dict.fromkeys(users, 0)
    for step in steps:
        needed = {id(maker[tensor]) for tensor in step.takes if tensor in maker}
        for tensor in step.takes & insertions.keys():
            inserted = insertions[tensor]
            if isinstance(inserted.does, Insertion) and step.receives(inserted.does, tensor):
                needed.add(id(inserted))
        for one in needed - {id(step)}:
            users[one].append(step)
            missing[id(step)] += 1
    ready = [(step.place, number, step) for number, step in enumerate(steps) if not missing[id(step)]]
    heapq.heapify(ready)
    ordered: list[Step] = []
    while ready:
        ordered.append(heapq.heappop(ready)[-1])
        for step in users[id(ordered[-1])]:
            missing[id(step)] -= 1
            if not missing[id(step)]:
                heapq.heappush(ready, (step.place, len(steps) + len(ordered) + len(ready), step))
    if len(ordered) < len(steps):
        raise _circle(graph, [step for step in steps if missing[id(step)]])
    return ordered


def _circle(graph: Graph, left: Sequence[Step]) -> SplitError:
    """Returns the error for steps that need each other."""
    takes = [tensor for step in left if isinstance(step.does, Insertion) for tensor in step.does.takes]
    between = graph.ancestors(takes)
    users = [
        step.does.name
        for step in left
        if isinstance(step.does, (Call, Nest)) and step.takes.intersection(takes) and step.calls & between
    ]
    return SplitError(
        f"What is inserted takes {listed(graph.names(takes))} together, and some of these depend on others of them "
        f"(through {listed(users)}), so it would depend on itself. To insert a layer after each of them, pass a "
        "function that makes one; else insert in several steps, or name the calls that receive the result in `into`."
    )
