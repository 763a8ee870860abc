"""The interface of a backend, with defaults for what a backend does not override."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras

from kerassplit.errors import SplitError

Run = Callable[[Sequence[Any]], list[Any]]
"""A model as a function from its inputs to its outputs, both in order."""
Forward = Callable[[list[Any]], tuple[list[Any], Any]]
"""A function of tensors that returns its differentiable outputs, and a structure of the others (and `None`)."""
Slopes = list[Any]
"""A gradient for each of some tensors; `None` for a tensor that nothing depends on."""


class Recording(NamedTuple):
    """The outputs of a function, and its backward pass.

    Attributes:
        results: The differentiable outputs, as another process would receive them.
        others: Its other outputs.
        back: From the gradients of a loss with respect to `results` (`None` for those that it does not depend on) to
            those with respect to the variables and to the watched tensors. Call it once.
    """

    results: list[Any]
    others: Any
    back: Callable[[Sequence[Any]], tuple[Slopes, Slopes]]


def slopes_of(
    results: Sequence[Any], gradients: Sequence[Any], sources: Sequence[Any], pull: Callable[..., Any]
) -> Slopes:
    """Returns gradients of a loss with respect to `sources`, given those for `results`, by a backend's `pull`."""
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
        """Compiles a model; see `kerassplit.graph.compiling.compiled`."""
        raise self._unknown("compile")

    def record(
        self,
        run: Forward,
        tensors: Sequence[Any],
        watched: Sequence[int] = (),
        variables: Sequence[keras.Variable] = (),
        states: Sequence[keras.Variable] = (),
    ) -> Recording:
        """Runs a function once and keeps what its backward pass (a vector-Jacobian product) needs.

        Args:
            run: The function. Its assignments to variables persist.
            tensors: Its arguments.
            watched: The indices of the tensors, all floating-point, to compute gradients for.
            variables: The variables to compute gradients for.
            states: All other variables that the function may assign to.
        """
        raise self._unknown("train")

    def without_recording(self) -> contextlib.AbstractContextManager[Any]:
        """Returns a context in which nothing is recorded for a backward pass, for the steps of an optimizer."""
        return contextlib.nullcontext()

    def dense(self, gradient: Any) -> Any:
        """Returns a gradient as one dense tensor, or `None`."""
        return gradient

    def devices(self) -> tuple[str, ...]:
        """Returns the devices of this machine, GPUs first, such as `("gpu:0", "gpu:1", "cpu:0")`."""
        names = [*keras.distribution.list_devices(), *keras.distribution.list_devices("cpu")]
        return tuple(dict.fromkeys(map(str.lower, names)))

    def device_name(self) -> str:
        """Returns the backend's name for the first device."""
        return self.devices()[0]

    def moved(self, value: Any, device: str) -> Any:
        """Moves a value to a device, if the backend's functions do not transfer their arguments themselves."""
        return value

    def keep_on(self, model: keras.Model, device: str) -> None:
        """Moves a model's variables to a device, on backends where they stay on the device of their initial value."""

    def strategy_of(self, model: keras.Model) -> Any:
        """Returns the `tf.distribute` strategy that variables of a model were created under, or `None`."""
        return None

    def logits_behind(self, tensor: Any) -> Any:
        """Returns the logits that a softmax or sigmoid was applied to, if Keras's cross-entropies use them instead."""
        return None

    def _unknown(self, what: str) -> SplitError:
        return SplitError(
            f"Keras runs on '{self.name}' here, and kerassplit cannot {what} on that backend.\n"
            "Set KERAS_BACKEND to 'tensorflow', 'jax' or 'torch'."
        )


def outputs_of(model: keras.Model, stateful: bool, tensors: Sequence[Any]) -> list[Any]:
    """Returns the outputs of a model for its inputs, both in order; keeps its assignments only if `stateful`."""
    with contextlib.nullcontext() if stateful else keras.StatelessScope():
        return keras.tree.flatten(model(keras.tree.pack_sequence_as(model.input, tensors), training=False))
