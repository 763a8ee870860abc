"""One call of a nested model: what its inputs are given, and what its tensors stand for inside."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras

from kerassplit.graph.internals.keras_src import Functional, SymbolicArguments


@dataclass(eq=False)
class Scope:
    """One functional model as it is called once: its symbolic tensors and what they stand for.

    Attributes:
        prefix: What names begin with in it: `""`, `"backbone/"`.
        nest: Its nest; `None` for the model itself.
        training: What its call fixes `training` to; `None` where it leaves it open.
        tensors: From the `id` of a symbolic tensor to the tensor's index.
        changed: From the `id` of a symbolic tensor to one that tells better what is there in this call: another shape,
            another dtype, or a mask that comes from outside.
        probes: Copies without a history, to call layers with.
        unread: Keras's records of its calls that are not read yet, with their names.
    """

    prefix: str = ""
    nest: int | None = None
    training: Any = None
    tensors: dict[int, int] = field(default_factory=dict)
    changed: dict[int, keras.KerasTensor] = field(default_factory=dict)
    probes: dict[int, keras.KerasTensor] = field(default_factory=dict)
    unread: dict[Any, str] = field(default_factory=dict)


def as_called(node: Any, scope: Scope) -> Any:
    """The arguments of a call, `training` as the call of the nested model around it fixes it."""
    arguments = node.arguments
    if scope.training is None or "training" not in getattr(node.operation, "_call_context_args", ()):
        return arguments
    return SymbolicArguments(*arguments.args, **{**arguments.kwargs, "training": scope.training})


def given_inputs(node: Any, functional: Functional) -> list[tuple[keras.KerasTensor, keras.KerasTensor | None]] | None:
    """What the call of a nested model gives each of its inputs, and the mask it sets on it.

    `None` where this cannot be said: an optional input left out, a constant, arguments of other kinds.
    """
    arguments = dict(zip(("inputs", "training", "mask"), node.arguments.args, strict=False)) | node.arguments.kwargs
    if any(value is not None for name, value in arguments.items() if name not in ("inputs", "training", "mask")):
        return None
    own, given, masks = functional.input, arguments["inputs"], arguments.get("mask")
    if isinstance(given, dict) and not isinstance(own, dict):
        given = [given.get(symbol.name) for symbol in functional.inputs]
    symbols = keras.tree.flatten(given)
    masks = [None] * len(symbols) if masks is None else keras.tree.flatten(masks)
    pairs = list(zip(symbols, masks, strict=False))
    fits = len(pairs) == len(symbols) == len(functional.inputs) and all(
        isinstance(symbol, keras.KerasTensor)
        and symbol.sparse >= own.sparse  # Keras marks `x * 2` as sparse
        and (mask is None or isinstance(mask, keras.KerasTensor))
        for (symbol, mask), own in zip(pairs, functional.inputs, strict=True)
    )
    return pairs if fits else None


def conversions(symbol: keras.KerasTensor, model: Any, own: keras.KerasTensor) -> list[Callable[[Any], Any]]:
    """What Keras does to a tensor that it hands to the Input of a nested model: casts, an axis of 1 more or less."""
    dtypes = [own.dtype]
    if model._convert_input_args and model.autocast and "float" in symbol.dtype and "float" in model.input_dtype:
        dtypes.insert(0, model.input_dtype)
    steps: list[Callable[[Any], Any]] = []
    present = symbol.dtype
    for dtype in dtypes:
        if dtype != present:
            steps.append(lambda x, dtype=dtype: keras.ops.cast(x, dtype))
            present = dtype
    if len(symbol.shape) == len(own.shape) + 1:
        steps.append(lambda x: keras.ops.squeeze(x, axis=-1))
    elif len(symbol.shape) == len(own.shape) - 1:
        steps.append(lambda x: keras.ops.expand_dims(x, axis=-1))
    return steps
