"""A model as data: its calls, the tensors between them, and the calls of nested models."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras

from kerassplit.graph.internals.layers import functional_of
from kerassplit.graph.internals.nodes import nodes_of


@dataclass(slots=True)
class Tensor:
    """An output of a call.

    Attributes:
        name: Its name in this model.
        symbol: A `KerasTensor` with its shape and dtype.
        call: Index of the call that produces it.
        users: Indices of the calls that receive it, each once, in execution order.
    """

    name: str
    symbol: keras.KerasTensor
    call: int
    users: list[int]


@dataclass(slots=True)
class Call:
    """One call of a layer or operation.

    Attributes:
        name: The operation's name; `relu@1` for the second call of one that is called several times,
            `backbone/relu` inside a nested model.
        operation: The layer or operation.
        arguments: Its arguments, as Keras's `SymbolicArguments`.
        scope: From the `id` of a symbolic tensor among the arguments to the tensor's index.
        inputs: The tensors it receives, each once; empty for an input of the model.
        outputs: The tensors it produces.
        masks: The masks that it looks for on its arguments: from the `id` of a symbolic tensor to the mask's index.
    """

    name: str
    operation: keras.Operation
    arguments: Any
    scope: dict[int, int]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    masks: dict[int, int] = field(default_factory=dict)


@dataclass(slots=True)
class Nest:
    """One call of a nested model.

    Attributes:
        name: `backbone`, `tower@1`, `outer/tower`.
        operation: The nested model.
        arguments: Its arguments, as Keras's `SymbolicArguments`.
        scope: From the `id` of a symbolic tensor among the arguments and symbols to the tensor's index.
        symbols: The symbolic tensors that Keras recorded for its outputs.
        given: The tensors passed to its inputs; -1 for one that it does not use.
        outer: Index of the nest around it, or `None`.
        calls: Indices of the calls inside, including those in nests within.
        inner: From the `id` of a symbolic tensor inside to the tensor's index.
    """

    name: str
    operation: keras.Model
    arguments: Any
    scope: dict[int, int]
    symbols: Sequence[keras.KerasTensor]
    given: list[int]
    outer: int | None
    calls: list[int] = field(default_factory=list)
    inner: dict[int, int] = field(default_factory=dict)


@dataclass(slots=True)
class Graph:
    """The calls of a model in execution order, and the tensors between them; both are identified by index.

    Attributes:
        model: The model that was read.
        calls: In topological order. The model's inputs count as calls that receive nothing. A nested model is not a
            call: the calls inside it are.
        tensors: In the order in which they are produced.
        nests: The calls of nested models, each after the one around it.
        inputs: The model's inputs, in its own structure (tensor, list, dict, ...) with indices for tensors.
        outputs: The model's outputs, likewise.
        scope: From the `id` of a `KerasTensor` of the model itself, not of its nests, to the tensor's index.
        kept: Symbolic tensors that must live as long as the graph.
        made: Names of operations that Keras does not count among the model's: those of masks, and casts at nest inputs.
    """

    model: keras.Model
    calls: list[Call] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)
    nests: list[Nest] = field(default_factory=list)
    inputs: Any = None
    outputs: Any = None
    scope: dict[int, int] = field(default_factory=dict)
    kept: list[keras.KerasTensor] = field(default_factory=list)
    made: set[str] = field(default_factory=set)

    def add_call(
        self,
        name: str,
        operation: keras.Operation,
        arguments: Any,
        scope: dict[int, int],
        symbols: Sequence[keras.KerasTensor],
        masks: dict[int, int] | None = None,
    ) -> Call:
        """Adds a call and its output tensors (`symbols`). Its arguments must be in `scope`; its outputs are added.

        For the other parameters, see `Call`.
        """
        index, first = len(self.calls), len(self.tensors)
        given = [scope[id(symbol)] for symbol in arguments.keras_tensors]
        inputs = tuple(dict.fromkeys([*given, *masks.values()] if masks else given))
        for tensor in inputs:
            self.tensors[tensor].users.append(index)
        for position, symbol in enumerate(symbols):
            scope[id(symbol)] = first + position
            self.tensors.append(Tensor(f"{name}:{position}" if len(symbols) > 1 else name, symbol, index, []))
        outputs = tuple(range(first, len(self.tensors)))
        call = Call(name, operation, arguments, scope, inputs, outputs, masks or {})
        self.calls.append(call)
        return call

    def new_input(self, tensor: int, name: str | None = None) -> keras.KerasTensor:
        """Creates a `keras.Input` that replaces a tensor."""
        symbol = self.tensors[tensor].symbol
        return keras.Input(
            batch_shape=symbol.shape,
            dtype=symbol.dtype,
            sparse=self.is_sparse(tensor),
            ragged=symbol.ragged,
            name=name,
            optional=getattr(symbol._keras_history.operation, "optional", False),
        )

    def results(self, call: Call | Nest) -> list[tuple[int, keras.KerasTensor]]:
        """Returns a call's outputs (-1 for unused ones), each with the symbolic tensor that Keras recorded."""
        if isinstance(call, Nest):
            return [(call.scope.get(id(symbol), -1), symbol) for symbol in call.symbols]
        return [(tensor, self.tensors[tensor].symbol) for tensor in call.outputs]

    def names(self, tensors: Iterable[int]) -> list[str]:
        """Returns the names of these tensors."""
        return [self.tensors[tensor].name for tensor in tensors]

    def named(self, structure: Any) -> Any:
        """Returns a structure of tensors, such as the model's inputs, with their names in place of their indices."""
        return keras.tree.map_structure(lambda tensor: self.tensors[tensor].name, structure)

    def flat_inputs(self) -> list[int]:
        """Returns the model's inputs in Keras's order."""
        return keras.tree.flatten(self.inputs)

    def flat_outputs(self) -> list[int]:
        """Returns the model's outputs in Keras's order; a tensor that is returned twice is listed twice."""
        return keras.tree.flatten(self.outputs)

    def output_symbols(self) -> list[keras.KerasTensor]:
        """Returns symbols with the real shapes and dtypes of the model's outputs, whatever its layers declare."""
        return [self.tensors[tensor].symbol for tensor in self.flat_outputs()]

    def around(self, nest: int | None) -> Iterator[int]:
        """Yields a nest, by its index, and those around it, innermost first."""
        while nest is not None:
            yield nest
            nest = self.nests[nest].outer

    def ancestors(self, tensors: Iterable[int], given: Collection[int] = ()) -> set[int]:
        """Returns the calls that these tensors depend on, including their makers, if the `given` ones are available."""
        waiting = [tensor for tensor in tensors if tensor not in given]
        found: set[int] = set()
        while waiting:
            call = self.tensors[waiting.pop()].call
            if call not in found:
                found.add(call)
                waiting += [tensor for tensor in self.calls[call].inputs if tensor not in given]
        return found

    def is_sparse(self, tensor: int) -> bool:
        """True if a tensor can be sparse: Keras marks `x * 2` as sparse even if `x` is dense."""
        waiting = [tensor] if self.tensors[tensor].symbol.sparse else []
        seen = set(waiting)
        while waiting:
            call = self.calls[self.tensors[waiting.pop()].call]
            sparse = {other for other in call.inputs if self.tensors[other].symbol.sparse}
            if not sparse and isinstance(call.operation, keras.Layer):
                return True  # an Input, or a layer that produces sparse tensors
            waiting += sparse - seen
            seen |= sparse
        return False

    def own_symbols(self) -> dict[int, keras.KerasTensor]:
        """Returns the symbolic tensors that Keras recorded in the model itself, not in its nests, by tensor."""
        functional = functional_of(self.model)
        own: dict[int, keras.KerasTensor] = {}
        for node in nodes_of(functional):
            for symbol in node.outputs:
                if id(symbol) in self.scope:
                    own.setdefault(self.scope[id(symbol)], symbol)  # a nested model may return its input
        return own

    def by_symbol(self, symbol: keras.KerasTensor) -> list[int]:
        """Returns the tensors that a `KerasTensor` refers to: several if a nested model is called several times."""
        scopes = [self.scope, *(nest.inner for nest in self.nests)]
        found = dict.fromkeys(scope[id(symbol)] for scope in scopes if id(symbol) in scope)
        operation, place, position = getattr(symbol, "_keras_history", (None, 0, 0))
        if not found and operation is not None and place == 0:
            # A sub-model shares its layers, so `tail.get_layer("x").output`, which is the output of the layer's first
            # call ever, is a tensor of the model it was cut from.
            found = dict.fromkeys(call.outputs[position] for call in self.calls if call.operation is operation)
        return list(found)
