"""What belongs to the whole process: the lock around it, Python's recursion limit, and Keras's own global state."""

import contextlib
import copy
import sys
import threading
from collections import defaultdict
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


def names_kept() -> contextlib.AbstractContextManager[None]:
    """What is made meanwhile does not count: the next layer is called as if it had not been there."""
    return _kept("object_name_uids", defaultdict(int))


def name_scopes_kept() -> contextlib.AbstractContextManager[None]:
    """Leaves Keras's name scopes as they were: an error in entering one, on TensorFlow, leaves another one open."""
    return _kept("name_scope_stack", [])


def uninitialized_kept() -> contextlib.AbstractContextManager[None]:
    """Forgets the variables that are left without values meanwhile: the next scope to end would initialize them."""
    return _kept("uninitialized_variables", [])


@contextlib.contextmanager
def _kept(name: str, empty: list[Any] | dict[Any, Any]) -> Iterator[None]:
    """Leaves a list or dict of Keras's global state as it was; `empty` is what Keras begins with."""
    before = copy.copy(global_state.get_global_attribute(name, default=empty, set_to_default=True))
    try:
        yield
    finally:
        held = global_state.get_global_attribute(name, default=empty, set_to_default=True)
        held.clear()
        held.update(before) if isinstance(before, dict) else held.extend(before)
