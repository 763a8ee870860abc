"""Runs stages as processes on Ray.

In reading order:

- `cluster`: connects to a cluster or starts one, and reserves its resources.
- `actor`: the process of a stage.
- `pipeline`: batches on their way: sent, watched, sent again.
- `engine`: all of it together: `run`, `RayOptions`.
"""
