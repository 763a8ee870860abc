"""Records what a layer's `call` does to symbolic tensors, as calls of layers and operations inside it.

Keras records the inner calls itself when `call` receives symbolic tensors. Here they are read and immediately removed
from the layers, so the recording leaves no trace, whether it succeeds or not.
"""

import contextlib
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras

from kerassplit.graph.internals.layers import all_layers, as_converted, found_masks
from kerassplit.graph.internals.nodes import walk
from kerassplit.graph.internals.process_state import calling, lock
from kerassplit.graph.internals.shared_nodes import forget_calls_on
from kerassplit.graph.internals.symbols import mask_of
from kerassplit.graph.tracing.blame import OPEN_SIDE, Refusal, blamed
from kerassplit.graph.tracing.constants import SideUnknown, made_symbolic, open_sides_in


@dataclass(slots=True)
class Recorded:
    """One inner call.

    Attributes:
        operation: The layer or operation that is called.
        args: Its positional arguments.
        kwargs: Its keyword arguments, possibly including those that Keras filled in.
        outputs: Its symbolic outputs, in Keras's order.
    """

    operation: keras.Operation
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: list[keras.KerasTensor]

    def tensors(self) -> list[keras.KerasTensor]:
        """Returns the symbolic tensors among the arguments."""
        return symbols_in((self.args, self.kwargs))

    def holds_open_side(self) -> bool:
        """True if the arguments or the operation itself contain an `OpenSide`."""
        own = [] if isinstance(self.operation, keras.Layer) else list(vars(self.operation).values())
        return open_sides_in((self.args, self.kwargs, own))


@dataclass(slots=True)
class Recording:
    """The calls inside a layer, in topological order.

    Attributes:
        inputs: The symbolic inputs of the layer.
        calls: The calls that its outputs depend on.
        outputs: Its outputs, in its own structure.
        constants: The `id`s of the operations that make constants symbolic.
    """

    inputs: list[keras.KerasTensor]
    calls: list[Recorded]
    outputs: Any
    constants: set[int] = field(default_factory=set)


class CallFailed(Exception):  # noqa: N818
    """A user's `call` raised an error, or caused one where it calls an operation."""

    def __init__(self, error: Exception, operation: keras.Operation | None = None):
        super().__init__(str(error))
        self.error, self.operation = error, operation


class OutsideLayer(Refusal):
    """Refusal: `call` itself computes with a variable."""

    def __init__(self, variable: Any, place: str | None = None):
        super().__init__(
            f"It computes with the variable '{variable.path}' outside of any layer, and a graph has variables "
            "only in layers.",
            "Move this line into a keras.Layer of its own that holds the variable.",
            place,
        )


def record(layer: keras.Layer, inputs: list[keras.KerasTensor], args: Any, kwargs: Any, training: Any) -> Recording:
    """Runs `layer.call` on symbolic tensors.

    Args:
        layer: A built layer or model.
        inputs: Fresh `keras.Input`s.
        args: The positional arguments, with these inputs.
        kwargs: The keyword arguments, likewise, without `training`.
        training: The value of `training` for `call`, and for everything inside that is not called with another one.

    Raises:
        CallFailed: `call` failed.
    """
    with lock:
        try:
            return _record(layer, inputs, args, kwargs, training, open_sides=False)
        except CallFailed as failure:
            if blamed(failure.error, layer)[0] != OPEN_SIDE:
                raise
        return _record(layer, inputs, args, kwargs, training, open_sides=True)


def _record(
    layer: keras.Layer, inputs: list[keras.KerasTensor], args: Any, kwargs: Any, training: Any, *, open_sides: bool
) -> Recording:
    """Does the work of `record`, with or without `OpenSide`s for unknown dimensions."""
    watch = _Watch()
    try:
        with (
            _building_refused(layer),
            calling(layer, training),
            watch,
            made_symbolic(inputs, watch, open_sides=open_sides) as constants,
        ):
            args, kwargs = (keras.tree.map_structure(lambda x: as_converted(layer, x), some) for some in (args, kwargs))
            if "training" in call_parameters(layer):
                kwargs["training"] = training
            try:
                outputs = layer.call(*args, **kwargs)
            except Exception as error:
                raise CallFailed(error) from error
        symbols = [x for x in keras.tree.flatten(outputs) if isinstance(x, keras.KerasTensor)]
        calls = _calls_behind(symbols)
        held = next((call.operation for call in calls if call.holds_open_side()), None) if open_sides else None
        if held is not None:
            raise CallFailed(SideUnknown(), held)
        return Recording(inputs, calls, outputs, constants)
    finally:
        forget_calls_on(inputs)


def record_graph(functional: Any) -> Recording:
    """Returns the calls of a functional model as a recording."""
    return Recording(list(functional.inputs), _calls_behind(functional.outputs), functional.output)


def symbols_in(structure: Any) -> list[keras.KerasTensor]:
    """Returns the symbolic tensors in a structure, each once, in order."""
    found = {id(value): value for value in keras.tree.flatten(structure) if isinstance(value, keras.KerasTensor)}
    return list(found.values())


def call_parameters(layer: keras.Layer) -> dict[str, inspect.Parameter]:
    """Returns the parameters of a layer's `call`, by name."""
    return dict(inspect.signature(layer.call).parameters)


def _calls_behind(symbols: Sequence[keras.KerasTensor]) -> list[Recorded]:
    """Returns the calls that these tensors (masks included) depend on, in topological order; without recursion."""
    calls: dict[Any, Recorded] = {}

    def received_by(node: Any) -> list[keras.KerasTensor]:
        calls[node] = _recorded(node)
        return calls[node].tensors()

    return [calls[node] for node in walk(symbols, received_by=received_by)[0] if not node.is_input]


def _recorded(node: Any) -> Recorded:
    """Returns a node as plain data, with the masks that its layer finds on its inputs among the arguments."""
    args, kwargs = tuple(node.arguments.args), dict(node.arguments.kwargs)
    if isinstance(node.operation, keras.Layer) and any(mask_of(symbol) is not None for symbol in node.input_tensors):
        kwargs |= found_masks(node.operation, args, kwargs)
    return Recorded(node.operation, args, kwargs, list(node.outputs))


class _Watch(keras.StatelessScope):
    """Scope in which variables can be neither changed nor read: their values would be frozen into the graph."""

    def get_current_value(self, variable: Any) -> Any:
        if "seed_generator" in variable.path:
            raise Refusal(
                "It draws random numbers, which would never change in a graph.",
                "Use a layer for that (`keras.layers.Dropout`), or move it into a keras.Layer of its own.",
            )
        raise OutsideLayer(variable)

    def add_update(self, update: tuple[Any, Any]) -> None:
        raise Refusal(
            f"It changes the variable '{update[0].path}', and a graph can do so only in a layer.",
            "Move this line into a keras.Layer of its own that holds the variable.",
        )


@contextlib.contextmanager
def _building_refused(layer: keras.Layer) -> Iterator[None]:
    """Context in which unbuilt layers inside refuse to be built."""

    def refusing(name: str) -> Any:
        def build(input_shape: Any) -> None:
            raise Refusal(
                f"Layer '{name}' is not built yet, and tracing builds nothing.",
                "Call the model on data once first (with `training=True` if only training reaches this layer).",
            )

        return build

    held = [(inner, inner.build) for inner in all_layers(layer) if not inner.built]
    for inner, _ in held:
        inner.__dict__["build"] = refusing(inner.name)
    try:
        yield
    finally:
        for inner, build in held:
            inner.__dict__["build"] = build
