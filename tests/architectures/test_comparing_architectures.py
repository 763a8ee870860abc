"""compare finds one changed weight in an architecture, by name."""

import keras
import numpy as np
import pytest
from samples import SAMPLE, due, marked

import kerassplit as ks
from kerassplit.zoo.names import architectures


@pytest.mark.parametrize("name", marked(due(architectures(), 16)))
def test_the_one_changed_weight_is_found(applications, images, name):
    model = applications(name)
    other = ks.flatten(model, copy_weights=True)
    layer = np.random.default_rng(SAMPLE).choice([one for one in other.layers if one.weights])
    weight = layer.weights[0]
    weight.assign(weight + keras.ops.ones_like(weight))
    comparison = ks.compare(model, other, images(model))
    assert comparison.first.stage.rpartition("/")[2] == layer.name  # in nested models, names have paths
    (changed,) = comparison.weights
    assert (changed.layer.rpartition("/")[2], changed.weight) == (layer.name, weight.name)
    assert all(one.identical for one in comparison.comparisons[: comparison.comparisons.index(comparison.first)])
