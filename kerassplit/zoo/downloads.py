"""Makes downloads fail quickly if they cannot succeed."""

import contextlib
import http.client
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import TypeVar

Result = TypeVar("Result")
WEIGHTS_HOST = "https://storage.googleapis.com"  # where keras.applications hosts its weights
_PATIENCE = 8.0  # seconds to wait for the first response
_STALLED = 30.0  # seconds without data before a download counts as failed


def unreachable(url: str = WEIGHTS_HOST, patience: float = _PATIENCE) -> str | None:
    """Explains why nothing can be downloaded from a server; `None` if it can.

    If a firewall drops packets, resolving a name and trying all its addresses can take minutes, whatever the socket
    timeout. So a thread does it, and the caller waits at most `patience` seconds.
    """

    def ask() -> str | None:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=patience).close()
        except urllib.error.HTTPError as error:
            error.close()  # any response will do
        except (OSError, ValueError, http.client.HTTPException) as error:
            return f"{url} cannot be reached ({str(getattr(error, 'reason', error)).strip()})."
        return None

    try:
        return in_thread(ask).result(patience)
    except TimeoutError:
        return f"{url} did not answer within {patience:g} seconds."


def in_thread(function: Callable[[], Result]) -> Future[Result]:
    """Runs a function in a daemon thread: neither Ctrl-C nor the end of the process waits for it."""
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


@contextlib.contextmanager
def impatient(reachable: bool) -> Iterator[None]:
    """Sets a timeout for downloads, since Keras sets none. It applies to new sockets in all threads within the block.

    Args:
        reachable: True if a download can succeed. Otherwise it fails at once, but cached files can be used.
    """
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_STALLED if reachable else 0.01)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
