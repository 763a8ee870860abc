"""Small models that tests insert layers into, and a check of the result."""

import keras
from comparing import same_bits
from keras import layers, ops
from random_models import data_for


def dense(name, **options):
    return layers.Dense(3, name=name, **options)


def fan():
    """One tensor with two users, which is an output too."""
    x = keras.Input((3,), name="x")
    a = dense("a")(x)
    b = dense("b")(a)
    c = dense("c")(a)
    return keras.Model(x, {"sum": layers.Add(name="sum")([b, c]), "a": a}, name="fan")


def images():
    """Two convolutions before a head."""
    x = keras.Input((8, 8, 3), name="x")
    y = layers.Conv2D(4, 3, padding="same", name="conv1")(x)
    y = layers.ReLU(name="relu1")(y)
    y = layers.Conv2D(4, 3, padding="same", name="conv2")(y)
    y = layers.GlobalAveragePooling2D(name="pool")(y)
    return keras.Model(x, dense("score")(y), name="images")


def tower(name="tower"):
    x = keras.Input((3,), name=f"{name}_x")
    y = layers.Activation("tanh", name="act")(dense("inner")(x))
    return keras.Model(x, layers.Add(name="join")([x, y]), name=name)


def around(inner, calls=1):
    x = y = keras.Input((3,), name="x")
    for _ in range(calls):
        y = inner(y)
    return keras.Model(x, dense("last")(y), name="around")


def shared_relu():
    relu = layers.ReLU(name="relu")
    x = keras.Input((3,), name="x")
    y = relu(dense("a")(x))
    y = relu(dense("b")(y))
    return keras.Model(x, [dense("c")(y), y], name="shared")


def names(model):
    return [one.name for one in model.layers]


def check(edited, model, by_hand):
    """Checks that the edited model computes what a function of the model's `get_layer` and its input does."""
    x = ops.convert_to_tensor(data_for(model)[0])
    assert same_bits(edited(x), by_hand(model.get_layer, x))


def double(x):
    return x * 2
