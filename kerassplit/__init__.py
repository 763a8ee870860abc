"""kerassplit: cut Keras models into runnable sub-models that compute the same numbers."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from kerassplit._version import __version__ as __version__

if TYPE_CHECKING:
    from kerassplit.api import Split, load, split
    from kerassplit.costs.profile import Profile
    from kerassplit.costs.profiling import profile
    from kerassplit.cutting.crossing import Crossing, CrossingTensor
    from kerassplit.cutting.crossings import crossings
    from kerassplit.cutting.exits import with_outputs
    from kerassplit.cutting.explaining import Explanation, explain
    from kerassplit.cutting.joining import join
    from kerassplit.cutting.pieces import blocks, tap, to_sequential
    from kerassplit.cutting.points import SplitPoint, split_points
    from kerassplit.cutting.receipt import Receipt
    from kerassplit.cutting.stages import Stage
    from kerassplit.cutting.submodel import build_submodel, flatten
    from kerassplit.cutting.verifying import verify
    from kerassplit.engines.early_exit import EarlyExits
    from kerassplit.errors import (
        AmbiguousTensorError,
        InsideBranchError,
        NotConnectedError,
        PlanError,
        RunError,
        SplitError,
        StoreError,
        UnknownTensorError,
        UnsupportedModelError,
        VerificationError,
    )
    from kerassplit.graph.tracing.trace import trace
    from kerassplit.pictures import plot
    from kerassplit.planning.devices import Device, Link
    from kerassplit.planning.plan import Plan
    from kerassplit.planning.planner import plan
    from kerassplit.planning.sweep import Sweep
    from kerassplit.planning.sweeper import plan_sweep
    from kerassplit.training.features.cache_features import cache_features
    from kerassplit.training.features.dataset import FeatureDataset
    from kerassplit.training.fine_tuning import fine_tune
    from kerassplit.training.steps.optimizers import stage_optimizers
    from kerassplit.training.steps.train_step import train_step

_NAMES = {
    "api": "Split load split",
    "costs.profile": "Profile",
    "costs.profiling": "profile",
    "cutting.crossing": "Crossing CrossingTensor",
    "cutting.crossings": "crossings",
    "cutting.exits": "with_outputs",
    "cutting.explaining": "Explanation explain",
    "cutting.joining": "join",
    "cutting.pieces": "blocks tap to_sequential",
    "cutting.points": "SplitPoint split_points",
    "cutting.receipt": "Receipt",
    "cutting.stages": "Stage",
    "cutting.submodel": "build_submodel flatten",
    "cutting.verifying": "verify",
    "engines.early_exit": "EarlyExits",
    "errors": "AmbiguousTensorError InsideBranchError NotConnectedError PlanError RunError "
    "SplitError StoreError UnknownTensorError UnsupportedModelError VerificationError",
    "graph.tracing.trace": "trace",
    "pictures": "plot",
    "planning.devices": "Device Link",
    "planning.plan": "Plan",
    "planning.planner": "plan",
    "planning.sweep": "Sweep",
    "planning.sweeper": "plan_sweep",
    "training.features.cache_features": "cache_features",
    "training.features.dataset": "FeatureDataset",
    "training.fine_tuning": "fine_tune",
    "training.steps.optimizers": "stage_optimizers",
    "training.steps.train_step": "train_step",
}
_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = [
    "AmbiguousTensorError",
    "Crossing",
    "CrossingTensor",
    "Device",
    "EarlyExits",
    "Explanation",
    "FeatureDataset",
    "InsideBranchError",
    "Link",
    "NotConnectedError",
    "Plan",
    "PlanError",
    "Profile",
    "Receipt",
    "RunError",
    "Split",
    "SplitError",
    "SplitPoint",
    "Stage",
    "StoreError",
    "Sweep",
    "UnknownTensorError",
    "UnsupportedModelError",
    "VerificationError",
    "blocks",
    "build_submodel",
    "cache_features",
    "crossings",
    "explain",
    "fine_tune",
    "flatten",
    "join",
    "load",
    "plan",
    "plan_sweep",
    "plot",
    "profile",
    "split",
    "split_points",
    "stage_optimizers",
    "tap",
    "to_sequential",
    "trace",
    "train_step",
    "verify",
    "with_outputs",
]


def __getattr__(name: str) -> Any:
    # Keras takes seconds to import; `kerassplit --help` need not wait for it.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
