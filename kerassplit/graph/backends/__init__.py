"""The differences between TensorFlow, JAX and torch, under one interface; no other code asks which backend runs.

In reading order:

- `interface`: the interface, with defaults for what a backend does not override.
- `on_tensorflow`, `on_jax`, `on_torch`: one backend each. A file is imported only if Keras runs on its backend.
"""

from functools import cache
from importlib import import_module

import keras

from kerassplit.graph.backends.interface import Backend

_HERE = {"tensorflow": "on_tensorflow", "jax": "on_jax", "torch": "on_torch"}


@cache
def backend() -> Backend:
    """Returns the backend that Keras runs on in this process."""
    name = keras.backend.backend()
    return import_module(f"{__name__}.{_HERE[name]}").HERE if name in _HERE else Backend(name)
