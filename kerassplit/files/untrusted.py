"""Reading files of a folder that anyone may have written: only regular files that lie in the folder itself."""

import contextlib
import errno
import hashlib
import io
import os
import re
import stat
import tempfile
import unicodedata
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

from kerassplit.errors import StoreError

_NOT_IN_NAMES = re.compile(r'[\x00-\x1f\x7f/\\:*?"<>|]')  # separators, drive letters, streams, wildcards
_DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])", re.IGNORECASE)
NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
"""For opening: no links, and no waiting for a pipe. Windows has neither; there, what was opened is compared."""
_LONGEST_NAME = 255  # bytes, on all common file systems
_BLOCK = 2**18  # bytes that are hashed at a time
_ATTEMPTS = 10  # to open a file that another process replaces meanwhile


def is_file_name(name: object) -> bool:
    """Whether this names a file in a folder itself, whatever the system: no path, drive, stream or hidden file."""
    return (
        isinstance(name, str)
        and not _NOT_IN_NAMES.search(name)
        and not name.startswith((".", " "))
        and not name.endswith((".", " "))
        and 0 < len(name.encode("utf-8", "surrogatepass")) <= _LONGEST_NAME
    )


def is_device_name(name: str) -> bool:
    """Whether Windows takes a file name for a device, as it does `aux.keras`."""
    return _DEVICE.fullmatch(name.split(".")[0].rstrip()) is not None


def same_file_key(name: str) -> str:
    """Equal for names that some file systems take for one: `A.keras` and `a.keras`, é in one character or in two."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def check_path(path: str | os.PathLike[str]) -> None:
    """Makes sure that there can be a file or folder of this name.

    Raises:
        StoreError: The system has no such names: it is too long, no text, or holds a null character.
    """
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise StoreError(
            f"There can be no file or folder {shortened(os.fspath(path))}: {reason}. Name another one.", path=path
        ) from error


def shortened(value: object) -> str:
    """For a message: whatever it is, on one line and not long."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


@contextlib.contextmanager
def opened(folder: Path, name: str) -> Iterator[BufferedReader]:
    """A regular file in the folder, open for reading, and left as it is meanwhile.

    Links are not followed, and opening waits for no pipe or device. All that is checked and loaded is read through
    this one open file, so that another one in its place makes no difference.

    Raises:
        FileNotFoundError: There is none.
        StoreError: It is a link or no regular file, or it changed before this was over.
        OSError: It cannot be opened.
    """
    path = folder / name
    with _open_regular(path) as file:
        found = os.fstat(file.fileno())
        yield file
        if _state(os.fstat(file.fileno())) != _state(found):
            raise _changed(path)


def _open_regular(path: Path) -> BufferedReader:
    for _ in range(_ATTEMPTS):
        expected = path.lstat()
        if stat.S_ISLNK(expected.st_mode):
            raise StoreError(
                f"{path} is a link, and links are not followed: they can lead out of the folder. Put the file itself "
                "there.",
                path=path,
            )
        if not stat.S_ISREG(expected.st_mode):
            raise StoreError(f"{path} is no regular file. Save the split again, or copy its folder again.", path=path)
        try:
            file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | NO_LINK))  # noqa: SIM115 - given
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EMLINK):  # FreeBSD says EMLINK
                raise StoreError(f"{path} became a link while it was opened.", path=path) from error
            raise
        if os.path.samestat(expected, os.fstat(file.fileno())):
            return file
        file.close()  # another process put a new one there in between
    raise StoreError(f"{path} became another file each time that it was opened. Load again.", path=path)


class PartOfFile(io.RawIOBase):
    """Bytes of an open file, read in any order. Subclasses define `bytes_at`.

    Attributes:
        size: In bytes.
        place: Of the next byte.
    """

    def __init__(self, size: int):
        super().__init__()
        self.size, self.place = size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self.place, io.SEEK_END: self.size}[whence]
        self.place = max(0, base + offset)
        return self.place

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        count = min(len(view), self.size - self.place)
        data = self.bytes_at(self.place, count) if count > 0 else b""
        view[: len(data)] = data
        self.place += len(data)
        return len(data)

    def bytes_at(self, place: int, count: int) -> bytes:
        """Reads up to `count` bytes from a place on, at least one."""
        raise NotImplementedError


class HashedFile(PartOfFile):
    """A file as it was when it was hashed: whoever reads another byte later gets an error.

    It is hashed once as a whole and by blocks. What is read afterwards is compared with its block's hash, so that
    a file which is rewritten meanwhile gives nothing else, and takes neither memory nor a copy, however large it is.

    Attributes:
        name: In a place where Keras may put a file for a while, private to this user.
        sha256: Of all of it.
        changed: Whether other bytes were found.
    """

    def __init__(self, file: BinaryIO):
        super().__init__(os.fstat(file.fileno()).st_size)
        self.name = str(Path(tempfile.gettempdir(), "stage.keras"))
        self.changed = False
        self._file = file
        self._hashes: list[bytes] = []
        self._block, self._number = b"", -1
        whole = hashlib.sha256()
        for number in range(-(-self.size // _BLOCK)):
            block = self._bytes(number)
            whole.update(block)
            self._hashes.append(hashlib.sha256(block).digest())
        self.sha256 = whole.hexdigest()

    def _bytes(self, number: int) -> bytes:
        self._file.seek(number * _BLOCK)
        return self._file.read(min(_BLOCK, self.size - number * _BLOCK))

    def bytes_at(self, place: int, count: int) -> bytes:
        number, start = divmod(place, _BLOCK)
        if number != self._number:
            block = self._bytes(number)
            if hashlib.sha256(block).digest() != self._hashes[number]:
                self.changed = True
                raise OSError("other bytes than those that were hashed")
            self._block, self._number = block, number
        return self._block[start : start + count]


@contextlib.contextmanager
def hashed(file: BinaryIO, path: Path) -> Iterator[tuple[BufferedReader, HashedFile]]:
    """An open file to be read as it is now, and its hash.

    Raises:
        StoreError: What was read meanwhile was not what had been hashed, whatever became of that.
    """
    whole = HashedFile(file)
    try:
        yield BufferedReader(whole), whole
    except Exception as error:
        if whole.changed:
            raise _changed(path) from error
        raise
    if whole.changed:  # Keras goes on after some errors
        raise _changed(path)


def _changed(path: Path) -> StoreError:
    return StoreError(f"{path} was changed while it was read. Load again when nothing writes to it.", path=path)


def sha256(path: Path) -> str:
    """The SHA-256 of a file, all of it; a chunk at a time is in memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def other_file(path: Path, done: str, manifest: str, remedy: str = "") -> StoreError:
    """The error for a file that has another SHA-256 than its manifest says.

    Args:
        path: The file.
        done: What made it, as in "saved".
        manifest: The name of the manifest.
        remedy: A sentence on what to do, if anything is to be said.
    """
    differs = f"its SHA-256 differs from the one in {manifest}."
    return StoreError(f"{path} is damaged or not the file that was {done}: {differs} {remedy}".rstrip(), path=path)


def _state(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns
