"""Finds layers whose outputs differ from what they declare.

Keras trusts `compute_output_shape`; a wrong shape only matters where an Input replaces a tensor, because the Input
then rejects the layer's real output. So layers that are not Keras's own are checked once: their call is run on symbolic
tensors, as Keras itself does for layers that declare nothing.
"""

import warnings
import weakref
from collections.abc import Sequence
from typing import Any

import keras

from kerassplit.graph.internals.keras_src import compute_output_spec
from kerassplit.graph.internals.layers import is_composite
from kerassplit.graph.internals.process_state import names_kept, uninitialized_kept
from kerassplit.graph.internals.symbols import shaped

_KERAS = "keras.src."
_known: weakref.WeakKeyDictionary[Any, dict[Any, list[Any] | None]] = weakref.WeakKeyDictionary()


def broken(operation: keras.Operation, arguments: Any, outputs: Sequence[keras.KerasTensor]) -> dict[int, Any]:
    """Finds the outputs of a call that are not as declared; returns the fitting shape and dtype by position.

    A dimension that differs from the declared one is left unknown (`None`).

    Args:
        operation: The layer or operation.
        arguments: The `args` and `kwargs` of the call, with symbolic tensors.
        outputs: The outputs that Keras recorded.
    """
    if not declares(operation):
        return {}
    really = given_really(operation, arguments)
    if really is None or len(really) != len(outputs):
        return {}
    closed = all(side is not None for symbol in arguments.keras_tensors for side in symbol.shape[1:])
    found = {}
    for place, (declared, real) in enumerate(zip(outputs, really, strict=True)):
        if not isinstance(real, keras.KerasTensor):
            continue  # `None`, though a tensor is declared that nobody uses
        fitting = _fitting(declared.shape, real.shape, closed), real.dtype
        if fitting != (tuple(declared.shape), declared.dtype):
            found[place] = fitting
    return found


def declares(operation: keras.Operation) -> bool:
    """True if Keras trusts code that is not its own for the shapes of an operation's outputs."""
    kind = type(operation)
    if isinstance(operation, keras.layers.Lambda):
        return True
    if kind.__module__.startswith(_KERAS):  # the most common case; all it inherits is Keras's
        return False
    by_running = kind.compute_output_spec in (keras.Layer.compute_output_spec, keras.Operation.compute_output_spec)
    shape, default = (getattr(one, "compute_output_shape", None) for one in (kind, keras.Layer))
    if by_running and (shape is default or not isinstance(operation, keras.Layer)):
        return False
    methods = ("call", "compute_output_shape", "compute_output_spec")
    makers = [next(one for one in kind.__mro__ if name in vars(one)) for name in methods if hasattr(kind, name)]
    return not all(maker.__module__.startswith(_KERAS) for maker in makers)


def given_really(operation: keras.Operation, arguments: Any) -> list[Any] | None:
    """Runs a call on symbolic tensors and returns its real outputs; `None` if it fails."""
    args, kwargs = arguments.args, arguments.kwargs
    key = _key((args, kwargs))
    known = _known.setdefault(operation, {})
    if key is None or key not in known:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                outputs = compute_output_spec(operation, *args, **kwargs)  # called, with Keras's casts
                known[key] = keras.tree.flatten(outputs)
            except Exception:  # user code on symbolic tensors: its declaration is all there is
                known[key] = None
    return known[key]


_ANY_SIZE = tuple(f"keras.src.layers.{room}" for room in ("convolutional", "core.dense", "normalization.batch_"))
"""Modules whose layers have weights that fit every size that their `input_spec` allows."""
_COMPARING = (keras.layers.Concatenate, keras.layers.Dot, keras.layers.Attention, keras.layers.AdditiveAttention)


def check_call(operation: keras.Operation, args: Any, kwargs: Any, before: Any = None) -> None:
    """Raises what a layer raises on these symbolic tensors, whatever shapes it declares.

    An open batch counts as two samples: with an unknown size, `keras.ops.reshape(x, (-1, 196, 64))` would take other
    numbers of positions for a larger batch.

    Args:
        operation: The layer or operation.
        args: Its arguments.
        kwargs: Its keyword arguments.
        before: The arguments of the call in the model, with `args` and `kwargs`.

    Raises:
        ValueError: The call mixes the samples of a batch, which it did not on `before`.
    """
    old = None if before is None else (before.args, before.kwargs)
    try:
        given, rows = _rows(operation, args, kwargs)
    except Exception:
        if _has_open_sides(args, kwargs) and type(operation).__module__.startswith(_KERAS):
            return  # on JAX, not all layers of Keras can be run on unknown sizes
        if old is None or _takes_samples(operation, *old):
            raise
        compute_output_spec(operation, *args, **kwargs)  # its rows are no samples, but windows of images, say
        return
    if old is None or rows == [given] * len(rows):
        return
    given_before, rows_before = _rows(operation, *old)
    for now, was in zip(rows, rows_before, strict=False):
        if was == given_before and now != given:
            raise ValueError(f"it would mix the samples of a batch: {given} become {now}")


def _rows(operation: keras.Operation, args: Any, kwargs: Any) -> tuple[int | None, list[int | None]]:
    """Returns the first dimension of what a call receives, two if it is open, and those of what it returns."""
    received = [one for one in keras.tree.flatten((args, kwargs)) if isinstance(one, keras.KerasTensor) and one.shape]
    size = max((one.shape[0] or 0 for one in received), default=0)
    size = size if size > 1 else 2

    def closed(value: Any) -> Any:
        is_open = isinstance(value, keras.KerasTensor) and value.shape and value.shape[0] is None
        return shaped(value, (size, *value.shape[1:]), value.dtype) if is_open else value

    args, kwargs = keras.tree.map_structure(closed, (args, kwargs))
    made = keras.tree.flatten(compute_output_spec(operation, *args, **kwargs))
    return size, [one.shape[0] for one in made if isinstance(one, keras.KerasTensor) and one.shape]


def _has_open_sides(args: Any, kwargs: Any) -> bool:
    symbols = [one for one in keras.tree.flatten((args, kwargs)) if isinstance(one, keras.KerasTensor)]
    return any(None in symbol.shape[1:] for symbol in symbols)


def _takes_samples(operation: keras.Operation, args: Any, kwargs: Any) -> bool:
    try:
        _rows(operation, args, kwargs)
    except Exception:
        return False
    return True


def is_honest(operation: keras.Operation) -> bool:
    """True if calling a layer on symbolic tensors raises already what `check_call` would.

    Keras's own layers without weights declare what they do, but for those that compare sizes only when they are built.
    """
    is_layer = isinstance(operation, keras.Layer)
    if declares(operation) or (not is_layer and type(operation).__name__ == "Reshape"):
        return False
    if not is_layer or type(operation).__module__.startswith(_ANY_SIZE):
        return True
    ways = ("compute_output_shape", "compute_output_spec")
    by_running = all(getattr(type(operation), way) is getattr(keras.Layer, way) for way in ways)
    return not isinstance(operation, _COMPARING) and (by_running or not operation.weights)


def keeps_shapes(layer: keras.Operation) -> bool:
    """True if a layer of Keras may keep something of the shapes that it was built for."""
    kind = type(layer)
    own_build = isinstance(layer, keras.Layer) and kind.build is not keras.Layer.build
    return own_build and kind.__module__.startswith(_KERAS) and not kind.__module__.startswith(_ANY_SIZE)


def built_for(layer: keras.Layer, args: Any, kwargs: Any, before: Any) -> keras.Layer:
    """Returns a layer of Keras that fits these arguments: the layer itself, or if it has kept ranks, a new one.

    Layers that compute element by element, such as `Add`, keep whether their inputs differ in rank. Some weights, such
    as those of a `LayerNormalization` over several axes, have one shape for each input, but are reshaped or broadcast.

    Args:
        layer: A built layer.
        args: The arguments.
        kwargs: The keyword arguments.
        before: The arguments of the call in the model, with `args` and `kwargs`.

    Raises:
        ValueError: Built for these arguments, its weights would have other shapes.
    """
    if not keeps_shapes(layer) or is_composite(layer):
        return layer
    if hasattr(layer, "_reshape_required"):
        return layer if ranks(args) == ranks(before.args) else type(layer).from_config(layer.get_config())
    if layer.weights:
        with names_kept(), uninitialized_kept(), keras.StatelessScope(initialize_variables=False):
            again = type(layer).from_config(layer.get_config())
            again(*args, **kwargs)
        for ours, theirs in zip(again.weights, layer.weights, strict=False):
            if ours.shape != theirs.shape:
                raise ValueError(f"its '{theirs.name}' is for {tuple(theirs.shape)}, and {tuple(ours.shape)} is needed")
    return layer


def ranks(arguments: Any) -> list[int]:
    """Returns the number of dimensions of each symbolic tensor among the arguments."""
    return [len(one.shape) for one in keras.tree.flatten(arguments) if isinstance(one, keras.KerasTensor)]


def _key(structure: Any) -> Any:
    """Returns a key for everything that output shapes and dtypes depend on; `None` if a value cannot be compared."""
    values = []
    for value in keras.tree.flatten(structure):
        if isinstance(value, keras.KerasTensor):
            values.append((tuple(value.shape), value.dtype, value.sparse))
        elif value is None or isinstance(value, (bool, int, float, str)):
            values.append(value)
        else:
            return None
    return tuple(values)


def _fitting(declared: Sequence[int | None], real: Sequence[int | None], closed: bool) -> tuple[int | None, ...]:
    """Returns the declared shape with `None` where the real one differs.

    Keras may leave a dimension unknown whatever the inputs are.
    """
    if len(declared) != len(real):
        return tuple(real)
    return tuple(
        side if side == other or (other is None and closed and axis) else None
        for axis, (side, other) in enumerate(zip(declared, real, strict=True))
    )
