"""A model compiled as Keras's `predict` compiles it, without what `predict` does around each batch."""

from collections.abc import Callable, Sequence
from typing import Any

import keras

from kerassplit.graph.backends import backend
from kerassplit.graph.backends.interface import Run
from kerassplit.graph.changes import is_changed, snapshot


class Program:
    """A compiled model that can tell whether its layers have changed since it was traced; see `compiled`."""

    def __init__(self, model: keras.Model):
        self._model = model
        self._traced = False
        self._seen: list[Any] | None = None  # what it was traced with; nothing where it is not compiled
        self._run = compiled(model, on_trace=self._note)

    def __call__(self, tensors: Sequence[Any]) -> list[Any]:
        results = self._run(tensors)
        if self._traced:  # only now: a layer may note something on itself while it is traced
            self._seen, self._traced = snapshot(self._model), False
        return results

    def is_current(self) -> bool:
        """Whether it computes what the layers would compute now."""
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
    """A model as a function of its inputs in order, compiled as `predict` compiles it.

    Args:
        model: The model.
        jit_compile: As in `keras.Model.compile`; `None`: what the model itself says, "auto" where it was not compiled.
        stateful: Whether what the model assigns to its variables (the states of recurrent layers) is kept, as in
            `predict`. Where it is not, the model stays as it is.
        wait: Whether it returns when the results are there, and not as soon as an accelerator knows what to do.
        on_trace: Is called whenever Python code becomes part of a compiled program.
    """
    jit = model.jit_compile if jit_compile is None else jit_compile
    return backend().compiled(model, jit, stateful, wait, on_trace)
