"""`compare`: finds where two models part: the first tensor that differs, and what differs in its layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from kerassplit.cutting.adapters import fits
from kerassplit.cutting.arrays import dense, named_tensors
from kerassplit.cutting.comparison import compared, largest_difference
from kerassplit.cutting.model_comparison import Comparison, DifferingWeight, TensorInBoth
from kerassplit.cutting.stages import Stages
from kerassplit.cutting.trial import random_input, values_of
from kerassplit.errors import SplitError
from kerassplit.graph.model_graph import Graph
from kerassplit.graph.packing import plain_name
from kerassplit.graph.reading import read_graph
from kerassplit.graph.references import resolve
from kerassplit.graph.shapes import OpenSides
from kerassplit.text import enumerated, shortened


def compare(
    model: keras.Model | Stages,
    other: keras.Model | Stages,
    x: Any = None,
    *,
    tolerance: float = 0.0,
    names: Mapping[str, str] | None = None,
    seed: int = 0,
    open_sides: OpenSides = None,
) -> Comparison:
    """Finds where two models part: the first tensor that differs, and what differs in the layer that computes it.

    For a port, a quantized or edited model, or a file of another version. Both models compute all their tensors on one
    input, eagerly and in inference mode, which needs memory for all of them. Tensors are matched by name (one inside a
    nested model also by its name there, if only one in each model has it), outputs also by position.

    Args:
        model: A functional or built Sequential model, or a `Split`, whose stages are joined.
        other: The model to compare it with.
        x: Input in the structure of the first model's inputs; by default two random samples. The other model gets the
            same arrays: by the names of its inputs if these are the same, else in their order.
        tolerance: Largest absolute difference to allow. 0 requires equality bit for bit.
        names: For tensors with other names in `other`: name in `model` -> name in `other`.
        seed: Seed of the random input.
        open_sides: Sizes of open dimensions in random input; see `verify`.

    Returns:
        A `Comparison`. It does not raise if numbers differ; check `comparison.ok`, or call `comparison.check()`.

    Raises:
        SplitError: The models take different inputs, or `x` does not fit them.
        UnknownTensorError: `names` has a name that the models do not have.

    Example:

    >>> copy = keras.models.clone_model(resnet)
    >>> copy.set_weights(resnet.get_weights())
    >>> copy.get_layer("conv4_block2_2_bn").gamma.assign(copy.get_layer("conv4_block2_2_bn").gamma * 1.01)
    >>> comparison = ks.compare(resnet, copy)
    >>> comparison.first_difference, [weight.weight for weight in comparison.weights]
    ('conv4_block2_2_bn', ['gamma'])
    """
    ours, theirs = (read_graph(one.join() if isinstance(one, Stages) else one) for one in (model, other))
    in_order = _inputs_in_order(ours, theirs)
    pairs = _matched(ours, theirs, names or {})
    x = random_input(ours, seed, open_sides) if x is None else x
    taken = ours.named(ours.inputs)
    given = {name: dense(value) for name, value in named_tensors(x, taken, ours.model.name).items()}
    computed = _computed(ours, pairs, [given[name] for name in keras.tree.flatten(taken)])
    other_computed = _computed(theirs, pairs.values(), [given[name] for name in ours.names(in_order)])
    outputs = set(ours.flat_outputs())
    found = []
    for tensor, counterpart in sorted(pairs.items()):
        name, made = ours.tensors[tensor].name, other_computed[counterpart]
        one = compared(name, _layer_name(ours, tensor), tensor in outputs, computed[tensor], made)
        found.append(TensorInBoth(**vars(one), other=theirs.tensors[counterpart].name, other_shape=made.shape))
    layers = _layers_in_both(ours, theirs, pairs)
    return Comparison(
        model=ours.model.name,
        other=theirs.model.name,
        comparisons=tuple(found),
        only_in_model=_only_in(ours, pairs),
        only_in_other=_only_in(theirs, pairs.values()),
        weights=tuple(weight for name, pair in layers.items() for weight in _differing_weights(name, *pair)),
        settings={name: differing for name, pair in layers.items() if (differing := _differing_settings(*pair))},
        tolerance=tolerance,
    )


def _inputs_in_order(ours: Graph, theirs: Graph) -> list[int]:
    """Returns the input of the first model for each of the other's: by name if all names agree, else by position.

    Raises:
        SplitError: The two cannot take the same arrays.
    """
    mine, its = (graph.flat_inputs() for graph in (ours, theirs))
    by_name = dict(zip(ours.names(mine), mine, strict=True))
    if by_name.keys() == {*theirs.names(its)} and len(by_name) == len(its):
        mine = [by_name[name] for name in theirs.names(its)]
    told = [_described(graph, graph.flat_inputs()) for graph in (ours, theirs)]
    symbols = [[graph.tensors[tensor].symbol for tensor in some] for graph, some in ((ours, mine), (theirs, its))]
    if len(mine) != len(its) or not all(
        fits(one.shape, other.shape) and one.dtype == other.dtype for one, other in zip(*symbols, strict=True)
    ):
        raise SplitError(
            f"'{ours.model.name}' and '{theirs.model.name}' cannot run on one input: the first takes {told[0]}, the "
            f"second {told[1]}. Compare models with the same inputs."
        )
    return mine


def _described(graph: Graph, tensors: Sequence[int]) -> str:
    inputs = [graph.tensors[tensor] for tensor in tensors]
    return enumerated([f"'{one.name}' {tuple(one.symbol.shape)} {one.symbol.dtype}" for one in inputs])


def _matched(ours: Graph, theirs: Graph, names: Mapping[str, str]) -> dict[int, int]:
    """Returns the tensors that both models compute: from the first model's to the other's."""
    found = {resolve(ours, mine): resolve(theirs, its) for mine, its in names.items()}
    for key in (lambda name: name, lambda name: name.rpartition("/")[2]):
        there = _unique(theirs, key, found.values())
        for name, tensor in _unique(ours, key, found).items():
            if name in there:
                found[tensor] = there[name]
    ends = [graph.flat_outputs() for graph in (ours, theirs)]
    if len(ends[0]) == len(ends[1]):
        for mine, its in zip(*ends, strict=True):
            if mine not in found and its not in found.values():
                found[mine] = its
    return {mine: its for mine, its in found.items() if mine not in ours.flat_inputs()}


def _unique(graph: Graph, key: Callable[[str], str], but: Collection[int]) -> dict[str, int]:
    """Returns the computed tensors by the keys of their names, without those that share a key, and those in `but`."""
    tensors = [tensor for tensor in _computable(graph) if tensor not in but]
    counts = Counter(key(graph.tensors[tensor].name) for tensor in tensors)
    return {name: tensor for tensor in tensors if counts[name := key(graph.tensors[tensor].name)] == 1}


def _computable(graph: Graph) -> list[int]:
    return [tensor for call in graph.calls if call.inputs for tensor in call.outputs]


def _only_in(graph: Graph, matched: Collection[int]) -> tuple[str, ...]:
    return tuple(graph.names(tensor for tensor in _computable(graph) if tensor not in matched))


def _computed(graph: Graph, tensors: Iterable[int], inputs: Sequence[Any]) -> dict[int, np.ndarray]:
    """Returns the values of some tensors as arrays, by tensor."""
    try:
        values = values_of(graph, sorted(tensors), inputs)
    except Exception as error:
        raise SplitError(
            f"The input does not go through '{graph.model.name}': {error}\nGive another one as `x` (--input), or the "
            "sizes of open dimensions with open_sides=N (--open-sides N)."
        ) from error
    return {tensor: keras.ops.convert_to_numpy(value) for tensor, value in values.items()}


def _layer_name(graph: Graph, tensor: int) -> str:
    return plain_name(graph.calls[graph.tensors[tensor].call])


def _layers_in_both(ours: Graph, theirs: Graph, pairs: Mapping[int, int]) -> dict[str, tuple[keras.Layer, keras.Layer]]:
    """Returns the layers that compute matched tensors, in both models, by their names in the first."""
    found: dict[str, tuple[keras.Layer, keras.Layer]] = {}
    for mine, its in sorted(pairs.items()):
        one, other = (graph.calls[graph.tensors[at].call].operation for graph, at in ((ours, mine), (theirs, its)))
        if isinstance(one, keras.Layer) and isinstance(other, keras.Layer):
            found.setdefault(_layer_name(ours, mine), (one, other))
    return found


def _differing_weights(name: str, one: keras.Layer, other: keras.Layer) -> Iterator[DifferingWeight]:
    """Yields the weights of two layers that differ; matched by their names in the layer."""
    ours, theirs = ({_weight_name(layer, weight): weight for weight in layer.weights} for layer in (one, other))
    for weight in dict.fromkeys([*ours, *theirs]):
        mine, its = (values.get(weight) for values in (ours, theirs))
        if mine is its:
            continue
        shapes = [() if value is None else tuple(value.shape) for value in (mine, its)]
        if mine is None or its is None:
            yield DifferingWeight(name, weight, *shapes, max_difference=float("inf"))
            continue
        difference = largest_difference(*map(keras.ops.convert_to_numpy, (mine, its)))
        if difference:
            yield DifferingWeight(name, weight, *shapes, max_difference=difference)


def _weight_name(layer: keras.Layer, weight: keras.Variable) -> str:
    """Returns a weight's name in its layer: `kernel`, or `query/kernel` of a layer within."""
    return weight.path.rpartition(f"{layer.name}/")[2]


def _differing_settings(one: keras.Layer, other: keras.Layer) -> dict[str, tuple[str, str]]:
    """Returns the settings that differ, with both values as text. Initializers do not count: layers have values."""
    if one is other:
        return {}
    if type(one) is not type(other):
        return {"class": (type(one).__name__, type(other).__name__)}
    try:
        configs = [layer.get_config() for layer in (one, other)]
    except Exception:  # a layer of the user's without a configuration
        return {}
    ours, theirs = (dict(_leaves(config)) for config in configs)
    either = dict.fromkeys([*ours, *theirs])
    differing = [key for key in either if repr(ours.get(key, _leaves)) != repr(theirs.get(key, _leaves))]
    return {key: (_shown(ours, key), _shown(theirs, key)) for key in differing}


def _shown(leaves: Mapping[str, Any], key: str) -> str:
    return shortened(repr(leaves[key]), 60) if key in leaves else "-"


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the settings in a configuration and in its objects (`dtype.name`), except for the names of layers."""
    if isinstance(value, dict) and isinstance(value.get("config"), dict):
        value = {"class": value.get("class_name"), **value["config"]}
    if isinstance(value, dict) and value:
        for key, one in value.items():
            if "initializer" not in key and not (key == "name" and "trainable" in value):
                yield from _leaves(one, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and any(isinstance(one, (dict, list)) for one in value):
        for place, one in enumerate(value):
            yield from _leaves(one, f"{path}.{place}")
    else:
        yield path, value.tolist() if isinstance(value, np.ndarray) else value  # a long array's text has gaps
