"""Symbolic tensors: their copies, the nodes that produce them, and the masks attached to them."""

from collections.abc import Sequence
from typing import Any

import keras

from kerassplit.graph.internals.keras_src import KerasHistory, Node


def bare(symbol: keras.KerasTensor) -> keras.KerasTensor:
    """Returns a `KerasTensor` with all attributes of `symbol`, whatever the Keras version, but no history and mask."""
    twin = keras.KerasTensor.__new__(keras.KerasTensor)
    twin.__dict__.update(symbol.__dict__)
    for name in ("_keras_mask", "_kerassplit_anchor"):
        twin.__dict__.pop(name, None)
    return forget_history(twin)


def shaped(symbol: keras.KerasTensor, shape: Sequence[int | None], dtype: str) -> keras.KerasTensor:
    """Returns a `KerasTensor` like `symbol` with another shape and dtype, without history and mask."""
    twin = bare(symbol)
    twin._shape, twin._dtype = tuple(shape), dtype  # a tenth of the time of a new `KerasTensor`
    return twin


def stand_in(symbol: keras.KerasTensor, source: keras.Operation) -> keras.KerasTensor:
    """Returns a tensor like `symbol`, as an output of `source`, which takes nothing; a `keras.Input` is a slow one."""
    twin = bare(symbol)
    Node(source, call_args=(), call_kwargs={}, outputs=[twin])
    return twin


def copy_with_history(symbol: keras.KerasTensor) -> keras.KerasTensor:
    """Returns a copy for use as a mask: the tensor it belongs to lives as long as its layer, a model output may not."""
    copy = bare(symbol)
    copy._keras_history = symbol._keras_history  # type: ignore[attr-defined]
    return copy


def forget_history(symbol: keras.KerasTensor) -> keras.KerasTensor:
    """Removes the history of a symbolic tensor and returns the tensor."""
    symbol._keras_history = KerasHistory(None, 0, 0)  # type: ignore[attr-defined]
    return symbol


def original(symbol: keras.KerasTensor) -> keras.KerasTensor:
    """Returns the output that Keras recorded for a symbolic tensor: itself, or the one that it was copied from."""
    operation, place, position = symbol._keras_history  # type: ignore[attr-defined]
    if operation is None or place >= len(operation._inbound_nodes):
        return symbol
    return operation._inbound_nodes[place].outputs[position]


def name_of(symbol: keras.KerasTensor) -> str:
    """Returns the name of the operation that produces a symbolic tensor, or the tensor's own."""
    return getattr(getattr(symbol, "_keras_history", (None,))[0], "name", symbol.name)


def maker_of(symbol: keras.KerasTensor) -> Any:
    """Returns the Keras node that produces a symbolic tensor."""
    operation, place, _ = symbol._keras_history
    return operation._inbound_nodes[place]


def has_mask(symbol: keras.KerasTensor) -> bool:
    """True if Keras attaches a mask to the tensor when the model runs."""
    return getattr(symbol, "_keras_mask", None) is not None


def mask_of(symbol: Any) -> keras.KerasTensor | None:
    """Returns the mask attached to a symbolic tensor, or `None`."""
    return getattr(symbol, "_keras_mask", None)


def set_mask(symbol: keras.KerasTensor, mask: keras.KerasTensor | None) -> None:
    """Attaches a mask to a symbolic tensor."""
    symbol._keras_mask = mask  # type: ignore[attr-defined]


def differs(symbol: keras.KerasTensor, recorded: keras.KerasTensor) -> bool:
    """True if a tensor differs from what Keras recorded: in shape, in dtype, or in having a mask."""
    if symbol is recorded:
        return False
    return has_mask(symbol) != has_mask(recorded) or (symbol.shape, symbol.dtype) != (recorded.shape, recorded.dtype)
