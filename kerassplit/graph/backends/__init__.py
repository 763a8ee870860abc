"""What TensorFlow, JAX and torch each do in a way of their own, behind one interface; nothing else asks which one runs.

In reading order:

- `interface`: the interface, with what holds wherever a backend has no way of its own.
- `on_tensorflow`, `on_jax`, `on_torch`: one backend each. A file is imported when Keras runs on its backend.
"""

from functools import cache
from importlib import import_module

import keras

from kerassplit.graph.backends.interface import Backend

_HERE = {"tensorflow": "on_tensorflow", "jax": "on_jax", "torch": "on_torch"}


@cache
def backend() -> Backend:
    """The backend that Keras runs on in this process."""
    name = keras.backend.backend()
    return import_module(f"{__name__}.{_HERE[name]}").HERE if name in _HERE else Backend(name)
