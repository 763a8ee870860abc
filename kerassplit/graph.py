"""A Keras model as a graph of calls and tensors, nested models opened.

`model.layers` is no graph: a layer may be called twice, `x + y` is a call without a layer, and a mask is an edge that
no layer shows. Keras keeps the calls themselves as `Node`s. This module reads them, goes on inside the nested models,
and gives every tensor a name that survives saving. Only this file and `rebuild.py` know Keras's internals.
"""

import math
import re
import threading
import warnings
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras

from kerassplit import __version__
from kerassplit.errors import UnsupportedModelError
from kerassplit.kinds import why_no_graph
from kerassplit.names import safe_name, unique

_TESTED = "3.13 to 3.15"


def unknown_keras(missing: str) -> UnsupportedModelError:
    """The error for a Keras that lacks something private which kerassplit needs."""
    return UnsupportedModelError(
        f"Keras {keras.__version__} has no {missing}, which kerassplit {__version__} needs; it was tested with Keras "
        f"{_TESTED}. Install one of these (pip install 'keras<3.16'), or a newer kerassplit."
    )


try:
    from keras.src.backend.common import global_state  # noqa: F401 (this and what else only rebuild.py needs)
    from keras.src.backend.common.masking import get_keras_mask  # noqa: F401
    from keras.src.layers.layer import CallContext, CallSpec  # noqa: F401
    from keras.src.models.functional import Functional
    from keras.src.ops.function import make_node_key, map_graph  # noqa: F401
    from keras.src.ops.node import KerasHistory, Node  # noqa: F401
    from keras.src.ops.symbolic_arguments import SymbolicArguments
    from keras.src.saving.serialization_lib import SafeModeScope  # noqa: F401
except ImportError as error:
    raise unknown_keras(f"'{error.name}' as it was ({error})") from error

lock = threading.RLock()
"""Around what is the whole process's: the nodes of shared layers, a function of Keras's, Python's recursion limit."""


@dataclass(slots=True)
class Tensor:
    """An output of a call.

    Attributes:
        name: Its name in this model.
        symbol: A `KerasTensor` with its shape and dtype.
        call: Index of the call that makes it.
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
        arguments: What it is called with, as Keras's `SymbolicArguments`.
        scope: From the `id` of a symbolic tensor among the arguments to the tensor's index.
        inputs: The tensors it receives, each once; empty for an input of the model.
        outputs: The tensors it makes.
        masks: The masks that it looks for on its arguments themselves: from the `id` of a symbolic tensor to a tensor.
    """

    name: str
    operation: keras.Operation
    arguments: Any
    scope: dict[int, int]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    masks: dict[int, int] = field(default_factory=dict)

    def results(self, tensors: Sequence[Tensor]) -> list[tuple[int, keras.KerasTensor]]:
        """The tensors it makes, each with the symbolic tensor that Keras recorded for it."""
        return [(tensor, tensors[tensor].symbol) for tensor in self.outputs]


@dataclass(slots=True)
class Nest:
    """One call of a nested model.

    Attributes:
        name: `backbone`, `tower@1`, `outer/tower`.
        operation: The nested model.
        arguments: What it is called with, as Keras's `SymbolicArguments`.
        scope: From the `id` of a symbolic tensor among the arguments and symbols to the tensor's index.
        symbols: Those that Keras recorded for what it gives.
        given: The tensors that its inputs are given; -1 for one that it does not use.
        outer: Index of the nest around it, or `None`.
        calls: Indices of the calls inside, those of nests within included.
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

    def results(self, tensors: Sequence[Tensor]) -> list[tuple[int, keras.KerasTensor]]:
        """The tensors that its call gives, each with the symbolic tensor that Keras recorded for it."""
        return [(self.scope.get(id(symbol), -1), symbol) for symbol in self.symbols]


@dataclass(slots=True)
class Graph:
    """The calls of a model in execution order, and the tensors between them; both are referred to by index.

    Attributes:
        model: The model that was read.
        calls: Every call after those it depends on. The model's inputs count as calls that receive nothing. Nested
            models are no calls: those inside them are.
        tensors: In the order in which they are made.
        nests: The calls of nested models, each after the one around it.
        inputs: The model's inputs, in its own structure (tensor, list, dict, ...) with indices for tensors.
        outputs: The model's outputs, likewise.
        scope: From the `id` of a `KerasTensor` of the model itself, not of its nests, to the tensor's index.
        kept: Symbolic tensors that must live as long as the graph.
        made: Names of operations that Keras does not count among the model's: masks, casts at the doors of nests.
    """

    model: keras.Model
    calls: list[Call]
    tensors: list[Tensor]
    nests: list[Nest]
    inputs: Any
    outputs: Any
    scope: dict[int, int]
    kept: list[keras.KerasTensor]
    made: set[str] = field(default_factory=set)

    def names(self, tensors: Iterable[int]) -> list[str]:
        """The names of these tensors."""
        return [self.tensors[tensor].name for tensor in tensors]

    def flat_inputs(self) -> list[int]:
        """The model's inputs in the order in which Keras takes them."""
        return keras.tree.flatten(self.inputs)

    def flat_outputs(self) -> list[int]:
        """The model's outputs in the order in which Keras gives them; a tensor given out twice is there twice."""
        return keras.tree.flatten(self.outputs)

    def around(self, nest: int | None) -> Iterator[int]:
        """A nest, by its index, and those around it, the innermost first."""
        while nest is not None:
            yield nest
            nest = self.nests[nest].outer

    def is_sparse(self, tensor: int) -> bool:
        """Whether a tensor can be sparse: Keras marks `x * 2` so, too, where `x` is dense."""
        waiting = [tensor] if self.tensors[tensor].symbol.sparse else []
        seen = set(waiting)
        while waiting:
            call = self.calls[self.tensors[waiting.pop()].call]
            sparse = {other for other in call.inputs if self.tensors[other].symbol.sparse}
            if not sparse and isinstance(call.operation, keras.Layer):
                return True  # an Input, or a layer that makes sparse tensors
            waiting += sparse - seen
            seen |= sparse
        return False

    def own_symbols(self) -> dict[int, keras.KerasTensor]:
        """What Keras itself recorded in the model, not in its nests: the symbolic tensor for each of these tensors."""
        functional = _functional(self.model)
        own: dict[int, keras.KerasTensor] = {}
        for node in nodes_of(functional):
            for symbol in node.outputs:
                if id(symbol) in self.scope:
                    own.setdefault(self.scope[id(symbol)], symbol)  # a nested model may give what it is given
        return own

    def by_symbol(self, symbol: keras.KerasTensor) -> list[int]:
        """The tensors that a `KerasTensor` stands for: several where a nested model is called several times."""
        scopes = [self.scope, *(nest.inner for nest in self.nests)]
        found = dict.fromkeys(scope[id(symbol)] for scope in scopes if id(symbol) in scope)
        operation, place, position = getattr(symbol, "_keras_history", (None, 0, 0))
        if not found and operation is not None and place == 0:
            # A sub-model shares its layers, so `tail.get_layer("x").output`, which is the output of the layer's first
            # call ever, is a tensor of the model it was cut from.
            found = dict.fromkeys(call.outputs[position] for call in self.calls if call.operation is operation)
        return list(found)


def read_graph(model: keras.Model) -> Graph:
    """Reads the graph of a functional or built Sequential model. Leaves the model alone; takes linear time.

    Raises:
        UnsupportedModelError: The model has no graph: it is subclassed, not built, or no Keras model.
    """
    functional = _functional(model)
    if functional is None:
        raise UnsupportedModelError(why_no_graph(model))
    try:
        reader = _Reader(functional)
        graph = reader.graph(model)
    except AttributeError as error:
        if str(error.name).startswith("_"):
            raise unknown_keras(f"'{type(error.obj).__name__}.{error.name}'") from error
        raise
    _check_names(graph)
    return graph


def opened(operation: Any) -> Functional | None:
    """The functional model inside a nested model; `None` for everything else, and for one with a `call` of its own."""
    return _functional(operation) if isinstance(operation, keras.Model) else None


def _functional(model: Any) -> Functional | None:
    """The functional model whose graph says what `model` computes, or `None`."""
    if isinstance(model, keras.Sequential):
        own_call = type(model).call is not keras.Sequential.call
        return None if own_call or not model.built else model._functional
    if isinstance(model, Functional) and type(model).call is Functional.call:
        return model
    return None


@dataclass(eq=False)
class _Scope:
    """One functional model as it is called once: its symbolic tensors and what they stand for.

    Attributes:
        prefix: What names begin with in it: `""`, `"backbone/"`.
        nest: Its nest; `None` for the model itself.
        training: What its call fixes `training` to; `None` where it leaves it open.
        tensors: From the `id` of a symbolic tensor to the tensor's index.
        changed: From the `id` of a symbolic tensor to one that tells better what is there in this call: another shape,
            another dtype, or a mask that comes from outside.
        probes: Copies without a history, to call layers with.
    """

    prefix: str = ""
    nest: int | None = None
    training: Any = None
    tensors: dict[int, int] = field(default_factory=dict)
    changed: dict[int, keras.KerasTensor] = field(default_factory=dict)
    probes: dict[int, keras.KerasTensor] = field(default_factory=dict)


def _as_called(node: Any, scope: _Scope) -> Any:
    """The arguments of a call, `training` as the call of the nested model around it fixes it."""
    arguments = node.arguments
    if scope.training is None or "training" not in getattr(node.operation, "_call_context_args", ()):
        return arguments
    return SymbolicArguments(*arguments.args, **{**arguments.kwargs, "training": scope.training})


class _Reader:
    """Reads a functional model into calls and tensors.

    A nested model is read as if its calls stood in the place of its own. Where what it is given differs from what it
    was built on (a shape known only now, a mask), and where a mask leaves it that Keras follows only when the model
    runs, Keras is asked for its layers' outputs anew, and the nodes of that are taken out of the layers again.
    """

    def __init__(self, functional: Functional):
        self.calls: list[Call] = []
        self.tensors: list[Tensor] = []
        self.nests: list[Nest] = []
        self.functional = functional
        self.asked: dict[int, int] = {}  # the scope of what Keras was asked anew
        self.kept: list[keras.KerasTensor] = []
        self.made: set[str] = set()
        self.taken: set[str] = set()  # names of operations, once one needs a new name

    def graph(self, model: keras.Model) -> Graph:
        top = _Scope()
        self._read(self.functional, top)
        inputs, outputs = (
            keras.tree.map_structure(lambda symbol: top.tensors[id(symbol)], structure)
            for structure in (self.functional.input, self.functional.output)
        )
        graph = Graph(model, self.calls, self.tensors, self.nests, inputs, outputs, top.tensors, self.kept, self.made)
        return _without_unused_calls(graph, self.asked) if self.nests or self.kept else graph

    def _read(self, functional: Functional, scope: _Scope) -> None:
        nodes = nodes_of(functional)
        for node, name in zip(nodes, _call_names(nodes, functional.outputs), strict=True):
            if node.is_input:
                if scope.nest is None:
                    self._add_call(name, node.operation, node.arguments, scope.tensors, node.outputs, scope)
                continue
            inner = opened(node.operation)
            if inner is None or not self._open(node, inner, scope.prefix + name, scope):
                self._read_call(node, scope.prefix + name, scope)

    def _read_call(self, node: Any, name: str, scope: _Scope) -> None:
        arguments = _as_called(node, scope)
        if not scope.changed or not any(id(symbol) in scope.changed for symbol in node.input_tensors):
            arguments, masks = self._with_masks(node.operation, arguments, scope.tensors, scope)
            self._add_call(name, node.operation, arguments, scope.tensors, node.outputs, scope, masks)
            self._take_masks(node, scope)
            return
        asked = self._ask(node.operation, arguments, scope)
        arguments, masks = self._with_masks(node.operation, asked.arguments, self.asked, scope)
        outputs = self._add_call(name, node.operation, arguments, self.asked, asked.outputs, scope, masks)
        for symbol, better, tensor in zip(node.outputs, asked.outputs, outputs, strict=True):
            scope.tensors[id(symbol)] = tensor
            if _differs(better, symbol):
                scope.changed[id(symbol)] = better
        self._take_masks(node, scope)

    def _take_masks(self, node: Any, scope: _Scope) -> None:
        """`MultiHeadAttention` takes the masks off the tensors it is given, so that later layers do not find them."""
        if not isinstance(node.operation, keras.layers.MultiHeadAttention):
            return
        given = [*node.arguments.args[:3], *(node.arguments.kwargs.get(name) for name in ("query", "value", "key"))]
        for symbol in given:
            if isinstance(symbol, keras.KerasTensor) and has_mask(self._probe(symbol, scope)):
                plain = scope.changed[id(symbol)] = bare(symbol)
                self.asked[id(plain)] = scope.tensors[id(symbol)]
                self.kept.append(plain)

    def _with_masks(
        self, operation: keras.Operation, arguments: Any, known: dict[int, int], scope: _Scope
    ) -> tuple[Any, dict[int, int]]:
        """The arguments and the masks that Keras finds on the tensors when the model runs.

        Those that a layer was called with are among the arguments already, but Keras leaves them out of its record
        where the layer is called with a keyword, and where the tensor comes out of a nested model. Besides, the masks
        that the layer looks for itself on the tensors it is given, if it is one that does.
        """
        if not any(map(has_mask, arguments.keras_tensors)) or not isinstance(operation, keras.Layer):
            return arguments, {}
        keywords = {}
        for name, found in found_masks(operation, arguments.args, arguments.kwargs).items():
            if all(self._add_made(mask, known, scope) for mask in keras.tree.flatten(found) if mask is not None):
                keywords[name] = found
        masks = {}
        if _looks_for_masks(operation):
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
        scope: _Scope,
        masks: dict[int, int] | None = None,
    ) -> tuple[int, ...]:
        """Adds a call whose arguments, and then whose outputs, are among `known`."""
        index, first = len(self.calls), len(self.tensors)
        inputs = tuple(dict.fromkeys(known[id(symbol)] for symbol in arguments.keras_tensors))
        if masks:
            inputs = tuple(dict.fromkeys([*inputs, *masks.values()]))
        for tensor in inputs:
            self.tensors[tensor].users.append(index)
        for position, symbol in enumerate(symbols):
            known[id(symbol)] = len(self.tensors)
            own = f"{name}:{position}" if len(symbols) > 1 else name
            self.tensors.append(Tensor(own, symbol, index, []))
        outputs = tuple(range(first, len(self.tensors)))
        self.calls.append(Call(name, operation, arguments, known, inputs, outputs, masks or {}))
        nest = scope.nest
        while nest is not None:
            self.nests[nest].calls.append(index)
            nest = self.nests[nest].outer
        return outputs

    def _open(self, node: Any, functional: Functional, name: str, scope: _Scope) -> bool:
        """Reads the calls inside a nested model; `False` where the way it is called leaves that to Keras alone."""
        model = node.operation
        given = _given(node, functional)
        if given is None:
            return False
        training = node.arguments.kwargs.get("training") if scope.training is None else scope.training
        inner = _Scope(f"{name}/", len(self.nests), training)
        tensors = [scope.tensors[id(symbol)] for symbol, _ in given]
        arguments = _as_called(node, scope)
        nest = Nest(name, model, arguments, scope.tensors, node.outputs, tensors, scope.nest, inner=inner.tensors)
        self.nests.append(nest)
        for (symbol, mask), own in zip(given, functional.inputs, strict=True):
            inner.tensors[id(own)] = scope.tensors[id(symbol)]
            steps = _conversions(symbol, model, own)
            mask_given = None if mask is None else self._probe(mask, scope)
            if steps or mask_given is not None or id(symbol) in scope.changed or _differs(symbol, own):
                better = self._probe(symbol, scope)
                for step in steps:
                    better = step(better)
                    self._add_made(better, self.asked, inner)
                if mask_given is not None and mask_of(better) is not mask_given:
                    better = bare(better)
                    set_mask(better, mask_given)
                    self.asked[id(better)] = self.asked[id(self._probe(symbol, scope))]
                    self.kept.append(better)
                inner.tensors[id(own)] = self.asked[id(better)]
                if _differs(better, own):
                    inner.changed[id(own)] = better
        self._read(functional, inner)
        for symbol, own in zip(node.outputs, functional.outputs, strict=True):
            scope.tensors[id(symbol)] = inner.tensors[id(own)]
            better = inner.changed.get(id(own), own)
            if _differs(better, symbol):
                scope.changed[id(symbol)] = self._probe(own, inner)
        return True

    def _probe(self, symbol: keras.KerasTensor, scope: _Scope) -> keras.KerasTensor:
        """A symbolic tensor without history that stands for `symbol` in this scope: with its shape, dtype and mask."""
        if id(symbol) in scope.changed:
            return scope.changed[id(symbol)]
        if id(symbol) not in scope.probes:
            probe = scope.probes[id(symbol)] = bare(symbol)
            self.asked[id(probe)] = scope.tensors[id(symbol)]
            self.kept.append(probe)
            mask = mask_of(symbol)
            if mask is not None and self._add_made(mask, scope.tensors, scope):
                set_mask(probe, self._probe(mask, scope))
        return scope.probes[id(symbol)]

    def _ask(self, operation: keras.Operation, arguments: Any, scope: _Scope) -> Any:
        """Keras's record of a call with what is there in this scope; its outputs have no history."""
        args, kwargs = arguments.convert(
            lambda value: self._probe(value, scope) if isinstance(value, keras.KerasTensor) else value
        )
        with lock, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the model was built and warned of it
            operation(*args, **kwargs)
            node = operation._inbound_nodes.pop()
        for symbol in node.outputs:
            self.kept.append(symbol)
            mask = mask_of(symbol)
            if mask is not None and not self._add_made(mask, self.asked, scope):
                del symbol._keras_mask
            symbol._keras_history = KerasHistory(None, 0, 0)
        return node

    def _add_made(self, symbol: keras.KerasTensor, known: dict[int, int], scope: _Scope) -> bool:
        """Adds the calls that make a tensor which is not in the model's own graph, such as a mask, out of `known` ones.

        Returns:
            Whether there is a way.
        """
        if id(symbol) not in known and id(original(symbol)) in known:
            known[id(symbol)] = known[id(original(symbol))]
            self.kept.append(symbol)
        nodes, _ = walk([symbol], known)
        if any(node.is_input for node in nodes):
            return False
        for node in nodes:
            operation = self._renamed(node.operation, scope)
            self.made.add(operation.name)
            self._add_call(operation.name, operation, node.arguments, known, node.outputs, scope)
            self.kept += node.outputs
        return True

    def _renamed(self, operation: keras.Operation, scope: _Scope) -> keras.Operation:
        """The same operation under a name that the graph alone decides: Keras numbers such ones as they come."""
        if not self.taken:
            self.taken = _operation_names(self.functional)
        base = safe_name(scope.prefix).replace(".", "_") + re.sub(r"_\d+$", "", operation.name)
        return renamed(operation, unique(base, self.taken))


def renamed(operation: keras.Operation, name: str) -> keras.Operation:
    """The same operation, which is no layer, under another name and with no calls yet."""
    twin = object.__new__(type(operation))
    twin.__dict__.update(operation.__dict__)
    twin._inbound_nodes, twin._outbound_nodes = [], []
    twin.name = name
    return twin


def nodes_of(functional: Functional) -> list[Any]:
    """Keras's records of a model's calls, each after those it depends on."""
    by_depth = functional._nodes_by_depth
    return [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]]


def bare(symbol: keras.KerasTensor) -> keras.KerasTensor:
    """A `KerasTensor` with the attributes of `symbol`, whatever this version of Keras has, but no history and mask."""
    twin = keras.KerasTensor.__new__(keras.KerasTensor)
    twin.__dict__.update(symbol.__dict__)
    for name in ("_keras_mask", "_kerassplit_anchor"):
        twin.__dict__.pop(name, None)
    twin._keras_history = KerasHistory(None, 0, 0)  # type: ignore[attr-defined]
    return twin


def has_mask(symbol: keras.KerasTensor) -> bool:
    """Whether Keras hangs a mask on the tensor when the model runs."""
    return getattr(symbol, "_keras_mask", None) is not None


def original(symbol: keras.KerasTensor) -> keras.KerasTensor:
    """What the call that made a symbolic tensor gives there: this one, or the one that it was copied from."""
    operation, place, position = symbol._keras_history  # type: ignore[attr-defined]
    if operation is None or place >= len(operation._inbound_nodes):
        return symbol
    return operation._inbound_nodes[place].outputs[position]


def name_of(symbol: keras.KerasTensor) -> str:
    """The name of the operation that makes a symbolic tensor, or its own."""
    return getattr(getattr(symbol, "_keras_history", (None,))[0], "name", symbol.name)


def set_mask(symbol: keras.KerasTensor, mask: keras.KerasTensor | None) -> None:
    """Lets a mask travel with a symbolic tensor."""
    symbol._keras_mask = mask  # type: ignore[attr-defined]


def symbolic_arguments(*args: Any, **kwargs: Any) -> Any:
    """Arguments of a call as Keras keeps them."""
    return SymbolicArguments(*args, **kwargs)


def found_masks(layer: keras.Layer, args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The mask arguments that Keras fills in when it calls a layer on masked tensors, by name."""
    spec = CallSpec(layer._call_signature, layer._call_context_args, args, {**kwargs})
    masks = {}
    for argument, value in spec.tensor_arguments_dict.items():
        name = "mask" if len(spec.tensor_arguments_dict) == 1 else f"{argument}_mask"
        if name in spec.argument_names and spec.arguments_dict[name] is None:
            found = keras.tree.map_structure(mask_of, value)
            if any(mask is not None for mask in keras.tree.flatten(found)):
                masks[name] = found
    return masks


def _looks_for_masks(layer: keras.Layer) -> bool:
    """Whether a layer may look for masks on its arguments itself: some of Keras's do, and all others can."""
    kinds = ("MultiHeadAttention", "Multiply", "Maximum", "Minimum", "Pipeline")
    return isinstance(layer, tuple(getattr(keras.layers, kind) for kind in kinds)) or not type(
        layer
    ).__module__.startswith("keras.src.layers.")


def mask_of(symbol: Any) -> keras.KerasTensor | None:
    """The mask that Keras lets travel with a symbolic tensor."""
    return getattr(symbol, "_keras_mask", None)


def _differs(symbol: keras.KerasTensor, recorded: keras.KerasTensor) -> bool:
    """Whether a tensor is not what Keras recorded: in shape, in dtype, or in whether it has a mask."""
    other_mask = has_mask(symbol) != has_mask(recorded)
    return symbol is not recorded and (other_mask or (symbol.shape, symbol.dtype) != (recorded.shape, recorded.dtype))


def _given(node: Any, functional: Functional) -> list[tuple[keras.KerasTensor, keras.KerasTensor | None]] | None:
    """What the call of a nested model gives each of its inputs, and the mask it sets on it.

    `None` where this cannot be said: an optional input left out, a constant, arguments of other kinds.
    """
    arguments = dict(zip(("inputs", "training", "mask"), node.arguments.args, strict=False)) | node.arguments.kwargs
    if any(value is not None for name, value in arguments.items() if name not in ("inputs", "training", "mask")):
        return None
    own, given, masks = functional.input, arguments["inputs"], arguments.get("mask")
    if isinstance(given, dict) and not isinstance(own, dict):
        given = [given.get(symbol.name) for symbol in functional.inputs]
    symbols = keras.tree.flatten(given)
    masks = [None] * len(symbols) if masks is None else keras.tree.flatten(masks)
    pairs = list(zip(symbols, masks, strict=False))
    fits = len(pairs) == len(symbols) == len(functional.inputs) and all(
        isinstance(symbol, keras.KerasTensor)
        and symbol.sparse >= own.sparse  # Keras marks `x * 2` as sparse
        and (mask is None or isinstance(mask, keras.KerasTensor))
        for (symbol, mask), own in zip(pairs, functional.inputs, strict=True)
    )
    return pairs if fits else None


def _conversions(symbol: keras.KerasTensor, model: Any, own: keras.KerasTensor) -> list[Callable[[Any], Any]]:
    """What Keras does to a tensor that it hands to the Input of a nested model: casts, an axis of 1 more or less."""
    dtypes = [own.dtype]
    if model._convert_input_args and model.autocast and "float" in symbol.dtype and "float" in model.input_dtype:
        dtypes.insert(0, model.input_dtype)
    steps: list[Callable[[Any], Any]] = []
    present = symbol.dtype
    for dtype in dtypes:
        if dtype != present:
            steps.append(lambda x, dtype=dtype: keras.ops.cast(x, dtype))
            present = dtype
    if len(symbol.shape) == len(own.shape) + 1:
        steps.append(lambda x: keras.ops.squeeze(x, axis=-1))
    elif len(symbol.shape) == len(own.shape) - 1:
        steps.append(lambda x: keras.ops.expand_dims(x, axis=-1))
    return steps


def _operation_names(functional: Functional) -> set[str]:
    """The names of all operations in a model and in the models nested in it."""
    names: set[str] = set()
    for operation in functional._operations:
        names.add(operation.name)
        inner = opened(operation)
        if inner is not None:
            names |= _operation_names(inner)
    return names


def _without_unused_calls(graph: Graph, asked: dict[int, int]) -> Graph:
    """The graph without calls that lead to none of the model's outputs: a nested model may have such."""
    live = {call for call, found in enumerate(graph.calls) if not found.inputs}
    waiting = [graph.tensors[tensor].call for tensor in graph.flat_outputs()]
    while waiting:
        call = waiting.pop()
        if call not in live:
            live.add(call)
            waiting += [graph.tensors[tensor].call for tensor in graph.calls[call].inputs]
    if len(live) == len(graph.calls):
        return graph
    call_at = {call: place for place, call in enumerate(sorted(live))}
    tensors = [tensor for tensor, found in enumerate(graph.tensors) if found.call in live]
    tensor_at = {tensor: place for place, tensor in enumerate(tensors)}
    for scope in (graph.scope, asked, *(nest.inner for nest in graph.nests)):
        kept = {symbol: tensor_at[tensor] for symbol, tensor in scope.items() if tensor in tensor_at}
        scope.clear()
        scope.update(kept)
    graph.calls = [graph.calls[call] for call in call_at]
    for call in graph.calls:
        call.inputs, call.outputs = (
            tuple(tensor_at[tensor] for tensor in some) for some in (call.inputs, call.outputs)
        )
        call.masks = {symbol: tensor_at[tensor] for symbol, tensor in call.masks.items()}
    graph.tensors = [graph.tensors[tensor] for tensor in tensors]
    for tensor in graph.tensors:
        tensor.call = call_at[tensor.call]
        tensor.users = [call_at[user] for user in tensor.users if user in live]
    for nest in graph.nests:
        nest.calls = [call_at[call] for call in nest.calls if call in live]
        nest.given = [tensor_at.get(tensor, -1) for tensor in nest.given]
    graph.inputs, graph.outputs = (
        keras.tree.map_structure(tensor_at.__getitem__, some) for some in (graph.inputs, graph.outputs)
    )
    return graph


def bytes_per_sample(shape: tuple[int | None, ...], dtype: str) -> int | None:
    """Bytes of one sample of a tensor (the first dimension is the batch); `None` where another dimension is open.

    >>> bytes_per_sample((None, 28, 28, 512), "float32")
    1605632
    """
    bits = 8 if dtype == "bool" else next(iter(map(int, re.findall(r"\d+", dtype))), None)
    sides = [side for side in shape[1:] if side is not None]
    if bits is None or len(sides) < len(shape) - 1:
        return None
    return math.ceil(math.prod(sides) * bits / 8)


def _call_names(nodes: Sequence[Any], outputs: Sequence[keras.KerasTensor]) -> list[str]:
    """One name per node: the operation's, with `@0`, `@1`, ... where it is called several times.

    The numbers follow a walk from the outputs, first arguments first: an order that the graph alone decides, so it
    survives saving and joining.
    """
    of_operation = defaultdict(list)
    for index, node in enumerate(nodes):
        of_operation[id(node.operation)].append(index)
    names = [node.operation.name for node in nodes]
    several = [indices for indices in of_operation.values() if len(indices) > 1]
    if several:
        met = {node: place for place, node in enumerate(walk(outputs)[0])}
        for indices in several:
            for number, index in enumerate(sorted(indices, key=lambda index: met[nodes[index]])):
                names[index] += f"@{number}"
    return names


def _check_names(graph: Graph) -> None:
    """Names with `@` or `:` of the user's own can be those of other tensors."""
    seen: set[str] = set()
    for tensor in graph.tensors:
        if tensor.name in seen:
            raise UnsupportedModelError(
                f"Two tensors of model '{graph.model.name}' are called '{tensor.name}'. kerassplit numbers the calls "
                "of a layer with '@' and its outputs with ':'; rename the layer whose own name has such a sign."
            )
        seen.add(tensor.name)


def walk(outputs: Sequence[keras.KerasTensor], known: Container[int] = ()) -> tuple[list[Any], dict[Any, int]]:
    """The Keras nodes that lead to the outputs, and when each operation was first met.

    Depth first and without recursion, arguments in their order. Each node comes after those it depends on. The walk
    stops at tensors whose `id` is among `known`.
    """
    nodes: list[Any] = []
    first_met: dict[Any, int] = {}
    seen: set[Any] = set()
    path: list[tuple[Any, Iterator[keras.KerasTensor]]] = [(None, iter(outputs))]
    while path:
        node, waiting = path[-1]
        symbol = next(waiting, None)
        if symbol is not None:
            maker = None if id(symbol) in known else maker_of(symbol)
            if maker is not None and maker not in seen:
                seen.add(maker)
                first_met.setdefault(maker.operation, len(first_met))
                path.append((maker, iter(maker.input_tensors)))
        else:
            path.pop()
            if node is not None:
                nodes.append(node)
    return nodes, first_met


def all_layers(layer: keras.Layer) -> list[keras.Layer]:
    """A layer and all the layers inside it, at any depth."""
    return layer._flatten_layers()


def is_composite(operation: Any) -> bool:
    """Whether there are layers inside."""
    return isinstance(operation, keras.Layer) and bool(operation._layers)


def keras_operation_name(operation: Any) -> str | None:
    """The class name of an operation of `keras.ops`; `None` for layers and for operations of others."""
    kind = type(operation)
    own = kind.__module__.startswith("keras.src.ops.") and not isinstance(operation, keras.Layer)
    return kind.__name__ if own else None


def maker_of(symbol: keras.KerasTensor) -> Any:
    """The Keras node that makes a symbolic tensor."""
    operation, place, _ = symbol._keras_history
    return operation._inbound_nodes[place]
