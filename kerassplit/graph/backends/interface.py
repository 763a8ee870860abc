"""The interface of a backend, with what holds wherever one has no way of its own."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras

from kerassplit.errors import SplitError

Run = Callable[[Sequence[Any]], list[Any]]
"""A model as a function from its inputs in order to its outputs in order."""
Forward = Callable[[list[Any]], tuple[list[Any], Any]]
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


def slopes_of(
    results: Sequence[Any], gradients: Sequence[Any], sources: Sequence[Any], pull: Callable[..., Any]
) -> Slopes:
    """Gradients of a loss with respect to `sources`, given those with respect to `results`, by a backend's `pull`."""
    known = [(result, one) for result, one in zip(results, gradients, strict=True) if one is not None]
    if not known or not sources:
        return [None] * len(sources)
    targets, slopes = map(list, zip(*known, strict=True))
    return list(pull(targets, sources, slopes))


class Backend:
    """A backend of Keras.

    Attributes:
        name: Keras's name for it.
    """

    def __init__(self, name: str):
        self.name = name

    def compiled(
        self, model: keras.Model, jit_compile: bool, stateful: bool, wait: bool, on_trace: Callable[[], None]
    ) -> Run:
        """A compiled model; see `kerassplit.graph.compiling.compiled`."""
        raise self._unknown("compile")

    def record(
        self,
        run: Forward,
        tensors: Sequence[Any],
        watched: Sequence[int] = (),
        variables: Sequence[keras.Variable] = (),
        states: Sequence[keras.Variable] = (),
    ) -> Recording:
        """Runs a function once and keeps what the way back needs: a vector-Jacobian product.

        Args:
            run: The function. What it assigns to variables stays assigned.
            tensors: What it takes.
            watched: The places of those, all floating-point, that gradients should go back to.
            variables: The variables that gradients should go back to.
            states: All other variables that the function may assign to.
        """
        raise self._unknown("train")

    def without_recording(self) -> contextlib.AbstractContextManager[Any]:
        """A context in which nothing is kept for a way back, as an optimizer wants it."""
        return contextlib.nullcontext()

    def dense(self, gradient: Any) -> Any:
        """A gradient as one tensor, or `None`."""
        return gradient

    def devices(self) -> tuple[str, ...]:
        """The devices of this machine, GPUs first, such as `("gpu:0", "gpu:1", "cpu:0")`."""
        gpus = [name for name in map(str.lower, keras.distribution.list_devices()) if not name.startswith("cpu")]
        return (*gpus, *self._cpus())

    def _cpus(self) -> list[str]:
        return ["cpu:0"]

    def device_name(self) -> str:
        """The first device, by the backend's name for it."""
        names = keras.distribution.list_devices()
        return ([name for name in names if not name.startswith("cpu")] or names or ["cpu:0"])[0]

    def moved(self, value: Any, device: str) -> Any:
        """A value on a device, where functions do not fetch what they take."""
        return value

    def keep_on(self, model: keras.Model, device: str) -> None:
        """Moves variables to a device where they stay with the value they were made of."""

    def strategy_of(self, model: keras.Model) -> Any:
        """The `tf.distribute` strategy that variables of a model were made under, or `None`."""
        return None

    def logits_behind(self, tensor: Any) -> Any:
        """What a softmax or sigmoid made a tensor of, where Keras's cross-entropies take that in its place."""
        return None

    def _unknown(self, what: str) -> SplitError:
        return SplitError(
            f"Keras runs on '{self.name}' here, on which kerassplit does not {what}.\n"
            "Set KERAS_BACKEND to 'tensorflow', 'jax' or 'torch'."
        )


def outputs_of(model: keras.Model, stateful: bool, tensors: Sequence[Any]) -> list[Any]:
    """The outputs of a model for its inputs, both in order; what it assigns is kept or not."""
    with contextlib.nullcontext() if stateful else keras.StatelessScope():
        return keras.tree.flatten(model(keras.tree.pack_sequence_as(model.input, tensors), training=False))
