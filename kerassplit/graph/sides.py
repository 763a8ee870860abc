"""Side tensors (inputs of the model, and masks), which accompany a cut and do not count as crossing it.

A transformer passes its `padding_mask` to every layer, so something besides the hidden state crosses every possible
cut. But whoever has the model's inputs has this one too, and a mask is cheap to recompute. Cut points are therefore
found on the main graph, without the side tensors.
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

_OPEN_SIDE = 128  # assumed for unknown dimensions when the bytes of two tensors are compared


@dataclass(frozen=True)
class Sides:
    """The side tensors of a graph.

    Attributes:
        graph: The graph.
        main: The same graph, with the same indices, without side tensors: no call receives one, and no side call
            receives anything.
        calls: Indices of the side calls: those that produce inputs, masks, or tensors that only masks depend on.
        of_inputs: Indices of all calls that can be repeated anywhere: Keras operations, and Keras layers without
            variables, on inputs and on the outputs of such calls. (A user's own layers may draw random numbers.)
        users: For each side tensor that calls outside of `calls` receive, these calls in execution order.
        sources: For each of these tensors and each of the results, the model inputs that it is or is computed from.
        results: Masks that are outputs of the model. They are computed as soon as their inputs are available.
    """

    graph: Graph
    main: Graph
    calls: frozenset[int]
    of_inputs: frozenset[int]
    users: dict[int, list[int]]
    sources: dict[int, frozenset[int]]
    results: frozenset[int]

    def is_input(self, tensor: int) -> bool:
        """True if a tensor is an input of the model."""
        return not self.graph.calls[self.graph.tensors[tensor].call].inputs

    def along(self, is_before: Callable[[int], bool], named: Iterable[int]) -> list[int]:
        """Returns the side tensors that accompany a cut, in execution order.

        These are the model inputs that both parts use, and the cheapest tensors to compute the masks of the second part
        from: the mask itself can be sent, or a tensor that it is computed from, or the second part computes it from
        model inputs. The option with the fewest bytes wins; masks computed from the same inputs are considered
        together.

        Args:
            is_before: True for a call outside of `calls` that lies before the cut.
            named: Tensors that the second part receives anyway: what can be computed from them is not sent.
        """
        return self.chosen({tensor: sum(map(is_before, users)) for tensor, users in self.users.items()}, named)

    def chosen(self, before: dict[int, int], named: Iterable[int]) -> list[int]:
        """Like `along`, given how many users of each side tensor lie before the cut."""
        late = {tensor for tensor, users in self.users.items() if before[tensor] < len(users)}.difference(named)
        if not late and not self.results:
            return []
        given = set(named)
        early = {source for tensor, count in before.items() if count for source in self.sources[tensor]}
        masks = {tensor for tensor in late if not self.is_input(tensor) and self.sources[tensor] <= early}
        origins = {tensor: self._inputs_of(tensor, given) for tensor in late}
        known = given.union(*(origins[tensor] for tensor in late - masks))
        known.update(*(self.sources[result] for result in self.results if not self.sources[result] <= early))
        sent: list[int] = []
        for sources in sorted({origins[mask] for mask in masks}, key=lambda one: (len(one), sorted(one))):
            alike, extra = sorted(mask for mask in masks if origins[mask] == sources), sources - known
            # The earliest of equals: what is computed from it may lie within nested models, which then stay whole.
            ways = [*([one] for one in self._bottlenecks(alike, extra)), alike, sorted(extra)]
            best = min(ways, key=lambda tensors: _weight(self.graph, tensors))
            if best == ways[-1]:
                known |= extra
            else:
                sent += best
        return sorted([*sent, *(known & early - given)])

    def _inputs_of(self, tensor: int, given: set[int]) -> frozenset[int]:
        """Returns the model inputs that a side tensor is computed from if these tensors are given."""
        if not any(self.graph.tensors[one].call in self.of_inputs and not self.is_input(one) for one in given):
            return self.sources[tensor]
        calls = [self.graph.calls[call] for call in self.graph.ancestors([tensor], given)]
        return frozenset(one for call in calls if not call.inputs for one in call.outputs)

    def _bottlenecks(self, masks: Sequence[int], inputs: Iterable[int]) -> list[int]:
        """Finds the side tensors that each suffice to compute these masks without these model inputs.

        Sweeps over the ancestors of the masks in execution order: a tensor is a bottleneck where it is the only one
        that is used later.
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
        """Describes a side tensor in words: an input by its name, a mask by the tensor that it masks."""
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
    """Finds the side tensors of a graph, in linear time except for masks that depend on many inputs.

    Args:
        graph: The graph.
        counted: Model inputs that count like any other tensor, as indices of their calls.
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
    """Finds the calls that always compute the same (inputs included) and depend only on such calls."""
    found: set[int] = set()
    for index, call in enumerate(graph.calls):
        of_inputs = all(graph.tensors[tensor].call in found for tensor in call.inputs)
        if of_inputs and (not call.inputs or _is_repeatable(call.operation)):
            found.add(index)
    return found


def _is_repeatable(operation: keras.Operation) -> bool:
    """True if an operation certainly has no state and draws no random numbers: Keras's own, without variables."""
    if not isinstance(operation, keras.Layer):
        return keras_operation_name(operation) is not None
    own = package_of(type(operation)) == "keras" and not isinstance(operation, keras.layers.Lambda)
    return own and not operation.variables and not is_composite(operation)


def _side_calls(graph: Graph, of_inputs: set[int]) -> set[int]:
    """Finds the inputs, the calls on inputs that produce boolean tensors, and the calls that lead only to these."""
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
    """Returns the main graph: no call receives a side tensor, and side calls receive nothing."""

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
    """Returns, for each output of these calls, the model inputs that it is or is computed from."""
    sources: dict[int, frozenset[int]] = {}
    for index in sorted(of_inputs):
        call = graph.calls[index]
        made_of = frozenset[int]().union(*map(sources.__getitem__, call.inputs))
        sources.update((tensor, made_of or frozenset([tensor])) for tensor in call.outputs)
    return sources


def _weight(graph: Graph, tensors: Iterable[int]) -> float:
    """Returns the bytes of one sample of these tensors, unknown dimensions assumed equal; infinity for strings."""
    total = 0.0
    for tensor in tensors:
        symbol = graph.tensors[tensor].symbol
        sides = tuple(_OPEN_SIDE if side is None else side for side in symbol.shape)
        size = bytes_per_sample(sides, symbol.dtype)
        total += math.inf if size is None else size
    return total
