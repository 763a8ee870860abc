"""An iterator that works ahead in a thread of its own."""

import contextlib
import queue
import threading
from collections.abc import Generator, Iterable
from typing import Any, TypeVar

T = TypeVar("T")
_POLL = 0.1  # seconds after which a thread that waits looks whether it is still wanted


def ahead(items: Iterable[T], size: int) -> Generator[T]:
    """Gives the items of an iterable, which a thread makes while the caller works on those before.

    Args:
        items: Taken in the thread; an error that they raise comes to the caller in its turn.
        size: So many items are made beforehand, at most.
    """
    made: queue.Queue[tuple[str, Any]] = queue.Queue(size)
    ended = threading.Event()

    def put(kind: str, value: Any) -> None:
        while not ended.is_set():
            with contextlib.suppress(queue.Full):
                made.put((kind, value), timeout=_POLL)
                return

    def work() -> None:
        try:
            for item in items:
                put("item", item)
                if ended.is_set():
                    return
            put("end", None)
        except BaseException as error:
            put("error", error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while (taken := made.get())[0] == "item":
            yield taken[1]
        if taken[0] == "error":
            raise taken[1]
    finally:
        ended.set()
        thread.join()
