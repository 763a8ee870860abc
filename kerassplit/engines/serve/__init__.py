"""Serves a saved split at one HTTP address, on Ray Serve.

In reading order:

- `limits`: limits of a request, and the error for a refused one.
- `options`: options of `app`, validated.
- `json_arrays`: exact arrays from JSON.
- `bodies`: request and response bodies.
- `stage`: the process of a served stage.
- `batches`: batches requests and runs them through the stages.
- `health`: checks that all stages are up.
- `door`: the HTTP ingress.
- `application`: everything together: `app`.
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from kerassplit.engines.serve.application import app as app

# Only `app` needs Ray.
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={"application": ["app"]})
