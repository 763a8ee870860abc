"""kerassplit: cut Keras models into runnable sub-models that compute the same numbers."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from kerassplit.costs.profiles import Profile
    from kerassplit.costs.profiling import profile
    from kerassplit.cutting import split
    from kerassplit.engines.early import EarlyExits
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
    from kerassplit.exits import with_outputs
    from kerassplit.frontiers import crossings
    from kerassplit.joining import join
    from kerassplit.pictures import plot
    from kerassplit.pieces import blocks, tap, to_sequential
    from kerassplit.planning.choosing import plan
    from kerassplit.planning.devices import Device, Link
    from kerassplit.planning.sweeping import plan_sweep
    from kerassplit.planning.sweeps import Sweep
    from kerassplit.plans import Plan
    from kerassplit.points import Explanation, SplitPoint, explain, split_points
    from kerassplit.receipt import Receipt, verify
    from kerassplit.stages import Crossing, CrossingTensor, Split, Stage
    from kerassplit.store import load
    from kerassplit.submodel import build_submodel, flatten
    from kerassplit.tracing import trace
    from kerassplit.training.feature_dataset import FeatureDataset
    from kerassplit.training.features import cache_features
    from kerassplit.training.fine_tuning import fine_tune
    from kerassplit.training.optimizers import stage_optimizers
    from kerassplit.training.stepping import train_step

_HOME = {
    "AmbiguousTensorError": "errors",
    "Crossing": "stages",
    "CrossingTensor": "stages",
    "Device": "planning.devices",
    "EarlyExits": "engines.early",
    "Explanation": "points",
    "FeatureDataset": "training.feature_dataset",
    "InsideBranchError": "errors",
    "Link": "planning.devices",
    "NotConnectedError": "errors",
    "Plan": "plans",
    "PlanError": "errors",
    "Profile": "costs.profiles",
    "Receipt": "receipt",
    "RunError": "errors",
    "Split": "stages",
    "SplitError": "errors",
    "SplitPoint": "points",
    "Stage": "stages",
    "StoreError": "errors",
    "Sweep": "planning.sweeps",
    "UnknownTensorError": "errors",
    "UnsupportedModelError": "errors",
    "VerificationError": "errors",
    "blocks": "pieces",
    "build_submodel": "submodel",
    "cache_features": "training.features",
    "crossings": "frontiers",
    "explain": "points",
    "fine_tune": "training.fine_tuning",
    "flatten": "submodel",
    "join": "joining",
    "load": "store",
    "plan": "planning.choosing",
    "plan_sweep": "planning.sweeping",
    "plot": "pictures",
    "profile": "costs.profiling",
    "split": "cutting",
    "split_points": "points",
    "stage_optimizers": "training.optimizers",
    "tap": "pieces",
    "to_sequential": "pieces",
    "trace": "tracing",
    "train_step": "training.stepping",
    "verify": "receipt",
    "with_outputs": "exits",
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
