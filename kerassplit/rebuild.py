"""From a graph and a boundary to a `keras.Model`: the only place that makes Keras nodes.

Calling every layer again would run shape inference again and might add state. A `Node` can be made without calling its
layer: with the layer's arguments of the original call, the tensors in them replaced. So the calls keep their training
flags, nested structures, masks and positional constants, and the layers stay the model's own objects.

Nodes stand in lists that belong to the shared layers. Those of a sub-model are taken out again when its output tensors
are garbage-collected: the model, and whatever was built on it, hold these.
"""

import contextlib
import json
import os
import sys
import tempfile
import weakref
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import keras
import numpy as np
from keras.src.backend.common import global_state
from keras.src.backend.common.masking import get_keras_mask, set_keras_mask
from keras.src.layers.layer import CallContext
from keras.src.ops import function as keras_function
from keras.src.ops.function import make_node_key
from keras.src.ops.node import Node
from keras.src.ops.symbolic_arguments import SymbolicArguments
from keras.src.saving.saving_lib import load_model
from keras.src.saving.serialization_lib import SafeModeScope

from kerassplit.errors import UnsupportedModelError
from kerassplit.graph import (
    Call,
    Graph,
    Nest,
    bare,
    bytes_per_sample,
    has_mask,
    lock,
    maker_of,
    mask_of,
    original,
    read_graph,
    renamed,
    set_mask,
    walk,
)
from kerassplit.names import listed, safe_name, unique
from kerassplit.packing import naturally_masked, packed, plain_name

_keras_map_graph = keras_function.map_graph
_RECURSION_LIMIT = 1_000_000
_CALL_CONTEXT = "current_call_ctx"  # Keras keeps the call that is under way there
MASKED = "_with_mask"
"""How the names of the nested models end that hang a mask on a tensor."""


class _Anchor:
    """Lives as long as any output tensor of a sub-model does."""


class _WeakArguments:
    """A call's arguments that refer only weakly to some of the tensors."""

    def __init__(self, arguments: SymbolicArguments, released: set[int]):
        self._args, self._kwargs = arguments.convert(lambda x: weakref.ref(x) if id(x) in released else x)

    def __getattr__(self, name: str) -> Any:
        args, kwargs = keras.tree.map_structure(
            lambda x: x() if isinstance(x, weakref.ref) else x, (self._args, self._kwargs)
        )
        return getattr(SymbolicArguments(*args, **kwargs), name)


class _SharedNode(Node):
    """A call in a sub-model of an operation that other models share.

    Its layer holds the node for ever, so the node must not hold the sub-model's outputs, or they would never die: it
    refers to them weakly. `dead` is set when they have.
    """

    dead = False
    makers: Sequence[Any] = ()  # the operations that make what it receives
    _weak: tuple[tuple[int, Any], ...] = ()

    def let_go_of(self, symbols: set[int]) -> None:
        """From now on refers only weakly to the tensors whose `id` is among `symbols`."""
        kept = self._outputs
        self._weak = tuple((i, weakref.ref(symbol)) for i, symbol in enumerate(kept) if id(symbol) in symbols)
        for place, _ in self._weak:
            kept[place] = None
        if any(id(symbol) in symbols for symbol in self.arguments.keras_tensors):
            self.arguments = _WeakArguments(self.arguments, symbols)

    @property
    def outputs(self) -> list[Any]:
        if not self._weak:
            return self._outputs
        outputs = list(self._outputs)
        for place, reference in self._weak:
            outputs[place] = reference()
        return outputs

    @outputs.setter
    def outputs(self, outputs: list[Any]) -> None:
        self._outputs = outputs


class Builder:
    """Builds one model out of calls of other models.

    Add inputs and calls in an order in which every call follows those it depends on, then take the `model`. Left
    without one (`with` ends early, or an error), it takes its nodes back out of the shared layers.

    Args:
        only_to_run: Whether the model is never saved or built upon, so that two layers may bear one name.
    """

    def __init__(self, only_to_run: bool = False) -> None:
        self._only_to_run = only_to_run
        self._shared: list[_SharedNode] = []
        self._named: dict[str, tuple[keras.Operation, str]] = {}
        self._with_masks: dict[tuple[int, int], keras.KerasTensor] = {}
        self._names_of_masked: set[str] = set()
        self._finished = False

    def __enter__(self) -> "Builder":
        return self

    def __exit__(self, *_: object) -> None:
        if not self._finished:
            _release(self._shared)

    def add_input(self, graph: Graph, tensor: int, name: str) -> keras.KerasTensor:
        """A fresh `keras.Input` in the place of a tensor of `graph`."""
        symbol = graph.tensors[tensor].symbol
        return keras.Input(
            batch_shape=symbol.shape,
            dtype=symbol.dtype,
            sparse=graph.is_sparse(tensor),
            ragged=symbol.ragged,
            name=name,
            optional=getattr(symbol._keras_history.operation, "optional", False),
        )

    def add_calls(
        self,
        graph: Graph,
        calls: Sequence[Call | Nest],
        symbols: dict[int, keras.KerasTensor],
        operations: Mapping[int, keras.Operation] | None = None,
    ) -> None:
        """Repeats calls of `graph`.

        Args:
            graph: Where the calls are.
            calls: They, in execution order.
            symbols: From its tensors to the new ones; grows by the outputs of the calls.
            operations: From the `id` of an operation to another that is called in its place.

        Raises:
            UnsupportedModelError: Two different layers bear one name.
        """
        masked = _masked(graph, calls, symbols)
        for call in calls:
            args, kwargs = self._filled_in(call, symbols, masked)
            outputs = []
            for tensor, symbol in call.results(graph.tensors):
                twin = bare(symbol)
                if has_mask(symbol):
                    set_mask(twin, _mask_of(symbol, call, symbols))
                outputs.append(twin)
                symbols.setdefault(tensor, twin)
            operation = call.operation
            if operations is not None:
                operation = operations.get(id(operation), operation)
            self._check_name(operation, call.name)
            node = _SharedNode(operation, call_args=args, call_kwargs=kwargs, outputs=outputs)
            node.makers = [symbol._keras_history.operation for symbol in node.input_tensors]
            self._shared.append(node)

    def add_copies(self, graph: Graph, calls: Sequence[Call | Nest], symbols: dict[int, keras.KerasTensor]) -> None:
        """The same with copies of the operations: variables of their own, equal values, new names where two are one.

        Raises:
            UnsupportedModelError: Two layers share a variable; copies would not.
        """
        copies = _copies_of(calls)
        masked = _masked(graph, calls, symbols)
        for call in calls:
            args, kwargs = self._filled_in(call, symbols, masked)
            outputs = keras.tree.flatten(copies[id(call.operation)](*args, **kwargs))  # builds it, too
            for (tensor, _), output in zip(call.results(graph.tensors), outputs, strict=True):
                symbols.setdefault(tensor, output)
        _copy_state(calls, copies)

    def _keep_order(self, model: keras.Model) -> None:
        """Lets the calls run in the order in which they were added.

        Keras goes by their distance from the outputs, which a cut changes. Calls of one layer would draw random numbers
        and update statistics in another order.
        """
        by_depth = model._nodes_by_depth
        present = {node for nodes in by_depth.values() for node in nodes}
        added = [node for node in self._shared if node in present]
        first = [node for node in present if node.is_input]
        by_depth.clear()
        by_depth.update({len(added) - place: [node] for place, node in enumerate(added)})
        by_depth[len(added) + 1] = first

    def _filled_in(
        self, call: Call | Nest, symbols: Mapping[int, keras.KerasTensor], masked: set[int]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a call with other tensors; a tensor that nobody made becomes `None`."""
        known = {}
        for symbol in call.arguments.keras_tensors:
            tensor = call.scope.get(id(symbol), -1)
            known[id(symbol)] = symbols.get(tensor)
            mask = call.masks.get(id(symbol), -1) if isinstance(call, Call) else -1
            if mask in symbols and tensor not in masked:
                known[id(symbol)] = self._with_mask(symbols[tensor], symbols[mask])
        return call.arguments.fill_in(known)

    def _with_mask(self, symbol: keras.KerasTensor, mask: keras.KerasTensor) -> keras.KerasTensor:
        """The tensor with a mask hung on it for a layer that looks for it there: a nested model does that in Keras."""
        key = id(symbol), id(mask)
        if key not in self._with_masks:
            name = unique(f"{symbol._keras_history.operation.name}{MASKED}", self._names_of_masked)
            plain = keras.Input(batch_shape=symbol.shape, dtype=symbol.dtype)
            carrier = keras.Model(plain, keras.layers.Identity(dtype=symbol.dtype, name="identity")(plain), name=name)
            carrier.supports_masking = True
            twin = bare(symbol)
            set_mask(twin, mask)
            node = _SharedNode(carrier, call_args=(symbol,), call_kwargs={"mask": mask}, outputs=[twin])
            node.makers = [maker._keras_history.operation for maker in node.input_tensors]
            self._shared.append(node)
            self._with_masks[key] = twin
        return self._with_masks[key]

    def _check_name(self, operation: keras.Operation, name: str) -> None:
        """Keras takes a name only once in one model."""
        other, known_as = self._named.setdefault(operation.name, (operation, name))
        if other is not operation and not self._only_to_run:
            which = "" if name == known_as else f" ({listed([known_as, name])})"
            raise UnsupportedModelError(
                f"Two different layers are called '{operation.name}'{which}, and a Keras model takes a name only "
                "once. Keep them in different models or stages, rename one of them (`layer.name = ...`), or ask for "
                "copies (copy_weights=True): they get new names."
            )

    def model(self, inputs: Any, outputs: Any, name: str, like: keras.Model) -> keras.Model:
        """The `keras.Model` from `inputs` to `outputs`, with the dtype policy of `like`."""
        with _fast_map_graph(outputs):
            model = keras.Model(inputs, outputs, name=name)
        if model.dtype_policy != like.dtype_policy:
            model.dtype_policy = like.dtype_policy
        if len({id(node.operation) for node in self._shared}) < len(self._shared):
            self._keep_order(model)
        given = {id(symbol) for node in self._shared for symbol in node.outputs}
        ends = [symbol for symbol in model.outputs if id(symbol) in given]
        anchor = _Anchor()
        for symbol in ends:
            symbol._kerassplit_anchor = anchor  # type: ignore[attr-defined]
        weakref.finalize(anchor, _release, self._shared).atexit = False
        released = {id(symbol) for symbol in ends}
        for node in self._shared:
            node.let_go_of(released)
        self._finished = True
        return model


def _mask_of(
    symbol: keras.KerasTensor, call: Call | Nest, symbols: Mapping[int, keras.KerasTensor]
) -> keras.KerasTensor | None:
    """The new mask of the twin of `symbol`.

    A copy with the same history: the twin lives as long as its layer, and must not keep an output of the model alive.
    """
    tensor = _index_of_mask(symbol, call)
    if tensor not in symbols:
        return None
    copy = bare(symbols[tensor])
    copy._keras_history = symbols[tensor]._keras_history  # type: ignore[attr-defined]
    return copy


def _index_of_mask(symbol: keras.KerasTensor, call: Call | Nest) -> int:
    """The tensor that is the mask of one that `call` makes; -1 where none is."""
    mask = mask_of(symbol)
    return -1 if mask is None else call.scope.get(id(mask), call.scope.get(id(original(mask)), -1))


def tensor_of_mask(graph: Graph, tensor: int) -> int | None:
    """The mask that Keras lets travel with a tensor, where it is a tensor of the graph: where some layer takes it."""
    found = graph.tensors[tensor]
    mask = _index_of_mask(found.symbol, graph.calls[found.call])
    return mask if mask >= 0 else None


def _release(nodes: Sequence[_SharedNode]) -> None:
    """Takes the nodes of a dead sub-model out of its operations.

    `_keras_history.node_index` is an index into `_inbound_nodes`, so only the end of that list may be cut off. A dead
    node further in waits for those behind it.
    """
    for node in reversed(nodes):
        node.dead = True
        for maker in node.makers:
            _remove_last(maker._outbound_nodes, node)
    for node in reversed(nodes):
        inbound = node.operation._inbound_nodes
        while inbound and getattr(inbound[-1], "dead", False):
            inbound.pop()


def _remove_last(nodes: list[Node], node: Node) -> None:
    """Removes `node`, searching from the end, where it most likely is."""
    for place in range(len(nodes) - 1, -1, -1):
        if nodes[place] is node:
            del nodes[place]
            return


@contextlib.contextmanager
def _fast_map_graph(outputs: Any) -> Iterator[None]:
    """While it lasts, Keras maps the graph that ends in `outputs` by `map_graph` below.

    Models that other threads build at the same time go Keras's way.
    """
    ours = [id(symbol) for symbol in keras.tree.flatten(outputs)]

    def dispatch(inputs: Any, outputs: Any) -> Any:
        mine = [id(symbol) for symbol in outputs] == ours
        return map_graph(inputs, outputs) if mine else _keras_map_graph(inputs, outputs)

    with lock:
        keras_function.map_graph = dispatch
        try:
            yield
        finally:
            keras_function.map_graph = _keras_map_graph


def map_graph(
    inputs: Sequence[keras.KerasTensor], outputs: Sequence[keras.KerasTensor]
) -> tuple[set[str], dict[int, Any], list[Any], dict[int, Any]]:
    """What Keras's own `map_graph` returns for a graph that a `Builder` has built: the same things in the same order.

    Keras finds the nodes by recursion, one Python frame a call, and compares each operation's name with each other's,
    in time that grows with the square of their number. This takes linear time and no recursion. The order counts:
    Keras stores weights by the place of a layer among those of its depth.

    Returns:
        The keys of the nodes; the nodes by depth (the longest way to an output); the operations, the deepest first and
        within a depth in the order of a walk from the outputs; the operations by depth.
    """
    nodes, first_met = walk(outputs)
    node_depth: dict[Node, int] = {}
    operation_depth: dict[Any, int] = {}
    for node in reversed(nodes):
        # All calls of a shared operation lie at least as deep as the deepest one met so far.
        depth = max(node_depth.setdefault(node, 0), operation_depth.get(node.operation, 0))
        node_depth[node] = operation_depth[node.operation] = depth
        for symbol in node.input_tensors:
            maker = maker_of(symbol)
            node_depth[maker] = max(depth + 1, node_depth.get(maker, 0))
    unused = [maker_of(symbol) for symbol in inputs if maker_of(symbol) not in node_depth]
    for node in unused:
        node_depth[node] = operation_depth[node.operation] = 0
        first_met[node.operation] = -1
    # As in Keras, `defaultdict`s: TensorFlow wraps and tracks all that is in a plain dict.
    nodes_by_depth: dict[int, list[Node]] = defaultdict(list)
    for node, depth in node_depth.items():
        nodes_by_depth[depth].append(node)
    operations_by_depth: dict[int, list[Any]] = defaultdict(list)
    for operation in sorted(operation_depth, key=first_met.__getitem__):
        operations_by_depth[operation_depth[operation]].append(operation)
    deepest_first = sorted(operations_by_depth, reverse=True)
    operations = [operation for depth in deepest_first for operation in operations_by_depth[depth]]
    keys = {make_node_key(node.operation, node.outputs[0]._keras_history.node_index) for node in [*nodes, *unused]}
    return keys, nodes_by_depth, operations, operations_by_depth


def joined(
    pieces: Sequence[tuple[Graph, Sequence[str], Sequence[str]]],
    inputs: Any,
    outputs: Any,
    name: str,
    unused: Sequence[Any] = (),
) -> tuple[keras.Model, dict[str, keras.KerasTensor]]:
    """One model out of pieces that hand each other tensors by name, in the order in which they run.

    Args:
        pieces: For each its graph, and the names of its inputs and outputs in Keras's order.
        inputs: Names of the model's inputs, in the structure it takes.
        outputs: Names of its outputs, likewise.
        name: Its name.
        unused: Inputs that no piece takes, each with name, shape and dtype.

    Returns:
        It, and by name its symbolic tensors.

    Raises:
        UnsupportedModelError: The pieces do not fit, or hold different layers of one name. Equal ones, such as the
            copies of a layer that several saved stages share, become one.
    """
    wholes = [whole(graph) for graph, _, _ in pieces]
    operations = _tied([call for calls in wholes for call in calls])
    with Builder() as builder:
        named = {one.name: keras.Input(batch_shape=one.shape, dtype=one.dtype, name=one.name) for one in unused}
        for (graph, takes, gives), calls in zip(pieces, wholes, strict=True):
            symbols = {}
            for tensor, key in zip(graph.flat_inputs(), takes, strict=True):
                if key not in named:
                    named[key] = builder.add_input(graph, tensor, safe_name(key))
                symbols[tensor] = named[key]
            builder.add_calls(graph, calls, symbols, operations)
            named.update({key: symbols[tensor] for tensor, key in zip(graph.flat_outputs(), gives, strict=True)})
        for key in keras.tree.flatten((inputs, outputs)):
            if key not in named:
                raise UnsupportedModelError(
                    f"The pieces cannot be joined into '{name}': none of them takes or gives '{key}'."
                )
        model = builder.model(
            keras.tree.map_structure(named.__getitem__, inputs),
            keras.tree.map_structure(named.__getitem__, outputs),
            name,
            like=pieces[0][0].model,
        )
    return model, named


def whole(graph: Graph) -> list[Call | Nest]:
    """All the calls of a model, its nested models as one call each."""
    calls = [index for index, call in enumerate(graph.calls) if call.inputs]
    return packed(graph, calls, graph.flat_inputs(), graph.flat_outputs())


def with_other_operations(model: keras.Model, operations: Mapping[str, keras.Operation]) -> keras.Model:
    """The same model with other operations in the place of some, which are named as their calls are, without numbers.

    Nested models that hold such are inlined.
    """
    graph = read_graph(model)
    replaced = {
        index: operations[plain_name(call)] for index, call in enumerate(graph.calls) if plain_name(call) in operations
    }
    by_operation = {id(graph.calls[index].operation): operation for index, operation in replaced.items()}
    calls = [index for index, call in enumerate(graph.calls) if call.inputs]
    items = packed(graph, calls, graph.flat_inputs(), graph.flat_outputs(), replaced)
    taken = {item.operation.name for item in items}
    with Builder() as builder:
        own = graph.own_symbols()
        symbols = {
            tensor: builder.add_input(graph, tensor, unique(maker_of(own[tensor]).operation.name, taken))
            for tensor in dict.fromkeys(graph.flat_inputs())
        }
        builder.add_calls(graph, items, symbols, by_operation)
        return builder.model(
            keras.tree.map_structure(symbols.__getitem__, graph.inputs),
            keras.tree.map_structure(symbols.__getitem__, graph.outputs),
            model.name,
            like=model,
        )


def _tied(calls: Sequence[Call | Nest]) -> dict[int, keras.Operation]:
    """For each operation that equals an earlier one of the same name, that one."""
    first: dict[str, keras.Operation] = {}
    tied: dict[int, keras.Operation] = {}
    for call in calls:
        earlier = first.setdefault(call.operation.name, call.operation)
        if earlier is not call.operation and _equal(earlier, call.operation):
            tied[id(call.operation)] = earlier
    return tied


def _equal(one: keras.Operation, other: keras.Operation) -> bool:
    """Whether two operations are the same object, or equal in configuration and weights."""
    if one is other:
        return True
    if type(one) is not type(other) or one.get_config() != other.get_config():
        return False
    ours, theirs = ([*layer.weights] if isinstance(layer, keras.Layer) else [] for layer in (one, other))
    return len(ours) == len(theirs) and all(
        np.array_equal(*map(keras.ops.convert_to_numpy, pair), equal_nan=True)
        for pair in zip(ours, theirs, strict=True)
    )


def _copies_of(calls: Sequence[Call | Nest]) -> dict[int, keras.Operation]:
    """For each operation, by its `id`, one of the same configuration; the second of a name gets a new one."""
    copies: dict[int, keras.Operation] = {}
    owners: dict[int, Call | Nest] = {}
    taken: set[str] = set()
    for call in calls:
        operation = call.operation
        if id(operation) in copies:
            continue
        name = unique(operation.name, taken)
        if not isinstance(operation, keras.Layer):
            copies[id(operation)] = renamed(operation, name)
            continue
        for variable in operation.variables:
            owner = owners.setdefault(id(variable), call)
            if owner is not call:
                raise UnsupportedModelError(
                    f"{listed([owner.name, call.name])} share the variable '{variable.path}', and copies of these "
                    "layers would not. Build without copy_weights=True; saved and loaded, the sub-model is a copy."
                )
        kind = type(operation)
        try:
            with keras.saving.custom_object_scope({kind.__name__: kind}), SafeModeScope(False):
                copies[id(operation)] = kind.from_config(operation.get_config())
        except Exception as error:
            raise UnsupportedModelError(
                f"'{call.name}' ({kind.__name__}) cannot be copied from its configuration: {type(error).__name__}: "
                f"{error}. Mend its `get_config`, or build without copy_weights=True."
            ) from error
        copies[id(operation)].name = name
    return copies


def _masked(graph: Graph, calls: Sequence[Call | Nest], given: Iterable[int]) -> set[int]:
    """The tensors that have their masks without our doing, but for those whose masks are given and not used else.

    To hang those on again changes nothing, and Keras 3.13 refuses an input that nothing takes.
    """
    masked = naturally_masked(graph, calls)
    hung = {
        call.scope.get(symbol, -1): mask
        for call in calls
        if isinstance(call, Call)
        for symbol, mask in call.masks.items()
    }
    idle = {mask for tensor, mask in hung.items() if tensor in masked}
    idle -= {mask for tensor, mask in hung.items() if tensor not in masked}
    for call in reversed(calls):
        if not idle.issuperset(tensor for tensor, _ in call.results(graph.tensors)):
            idle.difference_update(call.scope.get(id(symbol), -1) for symbol in call.arguments.keras_tensors)
    return masked - {tensor for tensor, mask in hung.items() if mask in idle.intersection(given)}


def _copy_state(calls: Sequence[Call | Nest], copies: Mapping[int, keras.Operation]) -> None:
    """Gives copies that are built the originals' values: variables, vocabularies, what is frozen."""
    for operation in {id(call.operation): call.operation for call in calls}.values():
        if not isinstance(operation, keras.Layer):
            continue
        copy = copies[id(operation)]
        if [variable.shape for variable in copy.variables] != [variable.shape for variable in operation.variables]:
            raise UnsupportedModelError(
                f"'{operation.name}' ({type(operation).__name__}) makes other variables when it is built "
                "anew, so it cannot be copied. Build without copy_weights=True; what is saved and loaded is a copy."
            )
        for ours, theirs in zip(copy._flatten_layers(), operation._flatten_layers(), strict=True):
            ours._trainable = theirs._trainable
            if type(theirs).load_own_variables is not keras.Layer.load_own_variables:  # it may derive more from them
                store: dict[str, Any] = {}
                theirs.save_own_variables(store)
                ours.load_own_variables(store)
            if hasattr(theirs, "save_assets"):
                with tempfile.TemporaryDirectory() as folder:
                    theirs.save_assets(folder)
                    if any(Path(folder).iterdir()):
                        ours.load_assets(folder)
        for ours, theirs in zip(copy.variables, operation.variables, strict=True):
            ours.trainable = theirs.trainable
            ours.assign(keras.ops.copy(theirs.value))  # JAX would share the array, and its training deletes those


def graph_of_call(layer: keras.Layer, inputs: Any) -> Graph:
    """The graph of one call of a layer, which builds it. The call is taken out of the layer again."""
    with lock:
        count = len(layer._inbound_nodes)
        try:
            return read_graph(keras.Model(inputs, layer(inputs)))
        finally:
            del layer._inbound_nodes[count:]


def whole_model(graph: Graph, symbols: Sequence[keras.KerasTensor]) -> keras.Model:
    """The model itself, giving these of its own tensors (a list, also for one); by Keras alone, no node is made."""
    own = graph.own_symbols()
    with deep_recursion():
        return keras.Model([own[tensor] for tensor in graph.flat_inputs()], list(symbols), name=graph.model.name)


_FEW_BYTES = 2**20  # for the states of random generators and the like, which a file may leave out


def load_file(file: BinaryIO, safe_mode: bool) -> Any:
    """What Keras makes of an open `.keras` file, not compiled; its public function opens a path once more.

    With `safe_mode`, also where the user has turned Keras's own off for the whole process.

    Raises:
        ValueError: With `safe_mode`, the model would take more memory than the file can fill: asked for so much, JAX
            ends the process.
    """
    with deep_recursion(), SafeModeScope(safe_mode):
        if safe_mode:
            held, wanted = os.fstat(file.fileno()).st_size, _bytes_of_variables(file)
            if wanted > 2 * held + _FEW_BYTES:
                raise ValueError(f"its config asks for {wanted:,} bytes of variables, and all of it has {held:,} bytes")
            file.seek(0)
        return load_model(file, compile=False, safe_mode=safe_mode)


def _bytes_of_variables(file: BinaryIO) -> int:
    """What the variables of the model in a `.keras` file would take; none of them is made."""
    with zipfile.ZipFile(file) as archive:
        config = json.loads(archive.read("config.json"), object_hook=_without_states)
    waiting = global_state.get_global_attribute("uninitialized_variables", default=[], set_to_default=True)
    before = list(waiting)
    try:
        with keras.StatelessScope(initialize_variables=False):
            model = keras.saving.deserialize_keras_object(config)
    except ValueError as error:
        if "stateless scope" not in str(error):
            raise
        return 0  # a layer of the user's own, registered, makes a variable at once: none of Keras's does
    finally:
        waiting[:] = before  # or the next such scope to end, whoever's it is, would make them
    variables = model.variables if isinstance(model, keras.Model) else []
    return sum(bytes_per_sample((None, *variable.shape), variable.dtype) or 0 for variable in variables)


def _without_states(config: dict[str, Any]) -> dict[str, Any]:
    """A config without the states of recurrent layers, which are as large as a batch and made at once."""
    return {**config, "stateful": False} if "stateful" in config else config


def hands_masks_on(model: keras.Model) -> keras.Model:
    """The model, loaded from a file: Keras does not save that those nested models support masks."""
    for layer in model.layers:
        if layer.name.endswith(MASKED):
            layer.supports_masking = True
    return model


@contextlib.contextmanager
def name_scopes_kept() -> Iterator[None]:
    """Leaves Keras's name scopes as they were: an error in entering one, on TensorFlow, leaves another one open."""
    scopes = global_state.get_global_attribute("name_scope_stack", default=[], set_to_default=True)
    before = list(scopes)
    try:
        yield
    finally:
        scopes[:] = before


def compile_like(part: keras.Model, model: keras.Model) -> None:
    """Compiles a part of a model as the model is compiled.

    It gets an optimiser of its own, of the same configuration and without steps behind it, the same losses and weights
    of losses, and metrics of its own.

    Raises:
        UnsupportedModelError: The optimiser or a metric cannot be made again from its configuration.
    """
    config = dict(model._compile_config.config)
    config["optimizer"] = made_again(model.optimizer, "optimiser")
    keep_out_of_weight_decay(config["optimizer"], out_of_weight_decay(model.optimizer, part.variables))
    for name in ("metrics", "weighted_metrics"):
        config[name] = keras.tree.map_structure(
            lambda one: made_again(one, "metric") if isinstance(one, keras.Metric) else one, config.get(name)
        )
    part.compile(**config, auto_scale_loss=False)  # where losses are scaled, the optimiser does it already


def made_again(one: Any, what: str) -> Any:
    """An optimiser or a metric of the same configuration.

    Raises:
        UnsupportedModelError: It cannot be made again from that.
    """
    kinds = {type(inner).__name__: type(inner) for inner in (one, getattr(one, "_learning_rate", None))}
    try:
        with keras.saving.custom_object_scope(kinds), SafeModeScope(False):
            return type(one).from_config(one.get_config())
    except Exception as error:
        raise UnsupportedModelError(
            f"The {what} '{one.name}' ({type(one).__name__}) cannot be made again from its configuration: "
            f"{type(error).__name__}: {error}. Mend its `get_config`, or take another one."
        ) from error


def without_mask(tensor: Any) -> Any:
    """A tensor as another process would get it: without the mask that Keras hangs on it."""
    return tensor if get_keras_mask(tensor) is None else keras.ops.copy(tensor)


def mask_on(tensor: Any) -> Any:
    """The mask that Keras hangs on a tensor, or `None`."""
    return get_keras_mask(tensor)


def logits_behind(tensor: Any) -> Any:
    """What a softmax or sigmoid made a tensor of: Keras's cross-entropies on TensorFlow take that in its place."""
    return getattr(tensor, "_keras_logits", None) if keras.backend.backend() == "tensorflow" else None


def as_made(value: Any, mask: Any, logits: Any) -> Any:
    """A tensor as a layer gave it to a loss, with the mask and the logits that Keras hung on it."""
    if mask is None and logits is None:
        return value
    tensor = keras.ops.copy(value)
    if mask is not None:
        set_keras_mask(tensor, mask)
    if logits is not None:
        tensor._keras_logits = logits
    return tensor


def is_built_for_others(
    optimizer: keras.optimizers.Optimizer, variables: Iterable[keras.Variable], *, exactly: bool = False
) -> bool:
    """Whether an optimiser has been used, and not for these variables; `exactly`: nor for more than these."""
    known, wanted = {id(one) for one in optimizer._trainable_variables}, {id(one) for one in variables}
    return optimizer.built and not (wanted == known if exactly else wanted <= known)


def out_of_weight_decay(
    optimizer: keras.optimizers.Optimizer, variables: Sequence[keras.Variable]
) -> list[keras.Variable]:
    """Those of the variables that an optimiser was told to leave out of weight decay; its configuration is silent."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    return [variable for variable in variables if not optimizer._use_weight_decay(variable)]


def keep_out_of_weight_decay(optimizer: keras.optimizers.Optimizer, variables: Sequence[keras.Variable]) -> None:
    """Tells an optimiser that has not been used to leave these variables out of weight decay."""
    if variables:
        getattr(optimizer, "inner_optimizer", optimizer).exclude_from_weight_decay(var_list=variables)


def as_converted(layer: keras.Layer, value: Any) -> Any:
    """An argument as `layer(...)` hands it to `layer.call`: cast to the layer's dtype."""
    if not layer._convert_input_args:
        return value
    converted = layer.dtype_policy.convert_input(value, layer.autocast, layer.input_dtype)
    if isinstance(value, keras.KerasTensor) and mask_of(value) is not None:
        set_mask(converted, mask_of(value))
    return converted


@contextlib.contextmanager
def calling(layer: keras.Layer, training: Any) -> Iterator[None]:
    """As if `layer(..., training=training)` were under way: layers inside inherit `training`."""
    context = CallContext(entry_layer=layer)
    context.set_value("training", training)
    before = global_state.get_global_attribute(_CALL_CONTEXT)
    global_state.set_global_attribute(_CALL_CONTEXT, context)
    try:
        yield
    finally:
        global_state.set_global_attribute(_CALL_CONTEXT, before)


def forget_calls_on(inputs: Sequence[keras.KerasTensor]) -> None:
    """Takes all nodes that the inputs lead to out of their operations, also those that lead to no output."""
    found: dict[Any, None] = {}
    waiting = list(inputs)
    while waiting:
        symbol = waiting.pop()
        for node in symbol._keras_history.operation._outbound_nodes:
            if node not in found and any(taken is symbol for taken in node.input_tensors):
                found[node] = None
                waiting += node.outputs
    for node in found:
        node.makers = [symbol._keras_history.operation for symbol in node.input_tensors]
    _release(list(found))


@contextlib.contextmanager
def deep_recursion() -> Iterator[None]:
    """Lets Keras recurse once per call where it builds or loads a `Model`; Python's own limit stops it near 1,000."""
    with lock:
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(max(limit, _RECURSION_LIMIT))
        try:
            yield
        finally:
            sys.setrecursionlimit(limit)
