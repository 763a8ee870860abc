"""`.npy` files that rows are appended to, with a list of digests that shows which rows survived a crash."""

import hashlib
import os
import re
import time
from collections.abc import Mapping
from io import FileIO
from typing import Any

import numpy as np

from kerassplit.errors import SplitError
from kerassplit.files.atomic_file import Folder, write_all
from kerassplit.files.npy import read_header

_AT_ONCE = 1 << 20  # bytes read at a time for a digest
_SYNC_EVERY = 5.0  # seconds between flushes to disk: a power cut loses at most this much work
_LONGEST_LINE = 120  # of a list of digests
_LINE = re.compile(rb"(\d+) ([1-9]\d*) ([0-9a-f]{64})\n")  # first row, number of rows, digest


class GrowingArray:
    """A `.npy` file that rows are appended to.

    The header contains the number of rows only once `finish` has written it. NumPy pads the header enough for any
    number of rows.

    Args:
        folder: Folder of the file.
        name: Name of the file; it is created with the first rows.
    """

    def __init__(self, folder: Folder, name: str):
        self._folder, self._name = folder, name
        self._file: FileIO | None = None
        if folder.has(name):
            self._reopen()

    def cut(self, rows: int) -> None:
        """Keeps the first `rows` rows."""
        if self._file is not None:
            self._file.truncate(self._start + rows * self._row_bytes)
            self._file.seek(0, os.SEEK_END)

    def add(self, array: np.ndarray) -> None:
        """Appends rows; when it returns, the operating system has them.

        Raises:
            SplitError: Their shape or dtype differs from that of earlier rows.
        """
        file = self._file
        if file is None:
            file = self._create(array)
        elif array.shape[1:] != self._row or array.dtype != self._dtype:
            raise SplitError(
                f"Rows of shape {array.shape[1:]} and type {array.dtype} follow rows of shape {self._row} and type "
                f"{self._dtype}: they do not form one array. Pad the input to one size."
            )
        write_all(file, _bytes_of(array))

    def digest(self, digest: Any, first: int, rows: int) -> bool:
        """Adds rows of the file, with their shape and dtype, to a digest; returns True if none is missing."""
        if self._file is None:
            return False
        describe(digest, self._row, self._dtype)
        self._file.seek(self._start + first * self._row_bytes)
        left = rows * self._row_bytes
        while left:
            content = self._file.read(min(left, _AT_ONCE))
            if not content:
                return False
            digest.update(content)
            left -= len(content)
        return True

    def sync(self) -> None:
        """Flushes all rows to disk."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def finish(self, rows: int) -> None:
        """Keeps the first `rows` rows, and writes their number into the header."""
        if self._file is not None:
            self.cut(rows)
            self._file.seek(0)
            self._write_header(self._file, rows)

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()

    def _create(self, array: np.ndarray) -> FileIO:
        self._row, self._dtype = array.shape[1:], array.dtype
        self._file = file = self._folder.open(self._name, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        self._write_header(file, 0)
        self._start, self._row_bytes = file.tell(), array[:1].nbytes
        return file

    def _reopen(self) -> None:
        """Continues the existing file; one with an incomplete header has no rows and will be created again."""
        file = self._folder.open(self._name, os.O_RDWR)
        try:
            header = read_header(file)  # pyright: ignore[reportArgumentType]
            if not header.shape or header.by_column:
                raise ValueError("no rows")
        except ValueError:
            file.close()
            return
        self._file, self._row, self._dtype, self._start = file, header.shape[1:], header.dtype, header.start
        self._row_bytes = header.dtype.itemsize * int(np.prod(self._row, dtype=object))

    def _write_header(self, file: FileIO, rows: int) -> None:
        header = {
            "descr": np.lib.format.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": (rows, *self._row),
        }
        np.lib.format.write_array_header_1_0(file, header)


class GrowingArrays:
    """Arrays that grow together, with a list of digests: one line per batch, hashing its rows in all files.

    A line is valid if all lines before it are and the files match its digest: whatever a crash left of files or lines,
    the rows up to there are those that were computed. No file size or row count is trusted instead.

    Args:
        folder: Folder of the files.
        digests: Name of the list.
        files: Names of the arrays' files, by array name.
        most: Maximum number of rows to accept; `None` for no limit.

    Attributes:
        rows: Number of verified rows, from the first on.
    """

    def __init__(self, folder: Folder, digests: str, files: Mapping[str, str], most: int | None = None):
        self.rows = 0
        self._arrays = {name: GrowingArray(folder, file) for name, file in files.items()}
        self._ends: list[tuple[int, int]] = []  # of each line: total rows and bytes up to its end
        self._file = folder.open(digests, os.O_RDWR | os.O_CREAT)
        self._folder, self._synced = folder, time.monotonic()
        self._read(most)

    def add(self, tensors: Mapping[str, np.ndarray]) -> None:
        """Appends a batch to the arrays, and its digest to the list.

        Raises:
            SplitError: The shape or dtype of its rows differs from that of earlier rows.
        """
        for name, array in self._arrays.items():
            array.add(tensors[name])
        rows = len(next(iter(tensors.values())))
        digest = hashlib.sha256(_head(self.rows, rows))
        for name in self._arrays:
            describe(digest, tensors[name].shape[1:], tensors[name].dtype)
            digest.update(_bytes_of(tensors[name]))
        self._append(rows, digest.hexdigest())
        if time.monotonic() - self._synced > _SYNC_EVERY:
            self.sync()

    def cut(self, rows: int) -> None:
        """Keeps the first `rows` rows; the remainder of a batch gets its own line."""
        for array in self._arrays.values():
            array.cut(rows)
        self._ends = [end for end in self._ends if end[0] <= rows]
        self.rows, size = self._ends[-1] if self._ends else (0, 0)
        self._file.truncate(size)
        self._file.seek(size)
        rest = rows - self.rows
        digest = self._digest(rest) if rest else None
        if digest is not None:
            self._append(rest, digest)
        for array in self._arrays.values():
            array.cut(rows)

    def sync(self) -> None:
        """Flushes all rows to disk, then the list."""
        for array in self._arrays.values():
            array.sync()
        os.fsync(self._file.fileno())
        self._folder.flush()
        self._synced = time.monotonic()

    def finish(self) -> None:
        """Writes the number of rows into each file, flushes everything to disk, and closes the files."""
        for array in self._arrays.values():
            array.finish(self.rows)
        self.sync()
        self.close()

    def close(self) -> None:
        """Closes the files."""
        for file in (*self._arrays.values(), self._file):
            file.close()

    def _read(self, most: int | None) -> None:
        """Reads the lines up to the first invalid one."""
        with os.fdopen(os.dup(self._file.fileno()), "rb") as lines:
            while line := _LINE.fullmatch(lines.readline(_LONGEST_LINE)):
                first, count, digest = int(line[1]), int(line[2]), line[3].decode()
                end = self.rows + count
                if first != self.rows or (most is not None and end > most) or self._digest(count) != digest:
                    return
                self.rows = end
                self._ends.append((end, lines.tell()))

    def _digest(self, rows: int) -> str | None:
        """Returns the digest of the next `rows` unverified rows in the files; `None` if some are missing."""
        digest = hashlib.sha256(_head(self.rows, rows))
        whole = all(array.digest(digest, self.rows, rows) for array in self._arrays.values())
        return digest.hexdigest() if whole else None

    def _append(self, rows: int, digest: str) -> None:
        line = f"{self.rows} {rows} {digest}\n".encode()
        write_all(self._file, line)
        self.rows += rows
        self._ends.append((self.rows, (self._ends[-1][1] if self._ends else 0) + len(line)))


def describe(digest: Any, row: tuple[int, ...], dtype: np.dtype) -> None:
    """Adds the dtype and shape of the following rows to a digest."""
    digest.update(f"{dtype.str} {row}\n".encode())


def _head(first: int, rows: int) -> bytes:
    return f"{first} {rows}\n".encode()


def _bytes_of(array: np.ndarray) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data if array.size else memoryview(b"")
