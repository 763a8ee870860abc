"""Shuffled batches of cached features for `fit`, read from the disk while the model computes."""

import random
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kerassplit.engines.prefetch import prefetch
from kerassplit.files.sizes import format_bytes
from kerassplit.files.values import as_count
from kerassplit.text import printable
from kerassplit.training.features.rows import map_arrays
from kerassplit.training.features.shards import Shard, ShardReader, rows_of

_PREFETCHED = 4  # batches read in advance


class FeatureDataset(keras.utils.PyDataset):
    """Cached features with their targets, as batches for `fit`, `evaluate` and custom loops.

    Created by `cache_features`. A batch is `(features, targets)`, `(features, targets, sample_weights)`, or only the
    features, like the data, with tuples instead of lists; several features without targets come as `((a, b),)`, since
    Keras would take two for `(x, y)`. Rows are read from the disk on demand, in a thread that stays a few batches
    ahead. Each epoch goes through all rows in a new order, which depends only on the seed, the number of the epoch and
    the number of rows: shuffling by `fit` itself has no effect. Iterating over the dataset counts as an epoch, too.

    Attributes:
        directory: Directory of the cache.
        rows: Number of rows, over all passes.
        row_bytes: Bytes per row on the disk.
        batch_size: Rows per batch; the last one may have fewer.
        shuffle: True if each epoch has its own order. If not, rows come in the order of the data.
        seed: Seed of the orders.

    Example:

    >>> tail.fit(features, epochs=5, validation_data=more_features)
    >>> scores = tail.predict(features.with_batches(64, shuffle=False))
    """

    def __init__(self, directory: Path, read: "BatchReader", batch_size: int, shuffle: bool, seed: int | None):
        super().__init__()
        self.directory = directory
        self.rows, self.row_bytes = read.rows, read.row_bytes
        self.batch_size = as_count(batch_size, "batch_size")
        self.shuffle = bool(shuffle)
        self.seed = checked_seed(seed)
        self._read = read
        self._epoch = 0
        self._lock = threading.Lock()
        self._running: Generator[Any] | None = None  # the batches of the current epoch of `fit`
        self._served = 0
        self._forgiven = False

    def with_batches(
        self, batch_size: int | None = None, *, shuffle: bool | None = None, seed: int | None = None
    ) -> "FeatureDataset":
        """Returns the same cache in other batches, starting at the first epoch.

        Args:
            batch_size: Rows per batch; `None`: as here.
            shuffle: Give each epoch its own order; `None`: as here.
            seed: Seed of the orders; `None`: as here.
        """
        return FeatureDataset(
            self.directory,
            self._read,
            self.batch_size if batch_size is None else batch_size,
            self.shuffle if shuffle is None else shuffle,
            self.seed if seed is None else seed,
        )

    def __len__(self) -> int:
        return -(-self.rows // self.batch_size)

    def __getitem__(self, index: int) -> Any:
        """Returns a batch of the epoch; during `fit`, the next batch, as `fit` shuffles the indices itself."""
        with self._lock:
            if self._running is not None:
                batch = next(self._running, None)
                if batch is not None:
                    self._served += 1
                    return batch
        if not -len(self) <= index < len(self):
            raise IndexError(f"There are {len(self)} batches, numbered 0 to {len(self) - 1}; got {index}.")
        return self._read(self._batches_of(self._epoch)[index % len(self)])

    def __iter__(self) -> Iterator[Any]:
        with self._lock:
            epoch, self._epoch = self._epoch, self._epoch + 1
        with closing(self._prefetched(epoch)) as batches:
            yield from batches

    def on_epoch_begin(self) -> None:
        """Starts an epoch; called by Keras before it goes through the batches."""
        with self._lock:
            self._stop()
            self._running, self._served = self._prefetched(self._epoch), 0

    def on_epoch_end(self) -> None:
        """Ends an epoch; called by Keras after it went through the batches, and before the first epoch.

        On JAX and torch, `fit` takes one batch to build metrics and starts over; this does not count as an epoch.
        """
        with self._lock:
            if self._running is None:
                return
            self._stop()
            if self._served:
                self._forgiven = self._served == 1 < len(self) and not self._forgiven
                self._epoch += not self._forgiven

    def __repr__(self) -> str:
        size = format_bytes(self.rows * self.row_bytes)
        return printable(
            f"<FeatureDataset: {self.rows} rows in {len(self)} batches of {self.batch_size}, {size} in "
            f"'{self.directory}'>"
        )

    def _stop(self) -> None:
        if self._running is not None:
            self._running.close()
            self._running = None

    def _prefetched(self, epoch: int) -> Generator[Any]:
        return prefetch(map(self._read, self._batches_of(epoch)), _PREFETCHED)

    def _batches_of(self, epoch: int) -> list[np.ndarray]:
        """Returns the row numbers of each batch of an epoch."""
        every = np.arange(self.rows)
        if self.shuffle:
            np.random.default_rng([self.seed, epoch]).shuffle(every)
        return np.split(every, range(self.batch_size, self.rows, self.batch_size))


class BatchReader:
    """Reads batches of a cache in their structure.

    Args:
        shards: The shards in order, without gaps.
        dtypes: Dtype in which each array is returned, by its name.
        parts: `(features, ...)`, with names of arrays as leaves.

    Attributes:
        rows: Number of rows.
        row_bytes: Bytes per row on the disk.
    """

    def __init__(self, shards: Sequence[Shard], dtypes: dict[str, str], parts: Any):
        self._reader, self._dtypes, self._parts = ShardReader(shards), dtypes, parts
        self.rows = rows_of(shards)
        self.row_bytes = sum(shard.path.stat().st_size for shard in shards) // self.rows

    def __call__(self, rows: np.ndarray) -> Any:
        batch = map_arrays(lambda name: self._reader.read(name, rows, self._dtypes[name]), self._parts)
        batch = keras.tree.lists_to_tuples(batch)  # tf.data would take a list for one tensor
        several = isinstance(batch[0], tuple) and len(batch[0]) > 1  # Keras would take them for (x, y)
        return batch if len(batch) > 1 or several else batch[0]


def checked_seed(seed: Any) -> int:
    """Returns a checked seed; for `None`, a random one, which `keras.utils.set_random_seed` determines."""
    return random.randrange(2**31) if seed is None else as_count(seed, "seed", least=0)
