"""Public names and the modules that define them; `__init__.py` imports each name on first use."""

from .api import (
    Split as Split,
    load as load,
    split as split,
)
from .costs.profile import Profile as Profile
from .costs.profiling import profile as profile
from .cutting.comparing import compare as compare
from .cutting.crossing import (
    Crossing as Crossing,
    CrossingTensor as CrossingTensor,
)
from .cutting.crossings import crossings as crossings
from .cutting.cuts import Cut as Cut
from .cutting.explaining import (
    Explanation as Explanation,
    explain as explain,
)
from .cutting.joining import join as join
from .cutting.model_comparison import Comparison as Comparison
from .cutting.pieces import (
    blocks as blocks,
    tap as tap,
    to_sequential as to_sequential,
)
from .cutting.points import (
    SplitPoint as SplitPoint,
    split_points as split_points,
)
from .cutting.receipt import Receipt as Receipt
from .cutting.stages import Stage as Stage
from .cutting.submodel import (
    build_submodel as build_submodel,
    flatten as flatten,
)
from .cutting.tensors import tensors as tensors
from .cutting.verifying import verify as verify
from .editing.exits import with_outputs as with_outputs
from .editing.input_shape import with_input_shape as with_input_shape
from .editing.insertion import insert as insert
from .editing.removal import remove as remove
from .editing.replacement import replace as replace
from .engines.early_exit import EarlyExits as EarlyExits
from .errors import (
    AmbiguousTensorError as AmbiguousTensorError,
    InsideBranchError as InsideBranchError,
    NotConnectedError as NotConnectedError,
    PlanError as PlanError,
    RunError as RunError,
    SplitError as SplitError,
    StoreError as StoreError,
    UnknownTensorError as UnknownTensorError,
    UnsupportedModelError as UnsupportedModelError,
    VerificationError as VerificationError,
)
from .generation.generation import (
    Generation as Generation,
    load_generation as load_generation,
    split_generation as split_generation,
)
from .graph.references import TensorRef as TensorRef
from .graph.tracing.trace import trace as trace
from .pictures import plot as plot
from .pictures.exploring import (
    Exploration as Exploration,
    explore as explore,
)
from .planning.devices import (
    Device as Device,
    Link as Link,
)
from .planning.plan import Plan as Plan
from .planning.planner import plan as plan
from .planning.sweep import Sweep as Sweep
from .planning.sweeper import plan_sweep as plan_sweep
from .training.features.cache_features import cache_features as cache_features
from .training.features.dataset import FeatureDataset as FeatureDataset
from .training.fine_tuning import fine_tune as fine_tune
from .training.steps.optimizers import stage_optimizers as stage_optimizers
from .training.steps.train_step import train_step as train_step
from .zoo.encoding import encoded_bytes as encoded_bytes

__version__: str
