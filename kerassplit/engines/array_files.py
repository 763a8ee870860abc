"""Arrays in `.npy` and `.npz` files, read part by part: what is in memory does not grow with the file.

A memory map would do for `.npy`, but pages that were read count as memory of the process until the system takes them.
"""

import contextlib
import math
import os
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from kerassplit.errors import SplitError
from kerassplit.names import listed

UNREADABLE = (OSError, ValueError, TypeError, OverflowError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""What NumPy and zipfile raise for what they cannot read."""


@dataclass(frozen=True)
class ArrayFile:
    """An array in a file.

    Attributes:
        path: The file.
        member: Its name in a `.npz` file; `None` in a `.npy` file.
        shape: Of the whole array.
        dtype: Of its values.
        fortran: Whether it is stored column by column: then it is read whole.
    """

    path: Path
    member: str | None
    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool

    def parts(self, row: int, rows: int) -> Iterator[np.ndarray]:
        """The array from a row on, so many rows at a time.

        Raises:
            SplitError: The file ends too early, or cannot be read.
        """
        if self.fortran:
            whole = _loaded(self.path)
            array = whole if self.member is None else whole[self.member.removesuffix(".npy")]
            yield from (array[start : start + rows] for start in range(row, len(array), rows))
            return
        per_row = self.dtype.itemsize * int(np.prod(self.shape[1:], dtype=np.int64))
        with _reading(self.path, self.member) as stream:
            read_header(stream)
            stream.seek(stream.tell() + row * per_row)
            for start in range(row, self.shape[0], rows):
                count = min(rows, self.shape[0] - start)
                content = stream.read(count * per_row)
                if len(content) < count * per_row:
                    raise SplitError(f"'{self.path}' ends in the middle of its rows: it is damaged.")
                yield np.frombuffer(content, self.dtype).reshape(count, *self.shape[1:])


def open_arrays(path: Path, names: Sequence[str]) -> dict[str, ArrayFile]:
    """The arrays in a file, by the names of the tensors they are for.

    Raises:
        SplitError: It cannot be read, or lacks an array.
    """
    if path.suffix.lower() == ".npy":
        if len(names) > 1:
            raise SplitError(
                f"'{path}' holds one array, and the model takes {len(names)}: {listed(names)}. Save them by name in "
                "one .npz file (numpy.savez)."
            )
        return {names[0]: _described(path, None)}
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name.removesuffix(".npy"): name for name in archive.namelist()}
    except UNREADABLE as error:
        raise SplitError(f"'{path}' cannot be read as NumPy arrays: {error}.") from error
    if len(members) == len(names) == 1:
        return {names[0]: _described(path, next(iter(members.values())))}
    missing = [name for name in names if name not in members]
    if missing:
        raise SplitError(
            f"'{path}' has no array {listed(missing)}; it has {listed(members) or 'none'}. The model takes "
            f"{listed(names)}."
        )
    return {name: _described(path, members[name]) for name in names}


def _described(path: Path, member: str | None) -> ArrayFile:
    with _reading(path, member) as stream:
        shape, fortran, dtype = read_header(stream)
        begins = stream.tell()
        there = stream.seek(0, os.SEEK_END) - begins
        if math.prod(shape) * dtype.itemsize != there:
            raise ValueError(f"an array of shape {shape} takes {math.prod(shape) * dtype.itemsize} bytes, not {there}")
    return ArrayFile(path, member, shape, dtype, fortran and len(shape) > 1)


@contextlib.contextmanager
def _reading(path: Path, member: str | None) -> Iterator[IO[bytes]]:
    try:
        if member is None:
            with path.open("rb") as stream:
                yield stream
        else:
            with zipfile.ZipFile(path) as archive, archive.open(member) as stream:
                yield stream
    except SplitError:
        raise
    except UNREADABLE as error:
        raise SplitError(f"'{path}' cannot be read as NumPy arrays: {error}.") from error


def read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether it is stored column by column, and type of values of an array in NumPy's format.

    Raises:
        ValueError: It is none, or holds Python objects, which are never unpickled.
    """
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):  # what only arrays with named fields need
        raise ValueError(f"version {version} of the format is not known")
    read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}[version[0]]
    shape, by_column, dtype = read(stream)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are never unpickled")
    if not all(type(side) is int and side >= 0 for side in shape):
        raise ValueError(f"{shape} is no shape")
    return shape, by_column, dtype


def storable(array: np.ndarray) -> np.ndarray:
    """An array as NumPy's format can hold it: bfloat16 and its like, which NumPy itself does not know, as float32."""
    return array.astype(np.float32) if array.dtype.kind == "V" and not array.dtype.names else array


def _loaded(path: Path) -> Any:
    try:
        return np.load(path, allow_pickle=False)
    except UNREADABLE as error:
        raise SplitError(f"'{path}' cannot be read as NumPy arrays: {error}.") from error
