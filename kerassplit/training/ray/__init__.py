"""Trains each stage in a process of its own, on Ray.

In reading order:

- `actor`: the process of a stage.
- `training`: sends micro-batches through these processes: `RayTraining`.
"""

from kerassplit.training.ray.training import RayTraining

__all__ = ["RayTraining"]
