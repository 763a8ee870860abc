"""A model compiled as Keras's `predict` compiles it, without the work that `predict` does around each batch."""

from collections.abc import Callable, Sequence
from typing import Any

import keras

from kerassplit.graph.backends import backend
from kerassplit.graph.backends.interface import Run
from kerassplit.graph.changes import is_changed, snapshot


class Program:
    """A compiled model that detects if its layers have changed since it was traced; see `compiled`."""

    def __init__(self, model: keras.Model):
        self._model = model
        self._traced = False
        self._seen: list[Any] | None = None  # what it was traced with; `None` if not compiled
        self._run = compiled(model, on_trace=self._note)

    def __call__(self, tensors: Sequence[Any]) -> list[Any]:
        results = self._run(tensors)
        if self._traced:  # only now: a layer may set attributes while traced
            self._seen, self._traced = snapshot(self._model), False
        return results

    def is_current(self) -> bool:
        """True if it still computes what the layers compute now."""
        return self._seen is None or not is_changed(self._seen, snapshot(self._model))

    def _note(self) -> None:
        self._traced = True


def compiled(
    model: keras.Model,
    jit_compile: bool | None = None,
    *,
    stateful: bool = True,
    wait: bool = False,
    on_trace: Callable[[], None] = lambda: None,
) -> Run:
    """Returns a model as a function of its inputs in order, compiled as `predict` compiles it.

    Args:
        model: The model.
        jit_compile: As in `keras.Model.compile`; `None`: the model's own setting, "auto" if it was not compiled.
        stateful: If true, keeps what the model assigns to its variables (the states of recurrent layers), as
            `predict` does; otherwise the model stays unchanged.
        wait: If true, returns only when the results are computed; otherwise as soon as an accelerator has the work.
        on_trace: Called whenever Python code becomes part of a compiled program.
    """
    jit = model.jit_compile if jit_compile is None else jit_compile
    return backend().compiled(model, jit, stateful, wait, on_trace)
