"""Runs stages: in this process, on Ray, or over HTTP.

In reading order:

- `route`: how tensors flow between stages, and the batches that carry them.
- `prefetch`: computes items in advance, in a thread.
- `inputs`: rows from arrays, files and iterables, in batches.
- `whole_batches`: models built for a fixed batch size.
- `local`: runs stages in this process.
- `output_paths`: where results go, and the record of their run.
- `outputs`: results in memory or in growing files.
- `running`: input to output: `Split.predict`, `kerassplit run`.
- `early_exit`: stops at the first confident exit: `Split.predict_early`.
- `ray/`: runs stages on Ray.
- `serve/`: serves a saved split over HTTP.
"""
