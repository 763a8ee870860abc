"""Files named by users: only regular files are read; writes are atomic and never follow links."""

import contextlib
import os
import re
import stat
import uuid
from collections.abc import Iterable
from io import BufferedReader, FileIO
from pathlib import Path
from typing import Any

from kerassplit.errors import SplitError
from kerassplit.files.untrusted import NO_LINK, check_path

_HELD = os.open in os.supports_dir_fd and hasattr(os, "O_DIRECTORY")  # not on Windows
_NONBLOCK = getattr(os, "O_NONBLOCK", 0)
TEMPORARY = ".kerassplit."
"""Prefix of files and folders that are not yet in place; killed processes leave them behind."""
TEMPORARY_NAME = re.compile(re.escape(TEMPORARY) + "[0-9a-f]{32}")


def status_of(path: str | os.PathLike[str]) -> os.stat_result | None:
    """Returns the status of a path, following links; `None` if nothing exists there.

    Raises:
        SplitError: The name is invalid, or access is denied.
    """
    try:
        return Path(path).stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        check_path(path)
        raise SplitError(f"'{path}' cannot be opened: {reason(error)}. Expected the path of a file.") from error


def check_regular(path: str | os.PathLike[str]) -> None:
    """Refuses pipes, sockets and devices, from which reading may never end; ignores missing files.

    Raises:
        SplitError: The path is one of these, or the name is invalid.
    """
    _refuse_special(path, status_of(path))


def open_regular(path: str | os.PathLike[str]) -> BufferedReader:
    """Opens a file named by a user for reading; follows links, and never waits for a pipe.

    Raises:
        SplitError: It is not a regular file, or the name is invalid.
        OSError: It cannot be opened.
    """
    check_regular(path)  # merely opening some devices has side effects
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | _NONBLOCK))  # noqa: SIM115 - returned
    try:
        _refuse_special(path, os.fstat(file.fileno()))
    except SplitError:
        file.close()
        raise
    return file


def refuse_same(written: Iterable[Path], read: Iterable[Path | None]) -> None:
    """Refuses to overwrite a file that is also read, even under another name (a link, another spelling).

    Args:
        written: Files, and folders that would be replaced with all their contents.
        read: Files and folders; `None` is skipped.

    Raises:
        SplitError: A file is in both.
    """
    targets = {_identity(path): path for given in written for path in _files(given)}
    targets.pop(None, None)
    for source in (path for given in read if given is not None for path in _files(given)) if targets else ():
        target = targets.get(_identity(source))
        if target is not None:
            also = "" if str(source) == str(target) else f", as '{source}'"
            raise SplitError(
                f"'{target}' is also an input here{also}: writing it would destroy it. Name another place to write to."
            )


class Folder:
    """A folder held open, so that its files are reached without following links, even if its path changes.

    Args:
        path: The folder. It must not be a link itself; links in its parents are followed.
        make: Create the folder and its parents if missing.

    Raises:
        SplitError: It is a link.
        OSError: It cannot be opened.
    """

    def __init__(self, path: Path, *, make: bool = False):
        self.path = Path(os.path.realpath(path.parent), path.name)
        if make:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                self.path.mkdir()
        if self.path.is_symlink():
            raise _is_link(self.path)
        self._handle: int | None = None
        if _HELD:
            try:
                self._handle = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | NO_LINK)
            except PermissionError:  # the folder may be writable but not readable
                if not hasattr(os, "O_PATH"):
                    raise
                self._handle = os.open(self.path, os.O_PATH | os.O_DIRECTORY | NO_LINK)
        elif not self.path.is_dir():
            raise NotADirectoryError(f"'{self.path}' is not a folder")

    def open(self, name: str, flags: int) -> FileIO:
        """Opens a file in the folder, unbuffered; for writing only if it has no other hard link.

        Args:
            name: Name of the file.
            flags: Flags for `os.open`.

        Raises:
            SplitError: It is a link, not a regular file, or would be written and has another hard link.
            OSError: It cannot be opened.
        """
        path = self.path / name
        if not _HELD and path.is_symlink():
            raise _is_link(path)
        try:
            handle = os.open(self._place(name), flags | NO_LINK, 0o666, **self._within())
        except OSError as error:
            if path.is_symlink():
                raise _is_link(path) from error
            raise
        try:
            status, writes = os.fstat(handle), bool(flags & (os.O_WRONLY | os.O_RDWR))
            _refuse_special(path, status)
            if writes and status.st_nlink > 1:
                raise SplitError(
                    f"'{path}' is not written to, because the same file has another name (a hard link). Remove it, "
                    "or write to another place."
                )
            mode = {os.O_WRONLY: "wb", os.O_RDWR: "r+b"}.get(flags & (os.O_WRONLY | os.O_RDWR), "rb")
            return FileIO(handle, mode)
        except BaseException:
            os.close(handle)
            raise

    def write(self, name: str, content: bytes, *, flush: bool = False) -> None:
        """Writes a file completely or not at all; see `write_whole`."""
        temporary = f"{TEMPORARY}{uuid.uuid4().hex}"
        try:
            with self.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as file:
                write_all(file, content)
                if flush:
                    os.fsync(file.fileno())
            self.move(temporary, self, name)
            if flush:
                self.flush()
        finally:
            with contextlib.suppress(OSError):
                self.remove(temporary)

    def has(self, name: str) -> bool:
        """Returns True if the folder contains something of this name."""
        try:
            os.stat(self._place(name), follow_symlinks=False, **self._within())  # noqa: PTH116
        except FileNotFoundError:
            return False
        return True

    def remove(self, name: str) -> None:
        """Removes a file or link."""
        os.unlink(self._place(name), **self._within())

    def move(self, name: str, to: "Folder", new_name: str) -> None:
        """Moves a file, replacing an existing one."""
        held = {"src_dir_fd": self._handle, "dst_dir_fd": to._handle} if _HELD else {}
        os.replace(self._place(name), to._place(new_name), **held)

    def flush(self) -> None:
        """Flushes the folder's list of files to disk, if the file system can."""
        if self._handle is not None:
            with contextlib.suppress(OSError):
                os.fsync(self._handle)

    def close(self) -> None:
        """Closes the folder."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def __enter__(self) -> "Folder":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _place(self, name: str) -> str:
        return name if _HELD else str(self.path / name)

    def _within(self) -> dict[str, Any]:
        return {"dir_fd": self._handle} if _HELD else {}


def write_whole(to_file: str | os.PathLike[str], content: bytes, *, flush: bool = False) -> None:
    """Writes a file atomically: under a temporary name, then renamed. Readers see the complete old or new file.

    A link in its place is replaced, never followed.

    Args:
        to_file: The file to write.
        content: Its whole content.
        flush: Flush it to disk before renaming, so that this also holds for power cuts.

    Raises:
        SplitError: The file cannot be written; an existing file is unchanged.
    """
    path = Path(to_file)
    try:
        with Folder(Path(os.path.realpath(path.parent))) as folder:
            folder.write(path.name, content, flush=flush)
    except SplitError:
        raise
    except (OSError, ValueError) as error:
        raise SplitError(f"'{path}' cannot be written: {reason(error)}.") from error


def write_all(file: FileIO, content: Any) -> None:
    """Writes all bytes to an unbuffered file: closing a buffered one would retry a write that a full disk refused."""
    left = memoryview(content)
    while left:
        left = left[file.write(left) or 0 :]


def reason(error: Exception) -> str:
    """Returns the reason for an error, in the operating system's words if available."""
    return getattr(error, "strerror", None) or str(error)


def _refuse_special(path: object, status: os.stat_result | None) -> None:
    if status is not None and not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        raise SplitError(f"'{path}' is a pipe, socket or device: expected a regular file. Save its content in one.")


def _is_link(path: Path) -> SplitError:
    return SplitError(
        f"'{path}' is a link, and links are not followed when writing. Remove it, or write to another place."
    )


def _identity(path: Path) -> tuple[int, int] | None:
    status = status_of(path)
    return None if status is None else (status.st_dev, status.st_ino)


def _files(path: Path) -> Iterable[Path]:
    status = status_of(path)
    is_folder = status is not None and stat.S_ISDIR(status.st_mode)
    return (one for one in path.rglob("*") if one.is_file()) if is_folder else (path,)
