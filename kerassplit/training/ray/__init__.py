"""Trains each stage in a process of its own, on Ray.

In reading order:

- `actor`: the process of a stage.
- `training`: micro-batches on their way through them: `RayTraining`.
"""

from kerassplit.training.ray.training import RayTraining

__all__ = ["RayTraining"]
