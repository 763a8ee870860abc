"""`PartOfModel`: a part of a model that Keras saves by the config of the whole model.

Keras saves a functional model by the configs of its layers. Some libraries only see to it that the configs of their
models work: in KerasHub, a layer of a fourth of the backbones cannot be built from its own. A part of such a model is
saved as the model's config, the numbers of the tensors at its ends, and the values of its own weights. To load it, the
whole model is built again as a skeleton, without values, so it takes the memory of the part alone.
"""

import json
from collections.abc import Iterator, Mapping
from types import FunctionType
from typing import Any

import keras

from kerassplit.cutting.stages import Stage
from kerassplit.cutting.submodel import build_part, part
from kerassplit.errors import UnsupportedModelError
from kerassplit.files.untrusted_json import walked
from kerassplit.graph.copying import copying
from kerassplit.graph.internals.layers import all_layers, stateful_layer
from kerassplit.graph.internals.process_state import names_kept
from kerassplit.graph.internals.skeletons import give_values, without_values
from kerassplit.graph.model_graph import Graph
from kerassplit.graph.reading import read_graph
from kerassplit.graph.tracing.call_forms import same, same_operation
from kerassplit.text import package_of

_NOT_CONFIGURED = frozenset(["name", *vars(keras.layers.Identity(name="any"))])  # an automatic name would be counted

_NOT_PLAIN = object()


@keras.saving.register_keras_serializable("kerassplit")
class PartOfModel(keras.Model):
    """A functional model that is a part of another one, and has that model's config.

    Attributes:
        source: How to build it from the whole model, as JSON: the fields that `from_config` takes.
    """

    source: str

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name, **json.loads(self.source)}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "PartOfModel":
        """Builds the whole model without values, and the part from it.

        Raises:
            ValueError: The config describes no part of a model.
        """
        _check(config)
        source = json.dumps({name: value for name, value in config.items() if name != "name"})
        with without_values():  # a copy: some models put layers into the config that they are built from
            model = keras.saving.deserialize_keras_object(json.loads(source)["model"], custom_objects=custom_objects)
        graph = _named(model, config)
        made = _built(graph, config["inputs"], config["outputs"], config["name"])
        layers = all_layers(made)
        for place, layer in enumerate(layers):
            layer.trainable = place not in config["frozen"]
        made.source = source
        give_values(made.variables)
        return made


def reads_back(model: keras.Model) -> bool:
    """True if Keras builds an equal model from a model's own config.

    Only layers from outside Keras are doubted. They are compared by their variables and their plain attributes, as a
    `get_config` that forgets an argument fails silently.
    """
    if all(package_of(type(layer)) == "keras" for layer in all_layers(model)):
        return True
    try:
        copy = _rebuilt(model, keras.saving.serialize_keras_object(model))
        return all(_different_layers(layer, copy.get_layer(layer.name)) is None for layer in model.layers)
    except Exception:  # whatever their `get_config`, `__init__`, `build` and `call` raise
        return False


def part_of_model(model: keras.Model, stage: Stage, config: dict[str, Any]) -> PartOfModel:
    """Returns a stage of a model as a part of that model, which has this `config_of`, on the same layers.

    Raises:
        UnsupportedModelError: The stage is not what is between its tensors.
    """
    graph = read_graph(model)
    places = {tensor.name: place for place, tensor in enumerate(graph.tensors)}
    if not places.keys() >= {*stage.inputs, *stage.outputs}:
        raise UnsupportedModelError(f"'{stage.name}' does not begin and end at tensors of '{model.name}'")
    inputs, outputs = ([places[name] for name in names] for names in (stage.inputs, stage.outputs))
    made = _built(graph, inputs, outputs, stage.name)
    if {id(one) for one in made.variables} != {id(one) for one in stage.model.variables}:
        raise UnsupportedModelError(f"'{stage.name}' has not the variables of that part of '{model.name}'")
    calls, _ = part(graph, inputs, outputs)
    made.source = json.dumps(
        {
            "model": config,
            "inputs": inputs,
            "outputs": outputs,
            "names": [graph.calls[call].operation.name for call in calls],
            "frozen": [place for place, layer in enumerate(all_layers(made)) if not layer.trainable],
        }
    )
    return made


def config_of(model: keras.Model) -> dict[str, Any]:
    """Returns a model's config, without the preprocessor of a task: no stage contains it.

    Raises:
        UnsupportedModelError: Keras does not build an equal model from it.
    """
    stateful = stateful_layer(model)
    if stateful is not None:
        raise UnsupportedModelError(f"'{stateful}' keeps state between batches")
    try:
        config = keras.saving.serialize_keras_object(model)
        if isinstance(config["config"].get("preprocessor"), Mapping):
            config["config"]["preprocessor"] = None
        different = find_difference(model, _rebuilt(model, config))
    except Exception as error:
        raise UnsupportedModelError(f"{type(error).__name__}: {error}") from error
    if different:
        raise UnsupportedModelError(f"its config makes another model: {different}")
    return config


def find_difference(model: keras.Model, other: keras.Model) -> str | None:
    """Explains where two models differ that should be equal but for the values of their weights, or `None`."""
    ours, theirs = read_graph(model), read_graph(other)
    if (ours.inputs, ours.outputs, len(ours.calls)) != (theirs.inputs, theirs.outputs, len(theirs.calls)):
        return f"it makes {len(theirs.calls)} calls instead of {len(ours.calls)}, or has other inputs or outputs"
    pairs: dict[int, keras.KerasTensor] = {}
    for one, two in zip(ours.calls, theirs.calls, strict=True):
        named = f"'{one.name}' ({type(one.operation).__name__})"
        if one.inputs != two.inputs or not same_operation(one.operation, two.operation):
            return f"{named} is another call"
        pairs |= dict(zip(map(id, one.arguments.keras_tensors), two.arguments.keras_tensors, strict=True))
        ours_given, theirs_given = ((call.arguments.args, call.arguments.kwargs) for call in (one, two))
        if not same(ours_given, theirs_given, pairs) or _results(ours, one) != _results(theirs, two):
            return f"{named} has other arguments, or other outputs"
        wrong = _different_layers(one.operation, two.operation)
        if wrong:
            return f"{named} {wrong}"
    return None


def _results(graph: Graph, call: Any) -> list[tuple[Any, ...]]:
    return [(tensor, tuple(symbol.shape), symbol.dtype) for tensor, symbol in graph.results(call)]


def _different_layers(one: keras.Operation, other: keras.Operation) -> str | None:
    if not isinstance(one, keras.Layer):
        return None
    ours, theirs = all_layers(one), all_layers(other)
    if list(map(type, ours)) != list(map(type, theirs)):
        return "contains other layers"
    for mine, its in zip(ours, theirs, strict=True):
        settings, others = _settings(mine), _settings(its)
        wrong = [name for name, value in settings.items() if name not in others or others[name] != value]
        if wrong:
            return f"has another `{wrong[0]}`"
        if mine.dtype_policy != its.dtype_policy:
            return "has another dtype"
    shapes, others = ([(tuple(x.shape), x.dtype) for x in layer.variables] for layer in (one, other))
    return None if shapes == others else "has variables of other shapes or dtypes"


def _settings(layer: keras.Layer) -> dict[str, Any]:
    """Returns the attributes of a layer, beyond those of any layer, that are plain values, or functions (by name)."""
    return {
        name: _plain(value)
        for name, value in vars(layer).items()
        if name not in _NOT_CONFIGURED and not name.startswith("_self_") and _plain(value) is not _NOT_PLAIN
    }


def _plain(value: Any) -> Any:
    """Returns a plain value, with lists for tuples: JSON has no tuples."""
    if isinstance(value, (list, tuple)):
        values = list(map(_plain, value))
        return _NOT_PLAIN if _NOT_PLAIN in values else values
    if isinstance(value, FunctionType):
        return value.__qualname__
    return value if value is None or isinstance(value, (bool, int, float, str)) else _NOT_PLAIN


def _rebuilt(model: keras.Model, config: dict[str, Any]) -> keras.Model:
    """Builds a model from a config as it would be read from a file, without values."""
    text = json.dumps(config)
    with names_kept(), copying([model], model.name), without_values():
        return keras.saving.deserialize_keras_object(json.loads(text), safe_mode=False)


def _built(graph: Graph, inputs: list[int], outputs: list[int], name: str) -> PartOfModel:
    calls, _ = part(graph, inputs, outputs)
    made, taken, given = build_part(graph, calls, inputs, outputs, name, kind=PartOfModel)
    if (taken, given) != (inputs, outputs):
        raise UnsupportedModelError(f"the tensors at the ends of '{name}' are in another order")
    return made  # type: ignore[return-value]


def _named(model: Any, config: dict[str, Any]) -> Graph:
    """Reads a rebuilt model, with the names that the operations of the part had: Keras may number them differently."""
    graph = read_graph(model)
    calls, inputs = part(graph, _tensors(config["inputs"], graph), _tensors(config["outputs"], graph))
    if set(inputs) != set(config["inputs"]) or len(calls) != len(config["names"]):
        raise ValueError("the part of the model that it describes is another one")
    for call, name in zip(calls, config["names"], strict=True):
        graph.calls[call].operation.name = name
    return read_graph(model)


def _tensors(places: list[int], graph: Graph) -> list[int]:
    if len(set(places)) < len(places) or not all(0 <= place < len(graph.tensors) for place in places):
        raise ValueError(f"it names tensors that the model does not have, which has {len(graph.tensors)}")
    return places


def _check(config: Mapping[str, Any]) -> None:
    """Checks a config, which may come from anywhere: what the whole model may be is checked by those who load it."""
    kinds = {"inputs": int, "outputs": int, "frozen": int, "names": str}
    for name, kind in kinds.items():
        values = config.get(name)
        if not isinstance(values, list) or any(type(value) is not kind for value in values):
            raise ValueError(f"'{name}' of a part of a model must be a list of {kind.__name__}; got {values!r:.100}")
    if not config["inputs"] or not config["outputs"] or not all(name and "/" not in name for name in config["names"]):
        raise ValueError("a part of a model needs inputs, outputs, and names without '/'")
    if any(value.get("stateful") for value in _dicts(config.get("model"))):  # its states would be created at once
        raise ValueError("a part of a model cannot contain a layer that keeps state between batches")


def _dicts(config: Any) -> Iterator[dict[str, Any]]:
    return (value for value, _ in walked(config) if isinstance(value, dict))
