"""A function run such that gradients can go back through it, once: vector-Jacobian products on each backend."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from importlib import import_module
from typing import Any, NamedTuple

import keras

Run = Callable[[list[Any]], tuple[list[Any], Any]]
"""Takes tensors; gives tensors that gradients can come back to, and a structure of others (and `None`)."""
Slopes = list[Any]
"""A gradient for each of some tensors; `None` where nothing depends on it."""


class Recording(NamedTuple):
    """What a function gave, and the way back through it.

    Attributes:
        results: The tensors that gradients can come back to, as another process would receive them.
        others: What else it gave.
        back: From the gradients of a loss with respect to `results` (`None` for those that it does not depend on) to
            those with respect to the variables and to the watched tensors. To be called once.
    """

    results: list[Any]
    others: Any
    back: Callable[[Sequence[Any]], tuple[Slopes, Slopes]]


def record(
    run: Run,
    tensors: Sequence[Any],
    watched: Sequence[int] = (),
    variables: Sequence[keras.Variable] = (),
    states: Sequence[keras.Variable] = (),
) -> Recording:
    """Runs a function once and keeps what the way back needs.

    Args:
        run: The function. What it assigns to variables stays assigned.
        tensors: What it takes.
        watched: The places of those, all floating-point, that gradients should go back to.
        variables: The variables that gradients should go back to.
        states: All other variables that the function may assign to.
    """
    by_backend = {"tensorflow": _by_tensorflow, "jax": _by_jax, "torch": _by_torch}[keras.backend.backend()]
    return by_backend(run, list(tensors), watched, variables, states)


def without_recording() -> Any:
    """A context in which nothing is kept for a way back, as an optimiser wants it."""
    return import_module("torch").no_grad() if keras.backend.backend() == "torch" else nullcontext()


def is_real(value: Any) -> bool:
    """Whether a value is a tensor that can have a gradient."""
    return keras.ops.is_tensor(value) and keras.backend.is_float_dtype(keras.backend.standardize_dtype(value.dtype))


def plus(one: Any, other: Any) -> Any:
    """The sum of two gradients, either of which may be `None`."""
    if one is None or other is None:
        return other if one is None else one
    return dense(one) + dense(other)


def dense(gradient: Any) -> Any:
    """A gradient as one tensor; that of an embedding, on TensorFlow, is rows apart, the same one perhaps twice."""
    is_tensor = keras.backend.backend() != "tensorflow" or gradient is None
    return gradient if is_tensor else import_module("tensorflow").convert_to_tensor(gradient)


def _by_tensorflow(
    run: Run, tensors: list[Any], watched: Sequence[int], variables: Sequence[keras.Variable], _: Any
) -> Recording:
    tf = import_module("tensorflow")
    sources = [*(variable.value for variable in variables), *(tensors[place] for place in watched)]
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(sources)
        results, others = run(tensors)

    def back(gradients: Sequence[Any]) -> tuple[Slopes, Slopes]:
        known = [(result, one) for result, one in zip(results, gradients, strict=True) if one is not None]
        found = [None] * len(sources)
        if known and sources:
            targets, slopes = map(list, zip(*known, strict=True))
            found = tape.gradient(targets, sources, output_gradients=slopes)
        # The rows of an embedding stay apart, as the optimiser gets them from Keras; a crossing is one tensor.
        return found[: len(variables)], [dense(one) for one in found[len(variables) :]]

    return Recording(results, others, back)


def _by_jax(
    run: Run,
    tensors: list[Any],
    watched: Sequence[int],
    variables: Sequence[keras.Variable],
    states: Sequence[keras.Variable],
) -> Recording:
    jax = import_module("jax")
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


def _by_torch(
    run: Run, tensors: list[Any], watched: Sequence[int], variables: Sequence[keras.Variable], _: Any
) -> Recording:
    torch = import_module("torch")
    taken = list(tensors)
    for place in watched:
        taken[place] = tensors[place].detach().requires_grad_()
    sources = [*(variable.value for variable in variables), *(taken[place] for place in watched)]
    results, others = run(taken)

    def back(gradients: Sequence[Any]) -> tuple[Slopes, Slopes]:
        pairs = zip(results, gradients, strict=True)
        known = [(result, one) for result, one in pairs if one is not None and result.requires_grad]
        found = [None] * len(sources)
        if known and sources:
            targets, slopes = map(list, zip(*known, strict=True))
            found = list(torch.autograd.grad(targets, sources, slopes, allow_unused=True))
        return found[: len(variables)], found[len(variables) :]

    return Recording([result.detach() for result in results], others, back)
