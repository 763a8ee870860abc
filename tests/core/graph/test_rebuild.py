"""The graph of a sub-model is mapped as by Keras, at any size."""

import keras
from applications import application
from comparing import assert_same_map

import kerassplit as ks


def test_the_order_is_keras_own_with_shared_layers_and_many_outputs(small):
    inputs = keras.Input((4,), name="x")
    other = keras.Input((4,), name="y")
    dense, relu = keras.layers.Dense(4, name="dense"), keras.layers.ReLU(name="relu")
    a = relu(dense(inputs))
    b = relu(dense(relu(dense(other))))
    c = keras.layers.Add(name="add")([a, b, inputs])
    assert_same_map(keras.Model([other, inputs], [dense(c), a, c]))
    assert_same_map(small)


def test_no_weight_is_copied(resnet):
    model = application("ResNet50")
    pointers = {id(variable.value) for variable in model.variables}
    split = ks.split(model, [5, 10, 20])
    assert {id(variable.value) for stage in split for variable in stage.model.variables} == pointers
