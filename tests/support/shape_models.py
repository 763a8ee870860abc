"""Small models, by the shape of their input, that take any size; and their fresh twins."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from comparing import same_bits

from kerassplit.zoo.random_weights import randomize

layers, ops = keras.layers, keras.ops
Shape = Sequence[int | None]


def convolutional(shape: Shape) -> keras.Model:
    inputs = keras.Input(shape, name="image")
    x = layers.Conv2D(6, 3, strides=2, padding="same", name="stem")(inputs)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.MaxPooling2D(name="pool")(layers.Activation("relu", name="relu")(x))
    x = layers.GlobalAveragePooling2D(name="average")(layers.DepthwiseConv2D(3, name="depthwise")(x))
    return keras.Model(inputs, layers.Dense(2, name="head")(x), name="convolutional")


def segmentation(shape: Shape) -> keras.Model:
    inputs = keras.Input(shape, name="image")
    x = full = layers.Conv2D(4, 3, padding="same", activation="relu", name="full")(inputs)
    x = half = layers.Conv2D(6, 3, strides=2, padding="same", activation="relu", name="half")(x)
    x = layers.Conv2D(8, 3, strides=2, padding="same", name="quarter")(x)
    x = layers.Concatenate(name="both")([layers.Conv2DTranspose(6, 2, strides=2, name="up")(x), half])
    x = layers.Add(name="sum")([layers.Conv2D(4, 1, name="narrow")(layers.UpSampling2D(name="double")(x)), full])
    return keras.Model(inputs, layers.Conv2D(2, 1, activation="softmax", name="classes")(x), name="segmentation")


def with_backbone(shape: Shape) -> keras.Model:
    inner = keras.Input(shape, name="pixels")
    x = layers.Rescaling(1 / 255, name="rescaling")(inner)
    x = layers.Conv2D(4, 3, name="conv")(layers.ZeroPadding2D(name="pad")(x))
    backbone = keras.Model(inner, x + layers.Conv2D(4, 1, name="point")(x), name="backbone")
    inputs = keras.Input(shape, name="image")
    x = backbone(layers.RandomFlip(name="flip")(inputs))
    return keras.Model(inputs, layers.Dense(3, name="head")(layers.GlobalMaxPooling2D(name="most")(x)), name="outer")


def of_operations(shape: Shape) -> keras.Model:
    """Operations without layers, and a layer that is called twice."""
    inputs = keras.Input(shape, name="image")
    shared = layers.Conv2D(3, 3, padding="same", name="shared")
    x = layers.Conv2D(3, 1, name="stem")(inputs)
    x = ops.relu(shared(x)) + ops.tanh(shared(ops.flip(x, 1)))
    x = ops.concatenate([x, ops.mean(x, axis=(1, 2), keepdims=True) * x], axis=-1)
    return keras.Model(inputs, ops.max(x, axis=(1, 2)), name="of_operations")


def sequential(shape: Shape) -> keras.Model:
    body = keras.Sequential(
        [keras.Input(shape), layers.Conv2D(4, 3, name="first"), layers.ReLU(name="relu")], name="body"
    )
    return keras.Sequential([keras.Input(shape, name="image"), body, layers.GlobalAveragePooling2D(name="average")])


def recurrent(shape: Shape) -> keras.Model:
    inputs = keras.Input(shape, name="ids", dtype="int32")
    x = layers.Embedding(9, 4, mask_zero=True, name="embedding")(inputs)
    return keras.Model(inputs, layers.Bidirectional(layers.LSTM(2, name="lstm"), name="both")(x), name="recurrent")


def convolved_sequence(shape: Shape) -> keras.Model:
    inputs = keras.Input(shape, name="series")
    x = layers.Conv1D(4, 3, strides=2, name="conv")(inputs)
    x = layers.MultiHeadAttention(2, 2, name="attention")(x, x)
    x = layers.TimeDistributed(layers.Dense(3, name="each"), name="distributed")(x)
    return keras.Model(inputs, layers.GlobalMaxPooling1D(name="most")(layers.LayerNormalization(name="norm")(x)))


IMAGES = [convolutional, segmentation, with_backbone, of_operations, sequential]
SEQUENCES = [recurrent, convolved_sequence]


def random_input(model: keras.Model, batch: int = 2) -> Any:
    """Random values for an input; open sides become 12."""
    symbol = model.inputs[0]
    shape = [batch, *(12 if side is None else side for side in symbol.shape[1:])]
    generator = np.random.default_rng(0)
    if "float" in symbol.dtype:
        return generator.normal(size=shape).astype("float32")
    return generator.integers(0, 9, shape).astype(symbol.dtype)


def randomized(make: Callable[[Shape], keras.Model], shape: Shape) -> keras.Model:
    model = make(shape)
    randomize(model, 1, random_input(model, 1))
    return model


def run(model: keras.Model, x: Any) -> Any:
    """Runs a model for inference: random layers do nothing."""
    return model(x, training=False)


def is_as_fresh(model: keras.Model, fresh: keras.Model) -> bool:
    """True if a fresh model gives the same bits with the same weights, and all shapes are equal."""
    fresh.set_weights(model.get_weights())
    x = random_input(fresh)
    return fresh.output_shape == model.output_shape and same_bits(run(model, x), run(fresh, x))


def layers_of(model: keras.Model) -> list[keras.Layer]:
    """All layers but inputs, those of nested models among them."""
    return [one for one in model._flatten_layers() if not isinstance(one, (keras.Model, layers.InputLayer))]
