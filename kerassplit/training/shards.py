"""Rows of arrays in safetensors files of some tens of megabytes each, the shards of a cache.

A shard is written beside its place and renamed into it, so there are whole ones only. Each says of which job it is a
part, and where in it: which of them count can be told from themselves, however their writer ended.
"""

import contextlib
import errno
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401 (NumPy knows bfloat16 by it, and safetensors asks NumPy)
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from kerassplit.errors import SplitError, StoreError
from kerassplit.files import write_whole
from kerassplit.scratch import PREFIX

_BYTES = 32 * 2**20
_ROWS = 2048
"""A shard is written once it has so many bytes or rows: what a kill can cost."""
_NAME = "features-{:06d}.safetensors"


@dataclass(frozen=True, eq=False)
class Shard:
    """Rows in a file.

    Attributes:
        path: The file.
        first: Its first row, counted from 0 over all shards.
        rows: How many.
        digest: What tells the data of all rows up to its last from other data, if that was recorded.
        arrays: By name what reads rows: `arrays[name][start:stop]`.
    """

    path: Path
    first: int
    rows: int
    digest: str | None
    arrays: Mapping[str, Any]


class ShardWriter:
    """Writes rows into shards.

    Args:
        folder: Where they go.
        job: What they are part of.
        shards: Those that are there already.
    """

    def __init__(self, folder: Path, job: str, shards: Sequence[Shard] = ()):
        self._folder, self._job = folder, job
        self._number = len(shards)
        self._first = rows_of(shards)
        self._shape = {name: one.get_shape()[1:] for name, one in shards[-1].arrays.items()} if shards else {}
        self._parts: list[dict[str, np.ndarray]] = []
        self._digest: str | None = None

    def add(self, arrays: dict[str, np.ndarray], digest: str | None) -> bool:
        """Takes the rows of a batch; gives whether there are enough for a shard, which `write` then writes.

        Raises:
            SplitError: They have another shape than those before.
        """
        shape = {name: list(array.shape[1:]) for name, array in arrays.items()}
        self._shape = self._shape or shape
        for name, one in shape.items():
            if one != self._shape[name]:
                raise SplitError(
                    f"Rows of {name} of shape {tuple(one)} follow rows of shape {tuple(self._shape[name])}: they "
                    "make no array. Pad the inputs to one size."
                )
        self._parts.append(arrays)
        self._digest = digest
        rows = [array for part in self._parts for array in part.values()]
        return sum(array.nbytes for array in rows) >= _BYTES or self._waiting >= _ROWS

    @property
    def rows(self) -> int:
        """How many rows are in files."""
        return self._first

    @property
    def _waiting(self) -> int:
        return sum(len(next(iter(part.values()))) for part in self._parts)

    def write(self) -> None:
        """Writes the rows that wait, if any, as a shard.

        Raises:
            StoreError: It cannot be written. The shards before it are there.
        """
        if not self._parts:
            return
        arrays = {name: np.concatenate([part[name] for part in self._parts]) for name in self._parts[0]}
        said = {"job": self._job, "first": str(self._first), "rows": str(self._waiting), "digest": self._digest or ""}
        path = self._folder / _NAME.format(self._number)
        try:
            write_whole(path, save(arrays, metadata=said), flush=True)
        except SplitError as error:
            raise cannot_write(error, path, self._first) from error
        self._number, self._first, self._parts = self._number + 1, self._first + self._waiting, []


def cannot_write(error: SplitError, path: Path, rows: int) -> StoreError:
    """The error for a file that cannot be written, where so many rows are in files already."""
    full = isinstance(error.__cause__, OSError) and error.__cause__.errno in (errno.ENOSPC, errno.EDQUOT)
    kept = f" {rows} rows are kept: {'make room, and ' if full else ''}call again to go on." if rows else ""
    return StoreError(f"{error}{kept}", path=path)


def rows_of(shards: Sequence[Shard]) -> int:
    """How many rows shards have together."""
    return shards[-1].first + shards[-1].rows if shards else 0


def shards_in(folder: Path, job: str) -> list[Shard]:
    """The shards of a job, from the first one on without a gap."""
    found: list[Shard] = []
    while True:
        path = folder / _NAME.format(len(found))
        shard = _opened(path) if path.is_file() else None
        if shard is None or shard[0] != job or shard[1].first != rows_of(found):
            return found
        found.append(shard[1])


def _opened(path: Path) -> tuple[str, Shard] | None:
    """A shard and its job; `None` where it is none."""
    try:
        with safe_open(path, "np") as file:
            said = file.metadata() or {}
            arrays = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            rows = int(said["rows"])
            if not arrays or any(one.get_shape()[:1] != [rows] for one in arrays.values()):
                return None
            return said["job"], Shard(path, int(said["first"]), rows, said["digest"] or None, arrays)
    except (OSError, SafetensorError, KeyError, ValueError):
        return None


def remove_shards(folder: Path, job: str = "") -> None:
    """Removes the shards of all jobs but one, and what a killed process left half-written."""
    for path in [*folder.glob(_NAME.replace("{:06d}", "*")), *folder.glob(f"{PREFIX}*")]:
        shard = None if path.name.startswith(PREFIX) else _opened(path)
        if shard is None or shard[0] != job:
            with contextlib.suppress(OSError):
                path.unlink()


def bytes_in(folder: Path) -> int:
    """Bytes of all shards in a folder."""
    return sum(path.stat().st_size for path in folder.glob(_NAME.replace("{:06d}", "*")))


class ShardReader:
    """Rows of all shards of a cache, in any order.

    The files are mapped into memory, which safetensors does, so what is read is in memory once, and nothing else is.

    Args:
        shards: In order, without a gap.
    """

    def __init__(self, shards: Sequence[Shard]):
        self._shards = shards
        self._ends = np.cumsum([shard.rows for shard in shards])

    def read(self, name: str, rows: np.ndarray, dtype: str) -> np.ndarray:
        """The rows with these numbers, in this order.

        Args:
            name: Of the array.
            rows: The numbers.
            dtype: What to give them as.
        """
        shape = self._shards[0].arrays[name].get_shape()[1:]
        result = np.empty((len(rows), *shape), dtype)
        order = np.argsort(rows, kind="stable")  # neighbours are read at once, and a disk goes forward
        sorted_rows = rows[order]
        where = np.searchsorted(self._ends, sorted_rows, side="right")
        breaks = np.flatnonzero((np.diff(sorted_rows) != 1) | (np.diff(where) != 0)) + 1
        for run in np.split(np.arange(len(rows)), breaks):
            shard = self._shards[int(where[run[0]])]
            start = int(sorted_rows[run[0]]) - shard.first
            result[order[run]] = shard.arrays[name][start : start + len(run)]
        return result
