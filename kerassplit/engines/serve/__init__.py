"""Serves a saved split behind one HTTP address, on Ray Serve.

In reading order:

- `limits`: limits of a request, and the error for one that is refused.
- `options`: options of `app`, validated.
- `json_arrays`: exact arrays from JSON.
- `bodies`: bodies of requests and answers.
- `stage`: the process of a served stage.
- `batches`: requests batched and run through the stages.
- `health`: whether all stages are there.
- `door`: the HTTP ingress.
- `application`: all of it together: `app`.
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
