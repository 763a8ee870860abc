"""JAX."""

from collections.abc import Sequence
from typing import Any

import jax  # pyright: ignore[reportMissingImports]
import keras

from kerassplit.graph.backends.interface import Backend, Recording, Slopes, outputs_of
from kerassplit.graph.internals.layers import untrained_variables


class Jax(Backend):
    """JAX: `jax.jit`, `jax.vjp`."""

    def compiled(self, model, jit_compile, stateful, wait, on_trace):
        def call(values: Any, tensors: Any) -> Any:
            if jit_compile:
                on_trace()
            with keras.StatelessScope(list(zip(_variables(model), values, strict=True))) as scope:
                results = outputs_of(model, True, tensors)
            assigned = untrained_variables(model) if stateful else []  # `predict` loses some
            return results, [scope.get_current_value(variable) for variable in assigned]

        compute = jax.jit(call) if jit_compile else call

        def run(tensors: Sequence[Any]) -> list[Any]:
            results, assigned = compute([variable.value for variable in _variables(model)], list(tensors))
            if stateful:
                for variable, value in zip(untrained_variables(model), assigned, strict=True):
                    variable.assign(value)
            return jax.block_until_ready(results) if wait else results

        return run

    def record(self, run, tensors, watched=(), variables=(), states=()):
        known = [(state, state.value) for state in states]

        def pure(values: Sequence[Any], taken: Sequence[Any]) -> Any:
            placed = dict(zip(watched, taken, strict=True))
            mapping = [*zip(variables, values, strict=True), *known]
            with keras.StatelessScope(state_mapping=mapping, collect_losses=True) as scope:
                results, others = run([placed.get(place, tensor) for place, tensor in enumerate(tensors)])
            return results, (others, [scope.get_current_value(state) for state in states])

        values = [variable.value for variable in variables]
        results, pull, (others, assigned) = jax.vjp(pure, values, [tensors[place] for place in watched], has_aux=True)
        for state, value in zip(states, assigned, strict=True):
            state.assign(value)

        def back(gradients: Sequence[Any]) -> tuple[Slopes, Slopes]:
            zeros = keras.ops.zeros_like
            slopes = [zeros(one) if slope is None else slope for one, slope in zip(results, gradients, strict=True)]
            return pull(slopes)

        return Recording(results, others, back)

    def moved(self, value: Any, device: str) -> Any:
        kind, _, number = device.partition(":")
        return jax.device_put(value, next(one for one in jax.devices(kind) if one.id == int(number)))

    def keep_on(self, model: keras.Model, device: str) -> None:
        for variable in model.variables:
            variable.assign(self.moved(variable.value, device))


def _variables(model: keras.Model) -> list[Any]:
    """Returns all variables of a model, with the recurrent states that Keras's `predict` loses on JAX."""
    return [*model.trainable_variables, *untrained_variables(model)]


HERE = Jax("jax")
