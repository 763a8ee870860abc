"""The graph of a sub-model is mapped as Keras maps it, at any size."""

import sys

import keras
import numpy as np
import pytest
from applications import application, parameters
from comparing import same_bits
from keras.src.ops import function as keras_function

import kerassplit as ks
from kerassplit.graph.internals.map_graph import map_graph
from kerassplit.graph.internals.process_state import deep_recursion
from kerassplit.graph.reading import read_graph


@pytest.mark.slow
@pytest.mark.parametrize("name", parameters(["ResNet50", "DenseNet121", "InceptionV3", "ConvNeXtTiny", "NASNetMobile"]))
def test_the_order_of_nodes_and_operations_is_keras_own(name):
    with keras.StatelessScope():
        model = getattr(keras.applications, name)(weights=None)
    for part in (model, ks.build_submodel(model, start=ks.split_points(model)[1].name)):
        assert_same_map(part)


def test_the_order_is_keras_own_with_shared_layers_and_many_outputs(small):
    inputs = keras.Input((4,), name="x")
    other = keras.Input((4,), name="y")
    dense, relu = keras.layers.Dense(4, name="dense"), keras.layers.ReLU(name="relu")
    a = relu(dense(inputs))
    b = relu(dense(relu(dense(other))))
    c = keras.layers.Add(name="add")([a, b, inputs])
    assert_same_map(keras.Model([other, inputs], [dense(c), a, c]))
    assert_same_map(small)


def assert_same_map(model):
    ours = map_graph(model.inputs, model.outputs)
    theirs = keras_function.map_graph(model.inputs, model.outputs)
    assert ours[0] == theirs[0]
    assert dict(ours[1]) == dict(theirs[1])
    assert ours[2] == theirs[2]
    assert dict(ours[3]) == dict(theirs[3])


@pytest.mark.slow
def test_a_chain_of_5000_layers_can_be_cut_where_keras_own_recursion_stops():
    x = inputs = keras.Input((2,), name="x")
    for number in range(5000):
        x = (
            keras.layers.Dense(2, name=f"dense{number}")(x)
            if number % 50 == 0
            else keras.layers.ReLU(name=f"relu{number}")(x)
        )
    with deep_recursion():
        model = keras.Model(inputs, x, name="chain")
    assert sys.getrecursionlimit() < 5000
    points = ks.split_points(model)
    assert len(points) == 4999
    with pytest.raises(RecursionError):
        keras.Model(points_symbol(model, "relu1"), model.output)
    split = ks.split(model, [1000, 2500])
    data = np.ones((1, 2), "float32")
    assert same_bits(split(data), model(data))
    assert split.verify(data).identical


def points_symbol(model, name):
    graph = read_graph(model)
    return next(tensor.symbol for tensor in graph.tensors if tensor.name == name)


def test_no_weight_is_copied(resnet):
    model = application("ResNet50")
    pointers = {id(variable.value) for variable in model.variables}
    split = ks.split(model, [5, 10, 20])
    assert {id(variable.value) for stage in split for variable in stage.model.variables} == pointers
