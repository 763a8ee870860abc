"""Blocks of architectures: those of their papers, and Sequential models from them."""

import keras
import numpy as np
import pytest
from applications import application
from comparing import same_bits

from kerassplit.cutting.pieces import blocks, to_sequential

BLOCKS = {
    "ResNet50": (17, ["conv2_block1_out", "conv2_block2_out", "conv2_block3_out", "conv3_block1_out"]),
    "DenseNet121": (59, ["conv2_block1_concat", "conv2_block2_concat", "conv2_block3_concat", "conv2_block4_concat"]),
    "InceptionV3": (12, ["mixed0", "mixed1", "mixed2", "mixed3"]),
    "VGG16": (1, ["predictions"]),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_architectures_have_the_blocks_of_their_papers(name, images):
    model = application(name)
    pieces = blocks(model)
    count, first = BLOCKS[name]
    assert len(pieces) == count
    assert list(pieces)[:4] == first
    assert list(pieces)[-1] == "predictions"
    assert [piece.name for piece in pieces.values()] == list(pieces)
    x = values = images(model)
    for piece in pieces.values():
        values = piece(values)
    assert same_bits(values, model(x))
    assert sum(piece.count_params() for piece in pieces.values()) == model.count_params()


@pytest.mark.parametrize("name", ["ResNet50", "MobileNetV2", "VGG16"])
def test_a_sequential_model_of_blocks_computes_what_the_model_computes(name, images, tmp_path):
    model = application(name)
    x = images(model)
    sequential = to_sequential(model)
    assert type(sequential) is keras.Sequential
    assert [block.name for block in sequential.layers] == list(blocks(model))
    assert same_bits(sequential(x), model(x))
    assert {id(variable) for variable in sequential.variables} == {id(variable) for variable in model.variables}
    np.testing.assert_allclose(sequential.predict(x, verbose=0), model.predict(x, verbose=0), rtol=1e-4, atol=1e-6)
    sequential.save(tmp_path / "sequential.keras")
    assert same_bits(keras.models.load_model(tmp_path / "sequential.keras")(x), model(x))
