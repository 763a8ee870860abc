"""Process-wide state: the lock around it, Python's recursion limit, and Keras's own global state."""

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
"""Guards process-wide state: the nodes of shared layers, a patched Keras function, Python's recursion limit."""


_RECURSION_LIMIT = 1_000_000


@contextlib.contextmanager
def deep_recursion() -> Iterator[None]:
    """Lets Keras recurse once per call while it builds or loads a `Model`; Python's own limit stops it near 1,000."""
    with lock:
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(max(limit, _RECURSION_LIMIT))
        try:
            yield
        finally:
            sys.setrecursionlimit(limit)


_CALL_CONTEXT = "current_call_ctx"  # where Keras keeps the call in progress


@contextlib.contextmanager
def calling(layer: keras.Layer, training: Any) -> Iterator[None]:
    """Context as inside `layer(..., training=training)`: layers inside inherit `training`."""
    context = CallContext(entry_layer=layer)
    context.set_value("training", training)
    before = global_state.get_global_attribute(_CALL_CONTEXT)
    global_state.set_global_attribute(_CALL_CONTEXT, context)
    try:
        yield
    finally:
        global_state.set_global_attribute(_CALL_CONTEXT, before)


def is_directly_in(scope: keras.StatelessScope) -> bool:
    """True if this thread's innermost stateless scope is this one, and not one that Keras has opened within it."""
    return global_state.get_global_attribute("stateless_scope") is scope


def names_kept() -> contextlib.AbstractContextManager[None]:
    """Context that restores Keras's automatic name counters: layers created inside do not affect later names."""
    return _kept("object_name_uids", defaultdict(int))


def name_scopes_kept() -> contextlib.AbstractContextManager[None]:
    """Context that restores Keras's name scopes: on TensorFlow, an error on entering one leaves another one open."""
    return _kept("name_scope_stack", [])


def uninitialized_kept() -> contextlib.AbstractContextManager[None]:
    """Context that forgets variables left uninitialized inside: the next scope to end would initialize them."""
    return _kept("uninitialized_variables", [])


@contextlib.contextmanager
def _kept(name: str, empty: list[Any] | dict[Any, Any]) -> Iterator[None]:
    """Context that restores a list or dict of Keras's global state; `empty` is its initial value in Keras."""
    before = copy.copy(global_state.get_global_attribute(name, default=empty, set_to_default=True))
    try:
        yield
    finally:
        held = global_state.get_global_attribute(name, default=empty, set_to_default=True)
        held.clear()
        held.update(before) if isinstance(before, dict) else held.extend(before)
