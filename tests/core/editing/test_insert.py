"""insert: a layer after any tensor of a model."""

import re

import keras
import numpy as np
import pytest
from applications import OLD_KERAS
from comparing import copied, same_bits
from insertion_models import around, check, dense, double, fan, images, names, shared_relu, tower
from keras import layers, ops
from random_models import data_for

import kerassplit as ks

# Where


def test_all_that_use_a_tensor_get_the_new_one_also_the_models_outputs():
    model, new = fan(), dense("new")
    edited = ks.insert(model, "a", new)

    def by_hand(layer, x):
        a = new(layer("a")(x))
        return {"sum": layer("b")(a) + layer("c")(a), "a": a}

    check(edited, model, by_hand)
    assert names(edited) == ["x", "a", "new", "b", "c", "sum"]
    assert edited.name == "fan"
    assert all(edited.get_layer(one.name) is one for one in [*model.layers[1:], new])


def test_the_calls_named_in_into_alone_get_it():
    model = fan()
    for into in ("b", ["b"], "[b]", model.get_layer("b")):
        edited = ks.insert(model, "a", double, into=into)
        check(edited, model, lambda f, x: {"sum": f("b")(f("a")(x) * 2) + f("c")(f("a")(x)), "a": f("a")(x)})
    both = ks.insert(model, "a", double, into=["b", "c"])
    check(both, model, lambda f, x: {"sum": f("b")(f("a")(x) * 2) + f("c")(f("a")(x) * 2), "a": f("a")(x)})
    of_a_class = ks.insert(model, "b", double, into=layers.Add)
    check(of_a_class, model, lambda f, x: {"sum": f("b")(f("a")(x)) * 2 + f("c")(f("a")(x)), "a": f("a")(x)})


def test_into_of_several_tensors_is_for_each_that_the_call_uses():
    model = fan()
    edited = ks.insert(model, ["a", "b"], double, into=["c", "sum"])
    check(edited, model, lambda f, x: {"sum": 2 * f("b")(f("a")(x)) + f("c")(2 * f("a")(x)), "a": f("a")(x)})


def test_into_must_use_the_tensor():
    with pytest.raises(ks.SplitError, match=re.escape("`into` names 'sum', which does not use 'a'; 'b' and 'c' does.")):
        ks.insert(fan(), "a", double, into="sum")
    with pytest.raises(ks.SplitError, match="`into` names 'b', which does not use 'sum'; no call does."):
        ks.insert(fan(), "sum", double, into="b")
    with pytest.raises(ks.UnknownTensorError, match="has no tensor 'd'"):
        ks.insert(fan(), "a", double, into="d")


def test_inputs_of_the_model_can_be_named():
    model = fan()
    check(
        ks.insert(model, "x", double),
        model,
        lambda f, x: {"sum": f("b")(f("a")(2 * x)) + f("c")(f("a")(2 * x)), "a": f("a")(2 * x)},
    )
    x = keras.Input((3,), name="x")
    both = keras.Model(x, [x, dense("a")(x)])
    edited = ks.insert(both, "x", double)
    check(edited, both, lambda f, x: [x * 2, f("a")(x * 2)])
    assert edited.inputs[0].name == "x"


def test_tensors_are_named_by_layers_and_symbols_too():
    model = fan()
    for at in (model.get_layer("b"), model.get_layer("b").output):
        edited = ks.insert(model, at, double)
        check(edited, model, lambda f, x: {"sum": f("b")(f("a")(x)) * 2 + f("c")(f("a")(x)), "a": f("a")(x)})


def test_a_glob_puts_a_layer_of_its_own_after_each():
    model = images()
    edited = ks.insert(model, "conv*", lambda tensor: layers.BatchNormalization(name=f"{tensor.name}_norm"))
    assert names(edited) == ["x", "conv1", "conv1_norm", "relu1", "conv2", "conv2_norm", "pool", "score"]
    with pytest.raises(ks.UnknownTensorError, match=re.escape("No tensor of model 'images' matches 'dense*'")):
        ks.insert(model, "dense*", lambda tensor: layers.Identity())
    with pytest.raises(ks.SplitError, match="'conv1' is named twice in `at`"):
        ks.insert(model, ["conv*", "conv1"], double)


def test_one_call_of_a_shared_layer():
    model = shared_relu()
    check(
        ks.insert(model, "relu@1", double),
        model,
        lambda f, x: (lambda y: [f("c")(y), y])(2 * ops.relu(f("b")(ops.relu(f("a")(x))))),
    )
    edited = ks.insert(model, "relu@0", double)
    check(edited, model, lambda f, x: (lambda y: [f("c")(y), y])(ops.relu(f("b")(2 * ops.relu(f("a")(x))))))
    assert ks.tensors(edited)[:2] == ("a", "relu@0")
    check(
        ks.insert(model, "b", double, into="relu@1"),
        model,
        lambda f, x: (lambda y: [f("c")(y), y])(ops.relu(2 * f("b")(ops.relu(f("a")(x))))),
    )
    with pytest.raises(ks.AmbiguousTensorError, match="'relu' stands for 2 tensors"):
        ks.insert(model, "relu", double)


def test_one_output_of_a_layer_with_several():
    x = keras.Input((4, 3), name="x")
    y, hidden, cell = layers.LSTM(3, return_sequences=True, return_state=True, name="lstm")(x)
    model = keras.Model(x, [y, hidden, cell])
    edited = ks.insert(model, "lstm:1", double)
    y, hidden, cell = model(data_for(model)[0])
    assert same_bits(edited(data_for(model)[0]), [y, hidden * 2, cell])


# Nested models


def test_inside_a_nested_model_which_is_opened():
    model = around(tower())
    edited = ks.insert(model, "tower/inner", double)
    check(edited, model, lambda f, x: f("last")(x + ops.tanh(2 * f("tower").get_layer("inner")(x))))
    assert names(edited) == ["x", "inner", "act", "join", "last"]
    assert edited.get_layer("inner") is model.get_layer("tower").get_layer("inner")


def test_before_and_after_a_nested_model_it_stays_whole():
    model = around(tower())
    assert names(ks.insert(model, "tower", dense("new"))) == ["x", "tower", "new", "last"]
    assert names(ks.insert(model, "x", dense("new"))) == ["x", "new", "tower", "last"]
    assert names(ks.insert(model, "tower/join", dense("new"))) == ["x", "tower", "new", "last"]
    assert names(ks.insert(model, "x", dense("new"), into="tower")) == ["x", "new", "tower", "last"]


def test_into_one_layer_of_a_nested_model():
    model = around(tower())
    edited = ks.insert(model, "x", double, into="tower/inner")
    check(edited, model, lambda f, x: f("last")(x + ops.tanh(f("tower").get_layer("inner")(2 * x))))
    edited = ks.insert(model, "x", double, into="tower/join")
    check(edited, model, lambda f, x: f("last")(2 * x + ops.tanh(f("tower").get_layer("inner")(x))))


def test_in_one_of_two_calls_of_a_nested_model():
    model = around(tower(), calls=2)
    edited = ks.insert(model, "tower@1/inner", double)

    def by_hand(f, x):
        y = f("tower")(x)
        return f("last")(y + ops.tanh(2 * f("tower").get_layer("inner")(y)))

    check(edited, model, by_hand)
    assert ks.tensors(edited)[:3] == ("inner@0", "act@0", "join@0")
    edited = ks.insert(model, "tower@0", double)
    check(edited, model, lambda f, x: f("last")(f("tower")(2 * f("tower")(x))))
    assert names(edited) == ["x", "tower", "last"]  # one layer, called twice


def test_nested_in_nested():
    core = tower("core")
    x = keras.Input((3,), name="shell_x")
    shell = keras.Model(x, dense("shell_last")(core(dense("shell_first")(x))), name="shell")
    model = around(shell)
    edited = ks.insert(model, "shell/core/inner", double)

    def by_hand(f, x):
        y = f("shell").get_layer("shell_first")(x)
        y = y + ops.tanh(2 * core.get_layer("inner")(y))
        return f("last")(f("shell").get_layer("shell_last")(y))

    check(edited, model, by_hand)
    assert names(ks.insert(model, "shell/shell_first", dense("new"))) == [
        "x",
        "shell_first",
        "new",
        "core",
        "shell_last",
        "last",
    ]


# What


def test_a_function_may_return_a_tensor_a_layer_a_model_or_none():
    model = images()
    half = keras.Sequential([keras.Input((8, 8, 4)), layers.Rescaling(0.5)], name="half")
    returned = {"conv1": half, "relu1": None, "conv2": layers.ReLU(max_value=1.0)}
    edited = ks.insert(model, list(returned), lambda tensor: returned[tensor.name])
    check(
        edited,
        model,
        lambda f, x: f("score")(ops.mean(ops.clip(f("conv2")(ops.relu(0.5 * f("conv1")(x))), 0, 1), axis=(1, 2))),
    )
    edited = ks.insert(model, "pool", lambda tensor: tensor * 2 + 1.0)
    check(edited, model, lambda f, x: f("score")(f("pool")(f("conv2")(ops.relu(f("conv1")(x)))) * 2 + 1.0))
    with pytest.raises(ks.SplitError) as caught:
        ks.insert(model, "pool", lambda tensor: 3)
    assert str(caught.value) == ("The function for 'pool' returned a int. Expected a layer, a model, a tensor or None.")


def test_a_function_that_always_returns_none_changes_nothing():
    model = images()
    assert ks.insert(model, "*", lambda tensor: None).get_config() == model.get_config()


def test_a_function_gets_the_tensor_with_its_name_shape_and_dtype():
    seen = []
    ks.insert(images(), ["x", "conv*", "pool"], lambda tensor: seen.append((tensor.name, tensor.shape, tensor.dtype)))
    assert seen == [
        ("x", (None, 8, 8, 3), "float32"),
        ("conv1", (None, 8, 8, 4), "float32"),
        ("conv2", (None, 8, 8, 4), "float32"),
        ("pool", (None, 4), "float32"),
    ]


def test_what_a_function_calls_may_itself_be_a_graph():
    model = images()
    squeeze, excite = layers.Dense(2, name="squeeze"), layers.Dense(4, "sigmoid", name="excite")

    def gated(tensor):
        return tensor * excite(squeeze(layers.GlobalAveragePooling2D(keepdims=True)(tensor)))

    def by_hand(f, x):
        y = f("relu1")(f("conv1")(x))
        y = y * excite(squeeze(ops.mean(y, axis=(1, 2), keepdims=True)))
        return f("score")(f("pool")(f("conv2")(y)))

    check(ks.insert(model, "relu1", gated), model, by_hand)


@pytest.mark.skipif(OLD_KERAS, reason="Keras 3.13 builds no model in which an input is an output")
def test_one_layer_after_several_tensors_takes_and_gives_as_many():
    model = fan()

    @keras.saving.register_keras_serializable("test_insert")
    class Swap(layers.Layer):
        def call(self, pair):
            return pair[1], pair[0] * 2

        def compute_output_shape(self, shapes):
            return shapes[1], shapes[0]

    def by_hand(f, x):
        a = f("a")(x)
        b, c = f("b")(a), f("c")(a)
        return {"sum": c + b * 2, "a": a}

    check(ks.insert(model, ["b", "c"], Swap()), model, by_hand)
    left, right = keras.Input((3,), name="b"), keras.Input((3,), name="c")
    as_dict = keras.Model({"b": left, "c": right}, {"b": right, "c": left * 2}, name="swap")
    check(ks.insert(model, ["b", "c"], as_dict), model, by_hand)
    as_list = keras.Model([left, right], [right, left * 2], name="swap")
    check(ks.insert(model, ["b", "c"], as_list), model, by_hand)


def test_one_layer_after_several_tensors_that_gives_one_is_refused():
    with pytest.raises(ks.UnsupportedModelError) as caught:
        ks.insert(fan(), ["b", "c"], layers.Add(name="new"))
    assert str(caught.value) == (
        "'new', inserted after 'b' and 'c', takes 2 and returns 1 tensors. Insert something that returns as many as it "
        "takes. To insert a layer after each of them, pass a function that makes one."
    )


@pytest.mark.skipif(OLD_KERAS, reason="Keras 3.13 builds no model in which an input is an output")
def test_tensors_of_which_one_depends_on_the_other_cannot_be_taken_together():
    x = keras.Input((3,))
    pair = keras.Model([x, other := keras.Input((3,))], [other, x], name="pair")
    with pytest.raises(ks.SplitError) as caught:
        ks.insert(fan(), ["a", "b"], pair)
    assert str(caught.value) == (
        "What is inserted takes 'a' and 'b' together, and some of these depend on others of them (through 'b'), so it "
        "would depend on itself. To insert a layer after each of them, pass a function that makes one; else insert in "
        "several steps, or name the calls that receive the result in `into`."
    )
    model = fan()
    edited = ks.insert(model, ["a", "b"], pair, into="sum")  # `b` still receives the old `a`
    check(edited, model, lambda f, x: {"sum": f("a")(x) + f("c")(f("a")(x)), "a": f("a")(x)})


def test_a_layer_of_the_model_can_be_called_once_more():
    model = fan()
    edited = ks.insert(model, "b", model.get_layer("c"))
    check(edited, model, lambda f, x: {"sum": f("c")(f("b")(f("a")(x))) + f("c")(f("a")(x)), "a": f("a")(x)})
    assert {"c@0", "c@1"} < set(ks.tensors(edited))


def test_a_built_layer_keeps_its_weights():
    new = dense("new")
    new.build((None, 3))
    new.kernel.assign(np.eye(3))
    model = fan()
    x = data_for(model)[0]
    np.testing.assert_allclose(copied(ks.insert(model, "sum", new)(x)["sum"]), copied(model(x)["sum"]), rtol=1e-6)
