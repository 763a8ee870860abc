"""Computes the items of an iterable in a thread, while the caller works on earlier ones."""

from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
_END: Any = object()


def prefetch(items: Iterable[T], size: int) -> Generator[T]:
    """Yields the items of an iterable, computed in a thread.

    Args:
        items: The iterable. An error that it raises reaches the caller after the items before it.
        size: Maximum number of items to compute in advance.
    """
    iterator = iter(items)
    pool = ThreadPoolExecutor(1)
    try:
        waiting = deque(pool.submit(next, iterator, _END) for _ in range(size))
        while (item := waiting.popleft().result()) is not _END:
            waiting.append(pool.submit(next, iterator, _END))
            yield item
    finally:
        pool.shutdown(cancel_futures=True)
