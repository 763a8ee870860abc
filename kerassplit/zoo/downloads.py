"""Downloads that fail quickly where they cannot work."""

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
WEIGHTS_HOST = "https://storage.googleapis.com"  # where keras.applications keeps its weights
_PATIENCE = 8.0  # seconds that the first answer may take
_STALLED = 30.0  # seconds without data after which a download has failed


def unreachable(url: str = WEIGHTS_HOST, patience: float = _PATIENCE) -> str | None:
    """Explains why nothing can be downloaded from a server; `None` if it can.

    Looking up a name and trying all its addresses can take minutes where a firewall drops packets, whatever the timeout
    of one socket: so a thread asks, and nobody waits for it any longer than `patience` seconds.
    """

    def ask() -> str | None:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=patience).close()
        except urllib.error.HTTPError as error:
            error.close()  # any answer will do
        except (OSError, ValueError, http.client.HTTPException) as error:
            return f"{url} cannot be reached ({str(getattr(error, 'reason', error)).strip()})."
        return None

    try:
        return in_thread(ask).result(patience)
    except TimeoutError:
        return f"{url} did not answer within {patience:g} seconds."


def in_thread(function: Callable[[], Result]) -> Future[Result]:
    """Runs a function in a thread of its own, a daemon: neither Ctrl-C nor the end of the process waits for it."""
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
    """Gives downloads a timeout; Keras has none. It holds for new sockets of all threads while it lasts.

    Args:
        reachable: Whether a download can work. Otherwise it fails at once, but files from earlier ones can be used.
    """
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_STALLED if reachable else 0.01)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
