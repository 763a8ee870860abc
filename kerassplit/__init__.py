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

_HOME = {
    "AmbiguousTensorError": "errors",
    "Crossing": "cutting.crossing",
    "CrossingTensor": "cutting.crossing",
    "Device": "planning.devices",
    "EarlyExits": "engines.early_exit",
    "Explanation": "cutting.explaining",
    "FeatureDataset": "training.features.dataset",
    "InsideBranchError": "errors",
    "Link": "planning.devices",
    "NotConnectedError": "errors",
    "Plan": "planning.plan",
    "PlanError": "errors",
    "Profile": "costs.profile",
    "Receipt": "cutting.receipt",
    "RunError": "errors",
    "Split": "api",
    "SplitError": "errors",
    "SplitPoint": "cutting.points",
    "Stage": "cutting.stages",
    "StoreError": "errors",
    "Sweep": "planning.sweep",
    "UnknownTensorError": "errors",
    "UnsupportedModelError": "errors",
    "VerificationError": "errors",
    "blocks": "cutting.pieces",
    "build_submodel": "cutting.submodel",
    "cache_features": "training.features.cache_features",
    "crossings": "cutting.crossings",
    "explain": "cutting.explaining",
    "fine_tune": "training.fine_tuning",
    "flatten": "cutting.submodel",
    "join": "cutting.joining",
    "load": "api",
    "plan": "planning.planner",
    "plan_sweep": "planning.sweeper",
    "plot": "pictures",
    "profile": "costs.profiling",
    "split": "api",
    "split_points": "cutting.points",
    "stage_optimizers": "training.steps.optimizers",
    "tap": "cutting.pieces",
    "to_sequential": "cutting.pieces",
    "trace": "graph.tracing.trace",
    "train_step": "training.steps.train_step",
    "verify": "cutting.verifying",
    "with_outputs": "cutting.exits",
}

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
