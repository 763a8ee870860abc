"""Small models that tests in several folders cut."""

import keras

layers, ops = keras.layers, keras.ops


def uneven():
    """Two skips over most of the model: single-tensor cuts only at its ends, cuts of two tensors in the middle."""
    dense = keras.layers.Dense
    inputs = keras.Input((16,), name="x")
    x = first = dense(16, name="first")(inputs)
    for number in range(6):
        x = dense(16, name=f"middle{number}")(x)
    x = keras.layers.Add(name="skip")([x, first])
    return keras.Model(inputs, dense(16, name="last")(x), name="uneven")


LENGTH = 16


def attention(x, mask, number):
    heads = layers.MultiHeadAttention(2, 4, name=f"attention{number}")(x, x, attention_mask=mask)
    return layers.LayerNormalization(name=f"block{number}")(layers.Add(name=f"add{number}")([x, heads]))


def transformer(make_mask, blocks=3, late=False):
    """Attention blocks that share a mask; `late`: the last of them also takes the ids."""
    ids = keras.Input((LENGTH,), dtype="int32", name="ids")
    x = layers.Embedding(9, 8, name="embedding")(ids)
    mask = make_mask(ids)
    for number in range(blocks):
        x = attention(x, mask, number)
    if late:
        x = layers.Concatenate(name="both")([x, layers.Embedding(9, 8, name="again")(ids)])
    return keras.Model(ids, layers.Dense(2, name="logits")(x), name="transformer")


def narrow(ids):
    return ops.expand_dims(ops.not_equal(ids, 0), 1)


def exit_layers(name, classes=1000):
    return [layers.GlobalAveragePooling2D(name=f"{name}_pool"), layers.Dense(classes, "softmax", name=name)]
