"""Locks on files and folders between processes; the system releases them when a process ends, however it ends."""

from io import FileIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

THERE_ARE_LOCKS = fcntl is not None


def lock(file: int | FileIO, *, wait: bool = False) -> None:
    """Locks an open file or folder until it is closed, if the system has such locks.

    Raises:
        BlockingIOError: Another process holds the lock, and `wait` is False.
        OSError: The file system does not support locks.
    """
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
