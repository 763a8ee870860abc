"""TensorFlow."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerassplit.graph.backends.interface import Backend, Recording, Slopes, outputs_of, slopes_of
from kerassplit.graph.internals.layers import all_layers
from kerassplit.graph.internals.process_state import name_scopes_kept


class TensorFlow(Backend):
    """TensorFlow: `tf.function`, `tf.GradientTape`."""

    def compiled(self, model, jit_compile, stateful, wait, on_trace):
        def traced_outputs(tensors: Sequence[Any]) -> list[Any]:
            on_trace()
            return outputs_of(model, stateful, tensors)

        # Keras 3.15 mistakes the batch for the length in a `TimeDistributed` that is traced with an unknown length
        by_sides = any(isinstance(layer, keras.layers.TimeDistributed) for layer in all_layers(model))
        compute = tf.function(traced_outputs, jit_compile=jit_compile, autograph=False, reduce_retracing=not by_sides)
        traced: set[Any] = set()
        waits = wait and tf.config.list_logical_devices("GPU")

        def any_batch(tensor: Any, symbol: keras.KerasTensor) -> Any:
            """Leaves the batch unknown where Keras does; other dimensions are the first batch's, as in `predict`."""
            if not isinstance(tensor, tf.Tensor) or symbol.shape[:1] != (None,) or not tensor.shape.rank:
                return tensor
            return tf.TensorSpec((None, *tensor.shape[1:]), tensor.dtype)

        def run(tensors: Sequence[Any]) -> list[Any]:
            tensors = [tf.convert_to_tensor(one) if isinstance(one, np.ndarray) else one for one in tensors]
            sides = tuple(tuple(one.shape[1:]) for one in tensors if one is not None) if by_sides else ()
            with name_scopes_kept():
                if sides not in traced:  # once for all batch sizes
                    compute.get_concrete_function(list(map(any_batch, tensors, model.inputs)))
                    traced.add(sides)
                results = compute(tensors)
            if waits:
                tf.test.experimental.sync_devices()
            return results

        return run

    def record(self, run, tensors, watched=(), variables=(), states=()):
        sources = [*(variable.value for variable in variables), *(tensors[place] for place in watched)]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(sources)
            results, others = run(list(tensors))

        def back(gradients: Sequence[Any]) -> tuple[Slopes, Slopes]:
            found = slopes_of(results, gradients, sources, tape.gradient)
            # Embedding gradients stay sparse, as Keras passes them to the optimizer; a crossing is one dense tensor.
            return found[: len(variables)], [self.dense(one) for one in found[len(variables) :]]

        return Recording(results, others, back)

    def dense(self, gradient: Any) -> Any:
        """Densifies a gradient: that of an embedding consists of separate rows, perhaps with duplicates."""
        return None if gradient is None else tf.convert_to_tensor(gradient)

    def strategy_of(self, model: keras.Model) -> Any:
        # Not `variable.value`: that would draw random numbers for a variable without a value.
        found = (getattr(variable._value, "distribute_strategy", None) for variable in model.variables)
        return next((strategy for strategy in found if strategy is not None), None)

    def logits_behind(self, tensor: Any) -> Any:
        return getattr(tensor, "_keras_logits", None)


HERE = TensorFlow("tensorflow")
