"""A model compiled as Keras's `predict` compiles it, without what `predict` does around each batch."""

import contextlib
from collections.abc import Callable, Sequence
from importlib import import_module
from types import FunctionType
from typing import Any

import keras

from kerassplit.rebuild import name_scopes_kept

Run = Callable[[Sequence[Any]], list[Any]]
"""A model as a function from its inputs in order to its outputs in order."""


def compiled(model: keras.Model, jit_compile: bool | None = None, *, stateful: bool = True, wait: bool = False) -> Run:
    """A model as a function of its inputs in order, compiled as `predict` compiles it.

    Args:
        model: The model.
        jit_compile: As in `keras.Model.compile`; `None`: what the model itself says, "auto" where it was not compiled.
        stateful: Whether what the model assigns to its variables (the states of recurrent layers) is kept, as in
            `predict`. Where it is not, the model stays as it is.
        wait: Whether it returns when the results are there, and not as soon as an accelerator knows what to do.
    """
    by_backend = {"tensorflow": _by_tensorflow, "jax": _by_jax, "torch": _by_torch}[keras.backend.backend()]
    return by_backend(model, model.jit_compile if jit_compile is None else jit_compile, stateful, wait)


def _outputs(model: keras.Model, stateful: bool, tensors: Sequence[Any]) -> list[Any]:
    with contextlib.nullcontext() if stateful else keras.StatelessScope():
        return keras.tree.flatten(model(keras.tree.pack_sequence_as(model.input, tensors), training=False))


def _by_tensorflow(model: keras.Model, jit_compile: bool, stateful: bool, wait: bool) -> Run:
    tf = import_module("tensorflow")

    compute = tf.function(
        lambda tensors: _outputs(model, stateful, tensors),
        jit_compile=jit_compile,
        autograph=False,
        reduce_retracing=True,
    )
    any_batch = [tf.TensorSpec(symbol.shape, symbol.dtype) for symbol in model.inputs if not symbol.sparse]
    traced: list[Any] = []
    waits = wait and tf.config.list_logical_devices("GPU")

    def run(tensors: Sequence[Any]) -> list[Any]:
        with name_scopes_kept():
            if not traced and len(any_batch) == sum(map(tf.is_tensor, tensors)):  # once for batches of all sizes
                traced.append(compute.get_concrete_function(any_batch))
            results = compute(list(tensors))
        if waits:
            tf.test.experimental.sync_devices()
        return results

    return run


def _by_jax(model: keras.Model, jit_compile: bool, stateful: bool, wait: bool) -> Run:
    jax = import_module("jax")

    def call(trainable: Any, others: Any, tensors: Any) -> Any:
        inputs = keras.tree.pack_sequence_as(model.input, tensors)
        outputs, others = model.stateless_call(trainable, others, inputs, training=False)
        return keras.tree.flatten(outputs), others if stateful else []

    compute = jax.jit(call) if jit_compile else call

    def run(tensors: Sequence[Any]) -> list[Any]:
        trainable, others = (
            [variable.value for variable in some] for some in (model.trainable_variables, model.non_trainable_variables)
        )
        results, assigned = compute(trainable, others, list(tensors))
        for variable, value in zip(model.non_trainable_variables, assigned, strict=False):
            variable.assign(value)
        return jax.block_until_ready(results) if wait else results

    return run


def _by_torch(model: keras.Model, jit_compile: bool, stateful: bool, wait: bool) -> Run:
    torch = import_module("torch")

    compute = torch.compile(_copy(_outputs)) if jit_compile else _outputs
    waits = wait and torch.cuda.is_available()

    def run(tensors: Sequence[Any]) -> list[Any]:
        with torch.no_grad():
            results = compute(model, stateful, tensors)
        if waits:
            torch.cuda.synchronize()
        return results

    return run


def _copy(function: Any) -> Any:
    """The same function with code of its own: torch compiles a piece of code a few times only, whatever the model."""
    return FunctionType(function.__code__.replace(), function.__globals__, function.__name__)
