"""Skeletons: models built from a config, whose variables have no values yet."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import keras

from kerassplit.graph.internals.keras_src import global_state
from kerassplit.graph.internals.process_state import deep_recursion, lock, uninitialized_kept


@contextlib.contextmanager
def without_values() -> Iterator[None]:
    """Context in which variables are created without values, whatever their size; no later scope fills them in."""
    with (
        deep_recursion(),
        uninitialized_kept(),
        _optimizers_with_values(),
        keras.StatelessScope(initialize_variables=False),
    ):
        yield


@contextlib.contextmanager
def _optimizers_with_values() -> Iterator[None]:
    """Context in which optimizers, which KerasHub's tasks create, keep their few numbers: Keras refuses them there."""
    create = keras.optimizers.Optimizer.__init__

    def created(self: Any, *args: Any, **kwargs: Any) -> None:
        scope = global_state.get_global_attribute("stateless_scope")
        global_state.set_global_attribute("stateless_scope", None)
        try:
            create(self, *args, **kwargs)
        finally:
            global_state.set_global_attribute("stateless_scope", scope)

    with lock:
        keras.optimizers.Optimizer.__init__ = created
        try:
            yield
        finally:
            keras.optimizers.Optimizer.__init__ = create


def give_values(variables: Iterable[keras.Variable]) -> None:
    """Gives variables of a skeleton their initial values, unless the model around it is a skeleton as well."""
    if global_state.get_global_attribute("stateless_scope") is None:
        for variable in variables:
            if variable._value is None:
                variable._deferred_initialize()
