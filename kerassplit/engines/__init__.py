"""Runs stages: in this process, on Ray, behind HTTP.

In reading order:

- `route`: which stage takes and gives which tensors, and batches on their way.
- `prefetch`: makes items in a thread.
- `inputs`: rows from arrays, files and iterables, in batches.
- `whole_batches`: models built for batches of one size.
- `local`: stages in this process.
- `output_paths`: where results go, and the record of their run.
- `outputs`: results in memory or in files that grow.
- `running`: input to output: `Split.predict`, `kerassplit run`.
- `early_exit`: batches that stop at the exit that is sure: `Split.predict_early`.
- `ray/`: stages on Ray.
- `serve/`: a saved split behind HTTP.
"""
