"""What belongs to the whole process: the lock around it, Python's recursion limit, and Keras's own global state."""

import contextlib
import sys
import threading
from collections.abc import Iterator
from typing import Any

import keras

from kerassplit.graph.internals.keras_src import CallContext, global_state

lock = threading.RLock()
"""Around what is the whole process's: the nodes of shared layers, a function of Keras's, Python's recursion limit."""


_RECURSION_LIMIT = 1_000_000


@contextlib.contextmanager
def deep_recursion() -> Iterator[None]:
    """Lets Keras recurse once per call where it builds or loads a `Model`; Python's own limit stops it near 1,000."""
    with lock:
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(max(limit, _RECURSION_LIMIT))
        try:
            yield
        finally:
            sys.setrecursionlimit(limit)


_CALL_CONTEXT = "current_call_ctx"  # Keras keeps the call that is under way there


@contextlib.contextmanager
def calling(layer: keras.Layer, training: Any) -> Iterator[None]:
    """As if `layer(..., training=training)` were under way: layers inside inherit `training`."""
    context = CallContext(entry_layer=layer)
    context.set_value("training", training)
    before = global_state.get_global_attribute(_CALL_CONTEXT)
    global_state.set_global_attribute(_CALL_CONTEXT, context)
    try:
        yield
    finally:
        global_state.set_global_attribute(_CALL_CONTEXT, before)


def is_directly_in(scope: keras.StatelessScope) -> bool:
    """Whether this thread is in a stateless scope, and in none that Keras has opened further in."""
    return global_state.get_global_attribute("stateless_scope") is scope


@contextlib.contextmanager
def name_scopes_kept() -> Iterator[None]:
    """Leaves Keras's name scopes as they were: an error in entering one, on TensorFlow, leaves another one open."""
    scopes = global_state.get_global_attribute("name_scope_stack", default=[], set_to_default=True)
    before = list(scopes)
    try:
        yield
    finally:
        scopes[:] = before
