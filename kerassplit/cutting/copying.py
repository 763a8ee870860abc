"""Copies and pickles splits, completely and without sharing variables with the original.

A split shares layers with its model, and its stages can share layers with each other. So Keras copies the model once,
and the stages are cut out of the copy again. Stages that are not part of the model (a loaded split has none) are copied
one by one, and layers that several of them share are tied again, as in `load`.
"""

import copy
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, TypeVar

import keras

from kerassplit.cutting.sharing import shared_layers, tie
from kerassplit.cutting.stage_parts import build_stage
from kerassplit.cutting.stages import Stage, Stages
from kerassplit.cutting.submodel import part
from kerassplit.errors import UnsupportedModelError
from kerassplit.graph.copying import copying
from kerassplit.graph.internals.layers import replaced_calls
from kerassplit.graph.masks import MASKED
from kerassplit.graph.model_graph import Graph
from kerassplit.graph.reading import read_graph
from kerassplit.text import listed

AnyStages = TypeVar("AnyStages", bound=Stages)
Ends = tuple[str, tuple[str, ...], tuple[str, ...]]
"""A stage without its model: its name, and the names of its inputs and outputs."""


def reduced(split: AnyStages) -> tuple[Callable[..., AnyStages], tuple[Any, ...]]:
    """Reduces a split to a function that rebuilds it and its arguments, as `copy` and `pickle` expect.

    Raises:
        UnsupportedModelError: The `call` of a layer has been replaced, which a copy would lose.
    """
    replaced = [name for model in _models(split) for name in replaced_calls(model)]
    if replaced:
        raise UnsupportedModelError(
            f"The `call` of {listed(dict.fromkeys(replaced))} has been replaced, and a copy would have that of its "
            "class. Define a layer class with this `call` instead."
        )
    graph = None if split.original is None else read_graph(split.original)
    stages = [
        stage if graph is None or not _is_part(stage, graph) else (stage.name, stage.inputs, stage.outputs)
        for stage in split
    ]
    apart = [stage for stage in stages if isinstance(stage, Stage)]
    rest = {field.name: getattr(split, field.name) for field in fields(split) if field.name != "stages"}
    return _restored, (type(split), stages, shared_layers(apart), rest)


def deep_copy(split: AnyStages, memo: dict[int, Any]) -> AnyStages:
    """Copies a split for `copy.deepcopy`, which also handles classes that Keras cannot find by name."""
    restore, arguments = reduced(split)
    with copying(_models(split), split.name):
        return restore(*copy.deepcopy(arguments, memo))


def _models(split: Stages) -> list[keras.Model]:
    return [*(stage.model for stage in split), *([] if split.original is None else [split.original])]


def _restored(
    kind: type[AnyStages], stages: Sequence[Stage | Ends], shared: list[dict[str, str]], rest: dict[str, Any]
) -> AnyStages:
    apart = iter(tie([stage for stage in stages if isinstance(stage, Stage)], shared))
    graph: Any = None if rest["original"] is None else read_graph(rest["original"])
    made = (
        next(apart) if isinstance(one, Stage) else build_stage(graph, *_between(graph, *one[1:]), one[0])
        for one in stages
    )
    return kind(tuple(made), **rest)


def _between(graph: Graph, inputs: Sequence[str], outputs: Sequence[str]) -> tuple[list[int], list[int], list[int]]:
    """Returns the calls between a stage's inputs and outputs, the tensors that they start from, and the outputs."""
    places = {tensor.name: index for index, tensor in enumerate(graph.tensors)}
    starts, ends = ([places[name] for name in names] for names in (inputs, outputs))
    return (*part(graph, starts, ends), ends)


def _is_part(stage: Stage, graph: Graph) -> bool:
    """True if cutting the model between the stage's inputs and outputs would result in this stage."""
    names = {tensor.name for tensor in graph.tensors}
    if not names.issuperset((*stage.inputs, *stage.outputs)):
        return False
    calls, inputs, _ = _between(graph, stage.inputs, stage.outputs)
    return set(graph.names(inputs)) == set(stage.inputs) and _counts(graph, calls) == _counts(read_graph(stage.model))


def _counts(graph: Graph, calls: Sequence[int] | None = None) -> Counter[Any]:
    """Counts the calls of each layer, or class of operation; not of masks, which layers compute inside a stage."""
    chosen = graph.calls if calls is None else [graph.calls[call] for call in calls]
    return Counter(
        id(call.operation) if isinstance(call.operation, keras.Layer) else type(call.operation)
        for call in chosen
        if call.inputs and MASKED not in call.name and any(symbol.dtype != "bool" for _, symbol in graph.results(call))
    )
