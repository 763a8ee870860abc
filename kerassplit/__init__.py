"""kerassplit: cut Keras models into runnable sub-models that compute the same numbers."""

import lazy_loader

from kerassplit._version import __version__ as __version__

# Importing Keras takes seconds: a name is imported when it is first asked for. The stub beside this file lists them.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
