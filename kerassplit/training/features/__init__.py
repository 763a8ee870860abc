"""Caches the features of a frozen head on disk.

In reading order:

- `dtypes`: types that features are stored as.
- `rows`: rows and their targets, from arrays and iterables.
- `preprocess`: these rows as a head takes them.
- `head`: the part of a model that computes the features.
- `identity`: identity of a cache, and how two differ.
- `shards`: the files of a cache.
- `dataset`: what `fit` reads: shuffled batches.
- `cache`: a cache made, checked and continued.
- `cache_features`: all of it together: `cache_features`.
"""
