"""Locks of files and folders between processes; the system lets go of them when a process ends, however it does."""

from io import FileIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

THERE_ARE_LOCKS = fcntl is not None


def lock(file: int | FileIO, *, wait: bool = False) -> None:
    """Locks an open file or folder until it is closed, where the system has such locks.

    Raises:
        BlockingIOError: Another process has the lock, and `wait` is off.
        OSError: The file system has none.
    """
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
