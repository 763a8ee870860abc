"""Reads a Keras model as a graph of calls and tensors, with nested models opened.

`model.layers` is not a graph: a layer may be called twice, `x + y` is a call without a layer, and a mask is an edge
that no layer shows. Keras keeps the calls themselves as `Node`s. This module reads them, descends into nested models,
and gives every tensor a name that survives saving.
"""

import re
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import keras

from kerassplit.errors import UnsupportedModelError
from kerassplit.graph.declared import broken, given_really
from kerassplit.graph.internals.keras_src import Functional, SymbolicArguments, unknown_keras
from kerassplit.graph.internals.layers import found_masks, functional_of, looks_for_masks, operation_names, renamed
from kerassplit.graph.internals.nodes import node_of_call, nodes_of, walk
from kerassplit.graph.internals.symbols import (
    bare,
    differs,
    forget_history,
    has_mask,
    mask_of,
    original,
    set_mask,
    shaped,
)
from kerassplit.graph.limits import too_many_calls
from kerassplit.graph.model_graph import Call, Graph, Nest
from kerassplit.graph.naming import call_names, check_names
from kerassplit.graph.nested_calls import Scope, as_called, conversions, given_inputs
from kerassplit.graph.unsupported import why_no_graph
from kerassplit.graph.unused_calls import without_unused_calls
from kerassplit.text import safe_name, unique


def read_graph(model: keras.Model) -> Graph:
    """Reads the graph of a functional or built Sequential model, in linear time and without changing the model.

    Raises:
        UnsupportedModelError: The model has no graph (it is subclassed, not built, or not a Keras model), or it makes
            too many calls.
    """
    functional = functional_of(model)
    if functional is None:
        raise UnsupportedModelError(why_no_graph(model))
    try:
        many = too_many_calls(_calls_in(functional))
        if many:
            raise UnsupportedModelError(f"'{model.name}' cannot be read: {many}.")
        graph = _Reader(model, functional).read()
    except AttributeError as error:
        if str(error.name).startswith("_"):
            raise unknown_keras(f"'{type(error.obj).__name__}.{error.name}'") from error
        raise
    check_names(graph)
    return graph


def _calls_in(functional: Functional) -> int:
    """Counts the calls of a model, those in nested models once per call of these; looks at each node once."""
    counts: dict[int, int] = {}
    waiting = [functional]
    while waiting:
        nests = [(node, functional_of(node.operation)) for node in nodes_of(waiting[-1]) if not node.is_input]
        unread = [inner for _, inner in nests if inner is not None and id(inner) not in counts]
        if unread:
            waiting += unread
            continue
        counts[id(waiting.pop())] = sum(1 if inner is None else counts[id(inner)] for _, inner in nests)
    return counts[id(functional)]


class _Reader:
    """Reads a functional model into calls and tensors.

    The calls inside a nested model are read in place of its own call. If its inputs differ from those that it was
    built on (a shape that is known only now, a mask), or if it returns a mask that Keras follows only when the model
    runs, Keras computes the outputs of its layers again, and the resulting nodes are removed from the layers.
    """

    def __init__(self, model: keras.Model, functional: Functional):
        self.graph = Graph(model)
        self.functional = functional
        self.asked: dict[int, int] = {}  # the scope of the calls that Keras computed again
        self.taken: set[str] = set()  # names of operations, once one needs a new name
        self.broken = False  # true if the output of some layer is not as declared

    def read(self) -> Graph:
        graph = self.graph
        self._read(self.functional, Scope(tensors=graph.scope))
        graph.inputs, graph.outputs = keras.tree.map_structure(
            lambda symbol: graph.scope[id(symbol)], (self.functional.input, self.functional.output)
        )
        return without_unused_calls(graph, self.asked) if graph.nests or graph.kept else graph

    def _read(self, functional: Functional, scope: Scope) -> None:
        nodes = nodes_of(functional)
        scope.unread = dict(zip(nodes, call_names(nodes, functional.outputs), strict=True))
        for node in nodes:
            if node in scope.unread:  # else it computes a mask and was read before the tensor that the mask belongs to
                self._read_node(node, scope)

    def _read_node(self, node: Any, scope: Scope) -> None:
        name = scope.unread.pop(node)
        if node.is_input:
            if scope.nest is None:
                self._add_call(name, node.operation, node.arguments, scope.tensors, node.outputs, scope)
            return
        inner = functional_of(node.operation)
        if inner is None or not self._open(node, inner, scope.prefix + name, scope):
            self._read_call(node, scope.prefix + name, scope)

    def _read_call(self, node: Any, name: str, scope: Scope) -> None:
        arguments, symbols, known = as_called(node, scope), node.outputs, scope.tensors
        if scope.changed and any(id(symbol) in scope.changed for symbol in node.input_tensors):
            asked = self._ask(node, arguments, scope)
            arguments, symbols, known = asked.arguments, asked.outputs, self.asked
        masked = any(map(has_mask, arguments.keras_tensors))
        arguments, masks = self._with_masks(node.operation, arguments, known, scope) if masked else (arguments, None)
        call = self._add_call(name, node.operation, arguments, known, symbols, scope, masks)
        if self._keep_to_word(call, symbols) or known is not scope.tensors:
            for symbol, tensor in zip(node.outputs, call.outputs, strict=True):
                scope.tensors[id(symbol)] = tensor
                better = self.graph.tensors[tensor].symbol
                if differs(better, symbol):
                    scope.changed[id(symbol)] = better
        if masked:
            self._take_masks(node, scope)

    def _keep_to_word(self, call: Call, symbols: Sequence[keras.KerasTensor]) -> bool:
        """Replaces the symbols of outputs that are not as their layer declares; true if there are any."""
        found = broken(call.operation, call.arguments, symbols)
        for place, (shape, dtype) in found.items():
            tensor, symbol = call.outputs[place], symbols[place]
            self.graph.tensors[tensor].symbol = self._copy(shaped(symbol, shape, dtype), tensor, mask_of(symbol))
            self.broken = True
        return bool(found)

    def _copy(self, symbol: keras.KerasTensor, tensor: int, mask: keras.KerasTensor | None = None) -> keras.KerasTensor:
        """Returns a symbol for `tensor`, without history: the shape and dtype of `symbol`, and this mask."""
        copy = bare(symbol)
        set_mask(copy, mask)
        self.asked[id(copy)] = tensor
        self.graph.kept.append(copy)
        return copy

    def _take_masks(self, node: Any, scope: Scope) -> None:
        """Drops the masks of `MultiHeadAttention`'s inputs, as the layer does: later layers do not find them."""
        if not isinstance(node.operation, keras.layers.MultiHeadAttention):
            return
        given = [*node.arguments.args[:3], *(node.arguments.kwargs.get(name) for name in ("query", "value", "key"))]
        for symbol in given:
            if isinstance(symbol, keras.KerasTensor) and has_mask(self._probe(symbol, scope)):
                scope.changed[id(symbol)] = self._copy(symbol, scope.tensors[id(symbol)])

    def _with_masks(
        self, operation: keras.Operation, arguments: Any, known: dict[int, int], scope: Scope
    ) -> tuple[Any, dict[int, int]]:
        """Returns the arguments with the masks that Keras fills in when the model runs, and those the layer looks for.

        Masks that a layer was called with are among the arguments already, but Keras omits them from its record if the
        layer is called with keywords or if the tensor comes from a nested model. The second result has the masks that
        the layer itself looks for on its input tensors, if it is a layer that does so.
        """
        if not isinstance(operation, keras.Layer):
            return arguments, {}
        keywords = {}
        for name, found in found_masks(operation, arguments.args, arguments.kwargs).items():
            if all(self._add_made(mask, known, scope) for mask in keras.tree.flatten(found) if mask is not None):
                keywords[name] = found
        masks = {}
        if looks_for_masks(operation):
            for symbol in arguments.keras_tensors:
                mask = mask_of(symbol)
                if mask is not None and self._add_made(mask, known, scope):
                    masks[id(symbol)] = known[id(mask)]
        if keywords:
            arguments = SymbolicArguments(*arguments.args, **{**arguments.kwargs, **keywords})
        return arguments, masks

    def _add_call(
        self,
        name: str,
        operation: keras.Operation,
        arguments: Any,
        known: dict[int, int],
        symbols: Sequence[keras.KerasTensor],
        scope: Scope,
        masks: dict[int, int] | None = None,
    ) -> Call:
        """Adds a call to the graph, and to the nests that it is in."""
        for nest in self.graph.around(scope.nest):
            self.graph.nests[nest].calls.append(len(self.graph.calls))
        return self.graph.add_call(name, operation, arguments, known, symbols, masks)

    def _open(self, node: Any, functional: Functional, name: str, scope: Scope) -> bool:
        """Reads the calls inside a nested model; false if it is called in a way that only Keras can handle."""
        model = node.operation
        given = given_inputs(node, functional)
        if given is None:
            return False
        training = node.arguments.kwargs.get("training") if scope.training is None else scope.training
        inner = Scope(f"{name}/", len(self.graph.nests), training)
        tensors = [scope.tensors[id(symbol)] for symbol, _ in given]
        arguments = as_called(node, scope)
        nest = Nest(name, model, arguments, scope.tensors, node.outputs, tensors, scope.nest, inner=inner.tensors)
        self.graph.nests.append(nest)
        for (symbol, mask), own in zip(given, functional.inputs, strict=True):
            inner.tensors[id(own)] = scope.tensors[id(symbol)]
            steps = conversions(symbol, model, own)
            mask_given = None if mask is None else self._probe(mask, scope)
            if steps or mask_given is not None or id(symbol) in scope.changed or differs(symbol, own):
                better = self._probe(symbol, scope)
                for step in steps:
                    better = step(better)
                    self._add_made(better, self.asked, inner)
                if mask_given is not None and mask_of(better) is not mask_given:
                    better = self._copy(better, self.asked[id(self._probe(symbol, scope))], mask_given)
                inner.tensors[id(own)] = self.asked[id(better)]
                if differs(better, own):
                    inner.changed[id(own)] = better
        self._read(functional, inner)
        for symbol, own in zip(node.outputs, functional.outputs, strict=True):
            scope.tensors[id(symbol)] = inner.tensors[id(own)]
            better = inner.changed.get(id(own), own)
            mask = mask_of(symbol)
            if mask is not None and "compute_mask" in vars(model) and self._add_made(mask, scope.tensors, scope):
                plain = self._probe(own, inner)  # a traced layer: it attaches a mask to its outputs
                scope.changed[id(symbol)] = self._copy(plain, inner.tensors[id(own)], self._probe(mask, scope))
            elif differs(better, symbol):
                scope.changed[id(symbol)] = self._probe(own, inner)
        return True

    def _probe(self, symbol: keras.KerasTensor, scope: Scope) -> keras.KerasTensor:
        """Returns a symbolic tensor without history for `symbol`, with its shape, dtype and mask in this scope."""
        if id(symbol) in scope.changed:
            return scope.changed[id(symbol)]
        if id(symbol) not in scope.probes:
            probe = scope.probes[id(symbol)] = self._copy(symbol, scope.tensors[id(symbol)])
            mask = mask_of(symbol)
            if mask is not None and self._add_made(mask, scope.tensors, scope):
                set_mask(probe, self._probe(mask, scope))
        return scope.probes[id(symbol)]

    def _ask(self, node: Any, arguments: Any, scope: Scope) -> Any:
        """Calls an operation on the tensors of this scope; returns Keras's node, whose outputs have no history."""
        args, kwargs = arguments.convert(
            lambda value: self._probe(value, scope) if isinstance(value, keras.KerasTensor) else value
        )
        try:
            made = node_of_call(node.operation, args, kwargs)
        except Exception:
            if not self.broken:
                raise
            return self._unknown(node, SymbolicArguments(*args, **kwargs))
        for symbol in made.outputs:
            self.graph.kept.append(symbol)
            mask = mask_of(symbol)
            if mask is not None and not self._add_made(mask, self.asked, scope):
                set_mask(symbol, None)
            forget_history(symbol)
        return made

    def _unknown(self, node: Any, arguments: Any) -> Any:
        """Stands in for `_ask` if Keras accepts only an earlier layer's declared shapes: real or unknown outputs."""
        real = given_really(node.operation, arguments) or ()
        outputs = [shaped(symbol, (None,) * len(symbol.shape), symbol.dtype) for symbol in node.outputs]
        if len(real) == len(outputs) and all(isinstance(one, keras.KerasTensor) for one in real):
            outputs = [shaped(symbol, tuple(one.shape), one.dtype) for symbol, one in zip(outputs, real, strict=True)]
        self.graph.kept += outputs
        return SimpleNamespace(arguments=arguments, outputs=outputs)

    def _add_made(self, symbol: keras.KerasTensor, known: dict[int, int], scope: Scope) -> bool:
        """Adds the calls that compute a tensor that is not read yet, such as a mask, from `known` ones.

        A mask may be computed by later calls of the model, or by none of its calls.

        Returns:
            True if it can be computed.
        """
        if id(symbol) not in known and id(original(symbol)) in known:
            known[id(symbol)] = known[id(original(symbol))]
            self.graph.kept.append(symbol)
        nodes, _ = walk([symbol], known)
        own = scope.unread if known is scope.tensors else {}
        if any(node.is_input and node not in own for node in nodes):
            return False
        for node in nodes:
            if node in own:
                self._read_node(node, scope)
                continue
            operation = self._renamed(node.operation, scope)
            self.graph.made.add(operation.name)
            self._add_call(operation.name, operation, node.arguments, known, node.outputs, scope)
            self.graph.kept += node.outputs
        if id(symbol) not in known:  # a copy of a tensor that was read just now
            known[id(symbol)] = known[id(original(symbol))]
            self.graph.kept.append(symbol)
        return True

    def _renamed(self, operation: keras.Operation, scope: Scope) -> keras.Operation:
        """Renames an operation by the graph alone: Keras numbers these operations in the order they are created."""
        if not self.taken:
            self.taken = operation_names(self.functional)
        base = safe_name(scope.prefix).replace(".", "_") + re.sub(r"_\d+$", "", operation.name)
        return renamed(operation, unique(base, self.taken))
