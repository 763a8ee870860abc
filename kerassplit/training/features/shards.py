"""Shards of a cache: rows of arrays in safetensors files of some tens of megabytes each.

A shard is written next to its place and then renamed, so only complete ones exist. Each records its job, the rows that
it holds, and a checksum: the shards themselves tell which of them are valid, however their writer ended and whatever
happened to the files.
"""

import contextlib
import errno
import itertools
import re
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401 (registers bfloat16 with NumPy, which safetensors relies on)
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from kerassplit.errors import SplitError, StoreError
from kerassplit.files.atomic_file import TEMPORARY_NAME, write_whole
from kerassplit.files.values import fits

_BYTES = 32 * 2**20
_ROWS = 2048
"""A shard is written once it has this many bytes or rows, the most that a kill can cost."""
_CHECKED_AT_ONCE = 2**20  # bytes
_NAME = "features-{:06d}.safetensors"
_OURS = re.compile(r"features-\d{6,}\.safetensors")
Layout = Mapping[str, tuple[Sequence[int | None], Collection[str]]]
"""Shape of a row (`None` for unknown dimensions) and names of the allowed dtypes, by the name of an array."""


@dataclass(frozen=True, eq=False)
class Shard:
    """Rows in a file.

    Attributes:
        path: The file.
        first: Number of its first row, counted from 0 over all shards.
        rows: Number of rows.
        digest: Digest of the data of all rows up to its last, if recorded.
        checksum: CRC-32 of its content; `None` in caches of version 0.1.0.
        arrays: Readers of rows, by name: `arrays[name][start:stop]`.
        said: Metadata in its header.
    """

    path: Path
    first: int
    rows: int
    digest: str | None
    checksum: str | None
    arrays: Mapping[str, Any]
    said: Mapping[str, str]

    @property
    def end(self) -> int:
        """Number of the row after its last one."""
        return self.first + self.rows

    @property
    def is_whole(self) -> bool:
        """True if its content is what was written, as far as a checksum can tell. Reads the whole file."""
        return self.checksum is None or self.checksum == _checksum(self.said, self.arrays)

    def fits(self, layout: Layout) -> bool:
        """True if it holds arrays of this layout."""
        return self.arrays.keys() == layout.keys() and all(
            one[0:1].dtype.name in layout[name][1] and fits(one.get_shape(), (None, *layout[name][0]))
            for name, one in self.arrays.items()
        )


class ShardWriter:
    """Writes rows into shards.

    Args:
        folder: Folder of the shards.
        job: Job that they belong to.
        shards: Shards that already exist.
    """

    def __init__(self, folder: Path, job: str, shards: Sequence[Shard] = ()):
        self._job = job
        taken = {shard.path.name for shard in shards}
        names = (_NAME.format(number) for number in itertools.count())
        self._paths = (folder / name for name in names if name not in taken)
        self._shape = {name: one.get_shape()[1:] for name, one in shards[-1].arrays.items()} if shards else {}
        self._parts: list[dict[str, np.ndarray]] = []
        self._first = 0
        self._digest: str | None = None
        self.rows = rows_of(shards)
        """Number of rows already in files."""

    def add(self, arrays: dict[str, np.ndarray], first: int, digest: str | None) -> bool:
        """Adds the rows of a batch; returns True once there are enough for a shard, which `write` then writes.

        Args:
            arrays: The rows, which follow those added before.
            first: Number of the first one.
            digest: Digest of the data of all rows up to the last of these.

        Raises:
            SplitError: Their shape differs from that of earlier rows.
        """
        shape = {name: list(array.shape[1:]) for name, array in arrays.items()}
        self._shape = self._shape or shape
        for name, one in shape.items():
            if one != self._shape[name]:
                raise SplitError(
                    f"Rows of {name} of shape {tuple(one)} follow rows of shape {tuple(self._shape[name])}, so they do "
                    "not form one array. Pad the inputs to one size."
                )
        self._first = first if not self._parts else self._first
        self._parts.append(arrays)
        self._digest = digest
        rows = [array for part in self._parts for array in part.values()]
        return sum(array.nbytes for array in rows) >= _BYTES or self._waiting >= _ROWS

    @property
    def _waiting(self) -> int:
        return sum(len(next(iter(part.values()))) for part in self._parts)

    def write(self) -> None:
        """Writes the rows added since the last shard, if any, as a shard.

        Raises:
            StoreError: It cannot be written. Earlier shards are kept.
        """
        if not self._parts:
            return
        arrays = {name: _as_written([part[name] for part in self._parts]) for name in self._parts[0]}
        said = {"job": self._job, "first": str(self._first), "rows": str(self._waiting), "digest": self._digest or ""}
        path = next(self._paths)
        try:
            write_whole(path, save(arrays, metadata={**said, "crc32": _checksum(said, arrays)}), flush=True)
        except SplitError as error:
            raise cannot_write(error, path, self.rows) from error
        self.rows, self._parts = self.rows + self._waiting, []


def _as_written(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Joins rows in the memory layout of a file: row by row (C order), little-endian."""
    rows = np.concatenate(parts)
    return np.ascontiguousarray(rows, rows.dtype.newbyteorder("<"))


def _checksum(said: Mapping[str, str], arrays: Mapping[str, Any]) -> str:
    """Computes the CRC-32 of a shard's header, names, dtypes, shapes and values. With zlib it is as fast as reading."""
    crc = 0
    for name in sorted(arrays):
        row = arrays[name][0:1]
        kind = [*sorted(said.items()), name, row.dtype.name, row.shape]
        crc = zlib.crc32(repr(kind).encode(), crc)
        step = max(1, _CHECKED_AT_ONCE // max(1, row.nbytes))
        rows = int(said["rows"])
        for start in range(0, rows, step):
            part = arrays[name][start : min(start + step, rows)]
            crc = zlib.crc32(part.reshape(-1).view("uint8").data, crc)
    return f"{crc:08x}"


def cannot_write(error: SplitError, path: Path, rows: int) -> StoreError:
    """Returns the error for a file that cannot be written; `rows`: number of rows already in files."""
    full = isinstance(error.__cause__, OSError) and error.__cause__.errno in (errno.ENOSPC, errno.EDQUOT)
    kept = f" {rows} rows are kept: {'make room, and ' if full else ''}call again to continue." if rows else ""
    return StoreError(f"{error}{kept}", path=path)


def rows_of(shards: Sequence[Shard]) -> int:
    """Returns the number of rows in all shards."""
    return sum(shard.rows for shard in shards)


def shards_in(folder: Path, job: str) -> list[Shard]:
    """Returns the shards of a job in row order, possibly with gaps. If two overlap, only the first counts."""
    opened = (_opened(path) for path in sorted(_files(folder)))
    found: list[Shard] = []
    for shard in sorted((one for one in opened if one and one.said["job"] == job), key=lambda one: one.first):
        if shard.first >= (found[-1].end if found else 0):
            found.append(shard)
    return found


def first_gap(shards: Sequence[Shard]) -> tuple[int, str | None]:
    """Returns the first row that no shard holds, and the digest of the data of all rows before it."""
    end, digest = 0, None
    for shard in shards:
        if shard.first > end:
            break
        end, digest = shard.end, shard.digest
    return end, digest


def not_among(shards: Sequence[Shard], first: int, stop: int) -> Iterator[tuple[int, int]]:
    """Yields spans of rows from `first` to `stop` that no shard holds: first row, and the row after the last."""
    for shard in shards:
        if shard.end <= first or shard.first >= stop:
            continue
        if first < shard.first:
            yield first, shard.first
        first = shard.end
    if first < stop:
        yield first, stop


def damaged_shard(folder: Path, shards: Sequence[Shard]) -> Path | None:
    """Returns a file that has the name of a shard and is none of these; `None` if there is no such file."""
    whole = {shard.path for shard in shards}
    return next((path for path in sorted(_files(folder)) if path not in whole), None)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.iterdir() if _OURS.fullmatch(path.name))


def _opened(path: Path) -> Shard | None:
    """Opens a shard; `None` if the file is not a valid one."""
    try:
        if not path.is_file():
            return None
        with safe_open(path, "np") as file:
            said = file.metadata() or {}
            checksum = said.pop("crc32", None)
            arrays = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        first, rows = int(said["first"]), int(said["rows"])
        if not arrays or rows < 1 or first < 0 or any(one.get_shape()[:1] != [rows] for one in arrays.values()):
            return None
        for one in arrays.values():
            one[0:1]  # fails for a dtype that NumPy lacks
        shard = Shard(path, first, rows, said["digest"] or None, checksum, arrays, said)
        return shard if "job" in said else None
    except (OSError, SafetensorError, KeyError, ValueError, AttributeError):
        return None


def remove_shards(folder: Path, keep: Sequence[Shard] = ()) -> None:
    """Removes all shards except those to keep, and half-written files of a killed process."""
    kept = {shard.path for shard in keep}
    for path in list(folder.iterdir()):
        if path not in kept and (_OURS.fullmatch(path.name) or TEMPORARY_NAME.fullmatch(path.name)):
            with contextlib.suppress(OSError):
                path.unlink()


def bytes_in(folder: Path) -> int:
    """Returns the total size in bytes of all shards in a folder."""
    return sum(path.stat().st_size for path in _files(folder))


class ShardReader:
    """Reads rows of all shards of a cache, in any order.

    Safetensors maps the files into memory, so only rows that are read take memory, and only once. A shard is checked
    as a whole before any of its rows is returned for the first time.

    Args:
        shards: The shards in order, without gaps.
    """

    def __init__(self, shards: Sequence[Shard]):
        self._shards = shards
        self._unchecked = set(shards)
        self._ends = np.cumsum([shard.rows for shard in shards])

    def read(self, name: str, rows: np.ndarray, dtype: str) -> np.ndarray:
        """Reads the rows with the given numbers, in that order.

        Args:
            name: Name of the array.
            rows: Numbers of the rows.
            dtype: Dtype of the result.

        Raises:
            StoreError: A shard that holds them is damaged.
        """
        shape = self._shards[0].arrays[name].get_shape()[1:]
        result = np.empty((len(rows), *shape), dtype)
        order = np.argsort(rows, kind="stable")  # so that neighbors are read at once, and the disk sequentially
        sorted_rows = rows[order]
        where = np.searchsorted(self._ends, sorted_rows, side="right")
        breaks = np.flatnonzero((np.diff(sorted_rows) != 1) | (np.diff(where) != 0)) + 1
        for run in np.split(np.arange(len(rows)), breaks):
            shard = self._shards[int(where[run[0]])]
            self._check(shard)
            start = int(sorted_rows[run[0]]) - shard.first
            result[order[run]] = shard.arrays[name][start : start + len(run)]
        return result

    def _check(self, shard: Shard) -> None:
        if shard in self._unchecked:
            if not shard.is_whole:
                raise damaged(shard.path)
            self._unchecked.discard(shard)


def damaged(path: Path) -> StoreError:
    """Returns the error for a shard whose content is not what was written."""
    return StoreError(
        f"Shard '{path}' is damaged: it does not hold the features that were written into it. Delete this file, and "
        "call `cache_features` again with the same arguments: it computes what is missing.",
        path=path,
    )
