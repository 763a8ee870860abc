"""A cache of features on disk: shards, and a manifest with the cache's identity.

The manifest is written before the first shard, and again with the number of rows after the last one. It names the job
that the shards belong to, so a single rename invalidates the shards of an overwritten cache.
"""

import itertools
import json
import math
import shutil
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import keras
import numpy as np

from kerassplit.display.progress import progress
from kerassplit.engines.prefetch import prefetch
from kerassplit.engines.route import Batch
from kerassplit.errors import SplitError, StoreError
from kerassplit.files.atomic_file import write_whole
from kerassplit.files.atomic_folder import alone_in, check_place
from kerassplit.files.sizes import format_bytes
from kerassplit.files.untrusted_json import read_json, read_record
from kerassplit.storage.manifest import checksum
from kerassplit.text import listed, printable, warn
from kerassplit.training.features.dataset import BatchReader
from kerassplit.training.features.dtypes import as_stored, backend_type, stored_type
from kerassplit.training.features.head import FeatureHead
from kerassplit.training.features.identity import Identity, differing, first_rows, identity_of
from kerassplit.training.features.preprocess import Preparation
from kerassplit.training.features.rows import Data, Rows, leaves_of, map_arrays, other_rows
from kerassplit.training.features.shards import (
    Shard,
    ShardWriter,
    bytes_in,
    cannot_write,
    damaged,
    damaged_shard,
    first_gap,
    not_among,
    remove_shards,
    rows_of,
    shards_in,
)

MANIFEST = "features.json"
_FORMAT_VERSION = 1
_READ_AHEAD = 2  # batches of data that are read and preprocessed in advance
_REMEDY = "Delete the folder, and cache the features again."


class _Manifest(TypedDict):
    format_version: int
    job: str
    of: Identity
    rows: int | None
    checksum: str
    checksums: NotRequired[str]


class FeatureCache:
    """A cache that exists or is to be created.

    Args:
        head: Computes the features.
        data: The rows.
        directory: Directory of the cache.
        storage: Dtype in which features are stored.
        prepare: The preprocessing.
        repeats: Number of passes over the data.
    """

    def __init__(
        self, head: FeatureHead, data: Data, directory: Path, storage: str, prepare: Preparation, repeats: int
    ):
        self._head, self._data, self._directory = head, data, directory
        self._storage, self._prepare, self._repeats = storage, prepare, repeats
        self._of = identity_of(head, data, prepare.name, storage, repeats)
        self._found: dict[str, Any] | None = None  # the manifest found in the directory
        self._manifest: dict[str, Any] | None = None  # the manifest of the cache that is created or resumed
        wide = [tensor.name for tensor in head.tensors if tensor.dtype == "float64"]
        if wide:
            warn(f"{listed(wide)} has type float64 and is stored as {storage}.")

    def finished(self, overwrite: bool) -> list[Shard] | None:
        """Returns the shards of the cache if it is complete, else `None`.

        Raises:
            StoreError: The cache is of something else and must not be overwritten, is damaged, or the directory holds
                other files.
        """
        self._found = self._read()
        if self._found is not None:
            self._manifest = self._fitting(self._found, overwrite)
        if self._manifest is None or self._manifest["rows"] is None:
            return None
        shards, rows = self._there(), self._manifest["rows"]
        if rows_of(shards) != rows:
            wrong = damaged_shard(self._directory, shards) or (shards[-1].path if rows_of(shards) > rows else None)
            if wrong:
                raise damaged(wrong)
            return None
        if any(shard.checksum is None for shard in shards):
            warn(
                f"The cache in '{self._directory}' was written by an earlier version of kerassplit and has no "
                "checksums, so damage would go unnoticed. To add them, delete the folder and cache the features again."
            )
        return shards

    def make(self, verbose: bool | None) -> list[Shard]:
        """Computes the features that are missing or damaged."""
        there = [] if self._manifest is None else [shard for shard in self._there() if shard.is_whole]
        made = [folder for folder in (self._directory, *self._directory.parents) if not folder.exists()]
        if self._manifest is None:
            self._of["first"] = self._first(self._data.first.rows)
        self._check_room(rows_of(there), verbose)
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            with alone_in(self._directory):
                if self._read() != self._found:
                    raise StoreError(
                        f"Another process has written into '{self._directory}' in the meantime. Call again.",
                        path=self._directory,
                    )
                return self._compute(there, verbose)
        except StoreError as error:
            error.path = error.path or str(self._directory)
            raise
        except OSError as error:
            raise StoreError(
                f"Cannot write into '{self._directory}': {error.strerror or error}.", path=self._directory
            ) from error
        finally:
            for folder in made:
                with suppress(OSError):  # not empty
                    folder.rmdir()

    def reader(self, shards: list[Shard]) -> BatchReader:
        """Returns a reader for the rows of the cache."""
        kept = {tensor.name: f"features.{place}" for place, tensor in enumerate(self._head.tensors)}
        dtypes = {kept[tensor.name]: tensor.dtype for tensor in self._head.tensors}
        given, numbers = self._data.first.others, itertools.count()
        # Not by `map_structure`: on torch, it visits the keys of a dict in another order than `flatten`.
        leaves = [leaf if leaf is None else f"others.{next(numbers)}" for leaf in keras.tree.flatten(given)]
        others = keras.tree.pack_sequence_as(given, leaves)
        dtypes |= {name: backend_type(shards[0].arrays[name][0:1].dtype.name) for name in leaves_of(others)}
        return BatchReader(shards, dtypes, (map_arrays(kept.__getitem__, self._head.features), *others))

    def _there(self) -> list[Shard]:
        """Returns the shards of the cache whose arrays have the right names, shapes and dtypes."""
        assert self._manifest
        features = [(tensor.shape[1:], self._types(tensor.dtype)) for tensor in self._head.tensors]
        others = [(leaf.shape[1:], {leaf.dtype.name}) for leaf in leaves_of(self._data.first.others)]
        layout = _by_name(features, others)
        checked = self._manifest.get("checksums") is not None
        shards = shards_in(self._directory, self._manifest["job"])
        return [one for one in shards if one.fits(layout) and not (checked and one.checksum is None)]

    def _types(self, dtype: str) -> set[str]:
        """Returns the names of the dtypes in which a feature may be stored, on any backend."""
        return {stored_type(np.dtype(one), self._storage).name for one in (dtype, backend_type(dtype))}

    def _read(self) -> dict[str, Any] | None:
        """Returns the manifest in the directory; `None` if the directory is free."""
        there = check_place(self._directory, True, MANIFEST, "a cache of features", read_features_manifest)
        return read_features_manifest(self._directory) if there else None

    def _fitting(self, manifest: dict[str, Any], overwrite: bool) -> dict[str, Any] | None:
        """Returns the manifest if it is of this very cache; `None` if it is to be overwritten."""
        now = {**self._of, "first": self._first(manifest["of"]["first"]["rows"])}
        differences = differing(manifest["of"], now)
        if not differences:
            return manifest
        if overwrite:
            return None
        raise StoreError(
            f"'{self._directory}' holds features of something else: {'; '.join(differences)}. Pass overwrite=True to "
            "replace them, or name another directory.",
            path=self._directory,
        )

    def _first(self, count: int) -> dict[str, Any]:
        rows = self._data.leading(count)
        return first_rows(rows, self._prepare(rows))

    def _compute(self, there: list[Shard], verbose: bool | None) -> list[Shard]:
        if self._manifest is not None:
            remove_shards(self._directory, there)
        job = self._manifest["job"] if self._manifest else uuid.uuid4().hex
        writer = ShardWriter(self._directory, job, there)
        total = None if self._data.rows is None else self._data.rows * self._repeats
        what, compute = f"Caching {self._head.route.model}", self._head.stage.compiled
        end = 0
        with closing(prefetch(self._prepared(there), _READ_AHEAD)) as batches, progress(what, total, verbose) as show:
            try:
                for number, (rows, inputs) in enumerate(batches):
                    if end != rows.first:  # the rows in between are already cached
                        writer.write()
                    features = self._head(compute, Batch(number, rows.first, rows.rows, inputs))
                    if writer.add(self._stored(features, rows), rows.first, rows.digest):
                        self._begin(job)
                        writer.write()
                    end = rows.end
                    show(end, end - rows_of(there))
            except SplitError as error:
                if writer.rows and not isinstance(error, StoreError):
                    error.args = (f"{error} {writer.rows} rows are kept: call again to continue.", *error.args[1:])
                raise
        self._begin(job)
        writer.write()
        self._write_manifest(job, writer.rows)
        return shards_in(self._directory, job)

    def _begin(self, job: str) -> None:
        """Starts a new cache before its first shard is written, which invalidates the old one, if any."""
        if self._manifest is None:
            self._manifest = self._write_manifest(job, None)
            remove_shards(self._directory)

    def _write_manifest(self, job: str, rows: int | None) -> dict[str, Any]:
        of = self._of if self._manifest is None else self._manifest["of"]
        manifest = {"format_version": _FORMAT_VERSION, "job": job, "of": of, "rows": rows}
        if self._manifest is None or "checksums" in self._manifest:  # else the cache was started by version 0.1.0
            manifest["checksums"] = "crc32"
        manifest = json.loads(json.dumps(manifest))
        text = json.dumps({**manifest, "checksum": checksum(manifest)}, indent=1) + "\n"
        path = self._directory / MANIFEST
        try:
            write_whole(path, text.encode(), flush=True)
        except SplitError as error:
            raise cannot_write(error, path, rows or 0) from error
        return manifest

    def _prepared(self, there: list[Shard]) -> Iterator[tuple[Rows, dict[str, np.ndarray | None]]]:
        """Yields the rows that are not cached, with the inputs of the head for them."""
        start, digest = first_gap(there)
        end = 0
        with closing(self._data.passes(self._repeats, start, digest)) as passes:
            for rows in passes:
                for first, stop in not_among(there, rows.first, rows.end):
                    part = rows.cut(first - rows.first, stop - rows.first)
                    yield part, self._prepare(part)
                end = rows.end
        known = (self._manifest or {}).get("rows") or (there[-1].end if there else 0)
        if max(end, start) < known:
            raise other_rows(known)

    def _stored(self, features: Mapping[str, np.ndarray], rows: Rows) -> dict[str, np.ndarray]:
        """Returns the arrays of a batch as they are stored."""
        for name, array in features.items():
            if array.ndim == 0 or len(array) != rows.rows:
                raise SplitError(
                    f"'{name}' has shape {array.shape} for a batch of {rows.rows} rows, which is not one feature per "
                    "row. Give the head outputs with the samples along the first dimension."
                )
        stored = [as_stored(name, array, self._storage) for name, array in features.items()]
        return _by_name(stored, leaves_of(rows.others))

    def _check_room(self, rows: int, verbose: bool | None) -> None:
        """Checks that the cache fits on the disk, and reports its size.

        Args:
            rows: Number of rows that are already cached.
            verbose: Report the size; `None`: yes.
        """
        row_bytes = self._row_bytes()
        place = self._directory
        while not place.exists():
            place = place.parent
        free = shutil.disk_usage(place).free
        if self._manifest is None and self._directory.is_dir():
            free += bytes_in(self._directory)  # the cache there will be overwritten
        data, many = self._data, self._repeats
        need = (data.at_least * many - rows) * row_bytes
        at_most = data.rows or (data.batches or 0) * data.first.rows
        if at_most:
            about = "" if data.rows else "at most "
            total = f"{format_bytes(row_bytes)} = {format_bytes(at_most * many * row_bytes)}"
            size = f"{about}{at_most * many:,} rows × {total}"
        else:
            size = f"{format_bytes(row_bytes)} per row, for an unknown number of rows,"
        kept = f"; {rows:,} rows are already cached" if rows else ""
        if need > free:
            less = "" if self._storage != "float32" else "; storage='bfloat16' takes half"
            raise StoreError(
                f"The features of '{self._head.route.model}' do not fit into '{self._directory}': {size}{kept}, and "
                f"{format_bytes(free)} are free there. Make room, or name a directory on another disk{less}.",
                path=self._directory,
            )
        if verbose is not False:
            start = f"Caching '{self._head.route.model}' in '{self._directory}': {size} as {self._storage}; "
            sys.stderr.write(printable(f"{start}{format_bytes(free)} are free{kept}.\n"))

    def _row_bytes(self) -> int:
        """Returns the bytes that a row takes on the disk."""
        tensors = self._head.tensors
        if any(tensor.bytes is None for tensor in tensors):  # unknown dimensions: assume those of the first rows
            first = self._data.first
            made = self._head(self._head.stage.compiled, Batch(0, 0, first.rows, self._prepare(first)))
            tensors = tuple(replace(tensor, shape=made[tensor.name].shape) for tensor in tensors)
        types = [stored_type(np.dtype(tensor.dtype), self._storage) for tensor in tensors]
        sizes = [math.prod(side or 0 for side in tensor.shape[1:]) for tensor in tensors]
        stored = sum(size * dtype.itemsize for size, dtype in zip(sizes, types, strict=True))
        return stored + sum(leaf.nbytes // len(leaf) for leaf in leaves_of(self._data.first.others))


def _by_name(features: Sequence[Any], others: Sequence[Any]) -> dict[str, Any]:
    """Returns what there is for each array of a shard, by the array's name."""
    named = {f"features.{place}": one for place, one in enumerate(features)}
    return named | {f"others.{place}": one for place, one in enumerate(others)}


def read_features_manifest(directory: Path) -> dict[str, Any]:
    """Reads the manifest of a cache.

    Raises:
        StoreError: It cannot be read, is damaged or has another version.
    """
    path = directory / MANIFEST
    manifest = read_json(directory, MANIFEST, _FORMAT_VERSION, "cache of features", "`cache_features`", _REMEDY)
    if manifest.get("checksum") != checksum(manifest):
        raise StoreError(f"{path} is damaged or was changed: its checksum differs. {_REMEDY}", path=path)
    try:
        read_record(_Manifest, manifest)
    except ValueError as error:
        raise StoreError(f"{path} is not the manifest of a feature cache: {error}. {_REMEDY}", path=path) from error
    return {name: value for name, value in manifest.items() if name != "checksum"}
