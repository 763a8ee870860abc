"""A `.npy` file to which rows are added, and which is readable again after its writer was killed."""

import os
from io import FileIO
from pathlib import Path

import numpy as np

from kerassplit.errors import SplitError


class GrowingArray:
    """Rows in a `.npy` file.

    The number of rows stands in the header only once `finish` has written it: until then there are as many as the file
    has room for. NumPy leaves enough blanks in a header for any number of rows.

    Args:
        path: The file; it is made when the first rows come.
    """

    def __init__(self, path: Path):
        self.path = path
        self.rows = 0
        self._file: FileIO | None = None
        if path.is_file():
            self._reopen()

    def cut(self, rows: int) -> None:
        """Keeps so many rows."""
        if self._file is not None:
            self._file.truncate(self._start + rows * self._row_bytes)
            self._file.seek(0, os.SEEK_END)
            self.rows = rows

    def add(self, array: np.ndarray) -> None:
        """Adds rows; they are with the operating system when it returns.

        Raises:
            SplitError: They have another shape or type than those before them.
        """
        file = self._file
        if file is None:
            file = self._create(array)
        elif array.shape[1:] != self._row or array.dtype != self._dtype:
            raise SplitError(
                f"Rows of shape {array.shape[1:]} and type {array.dtype} follow rows of shape {self._row} and type "
                f"{self._dtype}: they make no array. Pad the input to one size."
            )
        content = np.ascontiguousarray(array).data.cast("B") if array.size else memoryview(b"")
        while content:  # unbuffered, or closing would try once more to write what a full disk refuses
            content = content[file.write(content) :]
        self.rows += len(array)

    def finish(self) -> None:
        """Writes the number of rows, and waits until the disk has all."""
        if self._file is not None:
            self._file.seek(0)
            self._write_header(self._file)
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()

    def _create(self, array: np.ndarray) -> FileIO:
        self._row, self._dtype = array.shape[1:], array.dtype
        self._file = file = self.path.open("w+b", buffering=0)
        self._write_header(file)
        self._start = file.tell()
        self._row_bytes = max(1, array[:1].nbytes)
        return file

    def _reopen(self) -> None:
        """Takes the file as it is; one whose header is not whole has no rows and is made anew."""
        file = self.path.open("r+b", buffering=0)
        try:
            np.lib.format.read_magic(file)
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        except ValueError:
            file.close()
            return
        self._file, self._row, self._dtype, self._start = file, shape[1:], dtype, file.tell()
        self._row_bytes = max(1, dtype.itemsize * int(np.prod(self._row, dtype=np.int64)))
        size = file.seek(0, os.SEEK_END)
        self.rows = (size - self._start) // self._row_bytes

    def _write_header(self, file: FileIO) -> None:
        header = {
            "descr": np.lib.format.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": (self.rows, *self._row),
        }
        np.lib.format.write_array_header_1_0(file, header)
