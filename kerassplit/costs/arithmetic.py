"""The arithmetic of any call: by a formula, else by the backend's counter, else unknown."""

from dataclasses import dataclass
from typing import Any, Literal

import keras

from kerassplit.costs.concrete import ConcreteCall
from kerassplit.costs.count import Count, UnknownCountError
from kerassplit.costs.counting import count_by_backend
from kerassplit.costs.flops import LAYERS
from kerassplit.costs.operations import OPERATIONS
from kerassplit.costs.recurrent import WRAPPERS
from kerassplit.graph import keras_operation_name

CountedBy = Literal["formula", "tensorflow", "jax", "torch", "unknown"]
_HARMLESS = frozenset({"__init__", "build", "get_config", "from_config"})


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """What a call costs in arithmetic.

    Attributes:
        flops: All of it; `None` where nobody can count it.
        multiply_adds: Those of matrix products and convolutions, each of which is two FLOPs; `None` where not known.
        counted_by: `"formula"`, the backend whose counter it was, or `"unknown"`.
    """

    flops: int | None
    multiply_adds: int | None
    counted_by: CountedBy


def arithmetic(call: ConcreteCall) -> Arithmetic:
    """Counts a call."""
    try:
        count = by_formula(call)
    except UnknownCountError:
        counted = count_by_backend(call)
        if counted is None:
            return Arithmetic(None, None, "unknown")
        backend: Any = keras.backend.backend()
        return Arithmetic(*counted, backend)
    return Arithmetic(count.flops, count.multiply_adds, "formula")


def by_formula(call: ConcreteCall) -> Count:
    """Counts a call by its formula.

    Raises:
        UnknownCountError: There is none, it does not know an option of the call, or a tensor has open sides.
    """
    if not call.is_known:
        raise UnknownCountError
    kind = _kind(call.operation)
    try:
        if kind in WRAPPERS:
            return WRAPPERS[kind](call, by_formula)
        formula = LAYERS.get(kind) or OPERATIONS[keras_operation_name(call.operation) or ""]
        return formula(call)
    except Exception as error:  # a formula meets values that users make: an activation without a hash, say
        raise UnknownCountError from error


def _kind(operation: Any) -> type:
    """The class whose formula tells what a layer does: its own, or one that it takes its `call` and all else from."""
    for kind in type(operation).__mro__:
        if kind in LAYERS or kind in WRAPPERS:
            return kind
        own = {
            name for name, value in vars(kind).items() if callable(value) or isinstance(value, (property, classmethod))
        }
        if not own <= _HARMLESS:
            break
    return type(operation)
