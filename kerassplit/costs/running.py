"""Runs a model to measure it: explains failures, and frees the memory afterwards."""

import contextlib
import gc
from collections.abc import Callable, Iterator
from typing import TypeVar

from kerassplit.errors import SplitError

Result = TypeVar("Result")


@contextlib.contextmanager
def failures_of(what: str, on: str = "random input") -> Iterator[None]:
    """Turns an error of a layer into a `SplitError`: `what` cannot be run on this input."""
    try:
        yield
    except SplitError:
        raise
    except Exception as error:  # layers raise what they like
        raise SplitError(f"{what} cannot be run on {on}: {type(error).__name__}: {error}") from error


def cleaned_up(work: Callable[[], Result]) -> Result:
    """Returns the result of a function that builds models; frees them, also if it raises a `SplitError`.

    Models are reference cycles. Tracebacks hold blocks, too, and blocks hold nodes in the model's own layers: so the
    error is raised here, without its cause.
    """
    try:
        result = work()
    except SplitError as error:
        result = error.with_traceback(None)
        result.__cause__ = result.__context__ = None
    gc.collect()
    if isinstance(result, SplitError):
        raise result
    return result
