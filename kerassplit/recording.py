"""What a layer's `call` does to symbolic tensors, recorded as calls of what is inside it.

Keras records the inner calls itself when `call` gets symbolic tensors. Here they are read off and at once taken out of
the layers again, so that nothing of the recording stays behind, whether it ends well or not.
"""

import contextlib
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from kerassplit.graph import all_layers, found_masks, lock, maker_of, mask_of
from kerassplit.rebuild import as_converted, calling, forget_calls_on


@dataclass(slots=True)
class Recorded:
    """One inner call.

    Attributes:
        operation: The layer or operation that is called.
        args: Its positional arguments.
        kwargs: Its keyword arguments; those that Keras filled in by itself may be among them.
        outputs: The symbolic tensors that it gives, in Keras's order.
    """

    operation: keras.Operation
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: list[keras.KerasTensor]

    def tensors(self) -> list[keras.KerasTensor]:
        """The symbolic tensors among the arguments."""
        return symbols_in((self.args, self.kwargs))


@dataclass(slots=True)
class Recording:
    """The calls inside a layer, each after those it depends on.

    Attributes:
        inputs: The symbolic tensors that the layer was given.
        calls: What it calls on the way to its outputs.
        outputs: What it gives, in its own structure.
    """

    inputs: list[keras.KerasTensor]
    calls: list[Recorded]
    outputs: Any


class Refusal(Exception):  # noqa: N818
    """Raised in the middle of a user's `call`, where it does what no graph can hold. Says why, and the way out."""

    def __init__(self, reason: str, remedy: str):
        super().__init__(reason)
        self.remedy = remedy


class CallFailed(Exception):  # noqa: N818
    """A user's `call` raised an error."""

    def __init__(self, error: Exception):
        super().__init__(str(error))
        self.error = error


class OutsideLayer(Refusal):
    """The refusal of a variable that `call` itself computes with."""

    def __init__(self, variable: Any):
        super().__init__(
            f"It computes with the variable '{variable.path}' outside of any layer, and a graph holds variables "
            "only in layers.",
            "Put this line into a keras.Layer of its own that holds the variable.",
        )


def record(layer: keras.Layer, inputs: list[keras.KerasTensor], args: Any, kwargs: Any, training: Any) -> Recording:
    """Runs `layer.call` on symbolic tensors.

    Args:
        layer: A built layer or model.
        inputs: Fresh `keras.Input`s.
        args: The arguments, made of these.
        kwargs: Likewise, without `training`.
        training: For `call` and for all inside that is not told otherwise.

    Raises:
        CallFailed: `call` did.
    """
    with lock:
        try:
            with _building_refused(layer), calling(layer, training), _Watch():
                args, kwargs = (
                    keras.tree.map_structure(lambda x: as_converted(layer, x), some) for some in (args, kwargs)
                )
                if "training" in call_parameters(layer):
                    kwargs["training"] = training
                try:
                    outputs = layer.call(*args, **kwargs)
                except Exception as error:
                    raise CallFailed(error) from error
            symbols = [x for x in keras.tree.flatten(outputs) if isinstance(x, keras.KerasTensor)]
            return Recording(inputs, _calls_behind(symbols), outputs)
        finally:
            forget_calls_on(inputs)


def record_graph(functional: Any) -> Recording:
    """The calls that a functional model consists of."""
    return Recording(list(functional.inputs), _calls_behind(functional.outputs), functional.output)


def symbols_in(structure: Any) -> list[keras.KerasTensor]:
    """The symbolic tensors in a structure, each once, in order."""
    found = {id(value): value for value in keras.tree.flatten(structure) if isinstance(value, keras.KerasTensor)}
    return list(found.values())


def call_parameters(layer: keras.Layer) -> dict[str, inspect.Parameter]:
    """The parameters of a layer's `call`, by name."""
    return dict(inspect.signature(layer.call).parameters)


def _calls_behind(symbols: Sequence[keras.KerasTensor]) -> list[Recorded]:
    """The calls that lead to these tensors, masks included, each after those it depends on; without recursion."""
    calls: list[Recorded] = []
    seen: set[Any] = set()
    path: list[tuple[Recorded | None, Iterator[keras.KerasTensor]]] = [(None, iter(symbols))]
    while path:
        call, waiting = path[-1]
        symbol = next(waiting, None)
        if symbol is not None:
            node = maker_of(symbol)
            if node not in seen and not node.is_input:
                seen.add(node)
                made = _recorded(node)
                path.append((made, iter(made.tensors())))
        else:
            path.pop()
            if call is not None:
                calls.append(call)
    return calls


def _recorded(node: Any) -> Recorded:
    """A node as plain data, with the masks that its layer finds on its tensors among the arguments."""
    args, kwargs = tuple(node.arguments.args), dict(node.arguments.kwargs)
    if isinstance(node.operation, keras.Layer) and any(mask_of(symbol) is not None for symbol in node.input_tensors):
        kwargs |= found_masks(node.operation, args, kwargs)
    return Recorded(node.operation, args, kwargs, list(node.outputs))


class _Watch(keras.StatelessScope):
    """While it lasts, no variable is changed, and none is read: its value would be frozen into the graph."""

    def get_current_value(self, variable: Any) -> Any:
        if "seed_generator" in variable.path:
            raise Refusal(
                "It draws random numbers, which would stay the same for ever in a graph.",
                "Use a layer for it (`keras.layers.Dropout`), or put it into a keras.Layer of its own.",
            )
        raise OutsideLayer(variable)

    def add_update(self, update: tuple[Any, Any]) -> None:
        raise Refusal(
            f"It changes the variable '{update[0].path}', and a graph can do so only in a layer.",
            "Put this line into a keras.Layer of its own that holds the variable.",
        )


@contextlib.contextmanager
def _building_refused(layer: keras.Layer) -> Iterator[None]:
    """While it lasts, layers inside that are not built yet refuse to be."""

    def refusing(name: str) -> Any:
        def build(input_shape: Any) -> None:
            raise Refusal(
                f"Layer '{name}' is not built yet, and tracing builds nothing.",
                "Call the model on data once before (if only training gets here, with `training=True`).",
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
