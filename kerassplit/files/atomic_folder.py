"""Folders that appear whole or not at all, power cuts considered, and replace nothing but their like.

A folder is written beside its place and renamed into it. Where one is overwritten, the new files come first, under
names of their own, and the manifest last, in one rename: until then the folder is the old one, then the new one.
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
    r".*\.(keras|h5|json|npz|onnx|tflite|xml|bin)|job|result|log"  # the last three are a worker's, now or earlier
    r"|.*\.pb(\.tmp\w*)?|variables\..*|part-.*|checkpoint"  # of a SavedModel
)
"""Names of files that saving and exporting write. What lies in the folder `assets` of a SavedModel bears any name."""


def resolved(directory: str | os.PathLike[str]) -> Path:
    """Resolves the path of a folder, links followed.

    Raises:
        StoreError: There can be no folder of this name.
    """
    check_path(directory)
    return Path(directory).resolve()


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

    What killed processes left there or beside it goes, too.

    Args:
        target: Where they go.
        manifest: The file that makes the others valid.
        replaced: Names the files that are there and go, where the folder replaces another one, and with them the
            folders that this leaves empty; what is written is to have names that are free there.

    Raises:
        StoreError: It cannot be written, or another process replaces it, too.
    """
    stays = replaced is not None or _must_stay(target)
    alone = alone_in(target) if stays else contextlib.nullcontext()
    for place in (target, target.parent):
        _remove_abandoned(place)
    try:
        with scratch_folder(target if stays else target.parent) as folder, alone:
            old = replaced() if replaced else []
            new = folder / "new"  # beside the marker
            new.mkdir()
            yield new
            for path in new.rglob("*"):
                _flush(path)
            if not stays:
                _move_folder(new, target)
                return
            _move_in(new, manifest, target)
            for name in old:
                _remove_file(target, name)  # the new one is there already
    except OSError as error:
        raise StoreError(f"Cannot write '{target}': {error}. What was there is as it was.", path=target) from error


@contextlib.contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """A new folder that is gone afterwards.

    A process locks its folder as long as it lives, so whoever gets the lock of a folder may remove it.
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
            except FileNotFoundError:  # another process took it for abandoned before it was locked
                continue
            yield folder
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
    """Puts a file or a folder's list of files on the disk before anything that relies on it."""
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
            _remove(path)
        raise
    with contextlib.suppress(OSError):
        _flush(target)


def _must_stay(target: Path) -> bool:
    """Whether another folder cannot take the place of this one, which is empty or not there."""
    return target == Path.cwd() or target.is_mount() or (os.name == "nt" and target.is_dir())


def _remove(path: Path) -> None:
    """Removes a file or folder of ours, as far as that can be done."""
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


def _remove_file(folder: Path, name: str) -> None:
    """Removes a file of the folder, not through links, and the folders on the way to it that are empty then."""
    path = folder / name
    around = [one for one in path.parents if one != folder and one.is_relative_to(folder)]
    if any(one.is_symlink() for one in around):
        return
    with contextlib.suppress(OSError):  # it is not there, or is a folder now, or one around it is not empty
        path.unlink()
        for one in around:
            with contextlib.suppress(OSError):
                (one / "assets").rmdir()  # every SavedModel has one, empty or not
            one.rmdir()


@contextlib.contextmanager
def _lock(folder: Path, wait: bool) -> Iterator[None]:
    """The lock of a folder, held as long as this process lives or until this is over; none where there are no locks.

    Raises:
        BlockingIOError: Another process has it, and `wait` is off.
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
        except OSError:  # some network file systems lock no folders
            pass
        yield
    finally:
        os.close(handle)


def _remove_abandoned(parent: Path) -> None:
    if not THERE_ARE_LOCKS:  # what a killed process leaves stays there
        return
    with contextlib.suppress(OSError):  # there is no such folder
        for folder in [path for path in parent.iterdir() if TEMPORARY_NAME.fullmatch(path.name)]:
            with contextlib.suppress(OSError):  # no folder, in use, or another user's
                handle = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
                try:
                    lock(handle)
                    if _is_scratch(folder):
                        _remove_scratch(folder)
                finally:
                    os.close(handle)


def _remove_scratch(folder: Path) -> None:
    """Removes a folder to write in, the marker last: if this process is killed now, the rest can still be told."""
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if path.name != _MARKER:
                _remove(path)
        _remove(folder)


def _is_scratch(folder: Path) -> bool:
    """Whether a folder is one that a process writes or wrote into: by its name, its marker, and all that is in it."""
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
    """Whether this is a file that `write_whole` had not yet put in its place."""
    return TEMPORARY_NAME.fullmatch(path.name) is not None and path.is_file() and not path.is_symlink()


def _is_ours(entry: "os.DirEntry[str]") -> bool:
    """Whether a file or folder, and all that is in it, can be what saving and exporting write."""
    if not entry.is_dir(follow_symlinks=False):
        return entry.is_file(follow_symlinks=False) and _OURS.fullmatch(entry.name) is not None
    if TEMPORARY_NAME.fullmatch(entry.name):
        return _is_scratch(Path(entry))
    if entry.name == "assets":
        return True
    with os.scandir(entry) as inside:
        return all(map(_is_ours, inside))
