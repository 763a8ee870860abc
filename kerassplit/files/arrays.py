"""Reads arrays in `.npy` and `.npz` files in parts, with memory independent of the file's size.

A memory map would do for `.npy`, but pages that were read count as memory of the process until the system evicts them.
"""

import contextlib
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import IO, Any

import numpy as np

from kerassplit.errors import SplitError
from kerassplit.files.atomic_file import open_regular, reason
from kerassplit.files.npy import Header, check_length, read_header
from kerassplit.files.sizes import format_bytes, parse_bytes
from kerassplit.text import listed

MOST_UNPACKED = "KERASSPLIT_MAX_UNPACKED"
"""Environment variable that limits the memory a compressed array may take, such as `8 GiB`."""

_MOST_UNPACKED = "1 GiB"
_PACKING = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}  # those NumPy writes; others can shrink zeros a million times
_UNREADABLE = (OSError, ValueError, TypeError, OverflowError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)
_AT_ONCE = 1 << 20


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BufferedReader]:
    """Opens a file named by a user; turns errors of NumPy and zipfile into a `SplitError`."""
    try:
        with open_regular(path) as file:
            yield file
    except SplitError:
        raise
    except _UNREADABLE as error:
        raise SplitError(f"'{path}' cannot be read as NumPy arrays: {reason(error)}.") from error


@dataclass(frozen=True)
class ArrayFile:
    """An array in a file.

    Attributes:
        path: The file.
        member: Name of the array's member in a `.npz` file; `None` for a `.npy` file.
        header: Header of the array.
    """

    path: Path
    member: str | None
    header: Header

    @property
    def shape(self) -> tuple[int, ...]:
        return self.header.shape

    @property
    def dtype(self) -> np.dtype:
        return self.header.dtype

    def parts(self, row: int, rows: int) -> Iterator[np.ndarray]:
        """Yields the array from row `row` on, `rows` rows at a time; reads it all at once if stored by column.

        Raises:
            SplitError: The file ends too early, or cannot be read.
        """
        if self.header.by_column:
            array = self.whole()
            yield from (array[start : start + rows] for start in range(row, len(array), rows))
            return
        per_row = self.dtype.itemsize * int(np.prod(self.shape[1:], dtype=object))
        if self.member is not None:
            _refuse_bomb(self.path, per_row * min(rows, self.shape[0]))
        with _reading(self.path, self.member) as (stream, _):
            stream.seek(self.header.start + row * per_row)
            for start in range(row, self.shape[0], rows):
                count = min(rows, self.shape[0] - start)
                content = stream.read(count * per_row)
                if len(content) < count * per_row:
                    raise SplitError(f"'{self.path}' ends in the middle of its rows: it is damaged.")
                yield np.frombuffer(content, self.dtype).reshape(count, *self.shape[1:])

    def whole(self) -> np.ndarray:
        """Reads the whole array.

        Raises:
            SplitError: It exceeds the memory limit for compressed arrays, ends too early, or cannot be read.
        """
        header = self.header
        if self.member is not None:
            _refuse_bomb(self.path, header.bytes)
        with _reading(self.path, self.member) as (stream, _):
            stream.seek(header.start)
            content, filled = np.empty(header.bytes, np.uint8), 0
            while count := stream.readinto(memoryview(content)[filled : filled + _AT_ONCE]):  # pyright: ignore
                filled += count
            check_length(header, filled)
        return content.view(header.dtype).reshape(header.shape, order="F" if header.by_column else "C")

    def check(self) -> None:
        """Reads an array in a `.npz` file once to verify its checksum, so that damage is found before use."""
        if self.member is not None:
            with _reading(self.path, self.member) as (stream, _):
                while stream.read(_AT_ONCE):
                    pass


def open_arrays(path: Path, names: Sequence[str]) -> dict[str, ArrayFile]:
    """Opens the arrays in a file, by the names of the tensors they are for.

    Args:
        path: The file.
        names: Names of the tensors.

    Raises:
        SplitError: The file cannot be read, or lacks an array.
    """
    if path.suffix.lower() == ".npy":
        if len(names) > 1:
            raise SplitError(
                f"'{path}' contains one array, but the model takes {len(names)}: {listed(names)}. "
                "Save them by name in one .npz file (numpy.savez)."
            )
        return {names[0]: _described(path, None)}
    with _opened(path) as file, zipfile.ZipFile(file) as archive:
        there = archive.namelist()
    members = {name.removesuffix(".npy"): name for name in there}
    if len(members) < len(there):
        raise SplitError(f"'{path}' contains two arrays with the same name. Save them again with numpy.savez.")
    if len(members) == len(names) == 1:
        return {names[0]: _described(path, next(iter(members.values())))}
    missing = [name for name in names if name not in members]
    if missing:
        raise SplitError(
            f"'{path}' has no array {listed(missing)}; it has {listed(members) or 'none'}. The model takes "
            f"{listed(names)}."
        )
    return {name: _described(path, members[name]) for name in names}


def write_arrays(path: str | Path, arrays: Mapping[str, Any]) -> list[str]:
    """Writes arrays to exchange with another process, and returns their names, which `read_arrays` needs.

    Strings become bytes, and float types unknown to NumPy become float32.
    """
    np.savez(path, *[storable(_as_bytes(np.asarray(array))) for array in arrays.values()])
    return list(arrays)


def read_arrays(path: str | Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Reads the arrays that `write_arrays` wrote, by name."""
    arrays = open_arrays(Path(path), [f"arr_{number}" for number in range(len(names))])
    return {name: array.whole() for name, array in zip(names, arrays.values(), strict=True)}


def mapped(path: Path) -> np.ndarray:
    """Opens the array of a `.npy` file as a memory map.

    Raises:
        SplitError: The file contains no array.
    """
    with _reading(path, None) as (file, size):
        header = read_header(file, size)
        return np.memmap(file, header.dtype, "r", header.start, header.shape, "F" if header.by_column else "C")


def storable(array: np.ndarray) -> np.ndarray:
    """Converts dtypes that NumPy cannot store, such as bfloat16, to float32; returns other arrays unchanged."""
    foreign = array.dtype.kind == "V" or array.dtype.name.startswith("float8")  # one of these has kind f
    return array.astype(np.float32) if foreign and not array.dtype.names else array


def _as_bytes(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind not in "OU":
        return array
    texts = [one if isinstance(one, bytes) else str(one).encode() for one in array.ravel()]
    return np.array(texts, "S").reshape(array.shape)


def _described(path: Path, member: str | None) -> ArrayFile:
    with _reading(path, member) as (stream, size):
        return ArrayFile(path, member, read_header(stream, size))


@contextlib.contextmanager
def _reading(path: Path, member: str | None) -> Iterator[tuple[IO[bytes], int]]:
    """Opens an array's bytes, and returns their number; a compressed array is unpacked only up to the declared size."""
    with _opened(path) as file:
        if member is None:
            yield file, os.fstat(file.fileno()).st_size
            return
        with zipfile.ZipFile(file) as archive:
            claimed = archive.getinfo(member)
            if claimed.compress_type not in _PACKING:
                raise ValueError("it uses a compression method that NumPy never uses")
            with archive.open(claimed) as stream:
                yield stream, claimed.file_size


def _refuse_bomb(path: Path, size: int) -> None:
    most = int(parse_bytes(os.environ.get(MOST_UNPACKED, _MOST_UNPACKED), MOST_UNPACKED))
    if size > max(most, path.stat().st_size):  # numpy.savez does not compress: such an array is as large as its file
        raise SplitError(
            f"'{path}' contains a compressed array that would take {format_bytes(size)} of memory at a time; the limit "
            f"is {format_bytes(most)}. Save it as .npy, or raise the limit with the environment variable "
            f"{MOST_UNPACKED}, to 8GiB for example."
        )
