"""Properties that hold for every graph: random ones with branches, merges, shared layers, nested models and masks.

`pytest tests/test_random_graphs.py --hypothesis-profile=long` tries twenty times as many: more than 10,000.
"""

import re
import tempfile
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import OLD_KERAS, fingerprint, same_bits
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st
from oracle import ancestors, cuts_by_brute_force, edges_of, side_calls, without

import kerassplit as ks
from kerassplit.cutting.crossings import cuts
from kerassplit.cutting.frontiers import crossing_at
from kerassplit.cutting.frontiers import split_tensors as our_split_tensors
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

layers, ops = keras.layers, keras.ops
places = st.integers(0, 10**6)

INPUTS = {
    "vector": ((3,), "float32"),
    "sequence": ((4, 3), "float32"),
    "ids": ((4,), "int32"),
    "flags": ((3,), "bool"),
    "half": ((3,), "float16"),
}
KINDS = {(1 + len(shape), dtype): kind for kind, (shape, dtype) in INPUTS.items()}

FLAT = {
    "dense": (["vector"], lambda name, x: layers.Dense(3, name=name)(x)),
    "relu": (["vector"], lambda name, x: layers.ReLU(name=name)(x)),
    "add": (["vector", "vector"], lambda name, x, y: layers.Add(name=name)([x, y])),
    "join": (
        ["vector", "vector"],
        lambda name, x, y: layers.Dense(3, name=f"{name}_dense")(layers.Concatenate(name=name)([x, y])),
    ),
    "op": (["vector", "vector"], lambda name, x, y: x * 0.5 + y),
    "two": (["vector"], lambda name, x: ops.split(layers.Dense(6, name=name)(x), 2, axis=-1)),
}
MORE = FLAT | {
    "norm": (["vector"], lambda name, x: layers.BatchNormalization(name=name)(x)),
    "pool": (["sequence"], lambda name, x: layers.GlobalAveragePooling1D(name=name)(x)),
    "repeat": (["vector"], lambda name, x: layers.RepeatVector(4, name=name)(x)),
    "mix": (["sequence"], lambda name, x: layers.Dense(3, name=name)(x)),
    "merge": (["sequence", "sequence"], lambda name, x, y: layers.Multiply(name=name)([x, y])),
    "attention": (
        ["sequence", "sequence"],
        lambda name, x, y: layers.MultiHeadAttention(1, 2, name=name)(x, y),
    ),
    "lstm": (["sequence"], lambda name, x: layers.LSTM(3, name=name, return_sequences=True)(x)),
    "last": (["sequence"], lambda name, x: layers.LSTM(3, name=name)(x)),
    "embed": (["ids"], lambda name, x: layers.Embedding(9, 3, name=name)(x)),
    "count": (["ids"], lambda name, x: ops.minimum(x + 1, 8)),
    "larger": (["vector", "vector"], lambda name, x, y: ops.greater(x, y)),
    "not": (["flags"], lambda name, x: ops.logical_not(x)),
    "where": (["flags", "vector"], lambda name, x, y: ops.where(x, y, 0.5)),
    "wide": (["half"], lambda name, x: ops.cast(x, "float32")),
}
HALF = {
    "narrow": (["vector"], lambda name, x: ops.cast(x, "float16")),
    "half_dense": (["half"], lambda name, x: layers.Dense(3, dtype="float16", name=name)(x)),
    "mixed": (["vector"], lambda name, x: layers.Dense(3, dtype="mixed_float16", name=name)(x)),
}
MASKS = {
    "embed_masked": (["ids"], lambda name, x: layers.Embedding(9, 3, mask_zero=True, name=name)(x)),
    "masking": (["sequence"], lambda name, x: layers.Masking(0.0, name=name)(x)),
    "fixed": (["sequence"], lambda name, x: layers.LSTM(3, name=name, return_sequences=True)(x, training=False)),
}
HAS_HALF = keras.backend.backend() != "torch"
EVERYTHING = MORE | MASKS | (HALF if HAS_HALF else {})
SHARED = {
    "shared": ("vector", lambda name: layers.Dense(3, name=name)),
    "shared_relu": ("vector", lambda name: layers.ReLU(name=name)),
    "shared_lstm": ("sequence", lambda name: layers.LSTM(3, return_sequences=True, name=name)),
}


def recipes_of(calls, inputs, depth=0, **more):
    """Recipes for `build` out of these calls and inputs, with models nested `depth` deep."""
    inner = recipes_of(calls, [kind for kind in inputs if kind != "half" or more], depth - 1, **more) if depth else None
    calls = [*calls, *(["nested"] * 6 if depth else [])]
    return st.fixed_dictionaries(
        {
            "inputs": st.lists(st.sampled_from(inputs), min_size=1, max_size=3),
            "calls": st.lists(
                st.tuples(st.sampled_from(calls), places, places), min_size=1, max_size=8 if depth else 12
            ),
            "early_output": st.none() | places,
            "as_dict": st.booleans(),
            "nested": st.lists(inner | chains, min_size=1, max_size=2) if inner is not None else st.just([]),
            **more,
        }
    )


chains = st.fixed_dictionaries({"chain": st.lists(st.sampled_from(["dense", "relu"]), min_size=1, max_size=3)})
recipes = recipes_of([*FLAT, "add", "dense", "shared", "shared_relu"], ["vector"])
"""Flat models over vectors."""
plain = recipes_of([*MORE, *FLAT, *SHARED], ["vector", "vector", "sequence", "ids"], 2)
"""Nested ones, without what Keras keeps out of the config: masks, and casts at the doors of nested models."""
whole = recipes_of([*EVERYTHING, *MASKS, *FLAT, *SHARED], [kind for kind in INPUTS if HAS_HALF or kind != "half"], 2)
"""All kinds of calls, at any depth."""
wild = recipes_of(
    [*EVERYTHING, *MASKS, *FLAT, *SHARED],
    [kind for kind in INPUTS if HAS_HALF or kind != "half"],
    2,
    dropped=st.integers(0, 2),
    lent=st.booleans(),
    training=st.sampled_from([None, False]),
)
"""Besides, outputs that lead nowhere, nested models that use layers of the model around, and a fixed `training`."""


def build(recipe, name=None, lent=None):
    """The functional model that a recipe describes. Calls that find no tensor of their kind are left out."""
    if "chain" in recipe:
        return chain(recipe, name)
    prefix = f"{name}_" if name else ""  # a cut through a nested model puts its layers beside those around it
    inputs = [
        keras.Input(INPUTS[kind][0], dtype=INPUTS[kind][1], name=f"in{number}")
        for number, kind in enumerate(recipe["inputs"])
    ]
    tensors, used = list(inputs), set()
    shared = lent if lent is not None and recipe.get("lent") else {}

    def take(kinds, *chosen):
        found = []
        for number, kind in enumerate(kinds):
            fitting = [tensor for tensor in tensors if kind_of(tensor) == kind]
            if not fitting:
                return None
            place = chosen[number % 2] // (number // 2 + 1)
            recent = fitting[-3:][::-1] if number == 0 else fitting
            found.append(recent[place % len(recent)])
        used.update(map(id, found))
        return found

    for number, (kind, first, second) in enumerate(recipe["calls"]):
        given, call = [], None
        if kind == "nested":
            which = first % len(recipe["nested"])
            key = f"{prefix}nested{which}"
            if key not in shared:
                shared[key] = build(recipe["nested"][which], key, {k: v for k, v in shared.items() if k in SHARED})
            model = shared[key]
            given = take([kind_of(tensor) for tensor in model.inputs], second, first // 7)
            if given is not None:
                keywords = {} if recipe.get("training") is None else {"training": recipe["training"]}
                made = call_nested(model, given, keywords)
        elif kind in SHARED:
            given = take([SHARED[kind][0]], first)
            if given is not None:
                if kind not in shared:
                    shared[kind] = SHARED[kind][1](prefix + kind)
                made = shared[kind](*given)
        else:
            kinds, call = EVERYTHING[kind]
            given = take(kinds, first, second)
            if given is not None:
                made = call(f"{prefix}{kind}{number}", *given)
        if given is not None:
            known = {id(tensor) for tensor in tensors}
            tensors += [tensor for tensor in keras.tree.flatten(made) if id(tensor) not in known]
    made = tensors[len(inputs) :]
    if not made:
        made = [layers.Identity(name=f"{prefix}identity")(inputs[0])]
        used.add(id(inputs[0]))
    outputs = [tensor for tensor in made if id(tensor) not in used]
    outputs = outputs[: max(1, len(outputs) - recipe.get("dropped", 0))]
    if recipe["early_output"] is not None:
        outputs.append(made[recipe["early_output"] % len(made)])
    outputs = list({id(tensor): tensor for tensor in outputs}.values())
    if "dropped" not in recipe or OLD_KERAS:  # which refuses inputs that nothing takes
        inputs = [tensor for tensor in inputs if id(tensor) in used]
    return keras.Model(
        inputs, {f"out{i}": t for i, t in enumerate(outputs)} if recipe["as_dict"] else outputs, name=name
    )


def chain(recipe, name):
    """A Sequential model."""
    steps = [
        layers.Dense(3, name=f"{name}_dense{n}") if kind == "dense" else layers.ReLU(name=f"{name}_relu{n}")
        for n, kind in enumerate(recipe["chain"])
    ]
    return keras.Sequential([keras.Input((3,)), *steps], name=name)


def call_nested(model, given, keywords):
    structure = given[0] if isinstance(model, keras.Sequential) else given
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Layer '.*' .* was passed an input with a mask", UserWarning)
        return model(structure, **keywords)


def kind_of(tensor):
    return KINDS.get((len(tensor.shape), tensor.dtype))


def examples(count):
    """Settings for a property; the profile `long` multiplies the number of its examples."""
    return settings(
        max_examples=count * settings.default.max_examples // 100,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
        report_multiple_bugs=False,
        derandomize=settings.get_current_profile_name() != "long",
    )


EXAMPLES = examples(30)


def data_for(model):
    generator = np.random.default_rng(0)
    data = []
    for tensor in model.inputs:
        shape = (2, *tensor.shape[1:])
        if tensor.dtype == "int32":
            data.append(generator.integers(0, 4, size=shape).astype("int32"))
        elif tensor.dtype == "bool":
            data.append(generator.integers(0, 2, size=shape).astype(bool))
        else:
            values = generator.normal(size=shape).astype(tensor.dtype)
            data.append(values * (generator.random((2, *shape[1:-1], 1)) < 0.7) if len(shape) == 3 else values)
    return data


def edges_of_graph(graph):
    """The edges that kerassplit reads, as the oracle has them: a call is (its index, 0)."""

    def as_made(tensor):
        call = graph.tensors[tensor].call
        return call, 0, graph.calls[call].outputs.index(tensor)

    return {(index, 0): [as_made(tensor) for tensor in call.inputs] for index, call in enumerate(graph.calls)}, as_made


def as_in_the_config(graph, tensor):
    """How the oracle calls a tensor: by the numbers of calls that Keras writes into the config."""
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
    """All that crosses behind these calls and what they depend on; what the model is given does not count."""
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
    looked_at = chosen[0] % 3 == 0  # collecting all that is dead takes longer than all else
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
    """All names but those that Keras gives anew to the operations of masks at each load."""
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
