"""Stages compute what the model computes, bit for bit: outputs, gradients, batch-norm statistics."""

import keras
import numpy as np
import pytest
from comparing import copied, same_bits
from samples import due

import kerassplit as ks
from kerassplit.graph.reading import read_graph


def test_predict_takes_and_gives_arrays_and_agrees_with_the_models_predict(applications, images):
    model = applications("MobileNet")
    x = np.concatenate([images(model)] * 2)[:3]
    split = ks.split(model, ["conv_pw_3_relu", "conv_pw_11_relu"])
    result = split.predict(x, batch_size=2)
    assert isinstance(result, np.ndarray)
    assert result.shape == (3, 1000)
    np.testing.assert_allclose(result, model.predict(x, batch_size=2, verbose=0), rtol=1e-5, atol=1e-7)


def test_mixed_precision_is_kept():
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        inputs = keras.Input((8,))
        x = keras.layers.Dense(8, name="a")(inputs)
        x = keras.layers.Dense(8, name="b")(x)
        model = keras.Model(inputs, keras.layers.Dense(2, dtype="float32", name="c")(x))
    finally:
        keras.config.set_dtype_policy(policy)
    tail = ks.build_submodel(model, start="a")
    assert tail.input.dtype == "bfloat16"
    assert tail.dtype_policy == model.dtype_policy
    split = ks.split(model, ["a", "b"])
    x = np.random.default_rng(0).normal(size=(3, 8)).astype("float32")
    assert same_bits(split(x), model(x))
    assert split.verify().identical


def test_the_arguments_of_calls_are_kept():
    """Training flags, keyword tensors, nested structures and constants in them."""
    inputs = keras.Input((6, 8), name="tokens")
    mask = keras.Input((6,), dtype="bool", name="mask")
    x = keras.layers.Dense(8, name="embed")(inputs)
    x = keras.layers.Dropout(0.5, seed=3, name="frozen_dropout")(x, training=True)
    x = keras.layers.BatchNormalization(name="frozen_norm")(x, training=False)
    y = keras.layers.MultiHeadAttention(2, 4, name="attention")(x, x, key_mask=mask, use_causal_mask=True)
    z = keras.ops.concatenate([x, y + 1.0], axis=1)
    model = keras.Model([inputs, mask], keras.ops.sum(z[:, 2:, ::2], axis=-1))
    data = [np.random.default_rng(0).normal(size=(2, 6, 8)).astype("float32"), np.ones((2, 6), bool)]
    model.get_layer("frozen_norm").set_weights([np.random.rand(8) + 0.5 for _ in range(4)])
    split = ks.split(model, ["embed", "frozen_norm"])
    dropout = model.get_layer("frozen_dropout")
    state = copied(dropout.seed_generator.state)
    expected = model(data)
    dropout.seed_generator.state.assign(state)
    assert same_bits(split(data), expected)


def test_every_call_of_a_shared_layer_is_computed_where_it_stands():
    """Siamese towers, and a layer that is called in each stage."""
    left, right = keras.Input((4,), name="left"), keras.Input((4,), name="right")
    shared, relu = keras.layers.Dense(4, name="shared"), keras.layers.ReLU(name="relu")
    a = relu(shared(keras.layers.Dense(4, name="a")(left)))
    b = relu(shared(keras.layers.Dense(4, name="b")(right)))
    c = keras.layers.Dense(4, name="c")(keras.layers.Subtract(name="difference")([a, b]))
    model = keras.Model([left, right], keras.layers.Dense(2, name="y")(relu(shared(c))))
    generator = np.random.default_rng(0)
    model.set_weights([generator.normal(size=weight.shape) for weight in model.get_weights()])
    x = [generator.normal(size=(3, 4)).astype("float32") for _ in range(2)]
    assert len(np.unique(copied(model(x)))) > 3
    for at in (["difference"], ["c"], ["relu@0", "relu@1"], ["a", "b", "difference", "shared@2"]):
        split = ks.split(model, at)
        assert same_bits(split(x), model(x)), at
        assert split.verify(x).identical


@pytest.mark.parametrize(
    "layer",
    [
        keras.layers.BatchNormalization(name="shared"),
        keras.layers.Dropout(0.5, seed=1, name="shared"),
    ],
    ids=["BatchNormalization", "Dropout"],
)
def test_calls_of_a_layer_with_a_state_in_another_order_are_warned_of(layer):
    x = keras.Input((4,), name="x")
    early = keras.layers.Dense(4, name="early")(layer(x))
    late = layer(keras.layers.Dense(4, name="late")(x))
    model = keras.Model(x, keras.layers.Add(name="sum")([early, late]))
    first, second = [call.name for call in read_graph(model).calls if call.operation is layer]
    with pytest.warns(UserWarning, match="' keeps a state, and the stages call it in another order than 'functional"):
        ks.split(model, second, allow_crossing=True)
    ks.split(model, first, allow_crossing=True)


def test_calls_of_a_layer_without_a_state_may_come_in_any_order():
    x = keras.Input((4,), name="x")
    frozen = keras.layers.BatchNormalization(name="shared")
    early, late = keras.layers.Dense(4, name="early"), keras.layers.Dense(4, name="late")
    model = keras.Model(x, keras.layers.Add(name="sum")([early(frozen(x)), frozen(late(x))]))
    frozen.trainable = False
    for at in ("early", "shared@0", "shared@1"):
        ks.split(model, at, allow_crossing=True)


def test_a_chain_through_one_layer():
    x = inputs = keras.Input((4,), name="x")
    dense = keras.layers.Dense(4, name="dense")
    for number in range(4):
        x = dense(keras.layers.Dense(4, name=f"other{number}")(x))
    model = keras.Model(inputs, x)
    data = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    for point in due(ks.split_points(model), 4):
        head = ks.build_submodel(model, end=point.name)
        tail = ks.build_submodel(model, start=point.name)
        assert same_bits(tail(head(data)), model(data)), point.name
