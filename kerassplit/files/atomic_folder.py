"""Writes folders that appear complete or not at all, even after a power cut, and replace only their own kind.

A folder is written next to its destination and then renamed. When one is overwritten, the new files are moved in first,
under unused names, and the manifest last, in one rename: until then the folder is the old one, then the new one.
"""

import contextlib
import os
import re
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from kerassplit.errors import StoreError
from kerassplit.files.atomic_file import TEMPORARY, TEMPORARY_NAME
from kerassplit.files.locks import THERE_ARE_LOCKS, lock
from kerassplit.files.untrusted import check_path

_MARKER = "made-by-kerassplit"
_MARK = b"kerassplit writes here, and removes this folder where it was killed meanwhile.\n"
_OURS = re.compile(
    r".*\.(keras|h5|json|npz|onnx|tflite|xml|bin)|job|result|log"  # the last three belong to workers, old or new
    r"|.*\.pb(\.tmp\w*)?|variables\..*|part-.*|checkpoint"  # of a SavedModel
)
"""Names of files that saving and exporting write; in the `assets` folder of a SavedModel, any name is allowed."""


def resolved(directory: str | os.PathLike[str]) -> Path:
    """Resolves the path of a folder, following links.

    Raises:
        StoreError: The name is not valid for a folder.
    """
    check_path(directory)
    return Path(directory).resolve()


def check_place(target: Path, overwrite: bool, manifest: str, what: str, read: Callable[[Path], object]) -> bool:
    """Checks that a folder may be written; returns True if its contents will be replaced.

    Args:
        target: The folder.
        overwrite: Allows replacing its contents.
        manifest: Name of the file that identifies such a folder.
        what: Noun for the contents, such as "a split".
        read: Function that reads the manifest.

    Raises:
        StoreError: It is a file, contains something else, or `overwrite` is False.
    """
    try:
        if target.is_dir():
            occupied = any(not (_is_scratch(path) or _is_half_a_file(path)) for path in target.iterdir())
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
            f"'{target}' already holds {what}. Name another folder, or pass overwrite=True to replace its contents.",
            path=target,
        )
    try:
        read(target)
    except StoreError as error:
        raise StoreError(
            f"'{target}' is not overwritten, because its contents are uncertain. Name another folder, or delete "
            f"this one. {error}",
            path=error.path,
        ) from error
    return True


@contextlib.contextmanager
def placed(target: Path, manifest: str, replaced: Callable[[], Sequence[str]] | None) -> Iterator[Path]:
    """Yields a folder to write files into; moves them to `target` if the block succeeds, and discards them otherwise.

    It also removes what killed processes left in the target or next to it.

    Args:
        target: The destination.
        manifest: Name of the file that makes the others valid; it is moved last.
        replaced: If an existing folder is replaced, returns the names of its files to remove, and with them the folders
            that this leaves empty; the new files must have names that are unused there.

    Raises:
        StoreError: The target cannot be written, or another process is also replacing it.
    """
    stays = replaced is not None or _must_stay(target)
    alone = alone_in(target) if stays else contextlib.nullcontext()
    for place in (target, target.parent):
        _remove_abandoned(place)
    try:
        with scratch_folder(target if stays else target.parent) as folder, alone:
            old = replaced() if replaced else []
            new = folder / "new"  # next to the marker
            new.mkdir()
            yield new
            for path in new.rglob("*"):
                _flush(path)
            if not stays:
                _move_folder(new, target)
                return
            _move_in(new, manifest, target)
            for name in old:
                _remove_file(target, name)  # the new files are already in place
    except OSError as error:
        raise StoreError(f"Cannot write '{target}': {error}. Existing files are unchanged.", path=target) from error


@contextlib.contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """Creates a folder that is removed afterwards.

    A process holds the lock of its folder until it ends, so any process that acquires the lock may remove the folder.
    """
    parent.mkdir(parents=True, exist_ok=True)
    while True:
        folder = parent / f"{TEMPORARY}{uuid.uuid4().hex}"
        folder.mkdir()
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(_lock(folder, wait=True))
                stack.callback(_remove_scratch, folder)
                (folder / _MARKER).write_bytes(_MARK)
            except FileNotFoundError:  # another process removed it as abandoned before it was locked
                continue
            yield folder
            return


@contextlib.contextmanager
def alone_in(target: Path) -> Iterator[None]:
    """Keeps other processes from writing into this folder.

    Raises:
        StoreError: Another process is already writing.
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
    """Flushes a file, or a folder's list of files, to disk before anything that relies on it."""
    if path.is_dir() and os.name == "nt":
        return  # Windows cannot open folders
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _move_folder(folder: Path, target: Path) -> None:
    """Moves a folder atomically to a destination that does not exist or is an empty folder."""
    _flush(folder)
    os.replace(folder, target)
    with contextlib.suppress(OSError):  # it is in place; some file systems cannot flush folders
        _flush(target.parent)


def _move_in(folder: Path, last: str, target: Path) -> None:
    """Moves the contents of a folder into an existing one, under unused names; the `last` one makes them valid."""
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
            _remove(path)
        raise
    with contextlib.suppress(OSError):
        _flush(target)


def _must_stay(target: Path) -> bool:
    """Returns True if no other folder can be renamed to this one, which is empty or does not exist."""
    return target == Path.cwd() or target.is_mount() or (os.name == "nt" and target.is_dir())


def _remove(path: Path) -> None:
    """Removes a file or folder of ours as far as possible."""
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


def _remove_file(folder: Path, name: str) -> None:
    """Removes a file of the folder without following links, and parent folders that this leaves empty."""
    path = folder / name
    around = [one for one in path.parents if one != folder and one.is_relative_to(folder)]
    if any(one.is_symlink() for one in around):
        return
    with contextlib.suppress(OSError):  # it does not exist, is now a folder, or a parent is not empty
        path.unlink()
        for one in around:
            with contextlib.suppress(OSError):
                (one / "assets").rmdir()  # every SavedModel has one, empty or not
            one.rmdir()


@contextlib.contextmanager
def _lock(folder: Path, wait: bool) -> Iterator[None]:
    """Holds the lock of a folder until the block or the process ends; does nothing on systems without locks.

    Raises:
        BlockingIOError: Another process holds it, and `wait` is False.
    """
    if not THERE_ARE_LOCKS:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            lock(handle, wait=wait)
        except BlockingIOError:
            raise
        except OSError:  # some network file systems cannot lock folders
            pass
        yield
    finally:
        os.close(handle)


def _remove_abandoned(parent: Path) -> None:
    if not THERE_ARE_LOCKS:  # leftovers of killed processes stay
        return
    with contextlib.suppress(OSError):  # the folder does not exist
        for folder in [path for path in parent.iterdir() if TEMPORARY_NAME.fullmatch(path.name)]:
            with contextlib.suppress(OSError):  # not a folder, in use, or another user's
                handle = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
                try:
                    lock(handle)
                    if _is_scratch(folder):
                        _remove_scratch(folder)
                finally:
                    os.close(handle)


def _remove_scratch(folder: Path) -> None:
    """Removes a scratch folder, its marker last: if this process is killed now, the rest remains recognizable."""
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if path.name != _MARKER:
                _remove(path)
        _remove(folder)


def _is_scratch(folder: Path) -> bool:
    """Returns True if a folder is a scratch folder, judged by its name, marker, and all its contents."""
    try:
        if not TEMPORARY_NAME.fullmatch(folder.name) or not stat.S_ISDIR(folder.lstat().st_mode):
            return False
        with os.scandir(folder) as inside:
            entries = {entry.name: entry for entry in inside}
        marker = entries.pop(_MARKER, None)
        if marker is None:
            return not entries  # killed before it wrote the marker
        if not marker.is_file(follow_symlinks=False) or marker.stat(follow_symlinks=False).st_size > len(_MARK):
            return False
        return _MARK.startswith(Path(marker).read_bytes()) and all(map(_is_ours, entries.values()))
    except OSError:
        return False


def _is_half_a_file(path: Path) -> bool:
    """Returns True if this is a file that `write_whole` had not yet moved into place."""
    return TEMPORARY_NAME.fullmatch(path.name) is not None and path.is_file() and not path.is_symlink()


def _is_ours(entry: "os.DirEntry[str]") -> bool:
    """Returns True if saving or exporting could have written a file or folder with all its contents."""
    if not entry.is_dir(follow_symlinks=False):
        return entry.is_file(follow_symlinks=False) and _OURS.fullmatch(entry.name) is not None
    if TEMPORARY_NAME.fullmatch(entry.name):
        return _is_scratch(Path(entry))
    if entry.name == "assets":
        return True
    with os.scandir(entry) as inside:
        return all(map(_is_ours, inside))
