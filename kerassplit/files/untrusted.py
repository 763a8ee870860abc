"""Reads files of a folder from an untrusted source: only regular files directly in the folder."""

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
"""Flags that open no link and wait for no pipe. Windows has neither; there, the opened file is compared."""
_LONGEST_NAME = 255  # bytes, on all common file systems
_BLOCK = 2**18  # bytes hashed at a time
_ATTEMPTS = 10  # to open a file that another process is replacing


def is_file_name(name: object) -> bool:
    """Returns True if this is a plain file name on every system: no path, drive, stream or hidden file."""
    return (
        isinstance(name, str)
        and not _NOT_IN_NAMES.search(name)
        and not name.startswith((".", " "))
        and not name.endswith((".", " "))
        and 0 < len(name.encode("utf-8", "surrogatepass")) <= _LONGEST_NAME
    )


def is_device_name(name: str) -> bool:
    """Returns True if Windows treats a file name as a device, such as `aux.keras`."""
    return _DEVICE.fullmatch(name.split(".")[0].rstrip()) is not None


def same_file_key(name: str) -> str:
    """Returns a key shared by names that some file systems equate: `A.keras`, `a.keras`; é as one or two characters."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def check_path(path: str | os.PathLike[str]) -> None:
    """Checks that the system allows a file or folder of this name.

    Raises:
        StoreError: It does not: the name is too long, not valid text, or contains a null character.
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
    """Returns a short, one-line representation of any value, for messages."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


@contextlib.contextmanager
def opened(folder: Path, name: str) -> Iterator[BufferedReader]:
    """Opens a regular file in the folder for reading, and checks that it does not change meanwhile.

    Links are not followed, and opening never waits for a pipe or device. Everything that is checked and loaded is read
    through this one open file, so replacing it on disk makes no difference.

    Raises:
        FileNotFoundError: There is no such file.
        StoreError: It is a link or not a regular file, or it changed before the block ended.
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
            raise StoreError(
                f"{path} is not a regular file. Save the split again, or copy its folder again.", path=path
            )
        try:
            file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | NO_LINK))  # noqa: SIM115 - returned
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EMLINK):  # FreeBSD says EMLINK
                raise StoreError(f"{path} became a link while it was opened.", path=path) from error
            raise
        if os.path.samestat(expected, os.fstat(file.fileno())):
            return file
        file.close()  # another process replaced it in between
    raise StoreError(f"{path} was replaced each time it was opened. Load again.", path=path)


class PartOfFile(io.RawIOBase):
    """A read-only, seekable view of an open file. Subclasses define `bytes_at`.

    Attributes:
        size: Size in bytes.
        place: Position of the next byte.
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
        """Reads up to `count` bytes from a position on, at least one."""
        raise NotImplementedError


class HashedFile(PartOfFile):
    """A file as it was when hashed: reading bytes that have changed since raises an error.

    The file is hashed once, as a whole and in blocks. Later reads are compared with the block's hash, so a file that is
    rewritten meanwhile never yields other bytes. This needs no copy and no memory for it, however large the file is.

    Attributes:
        name: A path where Keras may put a temporary file, private to this user.
        sha256: SHA-256 of the whole file.
        changed: True once other bytes were found.
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
                raise OSError("the bytes differ from those that were hashed")
            self._block, self._number = block, number
        return self._block[start : start + count]


@contextlib.contextmanager
def hashed(file: BinaryIO, path: Path) -> Iterator[tuple[BufferedReader, HashedFile]]:
    """Yields a reader of an open file that only returns its present bytes, and the hashed file.

    Raises:
        StoreError: The bytes read differed from those hashed, even if the reader ignored the error.
    """
    whole = HashedFile(file)
    try:
        yield BufferedReader(whole), whole
    except Exception as error:
        if whole.changed:
            raise _changed(path) from error
        raise
    if whole.changed:  # Keras ignores some errors
        raise _changed(path)


def _changed(path: Path) -> StoreError:
    return StoreError(f"{path} was changed while it was read. Load it again once nothing writes to it.", path=path)


def sha256(path: Path) -> str:
    """Returns the SHA-256 of a whole file, reading it in chunks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def other_file(path: Path, done: str, manifest: str, remedy: str = "") -> StoreError:
    """Returns the error for a file whose SHA-256 differs from its manifest.

    Args:
        path: The file.
        done: Participle for how it was written, such as "saved".
        manifest: Name of the manifest.
        remedy: An optional sentence on what to do.
    """
    differs = f"its SHA-256 differs from the one in {manifest}."
    return StoreError(f"{path} is damaged or not the file that was {done}: {differs} {remedy}".rstrip(), path=path)


def _state(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns
