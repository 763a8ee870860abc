"""Builds a `keras.Model` from a graph and a boundary: the only place that creates Keras nodes.

Calling every layer again would repeat shape inference and might add state. A `Node` can be created without calling its
layer: from the arguments of the original call, with the tensors in them replaced. So the calls keep their training
flags, nested structures, masks and positional constants, and the layers stay the model's own objects.

Nodes are kept in lists that belong to the shared layers. Those of a sub-model are removed again when its output tensors
are garbage-collected; the model, and whatever was built on it, hold references to these.
"""

import weakref
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import keras

from kerassplit.errors import UnsupportedModelError
from kerassplit.graph.backends import backend
from kerassplit.graph.copying import copies_of, copy_state
from kerassplit.graph.internals.layers import renamed
from kerassplit.graph.internals.map_graph import fast_map_graph, keep_order
from kerassplit.graph.internals.shared_nodes import SharedNodes
from kerassplit.graph.internals.symbols import bare, copy_with_history, has_mask, mask_of, original, set_mask
from kerassplit.graph.masks import MASKED, hung_masks, mask_of_twin, masked_tensors
from kerassplit.graph.model_graph import Call, Graph, Nest
from kerassplit.graph.packing import plain_name
from kerassplit.graph.recording import Recording
from kerassplit.text import listed, safe_name, unique


class _Anchor:
    """Object that lives as long as any output tensor of a sub-model."""


class Builder:
    """Builds one model from calls of other models.

    Add calls in topological order, then get the `model`. If the `with` block ends without one (early, or by an error),
    the builder removes its nodes from the shared layers.

    Args:
        only_to_run: If true, the model is never saved or built upon, so two layers may have the same name.
        copies: How to get copies of layers, with distinct names; for the message that two layers have the same name.
        names: Names of layers that are added later, so that operations get others.
    """

    def __init__(self, only_to_run: bool = False, copies: str = "", names: Collection[str] = ()) -> None:
        self._only_to_run = only_to_run
        self._later = names
        self._copies = f"; or {copies}: layers of one name get new ones" if copies else ""
        self._shared = SharedNodes()
        self._named: dict[str, tuple[keras.Operation, str]] = {}
        self._twins: dict[int, tuple[keras.Operation, keras.Operation]] = {}  # by `id`: an operation and its twin
        self._with_masks: dict[tuple[int, int], keras.KerasTensor] = {}
        self._names_of_masked: set[str] = set()
        self._renamable: dict[int, keras.Operation] = {}
        self._finished = False

    def __enter__(self) -> "Builder":
        return self

    def __exit__(self, *_: object) -> None:
        if not self._finished:
            self._shared.release()

    def add_calls(
        self,
        graph: Graph,
        calls: Sequence[Call | Nest],
        symbols: dict[int, keras.KerasTensor],
        operations: Mapping[int, keras.Operation] | None = None,
        masked: set[int] | None = None,
    ) -> None:
        """Adds calls of `graph` on other tensors.

        Args:
            graph: The graph of the calls.
            calls: The calls, in execution order.
            symbols: From its tensors to the new symbolic ones; the outputs of the calls are added.
            operations: From the `id` of an operation to another one to call instead.
            masked: The tensors that Keras masks by itself, if these calls are only some of the model's.

        Raises:
            UnsupportedModelError: Two different layers have the same name. (Operations with the same name are renamed.)
        """
        if masked is None or not self._named:
            for source in (symbol._keras_history.operation for symbol in symbols.values()):
                self._named.setdefault(source.name, (source, source.name))
        masked = masked_tensors(graph, calls, symbols) if masked is None else masked
        other_operations = operations or {}
        for call in calls:  # names of layers cannot change, and those of the model itself should not
            operation = other_operations.get(id(call.operation), call.operation)
            if isinstance(operation, keras.Layer):
                self._check_name(operation, call.name)
            elif "/" not in call.name:
                self._named.setdefault(operation.name, (operation, call.name))
        with_masks = []
        for call in calls:
            args, kwargs = self._filled_in(graph, call, symbols, masked)
            outputs = []
            for tensor, symbol in graph.results(call):
                twin = bare(symbol)
                if has_mask(symbol):
                    with_masks.append((twin, symbol, call))
                outputs.append(twin)
                if tensor >= 0:
                    symbols.setdefault(tensor, twin)
            operation = other_operations.get(id(call.operation), call.operation)
            if not isinstance(operation, keras.Layer):
                operation = self._operation_of_its_own_name(operation, call.name, plain_name(call))
            self._shared.add(operation, args, kwargs, outputs)
        for twin, symbol, call in with_masks:  # a mask may be computed by a later call than the tensor it belongs to
            set_mask(twin, mask_of_twin(symbol, call, symbols))

    def add_call(
        self, layer: keras.Layer, name: str, args: Sequence[Any], kwargs: dict[str, Any], made: keras.KerasTensor
    ) -> None:
        """Adds a call of a layer, whose name in the graph is `name`, that makes one tensor.

        Raises:
            UnsupportedModelError: Another layer has the same name.
        """
        self._check_name(layer, name)
        self._shared.add(layer, args, kwargs, [made])

    def add_copies(self, graph: Graph, calls: Sequence[Call | Nest], symbols: dict[int, keras.KerasTensor]) -> None:
        """Like `add_calls`, with copies of the operations: own variables with equal values, and distinct names.

        Raises:
            UnsupportedModelError: Two layers share a variable, which copies would not.
        """
        copies = copies_of(calls)
        masked = masked_tensors(graph, calls, symbols)
        for call in calls:
            args, kwargs = self._filled_in(graph, call, symbols, masked)
            outputs = keras.tree.flatten(copies[id(call.operation)](*args, **kwargs))  # builds it, too
            for (tensor, _), output in zip(graph.results(call), outputs, strict=True):
                if tensor >= 0:
                    symbols.setdefault(tensor, output)
        copy_state(calls, copies)

    def repeat(self, recording: Recording, given: Sequence[keras.KerasTensor]) -> Any:
        """Adds the calls of a function, such as a layer, on tensors of the new model.

        Returns:
            What the function returned, with tensors of the new model.

        Raises:
            UnsupportedModelError: The function used tensors that it was not given, or a layer has the name of another
                one.
        """
        known = {}
        for stand_in, symbol in zip(recording.given, given, strict=True):
            known[id(stand_in)] = symbol
            if has_mask(stand_in):
                known[id(mask_of(stand_in))] = original(mask_of(symbol))  # Keras knows what a call makes by `id`
        self.add_nodes(recording.nodes, known)
        return keras.tree.map_structure(lambda one: known.get(id(one), one), recording.made)

    def add_nodes(self, nodes: Sequence[Any], known: dict[int, keras.KerasTensor]) -> None:
        """Repeats calls that Keras recorded on tensors of the new model.

        Args:
            nodes: Their nodes, in topological order.
            known: From the `id` of symbolic tensors that they use to those of the new model; their outputs are added.
        """
        for node in nodes:
            if node.is_input:
                raise UnsupportedModelError(
                    f"'{node.operation.name}' is not among the tensors that the function is given. Compute from its "
                    "arguments only."
                )
            operation = node.operation
            if isinstance(operation, keras.Layer):
                self._check_name(operation, operation.name)
            else:
                operation = self._operation_of_its_own_name(operation, operation.name, operation.name)
            args, kwargs = node.arguments.convert(lambda one: known.get(id(one), one))
            outputs = [bare(symbol) for symbol in node.outputs]
            known.update(zip(map(id, node.outputs), outputs, strict=True))
            self._shared.add(operation, args, kwargs, outputs)
        for symbol in (symbol for node in nodes for symbol in node.outputs):
            if has_mask(symbol) and id(mask_of(symbol)) in known:  # a mask is computed after its tensor
                set_mask(known[id(symbol)], copy_with_history(known[id(mask_of(symbol))]))

    def add_dead_end(self, symbol: keras.KerasTensor) -> None:
        """Adds a call that leads nowhere: Keras 3.13 refuses a model input that no call uses."""
        self._shared.add(keras.layers.Identity(), (symbol,), {}, [bare(symbol)])

    def _filled_in(
        self, graph: Graph, call: Call | Nest, symbols: Mapping[int, keras.KerasTensor], masked: set[int]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Returns the arguments of a call with the new tensors; a tensor without one becomes `None`."""
        known = {}
        hung = hung_masks(graph, call)
        for symbol in call.arguments.keras_tensors:
            tensor = call.scope.get(id(symbol), -1)
            known[id(symbol)] = symbols.get(tensor)
            mask = hung.get(tensor, -1)
            if mask in symbols and tensor not in masked:
                known[id(symbol)] = self._with_mask(symbols[tensor], symbols[mask])
        return call.arguments.fill_in(known)

    def _with_mask(self, symbol: keras.KerasTensor, mask: keras.KerasTensor) -> keras.KerasTensor:
        """Attaches a mask to a tensor for a layer that looks for it there: in Keras, a nested model can do that."""
        key = id(symbol), id(mask)
        if key not in self._with_masks:
            name = unique(f"{symbol._keras_history.operation.name}{MASKED}", self._names_of_masked)
            plain = keras.Input(batch_shape=symbol.shape, dtype=symbol.dtype)
            carrier = keras.Model(plain, keras.layers.Identity(dtype=symbol.dtype, name="identity")(plain), name=name)
            carrier.supports_masking = True
            twin = bare(symbol)
            set_mask(twin, mask)
            self._shared.add(carrier, (symbol,), {"mask": mask}, [twin])
            self._with_masks[key] = twin
        return self._with_masks[key]

    def _check_name(self, operation: keras.Operation, name: str) -> None:
        """Checks that a layer's name is not taken: Keras requires unique names in a model."""
        other, known_as = self._named.setdefault(operation.name, (operation, name))
        if other is operation or self._only_to_run:
            return
        if id(operation) not in self._renamable and id(other) not in self._renamable:
            which = "" if name == known_as else f" ({listed([known_as, name])})"
            raise UnsupportedModelError(
                f"Two different layers are called '{operation.name}'{which}, and a Keras model accepts a name only "
                "once. Keep them in different models or stages, or rename one of them (`layer.name = ...`)"
                f"{self._copies}."
            )
        if id(operation) not in self._renamable:
            self._named[operation.name] = operation, name
            operation = other
        operation.name = unique(operation.name, {*self._named, *self._later})
        self._named[operation.name] = operation, operation.name

    def may_rename(self, operation: keras.Operation) -> None:
        """Gives a new layer a number if another one has its name."""
        self._renamable[id(operation)] = operation

    def _operation_of_its_own_name(self, operation: keras.Operation, name: str, path: str) -> keras.Operation:
        """Returns an operation (not a layer), or if its name is taken, a twin named after its whole path."""
        if id(operation) in self._twins:
            return self._twins[id(operation)][1]
        if operation.name not in self._later:
            other, _ = self._named.setdefault(operation.name, (operation, name))
            if other is operation or self._only_to_run:
                return operation
        twin = renamed(operation, unique(safe_name(path), {*self._named, *self._later}))
        self._named[twin.name] = twin, name
        self._twins[id(operation)] = operation, twin
        return twin

    def model(
        self,
        symbols: Mapping[Any, keras.KerasTensor],
        inputs: Any,
        outputs: Any,
        name: str,
        like: keras.Model,
        kind: type[keras.Model] = keras.Model,
    ) -> keras.Model:
        """Returns the finished `keras.Model`.

        Args:
            symbols: The symbolic tensors by key.
            inputs: The model's inputs, in the structure it accepts, with keys of `symbols`.
            outputs: Its outputs, likewise.
            name: Its name.
            like: A model with the same dtype policy.
            kind: Its class.
        """
        sources, results = (keras.tree.map_structure(symbols.__getitem__, some) for some in (inputs, outputs))
        with fast_map_graph(results):
            model = kind(sources, results, name=name)
        strategy = backend().strategy_of(model)
        if strategy is not None:  # Keras sets it only when a model is created in its scope
            model._distribute_strategy = strategy
        if model.dtype_policy != like.dtype_policy:
            model.dtype_policy = like.dtype_policy
        nodes = self._shared.nodes
        if len({id(node.operation) for node in nodes}) < len(nodes):
            keep_order(model, nodes)
        given = {id(symbol) for node in nodes for symbol in node.outputs}
        ends = [symbol for symbol in model.outputs if id(symbol) in given]
        anchor = _Anchor()
        for symbol in ends:
            symbol._kerassplit_anchor = anchor  # type: ignore[attr-defined]
        weakref.finalize(anchor, self._shared.release).atexit = False
        released = {id(symbol) for symbol in ends}
        for node in nodes:
            node.weaken_refs(released)
        self._finished = True
        return model
