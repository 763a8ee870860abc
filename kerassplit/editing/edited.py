"""Builds an edited model.

What an edit does not change is repeated without running Keras: the same layers, arguments and shapes. After an edit,
wherever only a shape differs from the model's, Keras's own layers infer the next one; wherever they cannot, or a dtype
or a mask differs, Keras calls the layers again.
"""

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import keras

from kerassplit.cutting.submodel import FLAT_COPIES, model_name, rebuilt
from kerassplit.editing.layers import calling
from kerassplit.editing.marks import Mark, mark, mark_of
from kerassplit.editing.refusals import refused
from kerassplit.editing.steps import Edits, Insertion, Replacement, Step, steps_inside, steps_of
from kerassplit.errors import UnsupportedModelError
from kerassplit.graph.building import Builder
from kerassplit.graph.declared import built_for, check_call, is_honest, keeps_shapes, ranks
from kerassplit.graph.internals.layers import found_masks, inferred_shape, infers_shape, makes_masks
from kerassplit.graph.internals.nodes import walk
from kerassplit.graph.internals.symbols import bare, copy_with_history, has_mask, mask_of, original, set_mask, shaped
from kerassplit.graph.masks import masked_tensors, tensor_of_mask
from kerassplit.graph.model_graph import Call, Graph, Nest
from kerassplit.graph.reading import read_graph
from kerassplit.graph.recording import Recording, record
from kerassplit.text import safe_name, unique


def edited(graph: Graph, edits: Edits, name: str | None, outputs: Any = None) -> keras.Model:
    """Returns the edited model, under the model's name by default; its layers are the model's own.

    `outputs` is the structure of its outputs, of tensors and of insertions that give one; by default the model's own.

    Raises:
        UnsupportedModelError: A layer cannot be called on what it receives now, or has the name of another one.
        SplitError: `name` is not a valid model name; or what is inserted would depend on itself.
    """
    name = graph.model.name if name is None else model_name(name)
    opened: set[int] = set()
    recordings: dict[Insertion, Recording] = {}
    while True:
        try:
            return _Edited(graph, edits, opened, recordings).built(name, graph.outputs if outputs is None else outputs)
        except _NestChangedError as changed:
            opened |= changed.nests


def own_copy(model: keras.Model) -> keras.Model:
    """Returns a copy of an edited model with layers and variables of its own, of equal values."""
    graph = read_graph(model)
    copy = rebuilt(graph, copy_weights=True)
    for ours, theirs in zip(read_graph(copy).calls, graph.calls, strict=True):
        if how := mark_of(theirs.operation):
            mark([ours.operation], how)
    return copy


class _NestChangedError(Exception):
    """Nested models receive other shapes, so they cannot stay one call."""

    def __init__(self, nests: Iterable[int]):
        super().__init__()
        self.nests = set(nests)


class _Edited:
    """One attempt to build an edited model.

    Attributes:
        symbols: From the model's tensors to the symbolic tensors of the edited model.
        differing: Those of these that differ from the model's in shape, dtype or mask.
        own: The model's own operations, by `id`.
        masked: Tensors that Keras masks by itself.
        on_input: True if an input of the model changes.
        recordings: What earlier attempts inserted: users' functions are called once.
        inserted: What insertions give, each the first of its tensors.
        renewed: New layers in place of some that were built for other ranks, by the `id` of the old one and the ranks.
    """

    def __init__(self, graph: Graph, edits: Edits, opened: Iterable[int], recordings: dict[Insertion, Recording]):
        self.graph, self.adapt, self.recordings = graph, edits.adapt, recordings
        self.steps = steps_of(graph, edits, opened)
        items = [step.does for step in self.steps if isinstance(step.does, (Call, Nest))]
        taken = {item.operation.name for item in items}
        self.symbols: dict[int, keras.KerasTensor] = {}
        self.inserted: dict[Insertion, keras.KerasTensor] = {}
        self.differing: set[int] = set()
        self.on_input = bool(edits.inputs)
        self.renewed: dict[tuple[int, ...], keras.Operation] = {}
        self.own = {id(item.operation) for item in (*graph.calls, *graph.nests)}
        for tensor in dict.fromkeys(graph.flat_inputs()):
            name = unique(safe_name(graph.tensors[tensor].name), taken)
            new = edits.inputs.get(tensor)
            if new is None:
                self.symbols[tensor] = graph.new_input(tensor, name)
            else:
                self._set(tensor, keras.Input(batch_shape=new.shape, dtype=new.dtype, sparse=new.sparse, name=name))
        self.sources = dict(self.symbols)
        self.masked = masked_tensors(graph, items, self.symbols)
        layers = {item.operation.name for item in items if isinstance(item.operation, keras.Layer)}
        self.builder = Builder(copies=FLAT_COPIES, names=layers)

    def built(self, name: str, outputs: Any) -> keras.Model:
        """Builds the model with these outputs, a structure of tensors and insertions."""
        graph = self.graph
        with self.builder as builder:
            unchanged: list[Call | Nest] = []
            waiting, opened = deque(self.steps), set()
            while waiting:
                step = waiting.popleft()
                if isinstance(step.does, (Call, Nest)) and not step.own and step.takes.isdisjoint(self.differing):
                    unchanged.append(step.does)
                    continue
                builder.add_calls(graph, unchanged, self.symbols, masked=self.masked)
                unchanged = []
                try:
                    self._do(step)
                except _NestChangedError as changed:  # goes on, to find the others in the same attempt
                    opened |= changed.nests
                    waiting.extendleft(reversed(steps_inside(graph, step)))
            if opened:
                raise _NestChangedError(opened)
            builder.add_calls(graph, unchanged, self.symbols, masked=self.masked)
            inputs = keras.tree.map_structure(lambda tensor: -1 - tensor, graph.inputs)
            sources = {-1 - tensor: symbol for tensor, symbol in self.sources.items()}
            symbols = {**self.symbols, **self.inserted, **sources}
            return builder.model(symbols, inputs, outputs, name, like=graph.model)

    def _do(self, step: Step) -> None:
        """Makes an edit, or repeats a call that receives other tensors than in the model."""
        does = step.does
        if isinstance(does, Insertion):
            self._insert(step, does)
        elif isinstance(does, Replacement):
            if isinstance(does.new, int):
                for tensor in step.makes:
                    self._set(tensor, self._given(step, does.new))
            else:
                self._replace(step, does.old, does.new)
        elif self._differs(step):
            self._call_again(step, does)
        else:
            own = {tensor: self._given(step, tensor) for tensor in step.takes}
            self.builder.add_calls(self.graph, [does], own, masked=self.masked)
            self.symbols.update({tensor: own[tensor] for tensor in step.makes})

    def _insert(self, step: Step, does: Insertion) -> None:
        given = [self._given(step, tensor) for tensor in does.takes]
        if does not in self.recordings:
            self.recordings[does] = record(does.function, given)
        recording = self.recordings[does]
        made = self.builder.repeat(recording, given)
        self.inserted[does] = made[0]
        self._mark(recording.operations, "inserted")
        for tensor, symbol in zip(does.takes, made, strict=True):
            if does.into is None:
                self._set(tensor, symbol)
            for user in self.steps if does.into else ():
                if user.receives(does, tensor):
                    user.own[tensor] = symbol

    def _call(self, step: Step, item: Call | Nest, function: Callable[..., Any]) -> list[keras.Operation]:
        """Calls a function on the arguments of a call; what it returns replaces what the call produces.

        Returns:
            The operations that the function calls.
        """
        args, kwargs = self._arguments(item)
        leaves = _symbols(args, kwargs)
        tensors = [one for one in dict.fromkeys(item.scope.get(id(leaf), -1) for leaf in leaves) if one in self.symbols]

        def on_arguments(*symbols: keras.KerasTensor) -> Any:
            at = dict(zip(tensors, symbols, strict=True))
            filled = keras.tree.map_structure(
                lambda one: at.get(item.scope.get(id(one), -1)) if isinstance(one, keras.KerasTensor) else one,
                (args, kwargs),
            )
            return function(*filled[0], **filled[1])

        given = [self._given(step, tensor) for tensor in tensors]
        finds = {item.scope.get(id(leaf)) for leaf in leaves if has_mask(leaf)}
        lost = {tensor for tensor in tensors if has_mask(self.graph.tensors[tensor].symbol)} - finds  # to attention
        like = [bare(symbol) if tensor in lost else symbol for tensor, symbol in zip(tensors, given, strict=True)]
        recording = record(on_arguments, like)
        made, results = keras.tree.flatten(self.builder.repeat(recording, given)), self.graph.results(item)
        if len(made) != len(results):
            raise UnsupportedModelError(
                f"'{item.name}' produces {len(results)} tensors, and what replaces it {len(made)}. Replace it by "
                "something that returns as many."
            )
        for (tensor, _), symbol in zip(results, made, strict=True):
            if tensor >= 0:
                self._set(tensor, symbol)
        return recording.operations

    def _replace(self, step: Step, item: Call | Nest, new: keras.Operation) -> None:
        """Calls another layer, or a model, in place of a call's own."""

        def called(*args: Any, **kwargs: Any) -> Any:
            with calling(what, _symbols(args, kwargs)):
                return new(*args, **kwargs)

        what, done = f"A {type(new).__name__} in place of '{item.name}'", False
        if isinstance(item, Call) and not keeps_shapes(new) and not makes_masks(new):
            with calling(what, [self._given(step, tensor) for tensor in dict.fromkeys(item.inputs)]):
                done = self._inferred(step, item, new)
        self._mark([new] if done else self._call(step, item, called), "replaced")

    def _inferred(self, step: Step, item: Call | Nest, layer: keras.Operation) -> bool:
        """Adds a call of a layer on other tensors if it infers shapes without being called; false if it does not."""
        if isinstance(item, Nest) or len(item.outputs) != 1 or not (infers_shape(layer) and is_honest(layer)):
            return False
        (made,) = item.outputs
        old = {tensor: self.graph.tensors[tensor].symbol for tensor in (*item.inputs, made)}
        given = {tensor: self._given(step, tensor) for tensor in step.takes}
        if any(map(has_mask, (*old.values(), *given.values()))):
            return False
        known = {id(one): given.get(item.scope.get(id(one), -1)) for one in item.arguments.keras_tensors}
        args, kwargs = item.arguments.fill_in(known)
        first = args[0] if len(args) == 1 else None
        symbols = first if isinstance(first, list) else [first]
        if len(symbols) != len(known) or not all(isinstance(one, keras.KerasTensor) for one in symbols):
            return False
        if keeps_shapes(layer) and not (isinstance(first, list) and ranks(args) == ranks(item.arguments.args)):
            return False
        if layer is not item.operation:
            alike = not kwargs and not old[made].sparse and layer.compute_dtype == old[made].dtype
        else:
            same_dtypes = all(given[tensor].dtype == old[tensor].dtype for tensor in item.inputs)
            alike = same_dtypes and self.adapt(item, args, kwargs) is layer
        if not alike:
            return False
        shape = inferred_shape(layer, args[0])
        if any(side is not None and side < 1 for side in shape[1:]):
            raise ValueError("nothing would be left of it")  # Keras 3.13 says nothing
        result = shaped(old[made], shape, old[made].dtype)
        self.builder.add_call(layer, item.name, args, kwargs, result)
        self._set(made, result)
        return True

    def _call_again(self, step: Step, item: Call | Nest) -> None:
        """Lets Keras repeat a call on tensors of another shape, dtype or mask."""
        operation = item.operation
        if isinstance(item, Nest):
            given = [self._given(step, tensor) if tensor in self.symbols else None for tensor in item.given]
            if not all(map(_takes, item.operation.inputs, given)):
                raise _NestChangedError({next(i for i, nest in enumerate(self.graph.nests) if nest is item)})

        def checked(*args: Any, **kwargs: Any) -> Any:
            fitting = self.adapt(item, args, kwargs)
            if fitting is operation:
                fitting = self._built_for(operation, args, kwargs, item.arguments)
            if fitting is not operation:
                self.builder.may_rename(fitting)
            if not is_honest(fitting):
                check_call(fitting, args, kwargs, item.arguments if fitting is operation else None)
            return fitting(*args, **kwargs)

        try:
            if not self._inferred(step, item, operation):
                self._mark(self._call(step, item, checked), "replaced")
        except UnsupportedModelError:
            raise
        except Exception as error:
            before = [self.graph.tensors[tensor].symbol.shape for tensor in sorted(step.takes)]
            now = [self._given(step, tensor).shape for tensor in sorted(step.takes)]
            raise refused(item, before, now, error, self.on_input) from error

    def _built_for(self, operation: Any, args: Any, kwargs: Any, before: Any) -> keras.Operation:
        """Returns the layer itself or one for other ranks, the same for all calls that have these."""
        fitting = built_for(operation, args, kwargs, before)
        return operation if fitting is operation else self.renewed.setdefault((id(operation), *ranks(args)), fitting)

    def _mark(self, operations: Iterable[keras.Operation], how: Mark) -> None:
        """Marks operations, except the model's own, which would then be marked in the model, too."""
        mark((one for one in operations if id(one) not in self.own), how)

    def _arguments(self, item: Call | Nest) -> tuple[Any, dict[str, Any]]:
        """Returns the arguments of a call without the masks that Keras finds by itself."""
        args, kwargs = item.arguments.args, dict(item.arguments.kwargs)
        for name in [name for name in kwargs if name.endswith("mask")]:
            others = {one: value for one, value in kwargs.items() if one != name}
            found = found_masks(item.operation, args, others).get(name)
            ours, theirs = ([_index(mask, item) for mask in keras.tree.flatten(one)] for one in (kwargs[name], found))
            if ours == theirs:
                del kwargs[name]
        return args, kwargs

    def _given(self, step: Step, tensor: int) -> keras.KerasTensor:
        """Returns the symbolic tensor that a step receives for a tensor, with its mask."""
        symbol = step.own.get(tensor, self.symbols[tensor])
        found = self.graph.tensors[tensor]
        mask = mask_of(found.symbol)
        if symbol is step.own.get(tensor) or tensor in self.differing or mask is None or has_mask(symbol):
            return symbol
        index = tensor_of_mask(self.graph, tensor)
        if index in self.symbols:
            set_mask(symbol, copy_with_history(self.symbols[index]))
            return symbol
        scope = self.graph.calls[found.call].scope  # no layer uses the mask, so it is not in the graph
        known = {one: self.symbols[index] for one, index in scope.items() if index in self.symbols}
        nodes, _ = walk([mask], known)
        if not any(node.is_input for node in nodes):
            self.builder.add_nodes(nodes, known)
            set_mask(symbol, copy_with_history(known[id(mask) if id(mask) in known else id(original(mask))]))
        return symbol

    def _set(self, tensor: int, symbol: keras.KerasTensor) -> None:
        """Makes a symbolic tensor that of a tensor."""
        self.symbols[tensor] = symbol
        self.differing.discard(tensor)
        if self._is_other(tensor, symbol):
            self.differing.add(tensor)

    def _differs(self, step: Step) -> bool:
        """True if a step receives other shapes, dtypes or masks than its call in the model."""
        others = (self._is_other(tensor, symbol) for tensor, symbol in step.own.items())
        return any(others) or not step.takes.difference(step.own).isdisjoint(self.differing)

    def _is_other(self, tensor: int, symbol: keras.KerasTensor) -> bool:
        old = self.graph.tensors[tensor].symbol
        return has_mask(symbol) or has_mask(old) or _looks(symbol) != _looks(old)


def _looks(symbol: keras.KerasTensor) -> tuple[Any, ...]:
    return symbol.shape, symbol.dtype, bool(symbol.sparse)


def _symbols(*values: Any) -> list[keras.KerasTensor]:
    return [one for one in keras.tree.flatten(values) if isinstance(one, keras.KerasTensor)]


def _takes(own: keras.KerasTensor, given: keras.KerasTensor | None) -> bool:
    """True if an input of a nested model takes all sizes that a tensor may have, or nothing."""
    if given is None:
        return True
    sides = zip(own.shape, given.shape, strict=False)
    return own.dtype == given.dtype and len(own.shape) == len(given.shape) and all(a in (None, b) for a, b in sides)


def _index(mask: Any, item: Call | Nest) -> Any:
    """Returns the tensor of a mask among the arguments of a call."""
    if not isinstance(mask, keras.KerasTensor):
        return mask
    return item.scope.get(id(mask), item.scope.get(id(original(mask)), id(mask)))
