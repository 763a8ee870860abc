"""Runs stages as processes on Ray.

In reading order:

- `cluster`: connects to a cluster or starts one, and reserves its resources.
- `actor`: the process of a stage.
- `pipeline`: sends batches through the stages, watches them, and sends them again after failures.
- `engine`: everything together: `run`, `RayOptions`.
"""
