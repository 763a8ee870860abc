"""The graphs of architectures are mapped as Keras maps them."""

import keras
import pytest
from applications import parameters
from comparing import assert_same_map

import kerassplit as ks


@pytest.mark.parametrize("name", parameters(["ResNet50", "DenseNet121", "InceptionV3", "ConvNeXtTiny", "NASNetMobile"]))
def test_the_order_of_nodes_and_operations_is_keras_own(name):
    with keras.StatelessScope():
        model = getattr(keras.applications, name)(weights=None)
    for part in (model, ks.build_submodel(model, start=ks.split_points(model)[1].name)):
        assert_same_map(part)
