"""One call of a nested model: the tensors that its inputs receive, and what its symbolic tensors stand for."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras

from kerassplit.graph.internals.keras_src import Functional, SymbolicArguments


@dataclass(eq=False)
class Scope:
    """One call of a functional model: its symbolic tensors and the tensors that they stand for.

    Attributes:
        prefix: Prefix of the names in it: `""`, `"backbone/"`.
        nest: Its nest; `None` for the model itself.
        training: The value that its call fixes `training` to; `None` if it does not.
        tensors: From the `id` of a symbolic tensor to the tensor's index.
        changed: From the `id` of a symbolic tensor to one that describes this call better: another shape, another
            dtype, or a mask from outside.
        probes: Copies without a history, to call layers with.
        unread: Keras nodes of its calls that are not read yet, with their names.
    """

    prefix: str = ""
    nest: int | None = None
    training: Any = None
    tensors: dict[int, int] = field(default_factory=dict)
    changed: dict[int, keras.KerasTensor] = field(default_factory=dict)
    probes: dict[int, keras.KerasTensor] = field(default_factory=dict)
    unread: dict[Any, str] = field(default_factory=dict)


def as_called(node: Any, scope: Scope) -> Any:
    """Returns the arguments of a call, with `training` as the call of the surrounding nested model fixes it."""
    arguments = node.arguments
    if scope.training is None or "training" not in getattr(node.operation, "_call_context_args", ()):
        return arguments
    return SymbolicArguments(*arguments.args, **{**arguments.kwargs, "training": scope.training})


def given_inputs(node: Any, functional: Functional) -> list[tuple[keras.KerasTensor, keras.KerasTensor | None]] | None:
    """Returns, for each input of a nested model, the tensor that a call passes and the mask that it sets on it.

    `None` if that is not clear: an optional input left out, a constant, arguments of other kinds.
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
    """Returns how Keras converts a tensor passed to the Input of a nested model: casts, axis of 1 added or dropped."""
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
