"""Layers shared by several stages of a split: each stage's file has a copy; loaded together, they become one again."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import keras

from kerassplit.cutting.part_of_model import PartOfModel
from kerassplit.cutting.stages import Stage
from kerassplit.cutting.submodel import rebuilt
from kerassplit.errors import StoreError
from kerassplit.graph.model_graph import Graph
from kerassplit.graph.packing import plain_name
from kerassplit.graph.reading import read_graph


def shared_layers(stages: Iterable[Stage]) -> list[dict[str, str]]:
    """Finds the layers with variables that several stages use; for each, stage name -> the layer's name in it."""
    found: dict[int, dict[str, str]] = {}
    for stage in stages:
        for name, place in _layers(read_graph(stage.model)).items():
            found.setdefault(id(place), {})[stage.name] = name
    return [names for names in found.values() if len(names) > 1]


def tie(stages: Sequence[Stage], shared: Sequence[Mapping[str, str]]) -> tuple[Stage, ...]:
    """Replaces the copies of layers that `shared` names by one layer, and returns the stages."""
    layers = {stage.name: _layers(read_graph(stage.model)) for stage in stages} if shared else {}
    others: dict[str, dict[str, keras.Operation]] = {}
    for names in shared:
        present = [stage.name for stage in stages if stage.name in names]
        for stage in present:
            if names[stage] not in layers[stage]:
                raise StoreError(f"Stage '{stage}' has no layer '{names[stage]}' to share with other stages.", path="")
        for stage in present[1:]:
            others.setdefault(stage, {})[names[stage]] = layers[present[0]][names[present[0]]]
    return tuple(
        replace(stage, model=_with_layers(stage.model, others[stage.name])) if stage.name in others else stage
        for stage in stages
    )


def _with_layers(model: keras.Model, layers: Mapping[str, keras.Operation]) -> keras.Model:
    """Rebuilds a model with some layers replaced; nested models that contain them are inlined."""
    graph = read_graph(model)
    replaced = {index: layers[plain_name(call)] for index, call in enumerate(graph.calls) if plain_name(call) in layers}
    by_operation = {id(graph.calls[index].operation): layer for index, layer in replaced.items()}
    opened = {index for index, nest in enumerate(graph.nests) if not replaced.keys().isdisjoint(nest.calls)}
    if not isinstance(model, PartOfModel):
        return rebuilt(graph, opened=opened, operations=by_operation)
    made = rebuilt(graph, opened=opened, operations=by_operation, kind=PartOfModel)
    made.source = model.source
    return made


def _layers(graph: Graph) -> dict[str, keras.Operation]:
    """Returns the layers with variables by name, including those inside nested models."""
    return {plain_name(call): call.operation for call in graph.calls if getattr(call.operation, "variables", None)}
