"""Names that Keras gives by counting."""

import contextlib
from collections.abc import Iterator

from kerassplit.graph.internals.keras_src import global_state

_COUNTERS = "object_name_uids"


@contextlib.contextmanager
def names_kept() -> Iterator[None]:
    """What is made meanwhile does not count: the next layer is called as if it had not been there."""
    before = dict(global_state.get_global_attribute(_COUNTERS, default={}))
    try:
        yield
    finally:
        counters = global_state.get_global_attribute(_COUNTERS)
        if counters is not None:
            counters.clear()
            counters.update(before)
