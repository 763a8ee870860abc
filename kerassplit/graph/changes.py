"""Detects changes in the layers of a model since it was compiled.

A compiled program keeps the Python state it was traced with: activations, rates, dtypes, the variable objects. Keras's
`predict` keeps using it until `compile`, `quantize` or another batch size causes a retrace. A stage is a model of its
own, which Keras does not notify of changes in the layers that it shares, so it has to check for itself.
"""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from kerassplit.graph.internals.layers import all_layers
from kerassplit.text import package_of

_BOOKKEEPING = frozenset(
    [
        "_auto_config",
        "_build_shapes_dict",
        "_called",
        "_inbound_nodes",
        "_layers",
        "_loss_ids",
        "_losses",
        "_losses_override",
        "_metrics",
        "_outbound_nodes",
        "_parent_path",
        "_path",
        "_saved_model_arg_spec",
        "_saved_model_inputs_spec",
        "_tracked",
        "_tracker",
        "build",
        "built",
        "name",
        "quantize",
    ]
)
"""Attributes that change without affecting results, such as when a layer is called or used in another model."""
_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_LIBRARIES = frozenset(["builtins", "inspect", "jax", "jaxlib", "keras", "keras_hub", "numpy", "tensorflow", "torch"])
_DEEPEST, _LONGEST = 6, 10_000


def snapshot(model: keras.Model) -> list[Any]:
    """Collects everything that a program may have kept of a model's layers, for `is_changed`; linear in the layers.

    That is the attributes of layers and operations, followed into containers, arrays and objects of the user's own
    classes, and those classes' attributes. Closures and global variables are not covered.
    """
    seen: list[Any] = []
    known: set[int] = set()
    for one in _operations(model):
        seen.append(one)
        known.add(id(one))
        if isinstance(one, keras.Model) and package_of(type(one)) in ("keras", "keras_hub"):
            seen.append(getattr(one, "_jit_compile", None))  # its other attributes concern training
            continue
        _attributes(one, seen, known, 0)
    return seen


def is_changed(before: list[Any], now: list[Any]) -> bool:
    """True if two snapshots differ."""
    return len(before) != len(now) or any(
        one is not other and not (type(one) is type(other) and isinstance(one, _PLAIN) and one == other)
        for one, other in zip(before, now, strict=True)
    )


def _operations(model: keras.Model) -> Iterator[Any]:
    for layer in all_layers(model):
        yield layer
        yield from (one for one in getattr(layer, "operations", ()) if not isinstance(one, keras.Layer))


def _attributes(one: Any, seen: list[Any], known: set[int], depth: int) -> None:
    for kind in type(one).__mro__:
        if package_of(kind) not in _LIBRARIES:
            for name, value in vars(kind).items():
                if not name.startswith("__") or name == "__call__":
                    seen.append(name)
                    _add(value, seen, known, depth + 1)
    for name, value in vars(one).items():
        if name not in _BOOKKEEPING and not name.startswith("_self_"):
            seen.append(name)
            _add(value, seen, known, depth + 1)


def _add(value: Any, seen: list[Any], known: set[int], depth: int) -> None:
    if isinstance(value, _PLAIN):
        seen.append(value)
    elif isinstance(value, np.ndarray) and value.dtype.kind != "O":
        seen.append(hash((value.shape, value.dtype.str, value.tobytes())))
    elif id(value) in known or depth > _DEEPEST:
        seen.append(value)
    elif isinstance(value, (list, tuple, set, frozenset, dict)) and len(value) <= _LONGEST:
        known.add(id(value))
        seen.append(len(value))
        for item in [*value, *value.values()] if isinstance(value, dict) else value:
            _add(item, seen, known, depth + 1)
    else:
        seen.append(value)
        if hasattr(value, "__dict__") and not isinstance(value, type) and package_of(type(value)) not in _LIBRARIES:
            known.add(id(value))
            if not isinstance(value, keras.Layer):  # it has its own turn
                _attributes(value, seen, known, depth)
