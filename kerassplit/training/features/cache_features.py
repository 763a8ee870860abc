"""A frozen head run once over data, its features kept on the disk: `cache_features`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import keras

from kerassplit.cutting.stages import Stage
from kerassplit.errors import SplitError
from kerassplit.files.values import as_count
from kerassplit.text import listed
from kerassplit.training.features.cache import FeatureCache
from kerassplit.training.features.dataset import FeatureDataset, checked_seed
from kerassplit.training.features.dtypes import STORAGE
from kerassplit.training.features.head import as_feature_head
from kerassplit.training.features.preprocess import Preparation, Preprocess
from kerassplit.training.features.rows import data_of


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

    The head runs in inference mode: dropout is off, batch normalization uses and keeps its statistics. What the tail
    costs is then all that an epoch costs.

    Called again with the same head, data and options, it computes nothing and gives the cache that is there; after a
    kill, a full disk or an error it goes on where it was. A shard of at most 32 MiB or 2,048 rows (or one batch) is
    lost at most. What the cache is of is written down: the head's layers and weights, the shapes, types and content of
    the data, the preprocessing, the storage, the repeats. Where something differs, the cache is refused. Arrays are
    compared as a whole; a dataset by the shapes and types of its first batch, its number of batches and the values of
    its first batch, and where a cache is gone on with, by all rows that were cached.

    Each shard has a checksum (CRC-32 of its values, types, shapes and place), which is checked when something of it is
    read for the first time. A damaged shard is an error that names the file; delete that file and call again, and only
    what is missing is computed. Caches of kerassplit 0.1.0 without checksums are read with a warning.

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
        `FeatureDataset`: batches of features with targets, for `fit` on any backend.

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
    computing = as_feature_head(head)
    batch_size, seed, repeats = as_count(batch_size, "batch_size"), checked_seed(seed), as_count(repeats, "repeats")
    if storage not in STORAGE:
        raise SplitError(f"`storage` must be {listed(STORAGE, 'or')}; got {storage!r}.")
    prepare = Preparation(computing.route, preprocess)
    rows = data_of(data, batch_size)
    if repeats > 1 and rows.rows is not None and not callable(preprocess):
        raise SplitError(
            "`repeats` stores several augmented passes, and arrays are the same in each pass. Pass a function that "
            "augments them as `preprocess`, or leave `repeats` out."
        )
    cache = FeatureCache(computing, rows, Path(directory), storage, prepare, repeats)
    shards = cache.finished(overwrite)
    if shards is None:
        shards = cache.make(verbose)
    return FeatureDataset(Path(directory), cache.reader(shards), batch_size, shuffle, seed)
