"""Computes features: a frozen model, or the part of one before a cut."""

from collections.abc import Generator, Iterable
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from kerassplit.cutting.crossing import CrossingTensor, crossing_tensor
from kerassplit.cutting.cuts import own_preprocessor
from kerassplit.cutting.stages import Stage, Stages
from kerassplit.engines.inputs import as_array
from kerassplit.engines.local import refuse_states, through
from kerassplit.engines.route import Batch, Route, route_of
from kerassplit.engines.whole_batches import in_whole_batches
from kerassplit.errors import SplitError
from kerassplit.graph.backends.interface import Run
from kerassplit.graph.reading import read_graph
from kerassplit.graph.strings import refuse_strings
from kerassplit.text import listed

DEPENDS = "so its features depend on earlier batches. Build it with stateful=False to cache them."
"""The consequence of a state that a head keeps from batch to batch."""


@dataclass(frozen=True, eq=False)
class FeatureHead:
    """Computes features.

    Attributes:
        stage: Stage that computes them.
        route: Inputs and outputs of the stage.
        features: Structure of the features, with names of tensors that the stage computes or the model takes.
        tensors: Descriptions of these tensors, each once.
    """

    stage: Stage
    route: Route
    features: Any
    tensors: tuple[CrossingTensor, ...]

    def __call__(self, compute: Run, batch: Batch) -> dict[str, np.ndarray]:
        """Computes the features of a batch, by name."""

        def run(batches: Iterable[Batch]) -> Generator[Batch]:
            for batch in batches:
                made = through(self.stage, compute, batch, self.route, 0).tensors
                missing = [tensor.name for tensor in self.tensors if made[tensor.name] is None]
                if missing:
                    raise SplitError(f"The input {listed(missing)} was left out, but the features need it. Pass it.")
                named = {tensor.name: np.asarray(as_array(made[tensor.name])) for tensor in self.tensors}
                types = {tensor.name: np.dtype(tensor.dtype) for tensor in self.tensors}
                yield replace(batch, tensors={name: one.astype(types[name], copy=False) for name, one in named.items()})

        parts = [part.tensors for part in in_whole_batches(run, self.route)([batch])]
        if len(parts) == 1:
            return parts[0]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def as_feature_head(head: Any) -> FeatureHead:
    """Builds a feature head from a model or stage; a feature head stays as it is.

    Raises:
        SplitError: `head` is neither, or keeps a state from batch to batch.
        UnsupportedModelError: The model is not a graph.
    """
    if isinstance(head, FeatureHead):
        return head
    model = head.model if isinstance(head, Stage) else head
    if not isinstance(model, keras.Model):
        raise SplitError(f"`head` must be a keras.Model or a Stage; got {type(head).__name__}.")
    graph = read_graph(model)
    refuse_strings(graph, "cache what that gives")
    takes, gives = graph.named(graph.inputs), graph.named(graph.outputs)
    stage = Stage(model.name, model, tuple(keras.tree.flatten(takes)), tuple(keras.tree.flatten(gives)))
    refuse_states(model, f"'{model.name}'", DEPENDS)
    route = route_of(Stages((stage,), takes, gives, model.name, preprocessor=own_preprocessor(model)))
    return FeatureHead(stage, route, gives, tuple(dict.fromkeys(map(crossing_tensor, stage.outputs, model.outputs))))
