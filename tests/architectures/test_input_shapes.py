"""`with_input_shape` on `keras.applications`: bit for bit what a fresh build at that shape gives with the same weights.

What Keras itself builds differently is left out: EfficientNetV2 and ConvNeXt normalize in the model for three channels
only, and NASNet adjusts its blocks to each other in another way where sides are open.
"""

import random
import warnings

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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "usually expects 1 or 3 input channels"
        return getattr(keras.applications, name)(weights=None, include_top=top, input_shape=shape, **options)


def shapes(name, top):
    """The smallest sides, open ones, and random ones; of those, half with three channels."""
    generator = random.Random(f"{name}{SAMPLE}{top}")
    least = SMALLEST_SIDE.get(name, 32)
    if not top:
        yield (least, least, 3)
    if not top and not name.startswith("NASNet"):
        yield (None, None, 3)
    for place in range(32 if LONG else 1):
        channels = (1, 3, 4, 3)[(place + SAMPLE + top) % 4]
        yield (generator.randint(least, 150), generator.randint(least, 150), channels)


@pytest.mark.parametrize("top", [False, True], ids=["features", "classes"])
@pytest.mark.parametrize("name", marked(due(architectures(), 8)))
def test_another_shape_is_as_a_fresh_build(name, top):
    least = max(64, SMALLEST_SIDE.get(name, 0))
    model = built(name, (least, least, 3), top)
    if name.startswith("VGG") and top:
        with pytest.raises(UnsupportedModelError, match=r"^'fc1' \(Dense\) takes \(None, 2048\) in the model"):
            ks.with_input_shape(model, (128, 96, 3))
        return
    randomize(model, 3)
    for shape in shapes(name, top):
        result, fresh = ks.with_input_shape(model, shape), built(name, shape, top)
        fresh.set_weights(result.get_weights())
        x = np.random.default_rng(0).uniform(0, 1, (2, *(side or 101 for side in shape))).astype("float32")
        assert same_bits(result(x, training=False), fresh(x, training=False)), shape
        own = {*map(id, result.variables)} - {*map(id, model.variables)}
        assert bool(own) == (shape[-1] != 3)
        del result, fresh
