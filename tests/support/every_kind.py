"""Kinds of the menagerie (every third one a commit), each built once; splits at some of their frontiers; runs."""

import gc
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import keras
import menagerie
import numpy as np
import pytest
from keras import ops
from menagerie import Kind, Specimen
from samples import due

import kerassplit as ks
from kerassplit.graph.model_graph import Graph
from kerassplit.graph.reading import read_graph

MOST_PREFIXES = 1000  # of a menagerie's model; more would take minutes
CHOSEN = due(menagerie.kinds(), 3)
EVERY_KIND = pytest.mark.parametrize("kind", CHOSEN, ids=lambda kind: kind.name)


@cache
def cached(kind: Kind) -> Specimen:
    built = kind.build()
    gc.collect()
    gc.freeze()  # it lives as long as the process: no later collection need look at it
    return built


def frontiers(graph: Graph) -> dict[frozenset[int], list[str]]:
    """Names of the crossing tensors of each frontier, by the calls before it from which tensors cross."""
    needs = {
        index: frozenset(graph.tensors[tensor].call for tensor in call.inputs) - _inputs(graph)
        for index, call in enumerate(graph.calls)
        if call.inputs
    }
    found: dict[frozenset[int], list[str]] = {}
    for before in prefixes(needs):
        known = {tensor for call in before for tensor in (*graph.calls[call].inputs, *graph.calls[call].outputs)}
        crossing = [
            tensor for tensor in sorted(known) if any(user not in before for user in graph.tensors[tensor].users)
        ]
        head = _with_ancestors(needs, {graph.tensors[tensor].call for tensor in crossing} - _inputs(graph))
        if head:
            found.setdefault(head, graph.names(crossing))
    return found


def prefixes(needs: dict[int, frozenset[int]]) -> set[frozenset[int]]:
    """All sets of calls that include their dependencies: the prefixes of all topological orders."""
    found: set[frozenset[int]] = set()
    waiting: list[frozenset[int]] = [frozenset()]
    while waiting:
        before = waiting.pop()
        for call in needs:
            if call not in before and needs[call] <= before and before | {call} not in found:
                found.add(before | {call})
                waiting.append(before | {call})
        assert len(found) <= MOST_PREFIXES, "the model is too wide for the menagerie"
    return found


def _inputs(graph: Graph) -> frozenset[int]:
    return frozenset(index for index, call in enumerate(graph.calls) if not call.inputs)


def _with_ancestors(needs: dict[int, frozenset[int]], calls: set[int]) -> frozenset[int]:
    found, waiting = set(calls), list(calls)
    while waiting:
        new = needs[waiting.pop()] - found
        found |= new
        waiting.extend(new)
    return frozenset(found)


def some_splits(
    animal: Specimen, count: int, which: Callable[[Graph, frozenset[int]], bool] | None = None
) -> Iterator[ks.Split]:
    """Splits at a few frontiers, spread over the model."""
    graph = read_graph(animal.model)
    crossings = [names for head, names in frontiers(graph).items() if which is None or which(graph, head)]
    made = 0
    for place in range(len(crossings)):
        # By the golden ratio any few of these places in a row are far apart.
        names = crossings[int((place + 0.5) * 0.618034 * len(crossings)) % len(crossings)]
        if made < count:
            try:
                yield ks.split(animal.model, [names], allow_crossing=True)
                made += 1
            except ks.SplitError:
                assert animal.refusal  # the first test reads it
    assert made


def keeps_order(graph: Graph, head: frozenset[int]) -> bool:
    """True if the calls of each shared stateful layer stay in order.

    The order of two updates of a batch normalization, or of two draws from a seed generator, matters.
    """
    places: dict[int, list[bool]] = {}
    for index, call in enumerate(graph.calls):
        if isinstance(call.operation, keras.Layer) and call.operation.non_trainable_variables:
            places.setdefault(id(call.operation), []).append(index in head)
    return all(sorted(ahead, reverse=True) == ahead for ahead in places.values())


def with_states_kept(model: keras.Model, run: Callable[[], Any]) -> tuple[Any, list[bytes]]:
    """Returns the result of `run` and all variables after it; the next run starts from the old values."""
    cells = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.RNN) and layer.stateful]
    states = [state for layer in cells for state in keras.tree.flatten(layer.states)]
    variables = [*model.variables, *states]
    before = [ops.convert_to_numpy(variable).copy() for variable in variables]
    try:
        outputs = keras.tree.map_structure(lambda value: value, run())
        return outputs, [bits(variable)[2] for variable in variables]
    finally:
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)


def gradients(model: keras.Model, run: Callable[[], Any]) -> list[Any]:
    """Gradients of the sum of squares of all real outputs with respect to each trainable variable."""
    variables = model.trainable_variables

    def loss() -> Any:
        outputs = [ops.cast(one, "float32") for one in keras.tree.flatten(run()) if "float" in str(one.dtype)]
        return sum(ops.sum(one * one) for one in outputs)

    if not variables:
        return []
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            total = loss()
        slopes = tape.gradient(total, [variable.value for variable in variables])
        slopes = [None if slope is None else tf.convert_to_tensor(slope) for slope in slopes]
    elif backend == "jax":
        import jax

        def of_values(values: Any) -> Any:
            with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
                return loss()

        slopes = jax.grad(of_values)([variable.value for variable in variables])
    else:
        for variable in variables:
            variable.value.grad = None
        loss().backward()
        slopes = [variable.value.grad for variable in variables]
        for variable in variables:
            variable.value.grad = None
    return [None if slope is None else bits(slope) for slope in slopes]


def used_several_times(model: keras.Model) -> set[int]:
    """Returns the `id`s of the variables of layers that are called several times."""
    operations = [call.operation for call in read_graph(model).calls]
    several = [layer for layer, count in Counter(operations).items() if count > 1 and isinstance(layer, keras.Layer)]
    return {id(variable) for layer in several for variable in layer.variables}


def array_of(value: tuple[str, tuple[int, ...], bytes]) -> np.ndarray:
    return np.frombuffer(value[2], value[0])


def bits(value: Any) -> tuple[str, tuple[int, ...], bytes]:
    array = ops.convert_to_numpy(value)
    return str(array.dtype), array.shape, array.tobytes()
