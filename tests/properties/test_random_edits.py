"""Random models, edited at random: an oracle calls every layer again, by hand."""

import keras
import pytest
from comparing import fingerprint, same_bits
from hypothesis import assume, event, given, strategies as st
from random_models import INPUTS, build, data_for, examples, kind_of, places, recipes, whole, wild

import kerassplit as ks
from kerassplit.graph.reading import read_graph
from kerassplit.zoo.random_weights import randomize

pytestmark = [
    # Keras says so of every nested model that is given a masked tensor, and of layers that drop a mask.
    pytest.mark.filterwarnings("ignore:Layer '.*' .* was passed an input with a mask:UserWarning"),
]
layers, ops = keras.layers, keras.ops


@keras.saving.register_keras_serializable("random_edits")
class Unmasked(keras.layers.Layer):
    """Doubles its input and drops its mask."""

    def call(self, x):
        return x * 2

    def compute_mask(self, inputs, previous_mask):
        return None


def small_model():
    x = keras.Input((3,))
    return keras.Model(x, layers.Add()([x, layers.Dense(3, "tanh")(x)]))


FLOATS = {
    "identity": lambda: layers.Identity(),
    "dropout": lambda: layers.Dropout(0.5),
    "dense": lambda: layers.Dense(3),
    "norm": lambda: layers.LayerNormalization(),
    "operation": lambda: lambda x: x * 0.5 + 1.0,
    "nothing": lambda: lambda x: None,
}
INSERTED = {
    "vector": FLOATS | {"model": small_model},
    "sequence": FLOATS
    | {
        "lstm": lambda: layers.LSTM(3, return_sequences=True),
        "masking": lambda: layers.Masking(),
        "unmasked": lambda: Unmasked(),
        "twice": lambda: keras.Sequential([keras.Input((4, 3)), layers.Dense(3), layers.Dense(3)]),
    },
    "ids": {"count": lambda: lambda x: ops.minimum(x + 1, 3), "identity": lambda: layers.Identity()},
    "flags": {"not": lambda: lambda x: ops.logical_not(x)},
    "half": {"identity": lambda: layers.Identity(dtype="float16"), "operation": lambda: lambda x: x * 2},
}


def called_again(model, graph, inserted=(), into=None, replaced=()):
    """The oracle: calls every operation of a graph on new symbolic tensors, and lets Keras find shapes and masks.

    Args:
        inserted: From tensors to what is called on each.
        into: The calls that receive the results; `None` for all, and the model's outputs.
        replaced: From calls to what is called in place of each.
    """
    inserted, replaced = dict(inserted), dict(replaced)
    symbols, new = {}, {}

    def given(tensor, user=None):
        return new[tensor] if tensor in new and (into is None or user in into) else symbols[tensor]

    for index, call in enumerate(graph.calls):
        if call.inputs:
            kwargs = {name: value for name, value in call.arguments.kwargs.items() if not name.endswith("mask")}
            args, kwargs = keras.tree.map_structure(
                lambda one, call=call, index=index: (
                    given(call.scope[id(one)], index) if isinstance(one, keras.KerasTensor) else one
                ),
                (call.arguments.args, kwargs),
            )
            made = keras.tree.flatten(replaced.get(index, call.operation)(*args, **kwargs))
        else:
            made = [graph.new_input(tensor) for tensor in call.outputs]
        for tensor, symbol in zip(call.outputs, made, strict=True):
            symbols[tensor] = symbol
            if tensor in inserted:
                result = inserted[tensor](symbol)
                new[tensor] = symbol if result is None else result
    inputs = keras.tree.map_structure(symbols.__getitem__, graph.inputs)
    return keras.Model(inputs, keras.tree.map_structure(given, graph.outputs))


def rebuilt_by_hand(model, graph, **edits):
    """Returns the oracle's model, if it knows the model at all: masks may go other ways through opened models."""
    x = data_for(model)
    assume(same_bits(called_again(model, graph)(x), model(x)))
    return called_again(model, graph, **edits)


def chosen_tensors(graph, chosen):
    """Returns some tensors after which there is something to insert; masks that Keras makes are none of them."""
    outputs = graph.flat_outputs()
    fitting = [
        tensor
        for tensor, found in enumerate(graph.tensors)
        if found.symbol.shape[1:] == INPUTS.get(kind_of(found.symbol), [None])[0]
        and graph.calls[found.call].operation.name not in graph.made
        and (found.users or tensor in outputs)
    ]
    assume(fitting)
    return sorted({fitting[place % len(fitting)] for place in chosen})


def same(ours, theirs, model):
    assert len({one.name for one in ours.operations}) == len(ours.operations)
    assert ours.input_shape == theirs.input_shape
    assert ours.output_shape == theirs.output_shape
    x = data_for(model)
    keras.tree.assert_same_structure(ours(x), model(x))
    assert same_bits(ours(x), theirs(x))


@examples(25)
@given(recipes | whole | wild, st.lists(places, min_size=1, max_size=4), places, st.booleans())
def test_inserted_layers(recipe, chosen, how, everywhere):
    model = build(recipe)
    randomize(model, seed=1)
    graph = read_graph(model)
    tensors = chosen_tensors(graph, chosen)
    into = None
    if not everywhere:
        users = sorted({user for tensor in tensors for user in graph.tensors[tensor].users})
        assume(users)
        into = {users[(how // 7 + place) % len(users)] for place in range(1 + how % 2)}
    made = {}
    for place, tensor in enumerate(tensors):
        kinds = INSERTED[kind_of(graph.tensors[tensor].symbol)]
        kind = list(kinds)[(how + place * 3) % len(kinds)]
        event(kind)
        made[tensor] = kinds[kind]()
    event(f"{into is None=}, nests: {min(len(graph.nests), 2)}")
    by_name = {graph.tensors[tensor].name: one for tensor, one in made.items()}
    names = None if into is None else [graph.calls[call].name for call in into]

    def layer(tensor):
        one = by_name[tensor.name]
        return one if isinstance(one, keras.layers.Layer) else one(tensor)

    if how % 10 == 0:  # collecting all that is dead takes longer than all else
        before = fingerprint(model)
        ks.insert(model, list(by_name), layer, into=names)
        assert fingerprint(model) == before
    edited = ks.insert(model, list(by_name), layer, into=names)
    same(edited, rebuilt_by_hand(model, graph, inserted=made, into=into), model)


def layer_calls(graph, wanted=keras.Layer):
    return [index for index, call in enumerate(graph.calls) if call.inputs and isinstance(call.operation, wanted)]


def replacement_of(old, how):
    """Returns a copy, or another layer of the same shape: most of the weights of the old layer do not fit it."""
    config = old.get_config()
    if how % 3 == 0 and "activation" in config:
        return type(old).from_config(config | {"activation": "tanh"})
    if how % 3 == 1 and isinstance(old, (layers.ReLU, layers.BatchNormalization)):
        return layers.LeakyReLU(0.3)
    return type(old).from_config(config)


@examples(20)
@given(recipes | whole | wild, st.lists(places, min_size=1, max_size=3), places, st.booleans())
def test_replaced_layers(recipe, chosen, how, all_calls):
    model = build(recipe)
    randomize(model, seed=1)
    graph = read_graph(model)
    calls = layer_calls(graph)
    assume(calls)
    calls = sorted({calls[place % len(calls)] for place in chosen})
    if all_calls:
        operations = {id(graph.calls[index].operation) for index in calls}
        calls = [index for index in layer_calls(graph) if id(graph.calls[index].operation) in operations]
    made = {}

    def new(old):
        made[id(old)] = replacement_of(old, how)
        return made[id(old)]

    olds = {id(graph.calls[index].operation): graph.calls[index].operation for index in calls}
    names = [*olds.values()] if all_calls else [graph.calls[index].name for index in calls]
    edited = ks.replace(model, dict.fromkeys(names, new))
    for key, one in made.items():
        event(type(one).__name__)
        if type(one) is type(olds[key]):
            assert one.name == olds[key].name or not all_calls
            assert same_bits(one.weights, olds[key].weights)
    theirs = rebuilt_by_hand(model, graph, replaced={index: made[id(graph.calls[index].operation)] for index in calls})
    same(edited, theirs, model)


@examples(20)
@given(recipes | whole | wild, st.lists(places, min_size=1, max_size=3))
def test_removed_layers(recipe, chosen):
    model = build(recipe)
    randomize(model, seed=1)
    graph = read_graph(model)
    calls = [
        index
        for index in layer_calls(
            graph, (layers.ReLU, layers.Dense, layers.BatchNormalization, layers.Masking, layers.LSTM)
        )
        if kind_of(graph.calls[index].arguments.args[0]) == kind_of(graph.tensors[graph.calls[index].outputs[0]].symbol)
        and graph.calls[index].arguments.args[0].shape == graph.tensors[graph.calls[index].outputs[0]].symbol.shape
    ]
    assume(calls)
    calls = sorted({calls[place % len(calls)] for place in chosen})
    edited = ks.remove(model, [graph.calls[index].name for index in calls])
    theirs = rebuilt_by_hand(model, graph, replaced=dict.fromkeys(calls, lambda x, **_: x))
    same(edited, theirs, model)
