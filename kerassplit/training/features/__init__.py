"""Caches the features of a frozen head on disk.

In reading order:

- `dtypes`: dtypes in which features are stored.
- `rows`: rows and their targets, from arrays and iterables.
- `preprocess`: turns these rows into the inputs of a head.
- `head`: the part of a model that computes the features.
- `identity`: identity of a cache, and how two identities differ.
- `shards`: the files of a cache.
- `dataset`: shuffled batches for `fit`.
- `cache`: creates, checks and resumes a cache.
- `cache_features`: everything together: `cache_features`.
"""
