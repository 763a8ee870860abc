"""Gradients on any backend, without Keras's `fit`."""

from collections.abc import Callable, Sequence
from typing import Any

import keras


def gradients(model: keras.Model, compute: Callable[[], Any]) -> list[Any]:
    """Computes the gradients of a loss with respect to the model's trainable variables.

    Args:
        model: Its non-trainable variables (batch-norm statistics, seeds) are updated as by a call.
        compute: Runs the model, or stages that share its variables, and returns the loss of each sample.
    """
    weights = model.trainable_variables
    return _GRADIENTS[keras.backend.backend()](model, compute, [weight.value for weight in weights])


def _by_tensorflow(_: keras.Model, compute: Callable[[], Any], values: Sequence[Any]) -> list[Any]:
    import tensorflow as tf

    with tf.GradientTape() as tape:
        loss = keras.ops.mean(compute())
    return tape.gradient(loss, values)


def _by_torch(_: keras.Model, compute: Callable[[], Any], values: Sequence[Any]) -> list[Any]:
    import torch

    return list(torch.autograd.grad(keras.ops.mean(compute()), values))


def _by_jax(model: keras.Model, compute: Callable[[], Any], values: Sequence[Any]) -> list[Any]:
    import jax

    def loss(values: Sequence[Any]) -> tuple[Any, list[Any]]:
        with keras.StatelessScope(list(zip(model.trainable_variables, values, strict=True))) as scope:
            mean = keras.ops.mean(compute())
        return mean, [scope.get_current_value(state) for state in model.non_trainable_variables]

    results, states = jax.grad(loss, has_aux=True)(values)
    for state, value in zip(model.non_trainable_variables, states, strict=True):
        if value is not None:
            state.assign(value)
    return results


_GRADIENTS = {"tensorflow": _by_tensorflow, "torch": _by_torch, "jax": _by_jax}
