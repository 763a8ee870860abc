"""The inside of one layer: records it, checks it, and builds it with the opened layers inside."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras

from kerassplit.errors import UnsupportedModelError
from kerassplit.graph.internals.layers import all_layers, functional_of, is_composite
from kerassplit.graph.internals.symbols import maker_of
from kerassplit.graph.tracing.blame import Refusal, blamed, line_with, where
from kerassplit.graph.tracing.call_forms import Form, Masking, filled, same, same_operation
from kerassplit.graph.tracing.checks import (
    check_arguments,
    check_keys,
    check_outputs,
    check_used,
    name_operations,
    operations_by_name,
)
from kerassplit.graph.tracing.open_patterns import Pattern
from kerassplit.graph.tracing.rebuilt import Opened, rebuilt
from kerassplit.graph.tracing.recording import (
    CallFailed,
    Recorded,
    Recording,
    call_parameters,
    record,
    record_graph,
    symbols_in,
)
from kerassplit.graph.unsupported import has_own, why_no_graph
from kerassplit.text import package_of, snake_case, unique

_ONE_MODE = "trace a single mode: `kerassplit.trace(model, inputs, training=False)`."


@dataclass
class Level:
    """The inside of one layer: the calls that its `call` makes.

    Attributes:
        layer: The layer.
        path: The names that lead to it; empty for the layer passed to `trace`.
        form: The arguments it is called with; `None` for a functional model, which defines its own.
        patterns: Patterns of the layers to open inside.
        mode: The value of `training` for a graph of one mode; `None` for a graph of both.
        default: The default of `training` in this layer.
    """

    layer: Any
    path: tuple[str, ...]
    form: Form | None
    patterns: list[Pattern]
    mode: bool | None
    default: bool | None

    def build(self, keyed: bool = False) -> Opened:
        """Builds the layer as a functional model.

        Args:
            keyed: If true, the model takes a dict of all its inputs.

        Raises:
            UnsupportedModelError: `call` does something that a graph cannot represent.
        """
        try:
            return self.built(keyed)
        except Refusal as refusal:
            raise self.refused(str(refusal), refusal.remedy, refusal.place) from None

    def built(self, keyed: bool) -> Opened:
        if has_own(self.layer, "__call__"):
            raise UnsupportedModelError(why_no_graph(self.layer))
        recording = self.recorded()
        operations = operations_by_name(self.layer, self.path, recording)
        nested = self.opened_inside(recording.calls)
        inputs, form = recording.inputs, self.form
        if form is None:
            names = [maker_of(symbol).operation.name for symbol in inputs]
            structure = functional_of(self.layer).input  # type: ignore[union-attr]
            return Opened(rebuilt(self.layer, recording, nested, inputs, names, structure), None)
        names = form.names(self.layer)
        calls = [call for call in recording.calls if self.path or id(call.operation) not in recording.constants]
        used = {id(symbol) for call in calls for symbol in call.tensors()}
        if self.path:
            used |= {id(symbol) for symbol in symbols_in(recording.outputs)}
        takes = [number for number, symbol in enumerate(inputs) if id(symbol) in used]
        if self.path:
            inputs = [inputs[number] for number in takes]
            structure = inputs[0] if len(inputs) == 1 else inputs
        else:
            check_used([name for number, name in enumerate(names) if number not in takes])
            structure = dict(zip(names, inputs, strict=True)) if keyed else filled(form.args[0], inputs)
            if isinstance(structure, dict):
                check_keys(self.layer, names, operations)
        taken = set(operations)
        names = [unique(names[number], taken) for number in takes]
        model: Any = rebuilt(self.layer, recording, nested, inputs, names, structure)
        if self.layer.supports_masking:
            model.supports_masking = True
            model.compute_mask = Masking(self.layer, form, takes)
        return Opened(model, takes)

    def refused(self, reason: str, remedy: str, place: str | None = None) -> UnsupportedModelError:
        """Returns the error for a `call` that a graph cannot represent."""
        kind = "Model" if isinstance(self.layer, keras.Model) else "Layer"
        name = "/".join(self.path) or self.layer.name
        if self.path and package_of(type(self.layer)) == "keras":
            remedy = f"Keras's own layers can seldom be opened: remove '{name}' from `open`."
        elif self.path:
            remedy += f" Or leave '{name}' closed: remove it from `open`."
        return UnsupportedModelError(
            f"{kind} '{name}' ({type(self.layer).__name__}) cannot be traced. {place or where(self.layer)}\n"
            f"{reason} {remedy}"
        )

    def recorded(self) -> Recording:
        """Records what `call` calls, with `training` resolved and names assigned to all but the user's layers."""
        functional = functional_of(self.layer)
        if functional is not None:
            recording = record_graph(functional)
            for call in recording.calls:
                if self.mode is not None and _minding(call.operation):
                    call.kwargs["training"] = self.mode
            return recording
        modes = (False, True) if self.mode is None else (self.mode, self.mode)
        first, second = self.run(modes[0]), self.run(modes[1])
        check_outputs(self.layer, first)
        made = self.agreed(first, second, modes)
        check_arguments(self.layer, first)
        name_operations(self.layer, first, made)
        return first

    def run(self, training: bool) -> Recording:
        assert self.form is not None
        inputs, args, kwargs = self.form.fresh()
        try:
            return record(self.layer, inputs, args, kwargs, training)
        except CallFailed as failure:
            reason, remedy, place = blamed(failure.error, self.layer)
            if failure.operation is not None:
                place = line_with(self.layer, rf"\b{snake_case(type(failure.operation).__name__)}\(")
            raise self.refused(reason, remedy, place) from failure.error

    def agreed(self, first: Recording, second: Recording, modes: tuple[bool, bool]) -> set[int]:
        """Checks that both runs make the same calls, and resolves `training`.

        Returns:
            The `id`s of the operations that `call` creates itself: they are new in each run.
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
            self.resolve_training(ours, values, modes)
        if alike and same(first.outputs, second.outputs, pairs):
            return made
        if self.mode is not None:
            raise Refusal("Run twice, it makes different calls.", "Make it call the same layers every time.")
        raise Refusal(
            "It computes something different in training than in inference, and a graph cannot.",
            f"Let layers such as `keras.layers.Dropout` make the difference, or {_ONE_MODE}",
            line_with(self.layer, r"\b(if|while)\b.*\btraining\b"),
        )

    def resolve_training(self, call: Recorded, values: Sequence[Any], modes: tuple[bool, bool]) -> None:
        """Leaves `training` unset if it follows the model's, and sets it if the layer has a different default."""
        minding = _minding(call.operation)
        if not minding:
            return
        if self.mode is not None:
            call.kwargs["training"] = values[0]
        elif (bool(values[0]), bool(values[1])) != modes:
            raise Refusal(
                f"It calls '{call.operation.name}' with training={values[0]} whatever the model's own `training` is, "
                "and a functional model passes the same value to all its layers.",
                f"Pass `training` on, or {_ONE_MODE}",
                line_with(self.layer, r"\btraining\s*=\s*(True|False|None|0|1)\s*[,)]"),
            )
        elif self.default is not None and any(bool(default_training(layer)) != self.default for layer in minding):
            call.kwargs["training"] = self.default

    def opened_inside(self, calls: Sequence[Recorded]) -> dict[int, Opened]:
        """Returns the nested models that replace opened layers, by the `id` of the layer."""
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
            if inside or (matching and functional_of(layer) is None):
                nested[key] = self.opened_layer(layer, own, inside)
        return nested

    def opened_layer(self, layer: Any, calls: Sequence[Recorded], patterns: list[Pattern]) -> Opened:
        path = (*self.path, layer.name)
        name = "/".join(path)
        if not is_composite(layer):
            raise UnsupportedModelError(
                f"'{name}' ({type(layer).__name__}) in `open` has no layers inside: it is one call. Remove it."
            )
        if not layer.built:
            raise UnsupportedModelError(f"'{name}' cannot be opened: {why_no_graph(layer)}")
        form, mode = None, self.mode
        if functional_of(layer) is None:
            plain = [(call.args, {k: x for k, x in call.kwargs.items() if k != "training"}) for call in calls]
            modes = {call.kwargs.get("training") for call in calls}
            form = Form.of(plain)
            if form is None or len(modes) > 1:
                raise UnsupportedModelError(
                    f"'{name}' is called {len(calls)} times, with different arguments, dtypes or masks, but opened it "
                    "would be a single nested model. Remove it from `open`."
                )
            mode = None if mode is None else modes.pop()
        default = default_training(layer) if self.default is None else self.default
        return Level(layer, path, form, patterns, mode, default).build()


def _take_training(call: Recorded, inherited: bool) -> Any:
    """Removes `training` from a call's arguments and returns its value."""
    if isinstance(call.operation, keras.Layer) and len(call.args) > 1:
        names = list(call_parameters(call.operation))[: len(call.args)]
        if "training" in names:
            place = names.index("training")
            call.kwargs |= dict(zip(names[place:], call.args[place:], strict=False))
            call.args = call.args[:place]
    return call.kwargs.pop("training", inherited)


def _minding(operation: keras.Operation) -> list[keras.Layer]:
    """Returns the layers in an operation (itself included) whose behavior depends on `training`."""
    inside = all_layers(operation) if isinstance(operation, keras.Layer) else []
    return [layer for layer in inside if functional_of(layer) is None and "training" in call_parameters(layer)]


def default_training(layer: keras.Layer) -> bool | None:
    """Returns the default of `training` in a layer's `call`."""
    parameter = call_parameters(layer).get("training")
    return None if parameter is None or parameter.default in (None, parameter.empty) else bool(parameter.default)
