"""The folder in which a split is written until it is whole, and how it gets to its place, power cuts considered."""

import contextlib
import os
import shutil
import stat
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from kerassplit.errors import StoreError

try:
    import fcntl
except ImportError:  # Windows: what a killed process leaves stays there
    fcntl = None

PREFIX = ".kerassplit."


@contextlib.contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """A new folder that is gone afterwards. Those that killed processes left in the same place go, too.

    A process locks its folder as long as it lives, so whoever gets the lock of a folder may remove it.
    """
    parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(parent)
    while True:
        folder = parent / f"{PREFIX}{uuid.uuid4().hex}"
        folder.mkdir()
        with _lock(folder, wait=True):
            if not folder.is_dir():  # another process took it for abandoned before it was locked
                continue
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            return


@contextlib.contextmanager
def alone_in(target: Path) -> Iterator[None]:
    """No other process replaces the split in this folder meanwhile.

    Raises:
        StoreError: One does already.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(_lock(target, wait=False))
        except BlockingIOError as error:
            raise StoreError(
                f"Another process is saving into '{target}'. Save again when it has finished, or into another folder.",
                path=target,
            ) from error
        yield


def flush(path: Path) -> None:
    """Has a file or a folder's list of files on the disk before anything that relies on it."""
    if path.is_dir() and os.name == "nt":
        return  # Windows opens no folders
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def move_folder(folder: Path, target: Path) -> None:
    """Puts a folder in its place, where nothing or an empty folder is, in one step."""
    flush(folder)
    os.replace(folder, target)
    with contextlib.suppress(OSError):  # it is there; some file systems do not flush folders
        flush(target.parent)


def move_in(folder: Path, names: Sequence[str], last: str, target: Path) -> None:
    """Puts files into a folder that stays, under names that are free there; the last one makes them valid."""
    moved: list[Path] = []
    try:
        for name in names:
            os.replace(folder / name, target / name)
            moved.append(target / name)
        flush(target)
        os.replace(folder / last, target / last)
    except BaseException:
        for path in moved:
            path.unlink(missing_ok=True)
        raise
    with contextlib.suppress(OSError):
        flush(target)


@contextlib.contextmanager
def _lock(folder: Path, wait: bool) -> Iterator[None]:
    """The lock of a folder, held as long as this process lives or until this is over; none where there are no locks.

    Raises:
        BlockingIOError: Another process has it, and `wait` is off.
    """
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise
        except OSError:  # some network file systems lock no folders
            pass
        yield
    finally:
        os.close(handle)


def _remove_abandoned(parent: Path) -> None:
    if fcntl is None:
        return
    for folder in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # in use, or another user's
            if not stat.S_ISDIR(folder.lstat().st_mode):
                continue
            handle = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(handle)
