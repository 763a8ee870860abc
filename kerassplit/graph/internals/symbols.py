"""Symbolic tensors: their copies, their makers, and the masks that travel with them."""

from typing import Any

import keras

from kerassplit.graph.internals.keras_src import KerasHistory


def bare(symbol: keras.KerasTensor) -> keras.KerasTensor:
    """A `KerasTensor` with the attributes of `symbol`, whatever this version of Keras has, but no history and mask."""
    twin = keras.KerasTensor.__new__(keras.KerasTensor)
    twin.__dict__.update(symbol.__dict__)
    for name in ("_keras_mask", "_kerassplit_anchor"):
        twin.__dict__.pop(name, None)
    return forget_history(twin)


def shaped(symbol: keras.KerasTensor, shape: tuple[int | None, ...], dtype: str) -> keras.KerasTensor:
    """A `KerasTensor` like `symbol` of another shape and dtype, without history and mask."""
    twin = keras.KerasTensor(shape, dtype=dtype, sparse=symbol.sparse, ragged=symbol.ragged)
    return forget_history(twin)


def forget_history(symbol: keras.KerasTensor) -> keras.KerasTensor:
    """Takes off a symbolic tensor what made it; it."""
    symbol._keras_history = KerasHistory(None, 0, 0)  # type: ignore[attr-defined]
    return symbol


def original(symbol: keras.KerasTensor) -> keras.KerasTensor:
    """What the call that made a symbolic tensor gives there: this one, or the one that it was copied from."""
    operation, place, position = symbol._keras_history  # type: ignore[attr-defined]
    if operation is None or place >= len(operation._inbound_nodes):
        return symbol
    return operation._inbound_nodes[place].outputs[position]


def name_of(symbol: keras.KerasTensor) -> str:
    """The name of the operation that makes a symbolic tensor, or its own."""
    return getattr(getattr(symbol, "_keras_history", (None,))[0], "name", symbol.name)


def maker_of(symbol: keras.KerasTensor) -> Any:
    """The Keras node that makes a symbolic tensor."""
    operation, place, _ = symbol._keras_history
    return operation._inbound_nodes[place]


def has_mask(symbol: keras.KerasTensor) -> bool:
    """Whether Keras hangs a mask on the tensor when the model runs."""
    return getattr(symbol, "_keras_mask", None) is not None


def mask_of(symbol: Any) -> keras.KerasTensor | None:
    """The mask that Keras lets travel with a symbolic tensor."""
    return getattr(symbol, "_keras_mask", None)


def set_mask(symbol: keras.KerasTensor, mask: keras.KerasTensor | None) -> None:
    """Lets a mask travel with a symbolic tensor."""
    symbol._keras_mask = mask  # type: ignore[attr-defined]


def differs(symbol: keras.KerasTensor, recorded: keras.KerasTensor) -> bool:
    """Whether a tensor is not what Keras recorded: in shape, in dtype, or in whether it has a mask."""
    if symbol is recorded:
        return False
    return has_mask(symbol) != has_mask(recorded) or (symbol.shape, symbol.dtype) != (recorded.shape, recorded.dtype)
