"""What computes features: a frozen model, or the part of one before a cut."""

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from kerassplit.compiling import Run
from kerassplit.engines.local import through
from kerassplit.engines.route import Batch, Route, route_of
from kerassplit.errors import SplitError
from kerassplit.graph import all_layers, read_graph
from kerassplit.names import listed
from kerassplit.stages import CrossingTensor, Split, Stage, crossing_tensor
from kerassplit.training.storing import numpy_type


@dataclass(frozen=True, eq=False)
class FeatureHead:
    """What computes features.

    Attributes:
        stage: It runs.
        route: What it takes and gives.
        features: The structure of the features, with names of tensors that the stage makes or the model takes.
        tensors: They described, each once.
    """

    stage: Stage
    route: Route
    features: Any
    tensors: tuple[CrossingTensor, ...]

    def __call__(self, compute: Run, batch: Batch) -> dict[str, np.ndarray]:
        """The features of a batch, by name."""
        made = through(self.stage, compute, batch, self.route, 0).tensors
        missing = [tensor.name for tensor in self.tensors if made[tensor.name] is None]
        if missing:
            raise SplitError(f"The input {listed(missing)} was left out, and the features need it.")
        return {tensor.name: _as_numpy(made[tensor.name], tensor.dtype) for tensor in self.tensors}


def as_feature_head(head: Any) -> FeatureHead:
    """A model or stage as what computes features.

    Raises:
        SplitError: It is neither, or keeps a state from batch to batch.
        UnsupportedModelError: It is no graph.
    """
    model = head.model if isinstance(head, Stage) else head
    if not isinstance(model, keras.Model):
        raise SplitError(f"`head` must be a keras.Model or a Stage; got {type(head).__name__}.")
    graph = read_graph(model)
    inputs, outputs = (
        keras.tree.map_structure(lambda tensor: graph.tensors[tensor].name, some)
        for some in (graph.inputs, graph.outputs)
    )
    names = [graph.names(tensors) for tensors in (graph.flat_inputs(), graph.flat_outputs())]
    stage = Stage(model.name, model, tuple(names[0]), tuple(names[1]))
    tensors = {name: crossing_tensor(name, symbol) for name, symbol in zip(names[1], model.outputs, strict=True)}
    refuse_states(model)
    return FeatureHead(stage, route_of(Split((stage,), inputs, outputs, model.name)), outputs, tuple(tensors.values()))


def refuse_states(head: keras.Model) -> None:
    """Sees that what a head gives for a row depends on that row.

    Raises:
        SplitError: It keeps a state from batch to batch.
    """
    for layer in all_layers(head):
        if getattr(layer, "stateful", False):
            raise SplitError(
                f"Layer '{layer.name}' of '{head.name}' keeps a state from batch to batch, so its features depend on "
                "the batches before. Build it with stateful=False to cache them."
            )


def _as_numpy(value: Any, dtype: str) -> np.ndarray:
    array = np.asarray(keras.ops.convert_to_numpy(value) if keras.ops.is_tensor(value) else value)
    return array.astype(numpy_type(dtype), copy=False)
