"""The graphs of architectures are mapped as by Keras."""

import pytest
from applications import parameters
from comparing import assert_same_map

import kerassplit as ks
from kerassplit.zoo.models import load_model


@pytest.mark.parametrize("name", parameters(["ResNet50", "DenseNet121", "InceptionV3", "ConvNeXtTiny", "NASNetMobile"]))
def test_the_order_of_nodes_and_operations_is_keras_own(name):
    model = load_model(name)  # its weights take no memory
    for part in (model, ks.build_submodel(model, start=ks.split_points(model)[1].name)):
        assert_same_map(part)
