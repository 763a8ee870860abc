"""Concrete shapes of all tensors of a graph, which the FLOP formulas need.

Keras leaves the batch size unknown, and some models leave more dimensions unknown. Here a batch size (and, if needed,
sizes for the open sides) is propagated through the model call by call, so that a `Reshape` of batch and time into one
dimension, say, is followed rather than guessed.
"""

import inspect
import operator
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import keras

from kerassplit.errors import SplitError
from kerassplit.graph.declared import declares
from kerassplit.graph.model_graph import Call, Graph
from kerassplit.graph.sizes import Shape
from kerassplit.text import enumerated, listed

_NAME = "concrete"  # of every symbolic tensor created here: otherwise Keras's automatic names would advance

OpenSides = int | Mapping[str, Sequence[int]] | None
MayAsk = Callable[[Any], bool]


@dataclass(frozen=True, eq=False)
class ConcreteCall:
    """A call of an operation on tensors of known shapes.

    Attributes:
        operation: The layer or operation.
        arguments: Creates `args` and `kwargs`, which most formulas do not need.
        given: Shapes of the tensors among the arguments, in order.
        made: Shapes of the output tensors.
    """

    operation: Any
    arguments: Callable[[], tuple[tuple[Any, ...], dict[str, Any]]]
    given: tuple[Shape, ...]
    made: tuple[Shape, ...]

    @cached_property
    def _made_arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return self.arguments()

    @property
    def args(self) -> tuple[Any, ...]:
        """Its positional arguments, with a `KerasTensor` of known shape for each tensor."""
        return self._made_arguments[0]

    @property
    def kwargs(self) -> dict[str, Any]:
        """Its keyword arguments, likewise."""
        return self._made_arguments[1]

    def argument(self, name: str, default: Any = None) -> Any:
        """Returns the argument for the parameter `name` of the operation's `call`, or `default` if it is left out."""
        if name in self.kwargs:
            return self.kwargs[name]
        names = list(inspect.signature(self.operation.call).parameters)
        place = names.index(name) if name in names else len(self.args)
        return self.args[place] if place < len(self.args) else default

    @property
    def is_known(self) -> bool:
        """True if all dimensions are known: an operation such as `keras.ops.nonzero` decides one only when it runs."""
        return not any(None in shape for shape in self.given + self.made)


def layer_call(layer: Any, given: Sequence[Shape], made: Sequence[Shape] | None = None) -> ConcreteCall:
    """Returns a call of a layer inside another layer, on tensors of these shapes."""
    if made is None:
        made = [tuple(layer.compute_output_shape(given[0]))]
    return ConcreteCall(layer, lambda: (tuple(map(_concrete, given)), {}), tuple(given), tuple(made))


def _concrete(shape: Shape, dtype: str = "float32") -> keras.KerasTensor:
    return keras.KerasTensor(shape, dtype, name=_NAME)


def batch_or_own(graph: Graph, batch_size: int | None) -> int:
    """Returns the batch size: `batch_size`, or for `None` the one that the model is built for, else 1.

    Raises:
        SplitError: It is not a positive whole number, or not the batch size that the model is built for.
    """
    if batch_size is None:
        return fixed_batch(symbol.shape for symbol in graph.model.inputs) or 1
    samples = _side(batch_size)
    if samples is None:
        raise SplitError(f"`batch_size` must be a whole number, at least 1; got {batch_size!r}.")
    for tensor in graph.flat_inputs():
        name, (batch, *_) = graph.tensors[tensor].name, graph.tensors[tensor].symbol.shape or (None,)
        if batch not in (None, samples):
            raise SplitError(
                f"Input '{name}' of '{graph.model.name}' is built for batches of {batch}: pass batch_size={batch} "
                f"(--batch-size {batch}); got {samples}."
            )
    return samples


def input_shapes(graph: Graph, samples: int, open_sides: OpenSides) -> dict[int, Shape]:
    """Returns the shapes of the model's inputs, by tensor.

    Args:
        graph: The graph of the model.
        samples: Batch size of the inputs that are not built for a fixed one.
        open_sides: See `profile`.

    Raises:
        SplitError: Sizes of open sides are missing.
    """
    tensors = list(dict.fromkeys(graph.flat_inputs()))
    given = open_sides if isinstance(open_sides, Mapping) else {}
    unknown = [name for name in given if name not in graph.names(tensors)]
    if unknown:
        raise SplitError(
            f"`open_sides` names {listed(unknown)}, but the inputs of '{graph.model.name}' are "
            f"{listed(graph.names(tensors))}."
        )
    if not isinstance(open_sides, Mapping) and open_sides is not None and _side(open_sides) is None:
        raise SplitError(
            "`open_sides` must be one whole number for all open sides, or a shape without the batch for each input, "
            f"such as {{'{graph.tensors[tensors[0]].name}': (224, 224, 3)}}; got {open_sides!r}."
        )
    shapes = {tensor: _input_shape(graph, tensor, samples, open_sides) for tensor in tensors}
    _refuse_open(graph, shapes)
    return shapes


def _input_shape(graph: Graph, tensor: int, samples: int, open_sides: OpenSides) -> Shape:
    """Returns the shape of an input; `None` for open sides whose sizes are not given."""
    name, shape = graph.tensors[tensor].name, tuple(graph.tensors[tensor].symbol.shape)
    if not shape:
        return ()
    batch, *sides = shape
    if isinstance(open_sides, Mapping) and name in open_sides:
        if not isinstance(open_sides[name], Iterable):
            raise SplitError(
                f"`open_sides` gives '{name}' {open_sides[name]!r}. Expected a shape without the batch: its own is "
                f"{shape}."
            )
        wanted = tuple(open_sides[name])
        given = [_side(side) for side in wanted]
        fits = len(given) == len(sides) and all(
            ours is not None and theirs in (None, ours) for ours, theirs in zip(given, sides, strict=True)
        )
        if not fits:
            raise SplitError(f"`open_sides` gives '{name}' the shape {wanted}, which does not fit its own, {shape}.")
        sides = given
    elif open_sides is not None and not isinstance(open_sides, Mapping):
        sides = [_side(open_sides) if side is None else side for side in sides]
    return (batch or samples, *sides)


def _refuse_open(graph: Graph, shapes: Mapping[int, Shape]) -> None:
    """Refuses inputs with open sides whose sizes are not given, and names all that must be given."""
    names = [graph.tensors[tensor].name for tensor, shape in shapes.items() if None in shape]
    if not names:
        return
    wanted = {
        graph.tensors[tensor].name: tuple(128 if side is None else side for side in shape[1:])
        for tensor, shape in shapes.items()
        if None in graph.tensors[tensor].symbol.shape[1:]
    }
    own = {graph.tensors[tensor].name: tuple(graph.tensors[tensor].symbol.shape) for tensor in shapes}
    shapes_are = f"{'their shapes are' if names[1:] else 'its shape is'} {enumerated([str(own[one]) for one in names])}"
    what = f"Input{'s' * bool(names[1:])} {listed(names)} of '{graph.model.name}' {'have' if names[1:] else 'has'}"
    raise SplitError(
        f"{what} open sides: {shapes_are}. "
        "Pass open_sides=128 (--open-sides 128), one size for all of them; or in Python, for each input, a shape "
        f"without the batch: open_sides={wanted!r}."
    )


def _side(value: Any) -> int | None:
    """Returns a positive whole number (NumPy's included) as an `int`; `None` for anything else."""
    try:
        number = 0 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None
    return number if number > 0 else None


def concrete_shapes(
    graph: Graph,
    inputs: Mapping[int, Shape],
    may_ask: MayAsk = lambda _: True,
    open_sides: OpenSides = None,
) -> list[Shape]:
    """Returns the shape of every tensor for these inputs; `None` for dimensions that only running the model determines.

    Args:
        graph: The graph of the model.
        inputs: Shapes of its inputs, by tensor.
        may_ask: True for operations whose shape inference may run; for others, the batch size is put into Keras's
            record.
        open_sides: If one number, it also stands for the number of words that a layer splits strings into.

    Raises:
        SplitError: A call does not accept these shapes: a convolution is larger than its input, say.
    """
    shapes: list[Shape] = [tuple(tensor.symbol.shape) for tensor in graph.tensors]
    batch_size, length = next((shape[0] for shape in inputs.values() if shape), 1), _side(open_sides)
    for call in graph.calls:
        for tensor in call.outputs:
            shapes[tensor] = inputs.get(tensor, shapes[tensor])
        if call.inputs and any(None in shapes[tensor] for tensor in call.outputs):
            made = _made(graph, call, shapes, batch_size, may_ask)
            if length is not None and any(graph.tensors[tensor].symbol.dtype == "string" for tensor in call.inputs):
                made = [_filled(shape, batch_size, length) for shape in made]
            for tensor, shape in zip(call.outputs, made, strict=True):
                shapes[tensor] = shape
    return shapes


def _filled(shape: Shape, batch_size: int | None, length: int) -> Shape:
    return tuple((batch_size, length)[place > 0] if side is None else side for place, side in enumerate(shape))


def concrete_call(call: Call, shapes: Sequence[Shape]) -> ConcreteCall:
    """Returns a call of the graph with the shapes that `concrete_shapes` found."""
    scope = call.scope
    given = tuple([shapes[scope[id(symbol)]] for symbol in call.arguments.keras_tensors])
    made = tuple([shapes[tensor] for tensor in call.outputs])
    return ConcreteCall(call.operation, partial(_arguments, call, shapes), given, made)


def _arguments(call: Call, shapes: Sequence[Shape]) -> tuple[Any, Any]:
    def concrete(value: Any) -> Any:
        if isinstance(value, keras.KerasTensor) and id(value) in call.scope:
            return _concrete(shapes[call.scope[id(value)]], value.dtype)
        return value

    return keras.tree.map_structure(concrete, (call.arguments.args, call.arguments.kwargs))


def _made(graph: Graph, call: Call, shapes: Sequence[Shape], batch_size: int | None, may_ask: MayAsk) -> list[Shape]:
    """Returns a call's output shapes for concrete inputs; if Keras cannot infer them, its record with the batch."""
    recorded = [shapes[tensor] for tensor in call.outputs]
    batches = {shapes[tensor][:1] for tensor in call.inputs}
    if _keeps_batch(call, recorded, batches):
        return [(*batches.pop(), *recorded[0][1:])]
    best = [(batch_size, *shape[1:]) if shape and shape[0] is None else shape for shape in recorded]
    if not may_ask(call.operation):
        return best
    failures: list[Exception] = []
    # The shapes that a layer declares; if these leave dimensions unknown, those that its `call` produces.
    inferences = (type(call.operation).compute_output_spec, keras.Operation.compute_output_spec)
    if any(None in shape[1:] for shape in recorded) and declares(call.operation):
        inferences = inferences[::-1]  # unknown in the record where a layer breaks its declaration
    for infer in inferences:
        try:
            found = _inferred(infer, call, shapes)
        except Exception as error:  # a layer may raise anything
            failures.append(error)
            continue
        if len(found) == len(recorded) and all(map(_agrees, found, recorded)):
            best = found
            if not any(None in shape for shape in found):
                break
    if len(failures) == len(inferences):
        _check_that_shapes_fit(graph, call, shapes, failures[0])
    return best


_BATCH_KEPT = tuple(
    f"keras.src.layers.{room}"
    for room in (
        "activations",
        "convolutional",
        "core.dense",
        "normalization",
        "pooling",
        "regularization",
        "reshaping",
    )
)
_MERGES = tuple(
    getattr(keras.layers, name) for name in ("Add", "Average", "Maximum", "Minimum", "Multiply", "Subtract")
)


def _keeps_batch(call: Call, recorded: Sequence[Shape], batches: Collection[Shape]) -> bool:
    """True if only the batch size is unknown and surely that of the inputs: asking Keras takes much longer."""
    if len(recorded) != 1 or len(batches) != 1 or None in recorded[0][1:]:
        return False
    kind = type(call.operation)
    if len(call.inputs) > 1:
        return kind in _MERGES
    return kind.__module__.startswith(_BATCH_KEPT) and not hasattr(call.operation, "layer")  # it may wrap anything


def _inferred(infer: Callable[..., Any], call: Call, shapes: Sequence[Shape]) -> list[Shape]:
    args, kwargs = _arguments(call, shapes)
    return [tuple(spec.shape) for spec in keras.tree.flatten(infer(call.operation, *args, **kwargs))]


def _check_that_shapes_fit(graph: Graph, call: Call, shapes: Sequence[Shape], failure: Exception) -> None:
    """Checks that the shapes are not the reason why Keras cannot infer the outputs: with those on record, can it?

    Raises:
        SplitError: They are the reason.
    """
    given = [shapes[tensor] for tensor in call.inputs]
    if any(None in shape for shape in given):
        return
    on_record = [tuple(tensor.symbol.shape) for tensor in graph.tensors]
    try:
        _inferred(type(call.operation).compute_output_spec, call, on_record)
    except Exception:
        return
    reason = str(failure).partition("\n")[0].rstrip(".")
    raise SplitError(
        f"'{call.name}' of '{graph.model.name}' cannot take tensors of shape {', '.join(map(str, given))}: "
        f"{reason}. Pass another `open_sides` or `batch_size`."
    ) from failure


def _agrees(found: Shape, recorded: Shape) -> bool:
    """True if a shape is the recorded one, with fewer unknown dimensions."""
    return len(found) == len(recorded) and all(
        theirs is None or ours == theirs for ours, theirs in zip(found, recorded, strict=True)
    )


def fixed_batch(shapes: Iterable[Sequence[int | None]]) -> int | None:
    """Returns the fixed batch size of a model, from the shapes of its inputs; `None` if any size works."""
    sizes = {shape[0] for shape in shapes if shape and shape[0] is not None}
    return sizes.pop() if len(sizes) == 1 else None
