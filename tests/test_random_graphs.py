"""Properties that hold for every graph: random ones with branches, merges, shared layers, inputs and outputs."""

import gc

import keras
import numpy as np
from conftest import fingerprint, same_bits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle import split_tensors

import kerassplit as ks
from kerassplit.dominators import PostDominators
from kerassplit.graph import read_graph
from kerassplit.points import crossing_at
from kerassplit.points import split_tensors as our_split_tensors

KINDS = ["dense", "dense", "relu", "add", "add", "join", "shared", "shared_relu", "op", "two"]
places = st.integers(0, 10**6)
recipes = st.fixed_dictionaries(
    {
        "inputs": st.integers(1, 3),
        "calls": st.lists(st.tuples(st.sampled_from(KINDS), places, places), min_size=1, max_size=12),
        "early_output": st.none() | places,
        "as_dict": st.booleans(),
    }
)


def build(recipe):
    """A functional model over vectors of 3 numbers."""
    inputs = [keras.Input((3,), name=f"in{number}") for number in range(recipe["inputs"])]
    shared = {"shared": keras.layers.Dense(3, name="shared"), "shared_relu": keras.layers.ReLU(name="shared_relu")}
    tensors, used = list(inputs), set()
    for number, (kind, first, second) in enumerate(recipe["calls"]):
        one, other = tensors[-1 - first % min(3, len(tensors))], tensors[second % len(tensors)]
        used.add(id(one))
        if kind in ("add", "join", "op"):
            used.add(id(other))
        if kind == "dense":
            tensors.append(keras.layers.Dense(3, name=f"dense{number}")(one))
        elif kind == "relu":
            tensors.append(keras.layers.ReLU(name=f"relu{number}")(one))
        elif kind == "add":
            tensors.append(keras.layers.Add(name=f"add{number}")([one, other]))
        elif kind == "join":
            both = keras.layers.Concatenate(name=f"join{number}")([one, other])
            tensors.append(keras.layers.Dense(3, name=f"dense{number}")(both))
        elif kind == "op":
            tensors.append(one * 0.5 + other)
        elif kind == "two":
            tensors.extend(keras.ops.split(keras.layers.Dense(6, name=f"dense{number}")(one), 2, axis=-1))
        else:
            tensors.append(shared[kind](one))
    made = tensors[len(inputs) :]
    outputs = [tensor for tensor in made if id(tensor) not in used]
    if recipe["early_output"] is not None:
        outputs.append(made[recipe["early_output"] % len(made)])
    outputs = list({id(tensor): tensor for tensor in outputs}.values())
    inputs = [tensor for tensor in inputs if id(tensor) in used]
    return keras.Model(inputs, {f"out{i}": t for i, t in enumerate(outputs)} if recipe["as_dict"] else outputs)


EXAMPLES = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    derandomize=True,
)


def data_for(model):
    generator = np.random.default_rng(0)
    return [generator.normal(size=(2, *tensor.shape[1:])).astype("float32") for tensor in model.inputs]


@EXAMPLES
@given(recipes)
def test_split_points_are_those_of_brute_force(recipe):
    model = build(recipe)
    graph = read_graph(model)
    found = set()
    for tensor in our_split_tensors(graph, PostDominators(graph)):
        operation, number, place = graph.tensors[tensor].symbol._keras_history
        found.add((operation.name, number, place))
    assert found == split_tensors(model)
    assert [point.name for point in ks.split_points(model)] == [
        tensor.name
        for index, tensor in enumerate(graph.tensors)
        if tensor.users and graph.calls[tensor.call].inputs and crossing_at(graph, [index]) == [index]
    ]


@EXAMPLES
@given(recipes, st.lists(places, min_size=1, max_size=3))
def test_stages_compute_what_the_model_computes_and_leave_it_alone(recipe, cuts):
    model = build(recipe)
    before = fingerprint(model)
    graph = read_graph(model)
    inner = [tensor.name for tensor in graph.tensors if tensor.users and graph.calls[tensor.call].inputs]
    x = data_for(model)
    expected = model(x)
    if inner:
        at = list({inner[cut % len(inner)] for cut in cuts})
        try:
            split = ks.split(model, at, allow_crossing=True)
        except ks.SplitError as error:
            assert "No call would be left" in str(error) or "named twice" in str(error)
            return
        assert same_bits(split(x), expected)
        assert split.verify(x).ok
        assert same_bits(split.join()(x), expected)
        del split
        gc.collect()
    assert fingerprint(model) == before


@EXAMPLES
@given(recipes)
def test_parameters_before_and_after_every_split_point(recipe):
    model = build(recipe)
    for point in ks.split_points(model):
        head = ks.build_submodel(model, end=point.name)
        assert point.params_before == head.count_params()
        split = ks.split(model, point.name)
        assert point.params_after == split[1].model.count_params()


@EXAMPLES
@given(recipes)
def test_names_survive_saving(recipe):
    model = build(recipe)
    again = keras.Model.from_config(model.get_config())
    assert sorted(t.name for t in read_graph(again).tensors) == sorted(t.name for t in read_graph(model).tensors)
    assert [point.name for point in ks.split_points(again)] == [point.name for point in ks.split_points(model)]
