"""kerassplit: cut Keras models into runnable sub-models that compute the same numbers."""

import lazy_loader

from kerassplit._version import __version__ as __version__

# Importing Keras takes seconds, so each name is imported on first use. The stub next to this file lists the names.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
