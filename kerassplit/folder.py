"""Reading files of a folder that anyone may have written: only regular files that lie in the folder itself."""

import contextlib
import errno
import hashlib
import os
import re
import stat
import unicodedata
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

from kerassplit.errors import StoreError

_NOT_IN_NAMES = re.compile(r'[\x00-\x1f\x7f/\\:*?"<>|]')  # separators, drive letters, streams, wildcards
_DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])", re.IGNORECASE)
_LONGEST_NAME = 255  # bytes, on all common file systems


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
        file = open(path, "rb", opener=_open_no_link)  # noqa: SIM115 - closed below
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK):  # FreeBSD says EMLINK
            raise StoreError(f"{path} became a link while it was opened.", path=path) from error
        raise
    with file:
        found = os.fstat(file.fileno())
        if not os.path.samestat(expected, found):
            raise StoreError(f"{path} became another file while it was opened. Load again.", path=path)
        yield file
        if _state(os.fstat(file.fileno())) != _state(found):
            raise StoreError(f"{path} was changed while it was read. Load again when nothing writes to it.", path=path)


def sha256(file: BufferedReader) -> str:
    """The SHA-256 of an open file, all of it; a chunk at a time is in memory."""
    file.seek(0)
    digest = hashlib.file_digest(file, "sha256").hexdigest()
    file.seek(0)
    return digest


def _open_no_link(path: str, flags: int) -> int:
    # Windows has neither flag; there, the comparison after opening has to do.
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))


def _state(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns
