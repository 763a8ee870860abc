"""`with_input_shape` on `keras.applications`: bit for bit what a fresh build at that shape gives with the same weights.

What Keras itself builds differently is left out: EfficientNetV2 and ConvNeXt normalize in the model for three channels
only, and NASNet adjusts its blocks to each other in another way where sides are open.
"""

import random

import keras
import numpy as np
import pytest
from applications import SMALLEST_SIDE
from comparing import same_bits
from samples import LONG, SAMPLE, due, marked

import kerassplit as ks
from kerassplit.errors import UnsupportedModelError
from kerassplit.zoo.names import architectures
from kerassplit.zoo.random_weights import randomize

FOR_THREE_CHANNELS = ("EfficientNetV2", "ConvNeXt")


def built(name, shape, top):
    options = {"include_preprocessing": False} if name.startswith(FOR_THREE_CHANNELS) else {}
    options |= {"classes": 10} if top else {"pooling": "avg"}
    with pytest.warns(UserWarning) if shape[-1] == 4 and not top else pytest.MonkeyPatch.context():
        return getattr(keras.applications, name)(weights=None, include_top=top, input_shape=shape, **options)


def shapes(name, number):
    """The smallest sides, and random ones; two in three of three channels."""
    generator = random.Random(f"{name}{SAMPLE}")
    least = SMALLEST_SIDE.get(name, 32)
    yield (least, least, 3)
    for place in range(1, number):
        yield (generator.randint(least, 150), generator.randint(least, 150), (1, 3, 4, 3)[place % 4])


@pytest.mark.parametrize("top", [False, True], ids=["features", "classes"])
@pytest.mark.parametrize("name", marked(due(architectures(), 8)))
def test_another_shape_is_as_a_fresh_build(name, top):
    least = max(64, SMALLEST_SIDE.get(name, 0))
    model = built(name, (least, least, 3), top)
    randomize(model, 3)
    if name.startswith("VGG") and top:
        with pytest.raises(UnsupportedModelError, match=r"^'fc1' \(Dense\) takes \(None, 2048\) in the model"):
            ks.with_input_shape(model, (128, 96, 3))
        return
    for shape in shapes(name, 32 if LONG else 3):
        result = ks.with_input_shape(model, shape)
        fresh = built(name, shape, top)
        fresh.set_weights(result.get_weights())
        x = np.random.default_rng(0).uniform(0, 1, (2, *shape)).astype("float32")
        assert same_bits(result(x, training=False), fresh(x, training=False)), shape
        own = {*map(id, result.variables)} - {*map(id, model.variables)}
        assert bool(own) == (shape[-1] != 3)
        del result, fresh


@pytest.mark.parametrize("name", marked(due([one for one in architectures() if not one.startswith("NASNet")], 8)))
def test_open_sides_are_as_a_fresh_build_too(name):
    model = built(name, (96, 96, 3), top=False)
    result, fresh = ks.with_input_shape(model, (None, None, 3)), built(name, (None, None, 3), top=False)
    fresh.set_weights(result.get_weights())
    x = np.random.default_rng(0).uniform(0, 1, (1, 101, 83, 3)).astype("float32")
    assert same_bits(result(x, training=False), fresh(x, training=False))
