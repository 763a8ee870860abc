"""Folders that appear whole or not at all, power cuts considered, and replace nothing but their like.

A folder is written beside its place and renamed into it. Where one is overwritten, the new files come first, under
names of their own, and the manifest last, in one rename: until then the folder is the old one, then the new one.
"""

import contextlib
import os
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from kerassplit.errors import StoreError

try:
    import fcntl
except ImportError:  # Windows: what a killed process leaves stays there
    fcntl = None

PREFIX = ".kerassplit."


def check_place(target: Path, overwrite: bool, manifest: str, what: str, read: Callable[[Path], object]) -> bool:
    """Whether a folder holds something that is to be replaced.

    Args:
        target: The folder.
        overwrite: Whether that may be.
        manifest: The file by which it is known.
        what: What it is, as in "a split".
        read: Reads the manifest.

    Raises:
        StoreError: It is a file, or holds something else, or overwriting was not asked for.
    """
    try:
        if target.is_dir():
            occupied = any(not path.name.startswith(PREFIX) for path in target.iterdir())
        else:
            occupied = target.exists()
    except (OSError, ValueError) as error:
        raise StoreError(f"Cannot write '{target}': {error}.", path=target) from error
    if occupied and not target.is_dir():
        raise StoreError(f"'{target}' is a file; expected a folder to write or one that does not exist.", path=target)
    if not occupied:
        return False
    if not (target / manifest).is_file():
        raise StoreError(
            f"'{target}' is not empty and holds no {what.removeprefix('a ')}, so it is never overwritten. Name another "
            "folder.",
            path=target,
        )
    if not overwrite:
        raise StoreError(
            f"'{target}' already holds {what}. Name another folder, or pass overwrite=True to replace what it holds.",
            path=target,
        )
    try:
        read(target)
    except StoreError as error:
        raise StoreError(
            f"'{target}' is not overwritten, as it is not certain what it holds. Name another folder, or delete this "
            f"one. {error}",
            path=error.path,
        ) from error
    return True


@contextlib.contextmanager
def placed(target: Path, manifest: str, replaced: Callable[[], Sequence[str]] | None) -> Iterator[Path]:
    """A folder to write files into, which get to their place when the block ends well, and else are gone.

    Args:
        target: Where they go.
        manifest: The file that makes the others valid.
        replaced: Names what is there and goes, where the folder replaces another one, folders with a `/` behind them;
            what is written is to have names that are free there.

    Raises:
        StoreError: It cannot be written, or another process replaces it, too.
    """
    stays = replaced is not None or _must_stay(target)
    alone = alone_in(target) if stays else contextlib.nullcontext()
    try:
        with scratch_folder(target if stays else target.parent) as folder, alone:
            old = replaced() if replaced else []
            yield folder
            for path in folder.rglob("*"):
                _flush(path)
            if not stays:
                _move_folder(folder, target)
                return
            _move_in(folder, manifest, target)
            for name in old:
                _remove(target / name, name.endswith("/"))  # the new one is there already
    except OSError as error:
        raise StoreError(f"Cannot write '{target}': {error}. What was there is as it was.", path=target) from error


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
    """No other process writes into this folder meanwhile.

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


def _flush(path: Path) -> None:
    """Has a file or a folder's list of files on the disk before anything that relies on it."""
    if path.is_dir() and os.name == "nt":
        return  # Windows opens no folders
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _move_folder(folder: Path, target: Path) -> None:
    """Puts a folder in its place, where nothing or an empty folder is, in one step."""
    _flush(folder)
    os.replace(folder, target)
    with contextlib.suppress(OSError):  # it is there; some file systems do not flush folders
        _flush(target.parent)


def _move_in(folder: Path, last: str, target: Path) -> None:
    """Puts what is in a folder into one that stays, under names that are free there; the last one makes it valid."""
    moved: list[Path] = []
    try:
        for path in sorted(folder.iterdir()):
            if path.name != last:
                os.replace(path, target / path.name)
                moved.append(target / path.name)
        _flush(target)
        os.replace(folder / last, target / last)
    except BaseException:
        for path in moved:
            _remove(path, path.is_dir())
        raise
    with contextlib.suppress(OSError):
        _flush(target)


def _must_stay(target: Path) -> bool:
    """Whether another folder cannot take the place of this one, which is empty or not there."""
    return target == Path.cwd() or target.is_mount() or (os.name == "nt" and target.is_dir())


def _remove(path: Path, folder: bool) -> None:
    with contextlib.suppress(OSError):
        if folder and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


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
