"""Side tensors, which go along with a cut and do not count as crossing it: inputs of the model, and masks.

A transformer gives its `padding_mask` to every layer, so something besides the hidden state crosses wherever it is cut.
But whoever has the model's inputs has this one too, and a mask is made again in no time. Where a model can be cut
is therefore decided on its main graph, without the side tensors.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import keras

from kerassplit.graph.internals.layers import is_composite, keras_operation_name
from kerassplit.graph.internals.symbols import has_mask
from kerassplit.graph.masks import tensor_of_mask
from kerassplit.graph.model_graph import Call, Graph, Tensor
from kerassplit.graph.sizes import bytes_per_sample
from kerassplit.text import package_of

_OPEN_SIDE = 128  # stands for an open dimension where the bytes of two tensors are compared


@dataclass(frozen=True)
class Sides:
    """The side tensors of a graph.

    Attributes:
        graph: The graph.
        main: The same graph, with the same indices, without side tensors: no call receives one, and no side call
            receives anything.
        calls: Indices of the side calls: those that make inputs and masks, or something that only masks are made of.
        of_inputs: Indices of all calls that can be made again anywhere: of Keras's operations, or of its layers without
            variables, on inputs and such alone. (Layers of a user's own may draw random numbers.)
        users: For each side tensor that calls outside of `calls` receive, these calls in execution order.
        sources: For each of these tensors and of the results the inputs of the model that it is, or is made of.
        results: Masks that are outputs of the model. They are made as soon as their inputs are there.
    """

    graph: Graph
    main: Graph
    calls: frozenset[int]
    of_inputs: frozenset[int]
    users: dict[int, list[int]]
    sources: dict[int, frozenset[int]]
    results: frozenset[int]

    def is_input(self, tensor: int) -> bool:
        """Whether a tensor is an input of the model."""
        return not self.graph.calls[self.graph.tensors[tensor].call].inputs

    def along(self, is_before: Callable[[int], bool], named: Iterable[int]) -> list[int]:
        """The side tensors that go along with a cut, in execution order.

        These are the inputs of the model that both sides use, and what the masks that the rest uses are best made of: a
        mask can be sent, or one of the tensors that it is made of, or the rest makes it of inputs of the model.
        Whichever takes the fewest bytes is taken; masks that are made of the same inputs are weighed together.

        Args:
            is_before: Whether a call outside of `calls` lies before the cut.
            named: Tensors that the rest is given anyway: what can be made of them is not sent.
        """
        return self.chosen({tensor: sum(map(is_before, users)) for tensor, users in self.users.items()}, named)

    def chosen(self, before: dict[int, int], named: Iterable[int]) -> list[int]:
        """The same, given how many users of each side tensor lie before the cut."""
        late = {tensor for tensor, users in self.users.items() if before[tensor] < len(users)}.difference(named)
        if not late and not self.results:
            return []
        given = set(named)
        early = {source for tensor, count in before.items() if count for source in self.sources[tensor]}
        masks = {tensor for tensor in late if not self.is_input(tensor) and self.sources[tensor] <= early}
        behind = {tensor: self._inputs_behind(tensor, given) for tensor in late}
        known = given.union(*(behind[tensor] for tensor in late - masks))
        known.update(*(self.sources[result] for result in self.results if not self.sources[result] <= early))
        sent: list[int] = []
        for sources in sorted({behind[mask] for mask in masks}, key=lambda one: (len(one), sorted(one))):
            alike, extra = sorted(mask for mask in masks if behind[mask] == sources), sources - known
            # The earliest of equals: what is made of it may lie within nested models, which stay whole then.
            ways = [*([one] for one in self._bottlenecks(alike, extra)), alike, sorted(extra)]
            best = min(ways, key=lambda tensors: _weight(self.graph, tensors))
            if best == ways[-1]:
                known |= extra
            else:
                sent += best
        return sorted([*sent, *(known & early - given)])

    def _inputs_behind(self, tensor: int, given: set[int]) -> frozenset[int]:
        """The inputs of the model that a side tensor is made of, where these tensors are given."""
        if not any(self.graph.tensors[one].call in self.of_inputs and not self.is_input(one) for one in given):
            return self.sources[tensor]
        calls = [self.graph.calls[call] for call in self.graph.ancestors([tensor], given)]
        return frozenset(one for call in calls if not call.inputs for one in call.outputs)

    def _bottlenecks(self, masks: Sequence[int], inputs: Iterable[int]) -> list[int]:
        """Side tensors of which, each by itself, these masks can be made without these inputs of the model.

        A sweep over what the masks are made of, in execution order: where one tensor alone is used further on, it is
        one.
        """
        order = sorted(call for call in self.graph.ancestors(masks) if self.graph.calls[call].inputs)
        last_use = {tensor: call for call in order for tensor in self.graph.calls[call].inputs}
        last_use |= dict.fromkeys(masks, len(self.graph.calls))
        live, found = set(inputs), []
        for call in order:
            live.update(tensor for tensor in self.graph.calls[call].outputs if tensor in last_use)
            live = {tensor for tensor in live if last_use[tensor] > call}
            if len(live) == 1 and self.graph.tensors[min(live)].call in self.calls:
                found += live - set(inputs)
        return list(dict.fromkeys(found))

    def describe(self, tensor: int) -> str:
        """How a side tensor is called for people: the mask of what it masks, an input by its name."""
        name = self.graph.tensors[tensor].name
        if self.is_input(tensor):
            return f"the input '{name}'"
        masked = next(
            (
                one
                for one, found in enumerate(self.graph.tensors)
                if has_mask(found.symbol) and tensor_of_mask(self.graph, one) == tensor
            ),
            None,
        )
        return f"the mask '{name}'" if masked is None else f"the mask of '{self.graph.tensors[masked].name}'"


def read_sides(graph: Graph, counted: Iterable[int] = ()) -> Sides:
    """The side tensors of a graph. Takes linear time, but for masks that are made of many inputs.

    Args:
        graph: The graph.
        counted: Inputs of the model that are to count like any other tensor, as indices of their calls.
    """
    of_inputs = _of_inputs(graph)
    calls = _side_calls(graph, of_inputs).difference(counted)
    users = {
        index: main
        for index, tensor in enumerate(graph.tensors)
        if tensor.call in calls and (main := [user for user in tensor.users if user not in calls])
    }
    sources = _sources(graph, of_inputs)
    results = {
        one
        for one in graph.flat_outputs()
        if graph.tensors[one].call in calls and graph.calls[graph.tensors[one].call].inputs
    }
    return Sides(
        graph=graph,
        main=_without(graph, calls),
        calls=frozenset(calls),
        of_inputs=frozenset(of_inputs),
        users=users,
        sources={one: sources[one] for one in (*users, *results)},
        results=frozenset(results),
    )


def _of_inputs(graph: Graph) -> set[int]:
    """The calls that compute the same whenever they are made, inputs among them, and depend on such calls alone."""
    found: set[int] = set()
    for index, call in enumerate(graph.calls):
        of_inputs = all(graph.tensors[tensor].call in found for tensor in call.inputs)
        if of_inputs and (not call.inputs or _is_repeatable(call.operation)):
            found.add(index)
    return found


def _is_repeatable(operation: keras.Operation) -> bool:
    """Whether an operation surely has no state and draws no random numbers: it is Keras's own, without variables."""
    if not isinstance(operation, keras.Layer):
        return keras_operation_name(operation) is not None
    own = package_of(type(operation)) == "keras" and not isinstance(operation, keras.layers.Lambda)
    return own and not operation.variables and not is_composite(operation)


def _side_calls(graph: Graph, of_inputs: set[int]) -> set[int]:
    """Inputs, calls of these that make boolean tensors, and those that lead to such alone."""
    sides = {
        index
        for index in of_inputs
        if not graph.calls[index].inputs
        or all(graph.tensors[tensor].symbol.dtype == "bool" for tensor in graph.calls[index].outputs)
    }
    for index in sorted(of_inputs - sides, reverse=True):
        users = {user for tensor in graph.calls[index].outputs for user in graph.tensors[tensor].users}
        if users and users <= sides:
            sides.add(index)
    return sides


def _without(graph: Graph, sides: set[int]) -> Graph:
    """The main graph: its calls receive what calls outside of `sides` make, and its tensors have no other users."""

    def main_call(index: int, call: Call) -> Call:
        kept = [tensor for tensor in call.inputs if graph.tensors[tensor].call not in sides]
        inputs = () if index in sides else tuple(kept)
        return call if inputs == call.inputs else replace(call, inputs=inputs)

    def main_tensor(tensor: Tensor) -> Tensor:
        users = [] if tensor.call in sides else [user for user in tensor.users if user not in sides]
        return tensor if users == tensor.users else replace(tensor, users=users)

    calls = [main_call(index, call) for index, call in enumerate(graph.calls)]
    return replace(graph, calls=calls, tensors=[main_tensor(tensor) for tensor in graph.tensors])


def _sources(graph: Graph, of_inputs: set[int]) -> dict[int, frozenset[int]]:
    """For each tensor that these calls make the inputs of the model that it is, or is made of."""
    sources: dict[int, frozenset[int]] = {}
    for index in sorted(of_inputs):
        call = graph.calls[index]
        made_of = frozenset[int]().union(*map(sources.__getitem__, call.inputs))
        sources.update((tensor, made_of or frozenset([tensor])) for tensor in call.outputs)
    return sources


def _weight(graph: Graph, tensors: Iterable[int]) -> float:
    """Bytes of one sample of these tensors, open dimensions taken as equal; infinite for strings."""
    total = 0.0
    for tensor in tensors:
        symbol = graph.tensors[tensor].symbol
        sides = tuple(_OPEN_SIDE if side is None else side for side in symbol.shape)
        size = bytes_per_sample(sides, symbol.dtype)
        total += math.inf if size is None else size
    return total
