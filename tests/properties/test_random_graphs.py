"""Properties of all graphs, on random ones with branches, merges, shared layers, nested models and masks.

`pytest tests/properties/test_random_graphs.py --hypothesis-profile=long` tries forty times as many: more than 10,000.
"""

import re
import tempfile
from pathlib import Path

import keras
import pytest
from comparing import fingerprint, same_bits
from hypothesis import assume, event, given, strategies as st
from oracle import ancestors, cuts_by_brute_force, edges_of, side_calls, without
from random_models import build, data_for, examples, places, plain, recipes, whole, wild

import kerassplit as ks
from kerassplit.cutting.crossings import cuts
from kerassplit.cutting.frontiers import crossing_at, split_tensors as our_split_tensors
from kerassplit.graph.reading import read_graph
from kerassplit.graph.sides import read_sides
from kerassplit.zoo.random_weights import randomize

pytestmark = [
    # Keras says so of every nested model that is given a masked tensor, and of layers that drop a mask.
    pytest.mark.filterwarnings("ignore:Layer '.*' .* was passed an input with a mask:UserWarning"),
    # And kerassplit of shared layers that keep a state, and of stages that end in a masked output.
    pytest.mark.filterwarnings("ignore:'.*' keeps a state, and the stages call it in another order:UserWarning"),
    pytest.mark.filterwarnings("ignore:In '.*' a loss on '.*' is masked:UserWarning"),
]


def edges_of_graph(graph):
    """Returns the edges that kerassplit reads, in the oracle's form: a call is (its index, 0)."""

    def as_made(tensor):
        call = graph.tensors[tensor].call
        return call, 0, graph.calls[call].outputs.index(tensor)

    return {(index, 0): [as_made(tensor) for tensor in call.inputs] for index, call in enumerate(graph.calls)}, as_made


def as_in_the_config(graph, tensor):
    """Returns the oracle's name for a tensor, with the call numbers that Keras writes to the config."""
    call = graph.tensors[tensor].call
    around = [index for index, nest in enumerate(graph.nests) if call in nest.calls]
    path = ""
    for index in around:
        nest = graph.nests[index]
        twins = [other for other in graph.nests if other.operation is nest.operation and other.outer == nest.outer]
        number = nest.symbols[0]._keras_history.node_index
        path += f"{nest.operation.name}@{number}/" if len(twins) > 1 else f"{nest.operation.name}/"
    operation, number, place = graph.tensors[tensor].symbol._keras_history
    return path + operation.name, number, place


@examples(150)
@given(recipes | plain)
def test_split_points_are_those_of_brute_force(recipe):
    model = build(recipe)
    graph = read_graph(model)
    sides = read_sides(graph)
    assert sides.calls == side_calls(graph)
    aside = {as_in_the_config(graph, graph.calls[call].outputs[0])[:2] for call in sides.calls}
    received = without(edges_of(model)[0], aside)
    event(f"nests: {min(len(graph.nests), 3)}")
    expected = {tensor for (tensor,) in map(tuple, cuts_by_brute_force(received, 1))}
    found = our_split_tensors(sides)
    assert {as_in_the_config(graph, tensor) for tensor in found} == expected
    assert [point.name for point in ks.split_points(model)] == [
        tensor.name
        for index, tensor in enumerate(graph.tensors)
        if sides.main.tensors[index].users and crossing_at(sides, [index]) == [index]
    ]


@examples(120)
@given(plain)
def test_edges_are_those_of_the_config(recipe):
    model = build(recipe)
    graph = read_graph(model)
    ours = {
        as_in_the_config(graph, call.outputs[0])[:2]: {as_in_the_config(graph, tensor) for tensor in call.inputs}
        for call in graph.calls
    }
    received, outputs = edges_of(model)
    assert ours == {call: set(tensors) for call, tensors in received.items()}
    assert {as_in_the_config(graph, tensor) for tensor in graph.flat_outputs()} == outputs


@examples(120)
@given(wild)
def test_crossings_are_those_of_brute_force(recipe):
    graph = read_graph(build(recipe))
    received, as_made = edges_of_graph(graph)
    received = without(received, {(call, 0) for call in side_calls(graph)})
    found = cuts(read_sides(graph), 2)
    assert len({tuple(cut) for cut in found}) == len(found)
    assert {frozenset(map(as_made, cut)) for cut in found} == cuts_by_brute_force(received, 2)


@examples(60)
@given(recipes | whole | wild, st.lists(places, min_size=1, max_size=4))
def test_cuts_at_split_points_carry_what_they_say(recipe, chosen):
    model = build(recipe)
    points = ks.split_points(model)
    assume(points)
    x = data_for(model)
    expected = model(x)
    one = points[chosen[0] % len(points)]
    split = ks.split(model, one)
    assert sorted(tensor.name for tensor in split.crossings[0].tensors) == sorted([one.name, *one.also])
    assert split.crossings[0].bytes == one.bytes
    event(f"along: {min(len(one.also), 3)}")
    tail = ks.build_submodel(model, start=one.name)
    late = {name for name in split[1].inputs if name not in (one.name, *one.also)}
    assert len(tail.inputs) <= len({one.name, *one.also, *late})
    several = ks.split(model, list({points[place % len(points)] for place in chosen}))
    assert same_bits(several(x), expected)
    assert several.verify(x).check().identical
    assert same_bits(several.join()(x), expected)


def crossing_of(graph, chosen):
    """Returns all that crosses after these calls and their dependencies, except the model's inputs."""
    received, _ = edges_of_graph(graph)
    inner = [index for index, call in enumerate(graph.calls) if call.inputs]
    before = set().union(*(ancestors(received, (inner[place % len(inner)], 0, 0)) for place in chosen))
    return [
        tensor
        for tensor, found in enumerate(graph.tensors)
        if (found.call, 0) in before and any((user, 0) not in before for user in found.users)
    ]


@examples(30)
@given(recipes | whole | wild, st.lists(places, min_size=1, max_size=3))
def test_stages_compute_what_the_model_computes_and_leave_it_alone(recipe, chosen):
    model = build(recipe)
    randomize(model, seed=1)
    looked_at = chosen[0] % 10 == 0  # collecting all that is dead takes longer than all else
    before = looked_at and fingerprint(model)
    graph = read_graph(model)
    x = data_for(model)
    expected = model(x)
    crossing = crossing_of(graph, chosen)
    event(f"crossing: {min(len(crossing), 4)}")
    if any(graph.calls[graph.tensors[tensor].call].inputs for tensor in crossing):
        names = graph.names(crossing)
        try:
            split = ks.split(model, [names], allow_crossing=True)
        except ks.SplitError as error:
            assert "does not cross where" in str(error), error
            split = ks.split(model, [[names[-1]]], allow_crossing=True)
        assert same_bits(split(x), expected)
        assert split.verify(x).ok
        assert same_bits(split.join()(x), expected)
        del split
    del graph
    assert before == (looked_at and fingerprint(model))


@examples(50)
@given(recipes, st.lists(places, min_size=1, max_size=3))
def test_several_cuts_in_flat_models_compute_the_same(recipe, chosen):
    model = build(recipe)
    graph = read_graph(model)
    inner = [tensor.name for tensor in graph.tensors if tensor.users and graph.calls[tensor.call].inputs]
    x = data_for(model)
    if inner:
        try:
            split = ks.split(model, list({inner[place % len(inner)] for place in chosen}), allow_crossing=True)
        except ks.SplitError as error:
            assert "No call would be left" in str(error) or "named twice" in str(error)
            return
        assert same_bits(split(x), model(x))
        assert same_bits(split.join()(x), model(x))


@examples(40)
@given(recipes | plain)
def test_parameters_before_and_after_every_split_point(recipe):
    model = build(recipe)
    for point in ks.split_points(model):
        head = ks.build_submodel(model, end=point.name)
        assert point.params_before == head.count_params()
        split = ks.split(model, point.name)
        assert point.params_after == split[1].model.count_params()


def names_of(model):
    """Returns all names except those that Keras gives to mask operations anew at each load."""
    names = sorted(tensor.name for tensor in read_graph(model).tensors)
    points = [point.name for point in ks.split_points(model)]
    return [[name for name in found if not re.fullmatch(r"(any|not_equal)(_\d+)?", name)] for found in (names, points)]


@examples(50)
@given(recipes | whole)
def test_names_survive_the_config(recipe):
    model = build(recipe)
    assert names_of(keras.Model.from_config(model.get_config())) == names_of(model)


@examples(20)
@given(whole)
def test_names_survive_saving(recipe):
    model = build(recipe)
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "model.keras")
        loaded = keras.saving.load_model(Path(folder) / "model.keras")
    assert names_of(loaded) == names_of(model)
    assert same_bits(loaded(data_for(model)), model(data_for(model)))
