"""Subclassed models and composite layers as graphs.

Their `call` is run on symbolic tensors, once for inference and once for training, and what it calls is recorded. Where
the two runs agree, the record is the graph: it is built from Keras nodes like every sub-model, on the same layers.
A composite layer inside stays one call; opened, it becomes a nested functional model of the same name.
"""

import inspect
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from kerassplit.blame import blamed, line_with, where
from kerassplit.errors import SplitError, UnsupportedModelError
from kerassplit.forms import Form, Masking, filled, same, same_operation, specs, with_masks
from kerassplit.graph import (
    Call,
    Graph,
    Tensor,
    all_layers,
    is_composite,
    lock,
    maker_of,
    opened,
    symbolic_arguments,
)
from kerassplit.kinds import why_no_graph
from kerassplit.names import listed, unique
from kerassplit.opening import Pattern
from kerassplit.rebuild import Builder
from kerassplit.recording import (
    CallFailed,
    OutsideLayer,
    Recorded,
    Recording,
    call_parameters,
    record,
    record_graph,
    symbols_in,
)
from kerassplit.references import several_of

_ONE_MODE = "ask for the graph of one mode: `kerassplit.trace(model, inputs, training=False)`."


def trace(
    model: keras.Layer,
    inputs: Any = None,
    *,
    open: str | Iterable[str] = (),  # noqa: A002
    training: bool | None = None,
    **arguments: Any,
) -> keras.Model:
    """Turns a subclassed model or a composite layer into a functional model on the same layers and variables.

    Its `call` is run on symbolic tensors: every layer and every `keras.ops` operation that it calls becomes a call of
    the graph, and what kerassplit does with a functional model it now does with this one. The original is left alone.
    Operations get names that are the same in every process (`add`, `add_1`); layers keep theirs.

    A composite layer inside stays one call unless it is named in `open`: then it becomes a nested functional model of
    its name, and its calls are named `block_1/dense`.

    Args:
        model: A built layer or model. A functional or Sequential one is a graph already: it keeps its own Inputs, and
            only what `open` names is traced.
        inputs: What `call` takes as its first argument, in the structure it takes: arrays, `KerasTensor`s, or shapes as
            tuples with the batch first and `None` for what is open (these mean float32). The batch of an array is
            left open.
        open: Names or globs of the composite layers to open; `*` does not cross a `/`. `"encoder/block_*"` opens
            `encoder`, too. Globs pass over Keras's own layers (`MultiHeadAttention`, `LSTM`): name these in full.
        training: `None`: one graph for both, as is usual. Refused where `call` does something else in training than in
            inference, or fixes `training` for a layer, which no functional model can say. `False` (or `True`) then
            gives the graph of that one mode; call it without `training`.
        **arguments: Further arguments of `call`. Arrays and `KerasTensor`s become inputs: the traced model takes one
            dict of all its inputs then, by the names of the arguments. Anything else is passed on as it is.

    Returns:
        A functional `keras.Model` of the same name. It takes and gives the structures that `call` does.

    Raises:
        UnsupportedModelError: `model` is not built, or no Keras layer; or `call` does what no graph can hold. The
            message names the line at fault and the way out.
        UnknownTensorError: `open` names no layer of the model.

    Example:

    >>> graph = ks.trace(encoder, (None, 128, 256), open="transformer_layer_*")
    >>> ks.split(graph, "transformer_layer_5/add_1")
    """
    if not isinstance(model, keras.Layer) or not model.built:
        raise UnsupportedModelError(why_no_graph(model))
    globs = several_of(open)
    for glob in globs:
        if not isinstance(glob, str):
            raise SplitError(f"`open` takes names and globs of layers, as strings; got {glob!r}.")
    patterns = [Pattern(tuple(glob.split("/"))) for glob in globs]
    form = None if opened(model) is not None else Form.of([specs(model, inputs, arguments)])
    with lock:
        level = _Level(model, (), form, patterns, training, _default(model))
        traced = level.build(keyed=form is not None and form.has_keyword_tensors())
    for pattern in patterns:
        pattern.check_met(model)
    return traced.model


@dataclass
class _Opened:
    """A layer as a functional model.

    Attributes:
        model: It.
        takes: Numbers of the tensors it takes, as `with_masks` counts them; `None`: what the layer itself takes.
    """

    model: keras.Model
    takes: list[int] | None

    def arguments(self, call: Recorded) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a call of the layer as arguments of the model."""
        if self.takes is None:
            return call.args, call.kwargs
        training = call.kwargs.get("training")
        symbols = with_masks(call.args, {name: x for name, x in call.kwargs.items() if name != "training"})
        given = [symbols[number] for number in self.takes]
        return (given[0] if len(given) == 1 else given,), {} if training is None else {"training": training}


@dataclass
class _Level:
    """The inside of one layer: what its `call` calls.

    Attributes:
        layer: The layer.
        path: The names that lead to it; none for what `trace` was given.
        form: How it is called; `None` for a functional model, which knows that itself.
        patterns: What to open inside.
        mode: `training` for the graph of one mode; `None` for one that serves both.
        default: What `training` is in this layer when nobody says.
    """

    layer: Any
    path: tuple[str, ...]
    form: Form | None
    patterns: list[Pattern]
    mode: bool | None
    default: bool | None

    def build(self, keyed: bool = False) -> _Opened:
        """The layer as a functional model.

        Args:
            keyed: Whether it takes a dict of all its inputs.
        """
        recording = self.recorded()
        operations = self.named(recording)
        nested = self.opened_inside(recording.calls)
        inputs, form = recording.inputs, self.form
        if form is None:
            names = [maker_of(symbol).operation.name for symbol in inputs]
            structure = opened(self.layer).input  # type: ignore[union-attr]
            return _Opened(_rebuilt(self.layer, recording, nested, inputs, names, structure), None)
        names = form.names(self.layer)
        used = {id(symbol) for call in recording.calls for symbol in call.tensors()}
        takes = [number for number, symbol in enumerate(inputs) if id(symbol) in used]
        if self.path:
            given_back = {id(symbol) for symbol in symbols_in(recording.outputs)}
            takes = [number for number, symbol in enumerate(inputs) if id(symbol) in used | given_back]
            inputs = [inputs[number] for number in takes]
            structure = inputs[0] if len(inputs) == 1 else inputs
        else:
            self.check_used([name for number, name in enumerate(names) if number not in takes])
            structure = dict(zip(names, inputs, strict=True)) if keyed else filled(form.args[0], inputs)
            if isinstance(structure, dict):
                self.check_keys(names, operations)
        taken = set(operations)
        names = [unique(names[number], taken) for number in takes]
        model: Any = _rebuilt(self.layer, recording, nested, inputs, names, structure)
        if self.layer.supports_masking:
            model.supports_masking = True
            model.compute_mask = Masking(self.layer, form, takes)
        return _Opened(model, takes)

    def refused(self, reason: str, remedy: str, place: str | None = None) -> UnsupportedModelError:
        """The error for a `call` that no graph can hold."""
        kind = "Model" if isinstance(self.layer, keras.Model) else "Layer"
        name = "/".join(self.path) or self.layer.name
        if self.path and type(self.layer).__module__.partition(".")[0] == "keras":
            remedy = f"Keras's own layers can seldom be opened: take '{name}' out of `open`."
        elif self.path:
            remedy += f" Or leave '{name}' closed: take it out of `open`."
        return UnsupportedModelError(
            f"{kind} '{name}' ({type(self.layer).__name__}) cannot be traced. {place or where(self.layer)}\n"
            f"{reason} {remedy}"
        )

    def recorded(self) -> Recording:
        """What `call` calls, `training` settled and all names settled that are not the user's."""
        functional = opened(self.layer)
        if functional is not None:
            recording = record_graph(functional)
            for call in recording.calls:
                if self.mode is not None and _minding(call.operation):
                    call.kwargs["training"] = self.mode
            return recording
        modes = (False, True) if self.mode is None else (self.mode, self.mode)
        first, second = self.run(modes[0]), self.run(modes[1])
        self.check_outputs(first)
        made = self.agreed(first, second, modes)
        self.check_arguments(first)
        self.name(first, made)
        return first

    def run(self, training: bool) -> Recording:
        assert self.form is not None
        inputs, args, kwargs = self.form.fresh()
        try:
            return record(self.layer, inputs, args, kwargs, training)
        except CallFailed as failure:
            raise self.refused(*blamed(failure.error, self.layer)) from failure.error

    def agreed(self, first: Recording, second: Recording, modes: tuple[bool, bool]) -> set[int]:
        """Checks that both runs call the same, and settles `training`.

        Returns:
            The `id`s of the operations that `call` makes itself: they are new in each run.
        """
        pairs = {id(ours): theirs for ours, theirs in zip(first.inputs, second.inputs, strict=True)}
        made: set[int] = set()
        alike = len(first.calls) == len(second.calls)
        for ours, theirs in zip(first.calls, second.calls, strict=False):
            values = [_take_training(call, mode) for call, mode in zip((ours, theirs), modes, strict=True)]
            if ours.operation is not theirs.operation:
                made.add(id(ours.operation))
            alike = alike and same_operation(ours.operation, theirs.operation)
            alike = alike and same((ours.args, ours.kwargs), (theirs.args, theirs.kwargs), pairs)
            if not alike:
                break
            pairs |= {id(one): other for one, other in zip(ours.outputs, theirs.outputs, strict=True)}
            self.settle(ours, values, modes)
        if alike and same(first.outputs, second.outputs, pairs):
            return made
        if self.mode is not None:
            raise self.refused("Run twice, it calls different things.", "Let it call the same layers every time.")
        raise self.refused(
            "It computes something else in training than in inference, and a graph is one and the same.",
            f"Let layers such as `keras.layers.Dropout` tell the two apart, or {_ONE_MODE}",
            line_with(self.layer, r"\b(if|while)\b.*\btraining\b"),
        )

    def settle(self, call: Recorded, values: Sequence[Any], modes: tuple[bool, bool]) -> None:
        """Leaves `training` open where it follows the model's, and states it where the layer has another default."""
        minding = _minding(call.operation)
        if not minding:
            return
        if self.mode is not None:
            call.kwargs["training"] = values[0]
        elif (bool(values[0]), bool(values[1])) != modes:
            raise self.refused(
                f"It calls '{call.operation.name}' with training={values[0]} whatever the model's own `training` is, "
                "and a functional model tells all its layers the same.",
                f"Pass `training` on, or {_ONE_MODE}",
                line_with(self.layer, r"\btraining\s*=\s*(True|False|None|0|1)\s*[,)]"),
            )
        elif self.default is not None and any(bool(_default(layer)) != self.default for layer in minding):
            call.kwargs["training"] = self.default

    def check_outputs(self, recording: Recording) -> None:
        """A graph gives tensors that are made of its inputs, and nothing else."""
        outputs = keras.tree.flatten(recording.outputs)
        wrong = [value for value in outputs if not isinstance(value, keras.KerasTensor)]
        if wrong or not outputs:
            what = "nothing" if not outputs or wrong[0] is None else f"a {type(wrong[0]).__name__}"
            raise self.refused(
                f"It gives back {what} where a graph gives a tensor made of the inputs.",
                "Let it return such tensors only, in lists, tuples or dicts.",
                line_with(self.layer, r"\breturn\b", last=True),
            )

    def check_arguments(self, recording: Recording) -> None:
        """What an operation is given stays in the graph: variables and functions would be out of sight there."""
        for call in recording.calls:
            own = {} if isinstance(call.operation, keras.Layer) else vars(call.operation)
            for value in keras.tree.flatten((call.args, call.kwargs, list(own.values()))):
                if isinstance(value, keras.Variable):
                    attribute = _attribute(self.layer, value)
                    raise self.refused(
                        *blamed(OutsideLayer(value), self.layer)[:2],
                        line_with(self.layer, rf"\b{re.escape(attribute)}\b") if attribute else None,
                    )
                if inspect.isroutine(value) and not isinstance(call.operation, keras.Layer):
                    name = _snake_case(type(call.operation).__name__)
                    raise self.refused(
                        f"It hands a function to `keras.ops.{name}`, and what that calls would not be in the graph.",
                        "Put this line into a keras.Layer of its own, which stays one call.",
                        line_with(self.layer, rf"\b{name}\("),
                    )
        if self.layer.activity_regularizer is not None:
            raise self.refused(
                "It has an `activity_regularizer`, and no graph has one.",
                "Give it to the layer inside that makes the output.",
            )

    def name(self, recording: Recording, made: set[int]) -> None:
        """Names what `call` itself makes, raw operations above all: Keras numbers these through the whole process."""
        taken = {call.operation.name for call in recording.calls if id(call.operation) not in made}
        for operation in {id(call.operation): call.operation for call in recording.calls}.values():
            if id(operation) not in made:
                continue
            if isinstance(operation, keras.Layer) and operation.variables:
                raise self.refused(
                    f"It makes a new {type(operation).__name__} with variables each time.",
                    "Make that layer once, in `__init__`.",
                    line_with(self.layer, rf"\b{type(operation).__name__}\("),
                )
            operation.name = unique(_snake_case(type(operation).__name__), taken)

    def named(self, recording: Recording) -> dict[str, keras.Operation]:
        """What is called here, by name."""
        operations: dict[str, keras.Operation] = {}
        for call in recording.calls:
            other = operations.setdefault(call.operation.name, call.operation)
            if other is not call.operation:
                both = " and ".join(
                    type(one).__name__ + (f" self.{found}" if (found := _attribute(self.layer, one)) else "")
                    for one in (other, call.operation)
                )
                raise UnsupportedModelError(
                    f"Two different layers of '{'/'.join(self.path) or self.layer.name}' are called "
                    f"'{call.operation.name}' ({both}), and Keras takes a name only once in one model. Give one of "
                    "them another: pass `name=...` where it is made."
                )
        return operations

    def check_keys(self, names: Sequence[str], operations: dict[str, keras.Operation]) -> None:
        """The Inputs of a model that takes a dict bear the names of its keys, and these none of a layer's."""
        for place, name in enumerate(names):
            if name in operations or name in names[:place]:
                raise UnsupportedModelError(
                    f"Two inputs of '{self.layer.name}', or an input and a layer, are called '{name}', and Keras takes "
                    "a name only once in one model. Rename one of them."
                )

    def check_used(self, unused: Sequence[str]) -> None:
        if unused:
            raise self.refused(
                f"It computes nothing with {listed(unused)}, and a Keras model takes no input that leads nowhere.",
                "Leave that out of `inputs`, and let `call` do without.",
            )

    def opened_inside(self, calls: Sequence[Recorded]) -> dict[int, _Opened]:
        """The nested models in the place of layers, by these layers' `id`."""
        of_layer: dict[int, list[Recorded]] = {}
        for call in calls:
            if isinstance(call.operation, keras.Layer):
                of_layer.setdefault(id(call.operation), []).append(call)
        nested = {}
        for key, own in of_layer.items():
            layer: Any = own[0].operation
            if is_composite(layer):
                for pattern in self.patterns:
                    (pattern.whole or pattern).seen.append("/".join((*self.path, layer.name)))
            matching = [pattern for pattern in self.patterns if pattern.matches(layer)]
            inside = [rest for pattern in matching if (rest := pattern.inside()) is not None]
            if inside or (matching and opened(layer) is None):
                nested[key] = self.opened_layer(layer, own, inside)
        return nested

    def opened_layer(self, layer: Any, calls: Sequence[Recorded], patterns: list[Pattern]) -> _Opened:
        path = (*self.path, layer.name)
        name = "/".join(path)
        if not is_composite(layer):
            raise UnsupportedModelError(
                f"'{name}' ({type(layer).__name__}) in `open` has no layers inside: it is one call. Take it out."
            )
        if not layer.built:
            raise UnsupportedModelError(f"'{name}' cannot be opened: {why_no_graph(layer)}")
        form, mode = None, self.mode
        if opened(layer) is None:
            plain = [(call.args, {k: x for k, x in call.kwargs.items() if k != "training"}) for call in calls]
            modes = {call.kwargs.get("training") for call in calls}
            form = Form.of(plain)
            if form is None or len(modes) > 1:
                raise UnsupportedModelError(
                    f"'{name}' is called {len(calls)} times, not always in one way (other arguments, dtypes or masks): "
                    "opened it would be one nested model. Take it out of `open`."
                )
            mode = None if mode is None else modes.pop()
        default = _default(layer) if self.default is None else self.default
        return _Level(layer, path, form, patterns, mode, default).build()


def _rebuilt(
    layer: keras.Layer,
    recording: Recording,
    nested: dict[int, _Opened],
    inputs: Sequence[keras.KerasTensor],
    names: Sequence[str],
    structure: Any,
) -> keras.Model:
    """The functional model of the recorded calls.

    Args:
        layer: The layer that they are the inside of.
        recording: They.
        nested: The models that stand for layers.
        inputs: The symbolic tensors that the model takes.
        names: The names of its Inputs.
        structure: The `inputs` as it takes them.
    """
    scope: dict[int, int] = {}
    tensors: list[Tensor] = []
    calls: list[Call] = []

    def add(operation: keras.Operation, arguments: Any, outputs: Sequence[keras.KerasTensor]) -> None:
        taken = tuple(dict.fromkeys(scope[id(symbol)] for symbol in arguments.keras_tensors))
        made = tuple(range(len(tensors), len(tensors) + len(outputs)))
        for symbol, tensor in zip(outputs, made, strict=True):
            scope[id(symbol)] = tensor
            tensors.append(Tensor(operation.name, symbol, len(calls), []))
        calls.append(Call(operation.name, operation, arguments, scope, taken, made))

    for symbol in inputs:
        add(maker_of(symbol).operation, symbolic_arguments(), [symbol])
    for call in recording.calls:
        operation, args, kwargs = call.operation, call.args, call.kwargs
        if id(operation) in nested:
            args, kwargs = nested[id(operation)].arguments(call)
            operation = nested[id(operation)].model
        add(operation, symbolic_arguments(*args, **kwargs), call.outputs)
    graph = Graph(layer, calls, tensors, [], None, None, scope, [])  # type: ignore[arg-type]
    with Builder() as builder:
        symbols = {tensor: builder.add_input(graph, tensor, name) for tensor, name in enumerate(names)}
        builder.add_calls(graph, calls[len(inputs) :], symbols)
        sources, results = keras.tree.map_structure(
            lambda symbol: symbols[scope[id(symbol)]], (structure, recording.outputs)
        )
        return builder.model(sources, results, layer.name, like=layer)  # type: ignore[arg-type]


def _take_training(call: Recorded, inherited: bool) -> Any:
    """Takes `training` out of a call's arguments; what it is."""
    if isinstance(call.operation, keras.Layer) and len(call.args) > 1:
        names = list(call_parameters(call.operation))[: len(call.args)]
        if "training" in names:
            place = names.index("training")
            call.kwargs |= dict(zip(names[place:], call.args[place:], strict=False))
            call.args = call.args[:place]
    return call.kwargs.pop("training", inherited)


def _minding(operation: keras.Operation) -> list[keras.Layer]:
    """Those layers of an operation, it and what is inside, that compute something else in training."""
    inside = all_layers(operation) if isinstance(operation, keras.Layer) else []
    return [layer for layer in inside if opened(layer) is None and "training" in call_parameters(layer)]


def _default(layer: keras.Layer) -> bool | None:
    """The default of `training` in a layer's `call`."""
    parameter = call_parameters(layer).get("training")
    return None if parameter is None or parameter.default in (None, parameter.empty) else bool(parameter.default)


def _attribute(layer: keras.Layer, value: Any) -> str | None:
    """The attribute of a layer that holds a value, itself or in a list, tuple or dict."""
    for name, held in (vars(layer) | vars(layer).get("_modules", {})).items():  # PyTorch keeps layers apart
        if held is value:
            return name
        several = isinstance(held, (list, tuple, dict)) and not name.startswith("_")  # Keras's own lists are `_layers`
        if several and any(one is value for one in keras.tree.flatten(held)):
            return name
    return None


def _snake_case(name: str) -> str:
    """As Keras names an operation after its class: `GetItem` is `get_item`."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()
