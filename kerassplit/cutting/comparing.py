"""`compare`: finds where two models part: the first tensor that differs, and what differs in its layer."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from kerassplit.cutting.adapters import fits
from kerassplit.cutting.arrays import as_taken, dense, named_tensors
from kerassplit.cutting.comparison import check_tolerance, compared, largest_difference
from kerassplit.cutting.layer_weights import match_weights, weight_names
from kerassplit.cutting.matching import computable, match_outputs, match_tensors
from kerassplit.cutting.model_comparison import Comparison, DifferingWeight, TensorInBoth
from kerassplit.cutting.stages import Stages
from kerassplit.cutting.trial import random_input, values_of
from kerassplit.errors import SplitError
from kerassplit.graph.model_graph import Graph
from kerassplit.graph.packing import plain_name
from kerassplit.graph.reading import read_graph
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
    input, eagerly and in inference mode, which needs memory for all of them.

    Outputs are compared as outputs: by key if both models return a dict, else by position. All tensors are matched by
    name (one inside a nested model also by its name there). Automatic names (`dense_1`) depend on what else was built:
    where the two models have other ones, layers of one class are matched in execution order if there are equally many.

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
        A `Comparison`. It does not raise if the models differ; check `comparison.ok`, or call `comparison.check()`.

    Raises:
        SplitError: The models take different inputs, `x` does not fit them, or `tolerance` is negative or NaN.
        UnknownTensorError: `names` has a name that the models do not have.

    Example:

    >>> copy = keras.models.clone_model(resnet)
    >>> copy.set_weights(resnet.get_weights())
    >>> copy.get_layer("conv4_block2_2_bn").gamma.assign(copy.get_layer("conv4_block2_2_bn").gamma * 1.01)
    >>> comparison = ks.compare(resnet, copy)
    >>> comparison.first_difference, [weight.weight for weight in comparison.weights]
    ('conv4_block2_2_bn', ['gamma'])
    """
    check_tolerance(tolerance)
    ours, theirs = (read_graph(one.join() if isinstance(one, Stages) else one) for one in (model, other))
    in_order = _inputs_in_order(ours, theirs)
    outputs, only = match_outputs(ours, theirs)
    pairs = match_tensors(ours, theirs, {} if names is None else names, () if only else outputs.values())
    x = random_input(ours, seed, open_sides) if x is None else x
    taken = ours.named(ours.inputs)
    given = {name: dense(value) for name, value in named_tensors(x, taken, ours.model.name).items()}
    every = sorted({*pairs.items(), *outputs.values()})
    computed = _computed(ours, {mine for mine, _ in every}, [given[name] for name in keras.tree.flatten(taken)])
    other_computed = _computed(theirs, {its for _, its in every}, [given[name] for name in ours.names(in_order)])
    found = {}
    for mine, its in every:
        name, made = ours.tensors[mine].name, other_computed[its]
        one = compared(name, _layer_name(ours, mine), (mine, its) in outputs.values(), computed[mine], made)
        found[mine, its] = TensorInBoth(**vars(one), other=theirs.tensors[its].name, other_shape=made.shape)
    exchanged = {
        label: (found[pair].tensor, found[pair].other)
        for label, pair in outputs.items()
        if pairs.get(pair[0]) != pair[1] and found[pair].max_difference > tolerance
    }
    layers = _layers_in_both(ours, theirs, pairs)
    return Comparison(
        model=ours.model.name,
        other=theirs.model.name,
        comparisons=tuple(found.values()),
        only_in_model=_only_in(ours, pairs),
        only_in_other=_only_in(theirs, pairs.values()),
        weights=tuple(weight for name, pair in layers.items() for weight in _differing_weights(name, *pair)),
        settings={name: differing for name, pair in layers.items() if (differing := _differing_settings(*pair))},
        outputs=exchanged | only,
        tolerance=float(tolerance),
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


def _only_in(graph: Graph, matched: Collection[int]) -> tuple[str, ...]:
    return tuple(graph.names(tensor for tensor in computable(graph) if tensor not in matched))


def _computed(graph: Graph, tensors: Iterable[int], inputs: Sequence[Any]) -> dict[int, np.ndarray]:
    """Returns the values of some tensors, which may be inputs, as arrays, by tensor."""
    given = dict(zip(graph.flat_inputs(), inputs, strict=True))
    made = sorted(tensor for tensor in tensors if tensor not in given)
    try:
        values = values_of(graph, made, inputs) if made else {}
        values |= {one: as_taken(given[one], graph.tensors[one].symbol) for one in tensors if one in given}
    except Exception as error:
        raise SplitError(
            f"The input does not go through '{graph.model.name}': {error}\nGive another one as `x` (--input), or the "
            "sizes of open dimensions with open_sides=N (--open-sides N)."
        ) from error
    return {tensor: keras.ops.convert_to_numpy(value) for tensor, value in values.items()}


def _layer_name(graph: Graph, tensor: int) -> str:
    return plain_name(graph.calls[graph.tensors[tensor].call])


def _layers_in_both(ours: Graph, theirs: Graph, pairs: Mapping[int, int]) -> dict[str, tuple[Any, Any]]:
    """Returns the layers and operations that compute matched tensors, in both models, by their names in the first."""
    found: dict[str, tuple[Any, Any]] = {}
    for mine, its in sorted(pairs.items()):
        one, other = (graph.calls[graph.tensors[at].call].operation for graph, at in ((ours, mine), (theirs, its)))
        found.setdefault(_layer_name(ours, mine), (one, other))
    return found


def _differing_weights(layer: str, one: Any, other: Any) -> Iterator[DifferingWeight]:
    """Yields the weights of two layers that differ, and those that only one of them has."""
    ours, theirs = (getattr(each, "weights", []) for each in (one, other))
    names, other_names = weight_names(one), weight_names(other)
    places = match_weights(one, other)
    pairs = [
        (name, ours[place], theirs[places[place]] if place in places else None) for place, name in enumerate(names)
    ]
    matched = {*places.values()}
    pairs += [(name, None, theirs[place]) for place, name in enumerate(other_names) if place not in matched]
    for name, mine, its in pairs:
        if mine is its:
            continue
        shapes = [() if value is None else tuple(value.shape) for value in (mine, its)]
        difference = float("inf")
        if mine is not None and its is not None:
            difference = largest_difference(*map(keras.ops.convert_to_numpy, (mine, its)))
        if difference:
            yield DifferingWeight(layer, name, *shapes, max_difference=difference)


def _differing_settings(one: Any, other: Any) -> dict[str, tuple[str, str]]:
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
            if "initializer" not in key and not (key == "name" and ("trainable" in value or not path)):
                yield from _leaves(one, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and any(isinstance(one, (dict, list)) for one in value):
        for place, one in enumerate(value):
            yield from _leaves(one, f"{path}.{place}")
    else:
        yield path, value.tolist() if isinstance(value, np.ndarray) else value  # a long array's text has gaps
