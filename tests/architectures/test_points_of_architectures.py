"""Split points of every architecture, compared with brute force."""

import pytest
from oracle import split_tensors
from samples import due, marked

import kerassplit as ks
from kerassplit.zoo.models import load_model
from kerassplit.zoo.names import architectures

COUNTS = {  # found by brute force, independently of this project's tests
    "ResNet50": 39,
    "VGG16": 21,
    "MobileNetV2": 74,
    "DenseNet121": 79,
    "EfficientNetB0": 84,
    "EfficientNetB7": 123,
    "EfficientNetV2L": 128,
    "InceptionV3": 29,
    "Xception": 25,
    "ConvNeXtTiny": 29,
    "NASNetMobile": 5,
    "NASNetLarge": 5,
}


@pytest.mark.parametrize("name", marked(due(architectures(), 4)))
def test_the_split_points_of_every_architecture_are_those_that_brute_force_finds(name):
    model = load_model(name)  # its weights take no memory
    points = ks.split_points(model)
    expected = split_tensors(model)
    assert {point.name for point in points} == {layer for layer, _, _ in expected}
    assert len(points) == len(expected) == COUNTS.get(name, len(expected))
