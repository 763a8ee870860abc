"""Architectures, edited so that they must compute the same."""

import keras
import numpy as np
import pytest
from comparing import fingerprint, same_bits
from samples import SAMPLE, due, marked

import kerassplit as ks
from kerassplit.graph.reading import read_graph
from kerassplit.zoo.names import architectures

SOME = pytest.mark.parametrize("name", marked(due(architectures(), 8)))


@pytest.fixture
def model(applications, name):
    """Yields an architecture; afterwards it is unchanged."""
    built = applications(name)
    before = fingerprint(built, weights=False)
    yield built
    assert fingerprint(built, weights=False) == before


def identity(tensor):
    return keras.layers.Identity()


@SOME
def test_an_identity_after_every_tensor_and_after_single_ones(model, images, name):
    x = images(model)
    expected = model(x)
    names = [tensor.name for tensor in read_graph(model).tensors]
    edited = ks.insert(model, names, identity)
    assert sum(isinstance(one, keras.layers.Identity) for one in edited.layers) >= len(names)
    assert same_bits(edited(x), expected)
    for one in np.random.default_rng(SAMPLE).choice(names, 3, replace=False):
        assert same_bits(ks.insert(model, str(one), identity)(x), expected), one


@SOME
def test_without_dropouts(model, images, name):
    layers = [one for one in model._flatten_layers() if isinstance(one, keras.layers.Dropout)]
    if layers:
        edited = ks.remove(model, keras.layers.Dropout)
        assert not any(isinstance(one, keras.layers.Dropout) for one in edited._flatten_layers())
        assert same_bits(edited(images(model)), model(images(model)))


@SOME
def test_every_layer_replaced_by_a_copy(model, images, name):
    edited = ks.replace(model, {keras.Layer: lambda old: type(old).from_config(old.get_config())})
    assert not {id(one) for one in edited.weights} & {id(one) for one in model.weights}
    assert same_bits(edited(images(model)), model(images(model)))


@SOME
def test_inserted_and_removed_again(model, name):
    names = [point.name for point in ks.split_points(model) if "/" not in point.name]
    for one in np.random.default_rng(SAMPLE).choice(names, min(3, len(names)), replace=False):
        edited = ks.insert(model, str(one), keras.layers.Identity(name="new"))
        assert ks.compare(model, edited).only_in_other == ("new",) if one == names[0] else True
        assert ks.remove(edited, "new").get_config() == model.get_config(), one
