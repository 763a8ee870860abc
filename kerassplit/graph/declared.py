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


def check_call(operation: keras.Operation, args: Any, kwargs: Any) -> None:
    """Raises what a layer raises on these symbolic tensors, also where Keras would trust its declaration.

    Keras's own layers without weights declare what they do, but for `Concatenate`, which compares no sizes.
    """
    trusted = type(operation).__module__.startswith(_ANY_SIZE) or not _may_fit_one_size(operation)
    if declares(operation) or not trusted:
        compute_output_spec(operation, *args, **kwargs)


def _may_fit_one_size(operation: keras.Operation) -> bool:
    """True if a layer of Keras may refuse a size of its input when it runs only, for all it declares."""
    if not isinstance(operation, keras.Layer):
        return False
    ways = ("compute_output_shape", "compute_output_spec")
    by_running = all(getattr(type(operation), way) is getattr(keras.Layer, way) for way in ways)
    return isinstance(operation, keras.layers.Concatenate) or (bool(operation.weights) and not by_running)


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
