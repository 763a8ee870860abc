"""Models and data to train: one with everything that can occur in a step, and handwritten digits to tell apart."""

import keras
import numpy as np
import pytest
from comparing import copied

import kerassplit as ks

IN_BLOCKS = pytest.mark.filterwarnings("ignore:'.*' keeps a state, and the stages call it in another order:UserWarning")


def values_of(model):
    return [copied(variable) for variable in model.variables]


def put_back(model, values):
    for variable, value in zip(model.variables, values, strict=True):
        variable.assign(value)


def everything(activity=None):
    """Batch norm, dropout, regularizers, a shared layer, a frozen one, two outputs, a late input, masks, integers."""
    image = keras.Input((6, 6, 2), name="image")
    words = keras.Input((5,), dtype="int32", name="words")
    weigh = keras.regularizers.L2(0.01)
    x = keras.layers.Conv2D(4, 3, use_bias=False, kernel_regularizer=weigh, name="conv")(image)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.ReLU(name="relu")(x)
    x = keras.layers.Dropout(0.4, seed=1, name="drop")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    shared = keras.layers.Dense(4, kernel_regularizer=weigh, activity_regularizer=activity, name="shared")
    x = shared(x)
    aside = keras.layers.Dense(3, activation="softmax", name="aside")(x)
    frozen = keras.layers.Dense(4, name="frozen", trainable=False)
    y = frozen(keras.layers.LayerNormalization(name="between")(x))
    embedded = keras.layers.Embedding(9, 4, mask_zero=True, name="embedded")(words)
    y = keras.layers.Add(name="sum")([y, keras.layers.GlobalAveragePooling1D(name="mean")(embedded)])
    y = shared(y)
    return keras.Model(
        [image, words], {"kind": keras.layers.Dense(2, name="kind")(y), "aside": aside}, name="everything"
    )


def batch(count, seed=0):
    dice = np.random.default_rng(seed)
    x = [dice.normal(size=(count, 6, 6, 2)).astype("float32"), dice.integers(0, 9, (count, 5)).astype("int32")]
    y = {"kind": dice.normal(size=(count, 2)).astype("float32"), "aside": dice.integers(0, 3, (count,))}
    return x, y


LOSSES = {"kind": "mse", "aside": "sparse_categorical_crossentropy"}


def twin(model):
    """An independent model with the same values, including its generators' states."""
    copy = keras.models.clone_model(model)
    put_back(copy, values_of(model))
    return copy


def of_model(found, model):
    """Returns the gradients of a split in the order of the model's variables."""
    by_variable = {id(variable): one for pairs in found.stages.values() for variable, one in pairs}
    assert len(by_variable) == sum(map(len, found.stages.values()))  # each once
    return [by_variable.get(id(variable)) for variable in model.trainable_variables]


CROSSENTROPY = "sparse_categorical_crossentropy"


def handwritten_digits():
    """Returns digits of 8×8 pixels, enlarged to 32×32 in three colors, from 0 to 255, with their labels."""
    images, labels = pytest.importorskip("sklearn.datasets").load_digits(return_X_y=True)
    images = np.repeat(np.kron(images.reshape(-1, 8, 8), np.ones((4, 4)))[..., None], 3, -1) * (255 / 16)
    return images.astype("float32"), labels.astype("int32")  # JAX has none of 64 bits


def fine_tuned(model, at, data, directory, **options):
    return ks.fine_tune(model, at, data, directory, verbose=False, seed=0, **options)


def values(weights):
    return [copied(weight) for weight in weights]
