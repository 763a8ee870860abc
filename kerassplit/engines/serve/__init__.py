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

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kerassplit.engines.serve.application import app

__all__ = ["app"]


def __getattr__(name: str) -> Any:
    # Only `app` needs Ray.
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from kerassplit.engines.serve import application

    return application.app
