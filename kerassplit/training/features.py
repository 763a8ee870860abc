"""A frozen head run once over data, its features kept on the disk: `cache_features`."""

import json
import os
import shutil
import sys
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from numbers import Integral
from pathlib import Path
from typing import Any

import keras
import ml_dtypes
import numpy as np

from kerassplit.compiling import Run
from kerassplit.engines.ahead import ahead
from kerassplit.engines.local import through
from kerassplit.engines.progress import progress
from kerassplit.engines.route import Batch, Route, route_of
from kerassplit.engines.sources import as_array, check_shapes
from kerassplit.errors import SplitError, StoreError
from kerassplit.files import write_whole
from kerassplit.graph import all_layers, read_graph
from kerassplit.manifest import checksum
from kerassplit.names import listed
from kerassplit.plain_json import read_json
from kerassplit.scratch import alone_in, check_place
from kerassplit.stages import CrossingTensor, Split, Stage, crossing_tensor, named_tensors
from kerassplit.training.feature_data import Data, Rows, data_of
from kerassplit.training.feature_dataset import BatchReader, FeatureDataset, checked_batch_size
from kerassplit.training.fingerprint import differing, first_rows, identity_of
from kerassplit.training.shards import Shard, ShardReader, ShardWriter, bytes_in, remove_shards, shards_in
from kerassplit.training.structures import leaves_of, taken_apart
from kerassplit.units import format_bytes
from kerassplit.zoo import architecture_module, find_architecture

MANIFEST = "features.json"
_FORMAT_VERSION = 1
_LARGEST_MANIFEST = 16 * 2**20
_STORAGE = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
_READ_AHEAD = 2  # batches of data that are read and preprocessed beforehand
_REMEDY = "Delete the folder, and cache the features again."

Preprocess = str | Callable[[Any], Any] | None


def cache_features(
    head: keras.Model | Stage,
    data: Any,
    directory: str | os.PathLike[str],
    *,
    batch_size: int = 32,
    storage: str = "float32",
    preprocess: Preprocess = None,
    repeats: int = 1,
    shuffle: bool = True,
    seed: int | None = None,
    overwrite: bool = False,
    verbose: bool | None = None,
) -> FeatureDataset:
    """Runs a frozen head once over data and keeps what it gives on the disk, for training the tail on.

    The head runs in inference mode: dropout is off, batch normalisation uses and keeps its statistics. What the tail
    costs is then all that an epoch costs.

    Called again with the same head, data and options, it computes nothing and gives the cache that is there; after a
    kill, a full disk or an error it goes on where it was. A shard of at most 32 MiB or 2,048 rows (or one batch) is
    lost at most. What the cache is of is written down: the head's layers and weights, the shapes, types and content of
    the data, the preprocessing, the storage, the repeats. Where something differs, the cache is refused. Arrays are
    compared as a whole; a dataset by the shapes and types of its first batch, its number of batches and the values of
    its first batch, and where a cache is gone on with, by all rows that were cached.

    Caching makes random augmentation wrong: each image is stored as it happened to look the first time, and every epoch
    shows it so. `repeats=k` goes over the data k times and stores k augmented passes, which together are one epoch;
    more than a handful is seldom worth its disk space. The content of a dataset is not compared then.

    Args:
        head: The model or `Stage` whose outputs are the features, such as `build_submodel(model, end="...")`. It has to
            be a graph; `ks.trace` makes one of other models.
        data: `x`, `(x, y)` or `(x, y, sample_weight)`, each an array or a list or dict of arrays, the samples along the
            first dimension; or anything that gives such batches: a `tf.data.Dataset`, a `keras.utils.PyDataset`, a
            generator. Not shuffled. Targets may have any structure.
        directory: Where the cache is or goes: safetensors files and `features.json`.
        batch_size: Rows in a batch: of those that the head computes (if the data is arrays) and of those that
            come back.
        storage: `"float32"`, `"float16"` (half the space, 3 digits, up to 65,504) or `"bfloat16"` (half the space, 2
            digits, as large as float32). Features of a type that takes no more space are stored as they are, integers
            too. They come back in the type that the head gives.
        preprocess: What to do with the inputs first: a function from a batch of them (arrays, in their structure) to
            what the head takes; or an architecture such as `"ResNet50"`, whose `preprocess_input` is applied.
        repeats: How often to go over the data; see above.
        shuffle: Whether each epoch has an order of its own.
        seed: What the orders are drawn from; `None`: a random one, which `keras.utils.set_random_seed` determines.
        overwrite: Whether a cache of something else may be replaced. One that fits is used in any case.
        verbose: Whether to show progress on standard error; by default on a terminal, once it takes 2 seconds. What the
            cache will take on the disk is said there before it begins, unless this is `False`.

    Returns:
        A `FeatureDataset`: batches of features with targets, for `fit` on any backend.

    Raises:
        SplitError: The data does not fit the head, or an option makes no sense.
        StoreError: The cache is of something else or damaged; the disk has too little room for it or became full; the
            folder holds other files, or another process writes into it.
        RunError: The head fails on a batch.

    Example:

    >>> head = ks.build_submodel(resnet, end="conv4_block6_out")
    >>> tail = ks.build_submodel(resnet, start="conv4_block6_out")
    >>> features = ks.cache_features(head, (images, labels), "cache", preprocess="ResNet50", storage="bfloat16")
    Caching 'resnet50_to_conv4_block6_out' in 'cache': 5,000 rows × 392.0 KiB = 1.9 GiB as bfloat16; 63.1 GiB are free.
    >>> tail.compile("adam", "sparse_categorical_crossentropy")
    >>> tail.fit(features, epochs=10)
    """
    return cached(
        as_feature_head(head),
        data,
        Path(directory),
        batch_size=batch_size,
        storage=storage,
        preprocess=preprocess,
        repeats=repeats,
        shuffle=shuffle,
        seed=seed,
        overwrite=overwrite,
        verbose=verbose,
    )


@dataclass(frozen=True, eq=False)
class FeatureHead:
    """What computes features.

    Attributes:
        stage: It runs.
        route: What it takes and gives.
        features: The structure of the features, with names of tensors that the stage makes or the model takes.
        tensors: They described, each once.
    """

    stage: Stage
    route: Route
    features: Any
    tensors: tuple[CrossingTensor, ...]

    def __call__(self, compute: Run, batch: Batch) -> dict[str, np.ndarray]:
        """The features of a batch, by name."""
        made = through(self.stage, compute, batch, self.route, 0).tensors
        missing = [tensor.name for tensor in self.tensors if made[tensor.name] is None]
        if missing:
            raise SplitError(f"The input {listed(missing)} was left out, and the features need it.")
        return {tensor.name: _as_numpy(made[tensor.name], tensor.dtype) for tensor in self.tensors}


def as_feature_head(head: Any) -> FeatureHead:
    """A model or stage as what computes features.

    Raises:
        SplitError: It is neither, or keeps a state from batch to batch.
        UnsupportedModelError: It is no graph.
    """
    model = head.model if isinstance(head, Stage) else head
    if not isinstance(model, keras.Model):
        raise SplitError(f"`head` must be a keras.Model or a Stage; got {type(head).__name__}.")
    graph = read_graph(model)
    inputs, outputs = (
        keras.tree.map_structure(lambda tensor: graph.tensors[tensor].name, some)
        for some in (graph.inputs, graph.outputs)
    )
    names = [graph.names(tensors) for tensors in (graph.flat_inputs(), graph.flat_outputs())]
    stage = Stage(model.name, model, tuple(names[0]), tuple(names[1]))
    tensors = {name: crossing_tensor(name, symbol) for name, symbol in zip(names[1], model.outputs, strict=True)}
    refuse_states(model)
    return FeatureHead(stage, route_of(Split((stage,), inputs, outputs, model.name)), outputs, tuple(tensors.values()))


def refuse_states(head: keras.Model) -> None:
    """Sees that what a head gives for a row depends on that row.

    Raises:
        SplitError: It keeps a state from batch to batch.
    """
    for layer in all_layers(head):
        if getattr(layer, "stateful", False):
            raise SplitError(
                f"Layer '{layer.name}' of '{head.name}' keeps a state from batch to batch, so its features depend on "
                "the batches before. Build it with stateful=False to cache them."
            )


def cached(
    head: FeatureHead,
    data: Any,
    directory: Path,
    *,
    batch_size: int,
    storage: str,
    preprocess: Preprocess,
    repeats: int,
    shuffle: bool,
    seed: int | None,
    overwrite: bool,
    verbose: bool | None,
    needs_targets: bool = False,
) -> FeatureDataset:
    """The features of a head as a dataset; see `cache_features`."""
    batch_size = checked_batch_size(batch_size)
    if storage not in _STORAGE:
        raise SplitError(f"`storage` must be {listed(_STORAGE, 'or')}; got {storage!r}.")
    if not isinstance(repeats, Integral) or isinstance(repeats, bool) or repeats < 1:
        raise SplitError(f"`repeats` must be a whole number, at least 1; got {repeats!r}.")
    prepare = _Preparation(head.route, preprocess)
    rows = data_of(data, batch_size)
    if needs_targets and not rows.first.others:
        raise SplitError("The data has inputs only. Training needs targets: pass `(x, y)`, or batches of these.")
    if repeats > 1 and rows.rows is not None and not callable(preprocess):
        raise SplitError(
            "`repeats` stores several augmented passes, and arrays are the same in each pass. Pass a function that "
            "augments them as `preprocess`, or leave `repeats` out."
        )
    job = _Job(head, rows, directory, storage, prepare, int(repeats))
    shards = job.finished(overwrite)
    if shards is None:
        shards = job.run(overwrite, verbose)
    return FeatureDataset(directory, job.reader(shards), batch_size, shuffle, seed)


class _Preparation:
    """From inputs as they come to what a head takes.

    Args:
        route: What it takes.
        preprocess: See `cache_features`.
    """

    def __init__(self, route: Route, preprocess: Preprocess):
        self._route, self._function = route, None
        self.name = "none"
        if callable(preprocess):
            self._function = preprocess
            named = preprocess if hasattr(preprocess, "__qualname__") else type(preprocess)
            self.name = f"{named.__module__}.{named.__qualname__}"
        elif preprocess is not None and preprocess != "none":
            architecture = find_architecture(preprocess) if isinstance(preprocess, str) else None
            if architecture is None:
                raise SplitError(
                    f"`preprocess` must be a function or an architecture of keras.applications, such as 'ResNet50'; "
                    f"got {preprocess!r}."
                )
            if len(route.takes) != 1:
                raise SplitError(
                    f"'{route.model}' takes {listed(tensor.name for tensor in route.takes)}: pass a function as "
                    "`preprocess` that says what to do with each."
                )
            self._function = architecture_module(architecture).preprocess_input
            self.name = architecture

    def __call__(self, rows: Rows) -> dict[str, np.ndarray | None]:
        """The inputs by tensor name."""
        inputs = rows.inputs
        if self._function is not None:
            # Those of keras.applications write into what they get, if it is float32.
            copied = keras.tree.map_structure(lambda one: one if one is None else np.array(one), inputs)
            inputs = self._function(copied)
        given = named_tensors(inputs, self._route.inputs, self._route.model)
        arrays = {name: as_array(value) for name, value in given.items()}
        check_shapes(arrays, self._route)
        for name, array in arrays.items():
            if array is not None and len(array) != rows.rows:
                raise SplitError(
                    f"`preprocess` gave {len(array)} rows of '{name}' for {rows.rows}: it must keep each row."
                )
        return arrays


class _Job:
    """A cache that is there, or is to be made."""

    def __init__(
        self, head: FeatureHead, data: Data, directory: Path, storage: str, prepare: _Preparation, repeats: int
    ):
        self._head, self._data, self._directory = head, data, directory
        self._storage, self._prepare, self._repeats = storage, prepare, repeats
        self._of = identity_of(head.stage.model, head.route, data, prepare.name, storage, repeats)
        self._warn_of_lost_digits()

    def finished(self, overwrite: bool) -> list[Shard] | None:
        """The shards of the cache, if it is there and whole.

        Raises:
            StoreError: It is of something else, and must not be overwritten; it is damaged; or there are other files.
        """
        self._manifest = self._found(overwrite)
        if self._manifest is None or self._manifest["rows"] is None:
            return None
        shards = shards_in(self._directory, self._manifest["job"])
        if sum(shard.rows for shard in shards) != self._manifest["rows"]:
            raise StoreError(
                f"The cache in '{self._directory}' is damaged: shard {len(shards)} is missing or no longer whole. "
                f"{_REMEDY}",
                path=self._directory,
            )
        return shards

    def run(self, overwrite: bool, verbose: bool | None) -> list[Shard]:
        """Computes the features that are not there yet."""
        there = [] if self._manifest is None else shards_in(self._directory, self._manifest["job"])
        made = not self._directory.exists()
        rows = there[-1].first + there[-1].rows if there else 0
        self._check_room(rows, verbose)
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            with alone_in(self._directory):
                if self._found(overwrite) != self._manifest:
                    raise StoreError(
                        f"Another process has written into '{self._directory}' meanwhile. Call again.",
                        path=self._directory,
                    )
                self._compute(there, verbose)
            return shards_in(self._directory, self._job)
        except StoreError as error:
            error.path = error.path or str(self._directory)
            raise
        except OSError as error:
            raise StoreError(
                f"Cannot write into '{self._directory}': {error.strerror or error}.", path=self._directory
            ) from error
        finally:
            if made:
                with suppress(OSError):  # unless something is in it
                    self._directory.rmdir()

    def reader(self, shards: list[Shard]) -> BatchReader:
        """Reads the rows of the cache."""
        types = {tensor.name: tensor.dtype for tensor in self._head.tensors}
        read_as = [(f"features.{name}", types[name]) for name in self._feature_names()]
        others = [f"others.{place}" for place in range(len(self._other_leaves()))]
        read_as += [(name, shards[0].arrays[name][0:1].dtype.name) for name in others]
        rows = shards[-1].first + shards[-1].rows
        row_bytes = sum(shard.path.stat().st_size for shard in shards) // rows
        return BatchReader(ShardReader(shards), read_as, self._outline(), rows, row_bytes)

    def _found(self, overwrite: bool) -> dict[str, Any] | None:
        """The manifest of a cache that is there and fits; `None` where there is none, or one to overwrite."""
        if not check_place(self._directory, True, MANIFEST, "a cache of features", _read_manifest):
            return None
        manifest = _read_manifest(self._directory)
        rows = self._data.leading(manifest["of"]["first"]["rows"])
        self._of["first"] = first_rows(rows, self._prepare(rows))
        differences = differing(manifest["of"], self._of)
        if not differences:
            return manifest
        if overwrite:
            return None
        raise StoreError(
            f"'{self._directory}' holds features of something else: {'; '.join(differences)}. Pass overwrite=True to "
            "replace them, or name another directory.",
            path=self._directory,
        )

    def _compute(self, there: list[Shard], verbose: bool | None) -> None:
        self._job = self._manifest["job"] if self._manifest else uuid.uuid4().hex
        remove_shards(self._directory, self._job) if self._manifest else None
        writer = ShardWriter(self._directory, self._job, there)
        total = None if self._data.rows is None else self._data.rows * self._repeats
        end = writer.rows
        what = f"Caching {self._head.route.model}"
        compute = self._head.stage.compiled
        with closing(ahead(self._prepared(there), _READ_AHEAD)) as batches, progress(what, total, verbose) as show:
            try:
                for number, (rows, inputs) in enumerate(batches):
                    features = self._head(compute, Batch(number, rows.first, rows.rows, inputs))
                    if writer.add(self._stored(features, rows), rows.digest):
                        self._begin()
                        writer.write()
                    end = rows.end
                    show(end, end - (there[-1].first + there[-1].rows if there else 0))
            except SplitError as error:
                if writer.rows and not isinstance(error, StoreError):
                    error.args = (f"{error} {writer.rows} rows are kept: call again to go on.", *error.args[1:])
                raise
        self._begin()
        writer.write()
        self._write_manifest(rows=writer.rows)

    def _begin(self) -> None:
        """Before the first shard of a new cache: from now on the old one, if any, does not count."""
        if self._manifest is None:
            if "first" not in self._of:
                self._of["first"] = first_rows(self._data.first, self._prepare(self._data.first))
            self._manifest = self._write_manifest(rows=None)
            remove_shards(self._directory)

    def _write_manifest(self, rows: int | None) -> dict[str, Any]:
        manifest = {"format_version": _FORMAT_VERSION, "job": self._job, "of": self._of, "rows": rows}
        manifest = json.loads(json.dumps(manifest))
        text = json.dumps({**manifest, "checksum": checksum(manifest)}, indent=1) + "\n"
        try:
            write_whole(self._directory / MANIFEST, text.encode(), flush=True)
        except SplitError as error:
            raise StoreError(f"{error} Make room, and call again to go on.", path=self._directory / MANIFEST) from error
        return manifest

    def _prepared(self, there: list[Shard]) -> Iterator[tuple[Rows, dict[str, np.ndarray | None]]]:
        row, digest = (there[-1].first + there[-1].rows, there[-1].digest) if there else (0, None)
        with closing(self._data.passes(self._repeats, row, digest)) as passes:
            for rows in passes:
                yield rows, self._prepare(rows)

    def _stored(self, features: Mapping[str, np.ndarray], rows: Rows) -> dict[str, np.ndarray]:
        """The arrays of a batch as they are stored."""
        stored = {}
        for name, array in features.items():
            if array.ndim == 0 or len(array) != rows.rows:
                raise SplitError(
                    f"'{name}' has shape {array.shape} for a batch of {rows.rows} rows: it is not one feature for each "
                    "row. Give the head outputs with the samples along the first dimension."
                )
            kept = array.astype(self._stored_type(array.dtype))
            if kept.dtype == np.float16 and array.dtype != kept.dtype:
                largest = np.max(np.abs(array), initial=0, where=np.isfinite(array))
                if not np.all(np.isfinite(kept) | ~np.isfinite(array)):
                    raise SplitError(
                        f"'{name}' reaches {largest:.4g}, and float16 ends at 65504. Store it with "
                        "storage='bfloat16', or 'float32'."
                    )
            stored[f"features.{name}"] = np.ascontiguousarray(kept)
        leaves = leaves_of(rows.others)
        return stored | {f"others.{place}": np.ascontiguousarray(leaf) for place, leaf in enumerate(leaves)}

    def _stored_type(self, dtype: Any) -> Any:
        """The type that features of a type are stored as: never a larger one."""
        storage = np.dtype(_STORAGE[self._storage])
        dtype = np.dtype(dtype)
        is_floating = dtype.kind == "f" or dtype == ml_dtypes.bfloat16
        return storage if is_floating and storage.itemsize < dtype.itemsize else dtype

    def _warn_of_lost_digits(self) -> None:
        wide = [tensor.name for tensor in self._head.tensors if tensor.dtype == "float64"]
        if wide:
            warnings.warn(f"{listed(wide)} is of type float64, and is stored as {self._storage}.", stacklevel=5)

    def _feature_names(self) -> list[str]:
        return leaves_of(self._head.features)

    def _other_leaves(self) -> list[Any]:
        return leaves_of(self._data.first.others)

    def _outline(self) -> Any:
        """The structure of a batch, as plain values."""
        return taken_apart((self._head.features, *self._data.first.others), [])

    def _check_room(self, rows: int, verbose: bool | None) -> None:
        """Says what the cache takes on the disk, and refuses one that has no room.

        Args:
            rows: That are there already.
            verbose: Whether to say it; `None`: yes.
        """
        row_bytes = self._row_bytes()
        place = self._directory
        while not place.exists():
            place = place.parent
        free = shutil.disk_usage(place).free
        if self._manifest is None and self._directory.is_dir():
            free += bytes_in(self._directory)  # of a cache that is overwritten
        data, many = self._data, self._repeats
        need = (data.at_least * many - rows) * row_bytes
        if data.rows is not None or data.batches is None:
            size = f"{data.rows * many:,} rows" if data.rows is not None else "rows"
        else:
            size = f"at most {data.batches * data.first.rows * many:,} rows"
        total = data.rows or (data.batches or 0) * data.first.rows
        size += f" × {format_bytes(row_bytes)}"
        size += f" = {format_bytes(total * many * row_bytes)}" if total else ", as many as there are,"
        kept = f"; {rows:,} rows are there already" if rows else ""
        if need > free:
            less = "" if self._storage != "float32" else "; storage='bfloat16' takes half"
            raise StoreError(
                f"The features of '{self._head.route.model}' do not fit into '{self._directory}': {size}{kept}, and "
                f"{format_bytes(free)} are free there. Make room, or name a directory on another disk{less}.",
                path=self._directory,
            )
        if verbose is not False:
            sys.stderr.write(
                f"Caching '{self._head.route.model}' in '{self._directory}': {size} as {self._storage}; "
                f"{format_bytes(free)} are free{kept}.\n"
            )

    def _row_bytes(self) -> int:
        """Bytes that a row takes on the disk."""
        tensors = self._head.tensors
        if any(tensor.bytes is None for tensor in tensors):  # open shapes: as large as the first rows are
            first = self._data.first
            made = self._head(self._head.stage.compiled, Batch(0, 0, first.rows, self._prepare(first)))
            tensors = tuple(replace(tensor, shape=made[tensor.name].shape) for tensor in tensors)
        stored = sum(
            self._stored_type(_numpy_type(tensor.dtype)).itemsize * int(np.prod(tensor.shape[1:], dtype=np.int64))
            for tensor in tensors
        )
        return stored + sum(leaf.nbytes // len(leaf) for leaf in self._other_leaves())


def _read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of a cache.

    Raises:
        StoreError: It cannot be read, is damaged or of another version.
    """
    path = directory / MANIFEST
    manifest = read_json(directory, MANIFEST, _LARGEST_MANIFEST, "cache of features", "cache_features", _REMEDY)
    if not isinstance(manifest, dict) or manifest.get("checksum") != checksum(manifest):
        raise StoreError(f"{path} is damaged or was changed: its checksum differs. {_REMEDY}", path=path)
    if manifest.get("format_version") != _FORMAT_VERSION:
        raise StoreError(
            f"{path} has format version {manifest.get('format_version')!r}, and this kerassplit reads version "
            f"{_FORMAT_VERSION}. Install a newer one, or cache the features again in another directory.",
            path=path,
        )
    return {name: value for name, value in manifest.items() if name != "checksum"}


def _numpy_type(dtype: str) -> np.dtype:
    return np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)


def _as_numpy(value: Any, dtype: str) -> np.ndarray:
    array = np.asarray(keras.ops.convert_to_numpy(value) if keras.ops.is_tensor(value) else value)
    return array.astype(_numpy_type(dtype), copy=False)
