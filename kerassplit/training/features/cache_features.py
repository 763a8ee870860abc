"""Runs a frozen head once over data and stores its features on disk: `cache_features`."""

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
    """Runs a frozen head once over data and stores its features on disk, to train the tail on.

    The head runs in inference mode: dropout is off, and batch normalization uses its statistics without updating them.
    Each epoch then costs only as much as the tail.

    Called again with the same head, data and options, it computes nothing and returns the existing cache; after a
    kill, a full disk or an error it resumes where it stopped. At most one shard of up to 32 MiB or 2,048 rows (or one
    batch) is lost. The identity of the cache is recorded: the head's layers and weights, the shapes, dtypes and content
    of the data, the preprocessing, the storage and the repeats. If anything differs, the cache is refused. Arrays are
    compared as a whole; a dataset by the shapes and dtypes of its first batch, its number of batches and the values of
    its first batch, and when a cache is resumed, by all rows cached so far.

    Each shard has a checksum (CRC-32 of its values, dtypes, shapes and place), which is checked when the shard is read
    for the first time. A damaged shard raises an error that names the file; delete that file and call again, and only
    the missing features are computed. Caches of kerassplit 0.1.0 without checksums are read with a warning.

    Caching defeats random augmentation: each image is stored as it happened to look the first time, and every epoch
    sees it like that. `repeats=k` goes over the data k times and stores k augmented passes, which together are one
    epoch; more than a handful is seldom worth the disk space. The content of a dataset is then not compared.

    Args:
        head: Model or `Stage` whose outputs are the features, such as `build_submodel(model, end="...")`. It must be a
            graph; `ks.trace` turns other models into one.
        data: `x`, `(x, y)` or `(x, y, sample_weight)`, each an array or a list or dict of arrays, the samples along the
            first dimension; or an iterable of such batches: a `tf.data.Dataset`, a `keras.utils.PyDataset`, a
            generator. Not shuffled. Targets may have any structure.
        directory: Directory of the cache: safetensors files and `features.json`.
        batch_size: Rows per batch, both for computing the features (if the data is arrays) and in the returned dataset.
        storage: `"float32"`, `"float16"` (half the space, 3 digits, up to 65,504) or `"bfloat16"` (half the space, 2
            digits, same range as float32). Integers, and features whose dtype takes no more space, are stored as they
            are. Features are returned in the head's own dtype.
        preprocess: Preprocessing of the inputs: a function from a batch of them (arrays, in their structure) to the
            inputs of the head; or an architecture such as `"ResNet50"`, whose `preprocess_input` is applied.
        repeats: Number of passes over the data; see above.
        shuffle: Give each epoch its own order.
        seed: Seed of the orders; `None`: a random one, which `keras.utils.set_random_seed` determines.
        overwrite: Replace a cache of something else. A cache that fits is used in any case.
        verbose: Show progress on standard error; by default on a terminal, once it takes 2 seconds. The expected size
            of the cache is printed there at the start, unless this is `False`.

    Returns:
        `FeatureDataset`: batches of features with targets, for `fit` on any backend.

    Raises:
        SplitError: The data does not fit the head, or an option is invalid.
        StoreError: The cache is of something else or damaged; the disk has too little room or became full; the folder
            holds other files, or another process is writing into it.
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
            "`repeats` stores several augmented passes, but arrays are the same in each pass. Pass a function that "
            "augments them as `preprocess`, or leave `repeats` out."
        )
    cache = FeatureCache(computing, rows, Path(directory), storage, prepare, repeats)
    shards = cache.finished(overwrite)
    if shards is None:
        shards = cache.make(verbose)
    return FeatureDataset(Path(directory), cache.reader(shards), batch_size, shuffle, seed)
