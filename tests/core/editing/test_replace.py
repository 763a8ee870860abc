"""replace: other layers in place of those of a model."""

import inspect
import re

import keras
import numpy as np
import pytest
from comparing import copied, same_bits
from keras import layers, ops
from random_models import data_for

import kerassplit as ks
from kerassplit.graph.internals.symbols import has_mask
from kerassplit.zoo.random_weights import randomize


def images():
    x = keras.Input((8, 8, 3), name="x")
    y = layers.Conv2D(4, 3, padding="same", name="conv1")(x)
    y = layers.BatchNormalization(name="norm")(y)
    y = layers.ReLU(name="relu1")(y)
    y = layers.Conv2D(4, 3, padding="same", name="conv2")(y)
    y = layers.ReLU(name="relu2")(y)
    y = layers.GlobalAveragePooling2D(name="pool")(y)
    return drawn(keras.Model(x, layers.Dense(3, name="score")(y), name="images"))


def tower():
    x = keras.Input((3,), name="tower_x")
    y = layers.Activation("tanh", name="act")(layers.Dense(3, name="inner")(x))
    return keras.Model(x, layers.Add(name="join")([x, y]), name="tower")


def around(inner, calls=1):
    x = y = keras.Input((3,), name="x")
    for _ in range(calls):
        y = inner(y)
    return drawn(keras.Model(x, layers.Dense(2, name="last")(y), name="around"))


def shared_relu():
    relu = layers.ReLU(name="relu")
    x = keras.Input((3,), name="x")
    y = relu(layers.Dense(3, name="a")(x))
    return drawn(keras.Model(x, relu(layers.Dense(3, name="b")(y)), name="shared"))


def drawn(model):
    randomize(model, seed=3)
    return model


def copy_of(old, **changes):
    return type(old).from_config(old.get_config() | changes)


def names(model):
    return [one.name for one in model.layers]


def check(edited, model, by_hand):
    """Checks that the edited model computes what a function of the model's `get_layer` and its input does."""
    x = ops.convert_to_tensor(data_for(model)[0])
    assert same_bits(edited(x), by_hand(model.get_layer, x))


# What is replaced


@pytest.mark.parametrize("pattern", ["relu*", layers.ReLU])
def test_a_glob_and_a_class_stand_for_several_layers(pattern):
    model = images()
    edited = ks.replace(model, {pattern: lambda old: layers.Activation("gelu")})
    assert names(edited) == names(model)  # automatic names give way to those of the old layers
    assert [type(edited.get_layer(name)) for name in ("relu1", "relu2")] == [layers.Activation] * 2

    def by_hand(f, x):
        y = keras.activations.gelu(f("norm")(f("conv1")(x)))
        return f("score")(f("pool")(keras.activations.gelu(f("conv2")(y))))

    check(edited, model, by_hand)
    assert edited.get_layer("conv1") is model.get_layer("conv1")


def test_a_layer_of_its_own_name_keeps_it():
    model = images()
    edited = ks.replace(
        model, {"relu1": layers.Activation("gelu", name="gelu"), model.get_layer("relu2"): layers.ELU()}
    )
    assert [type(one).__name__ for one in edited.layers[3:6]] == ["Activation", "Conv2D", "ELU"]
    assert names(edited)[3:6] == ["gelu", "conv2", "relu2"]
    assert names(ks.replace(model, {"relu1": layers.ELU(name="conv1")}))[3] == "conv1_1"


def test_the_first_of_several_patterns_counts():
    model = images()
    edited = ks.replace(
        model, {"relu2": layers.ELU(name="other"), layers.ReLU: lambda old: layers.LeakyReLU(name="leaky")}
    )
    assert [names(edited)[place] for place in (3, 5)] == ["leaky", "other"]


def test_one_layer_for_several_is_shared_by_them():
    model = images()
    edited = ks.replace(model, {"relu*": layers.ELU(name="elu")})
    assert {"elu@0", "elu@1"} < set(ks.tensors(edited))
    assert names(edited).count("elu") == 1


def test_none_and_the_old_layer_keep_it():
    model = images()
    edited = ks.replace(model, {"relu*": lambda old: None if old.name == "relu1" else old})
    assert edited.get_config() == model.get_config()
    edited = ks.replace(model, {"relu*": lambda old: layers.ELU() if old.name == "relu2" else None})
    assert edited.get_layer("relu1") is model.get_layer("relu1")
    assert isinstance(edited.get_layer("relu2"), layers.ELU)


def test_calls_of_a_shared_layer():
    model = shared_relu()
    edited = ks.replace(model, {"relu@1": lambda old: layers.ELU(name="elu")})
    check(edited, model, lambda f, x: ops.elu(f("b")(ops.relu(f("a")(x)))))
    edited = ks.replace(model, {"relu@0": lambda old: layers.ELU(name="elu")})
    check(edited, model, lambda f, x: ops.relu(f("b")(ops.elu(f("a")(x)))))
    called = []
    edited = ks.replace(model, {"relu": lambda old: called.append(old) or layers.ELU()})
    assert called == [model.get_layer("relu")]  # once for each layer, whatever the number of its calls
    check(edited, model, lambda f, x: ops.elu(f("b")(ops.elu(f("a")(x)))))
    assert ks.tensors(edited) == ("a", "relu@0", "b", "relu@1")


def test_only_one_call_replaced_by_a_layer_without_a_name_gets_a_number():
    edited = ks.replace(shared_relu(), {"relu@1": layers.ELU()})
    assert names(edited) == ["x", "a", "relu", "b", "relu_1"]


def test_in_a_nested_model_which_is_opened():
    model = around(tower())
    for pattern in ("tower/act", layers.Activation, "*/act"):
        edited = ks.replace(model, {pattern: lambda old: layers.ReLU()})
        assert names(edited) == ["x", "inner", "act", "join", "last"]
        check(edited, model, lambda f, x: f("last")(x + ops.relu(f("tower").get_layer("inner")(x))))


def test_in_a_nested_model_that_is_called_twice():
    model = around(tower(), calls=2)

    def by_hand(f, x, activations):
        for activation in activations:
            x = x + activation(f("tower").get_layer("inner")(x))
        return f("last")(x)

    check(ks.replace(model, {"tower/act": layers.ReLU()}), model, lambda f, x: by_hand(f, x, [ops.relu, ops.relu]))
    check(
        ks.replace(model, {"tower@1/act": layers.ReLU(name="r")}),
        model,
        lambda f, x: by_hand(f, x, [ops.tanh, ops.relu]),
    )


def test_a_whole_nested_model():
    model = around(tower())
    left = "Weights that new layers could not get from those that they replace: "
    with pytest.warns(UserWarning, match=re.escape(f"{left}'plain/kernel (3, 3)' and 'plain/bias (3,)'.")):
        edited = ks.replace(model, {"tower": layers.Dense(3, name="plain")})
    assert names(edited) == ["x", "plain", "last"]
    inner = keras.Sequential([layers.Dense(4, name="wider"), layers.Dense(3, name="inner")], name="other")
    with pytest.warns(UserWarning, match=re.escape("'other/wider/kernel (3, 4)'")):
        edited = ks.replace(model, {"tower": inner})
    assert names(edited) == ["x", "other", "last"]
    assert same_bits(inner.layers[1].bias, model.get_layer("tower").get_layer("inner").bias)
    edited = ks.replace(model, {"tower": lambda old: keras.models.clone_model(old)})
    assert names(edited) == names(model)
    edited = ks.replace(model, {"tower*": layers.Identity(name="same"), layers.Dense: lambda old: None})
    check(edited, model, lambda f, x: f("last")(x))


def test_nested_models_by_their_class():
    model = around(tower(), calls=2)
    edited = ks.replace(model, {keras.Model: layers.ReLU(name="relu")})
    check(edited, model, lambda f, x: f("last")(ops.relu(ops.relu(x))))


def test_a_layer_with_several_inputs_and_one_with_several_outputs():
    model = around(tower())
    edited = ks.replace(model, {"tower/join": layers.Maximum()})
    check(edited, model, lambda f, x: f("last")(ops.maximum(x, ops.tanh(f("tower").get_layer("inner")(x)))))
    x = keras.Input((4, 3), name="x")
    y, hidden = layers.GRU(3, return_sequences=True, return_state=True, name="rnn")(x)
    model = drawn(keras.Model(x, {"y": y, "hidden": hidden}))
    new = layers.SimpleRNN(3, return_sequences=True, return_state=True)
    with pytest.warns(UserWarning, match="'rnn/simple_rnn_cell/kernel"):
        edited = ks.replace(model, {"rnn": new})
    y, hidden = new(data_for(model)[0])
    assert same_bits(edited(data_for(model)[0]), {"y": y, "hidden": hidden})
    with pytest.raises(ks.UnsupportedModelError) as caught:
        ks.replace(model, {"rnn": layers.LSTM(3, return_sequences=True, return_state=True)})
    assert str(caught.value) == (
        "'rnn' produces 2 tensors, and what replaces it 3. Replace it by something that returns as many."
    )


def test_arguments_of_the_call_stay():
    x = keras.Input((3,), name="x")
    y = layers.Dropout(0.5, name="drop")(x, training=True)
    model = keras.Model(x, layers.BatchNormalization(name="norm")(y, training=False))
    edited = ks.replace(model, {"drop": layers.Dropout(0.9, seed=1)})
    assert np.max(copied(edited(np.ones((32, 3), "float32")))) > 9


# Weights


def test_weights_are_carried_over_where_names_and_shapes_agree():
    model = images()
    edited = ks.replace(model, {layers.Conv2D: lambda old: copy_of(old, activation="relu")})
    for name in ("conv1", "conv2"):
        assert edited.get_layer(name) is not model.get_layer(name)
        assert same_bits(edited.get_layer(name).weights, model.get_layer(name).weights)
    gone = "Weights of replaced layers that the new ones do not have: "
    with pytest.warns(UserWarning, match=re.escape(f"{gone}'conv1/bias (4,)' and 'conv2/bias (4,)'.")):
        edited = ks.replace(model, {"conv*": lambda old: copy_of(old, use_bias=False)})
    assert [len(edited.get_layer(name).weights) for name in ("conv1", "conv2")] == [1, 1]
    assert same_bits(edited.get_layer("conv1").kernel, model.get_layer("conv1").kernel)
    edited.get_layer("conv1").kernel.assign(edited.get_layer("conv1").kernel * 2)
    assert not same_bits(edited.get_layer("conv1").kernel, model.get_layer("conv1").kernel)


def test_weights_that_a_new_layer_cannot_get_are_named():
    model = images()
    with pytest.warns(UserWarning) as caught:
        ks.replace(model, {"conv2": lambda old: copy_of(old, kernel_size=1), "score": layers.Dense(7, use_bias=False)})
    assert [str(one.message) for one in caught] == [
        "Weights that new layers could not get from those that they replace: "
        "'conv2/kernel (1, 1, 4, 4), which was (3, 3, 4, 4)' and 'score/kernel (4, 7), which was (4, 3)'. "
        "Weights of replaced layers that the new ones do not have: 'score/bias (3,)'."
    ]
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match=re.escape("do not have: 'conv2/bias (4,)'.")):
        without = ks.replace(images(), {"conv2": lambda old: copy_of(old, use_bias=False)})
    with pytest.warns(UserWarning, match=re.escape("replace: 'conv2/bias (4,)'.")):
        ks.replace(without, {"conv2": lambda old: copy_of(old, use_bias=True)})


def test_a_built_layer_keeps_its_weights():
    new = layers.Dense(3, name="new")
    new.build((None, 4))
    before = copied(new.kernel)
    edited = ks.replace(images(), {"score": new})
    assert same_bits(edited.get_layer("new").kernel, before)


def test_a_layer_for_several_old_ones_starts_anew():
    x = keras.Input((3,), name="x")
    model = keras.Model(x, layers.Dense(3, name="b")(layers.Dense(3, name="a")(x)))
    edited = ks.replace(model, {"*": layers.Dense(3, "relu", name="both")})
    assert len(edited.trainable_variables) == 2


def test_both_directions_of_a_bidirectional_layer_of_the_name_of_its_layer():
    x = keras.Input((4, 3), name="x")
    model = drawn(keras.Model(x, layers.Bidirectional(layers.LSTM(2, name="lstm"), name="lstm")(x)))
    edited = ks.replace(model, {"lstm": copy_of})
    assert same_bits(edited.get_layer("lstm").weights, model.get_layer("lstm").weights)
    assert same_bits(edited(data_for(model)[0]), model(data_for(model)[0]))


def test_numbers_that_a_normalization_computes_from_its_weights():
    norm = layers.Normalization(name="norm")
    norm.adapt(np.random.default_rng(0).normal(3, 2, size=(50, 3)))
    x = keras.Input((3,), name="x")
    model = keras.Model(x, norm(x))
    assert same_bits(ks.replace(model, {"norm": copy_of})(data_for(model)[0]), model(data_for(model)[0]))


def test_integers_of_a_quantized_layer_are_no_floats():
    model = images()
    expected = model(data_for(model)[0])
    model.get_layer("score").quantize("int8")
    with pytest.warns(UserWarning, match=re.escape("'score/kernel (4, 3) float32, which was (4, 3) int8'")):
        edited = ks.replace(model, {"score": layers.Dense(3)})
    assert np.max(np.abs(copied(edited.get_layer("score").kernel))) < 2
    copies = ks.replace(model, {"score": copy_of})
    assert same_bits(copies(data_for(model)[0]), model(data_for(model)[0]))
    np.testing.assert_allclose(copied(copies(data_for(model)[0])), copied(expected), atol=0.1)


def test_a_dtype_policy_is_changed():
    model = images()
    edited = ks.replace(model, {layers.Conv2D: lambda old: copy_of(old, dtype="mixed_bfloat16")})
    assert edited.get_layer("conv1").compute_dtype == "bfloat16"
    assert ks.build_submodel(edited, end="relu1").output.dtype == "float32"
    assert same_bits(edited.get_layer("conv1").weights, model.get_layer("conv1").weights)
    np.testing.assert_allclose(
        copied(edited(data_for(model)[0])), copied(model(data_for(model)[0])), rtol=0.1, atol=0.1
    )


def test_regularizers_are_added():
    model = images()
    assert model.losses == []
    edited = ks.replace(model, {layers.Conv2D: lambda old: copy_of(old, kernel_regularizer=keras.regularizers.L2(0.1))})
    expected = sum(0.1 * np.sum(copied(model.get_layer(name).kernel) ** 2) for name in ("conv1", "conv2"))
    np.testing.assert_allclose(copied(sum(edited.losses)), expected, rtol=1e-5)
    assert same_bits(edited(data_for(model)[0]), model(data_for(model)[0]))


def test_a_frozen_layer_and_its_copy():
    model = images()
    model.get_layer("conv1").trainable = False
    edited = ks.replace(model, {layers.Conv2D: copy_of})
    assert [edited.get_layer(name).trainable for name in ("conv1", "conv2")] == [False, True]


def test_shapes_are_inferred_after_a_replacement():
    model = images()
    edited = ks.replace(model, {"conv1": lambda old: copy_of(old, strides=2)})
    assert ks.build_submodel(edited, end="conv2").output_shape == (None, 4, 4, 4)
    with pytest.raises(ks.UnsupportedModelError) as caught:
        ks.replace(model, {"conv1": lambda old: copy_of(old, filters=5)})
    assert str(caught.value).startswith(
        "'norm' (BatchNormalization) takes (None, 8, 8, 4) in the model and would receive (None, 8, 8, 5), which it "
        "cannot take: "
    )


# Mistakes


def test_a_layer_that_cannot_be_called_on_what_the_old_one_received_is_named():
    with pytest.raises(ks.UnsupportedModelError) as caught:
        ks.replace(images(), {"pool": layers.Conv1D(3, 1)})
    assert str(caught.value).startswith("A Conv1D in place of 'pool' cannot be called on (None, 8, 8, 4) float32: ")


def test_what_is_no_layer_is_refused():
    model = images()
    example = "{'conv*_relu': keras.layers.Activation('gelu')}"
    for given in ("relu", None, {}, [("relu1", layers.ELU())]):
        with pytest.raises(ks.SplitError, match=re.escape(f"such as {example}; got {given!r:.100}.")):
            ks.replace(model, given)
    with pytest.raises(ks.SplitError) as caught:
        ks.replace(model, {"relu1": "gelu"})
    assert str(caught.value) == (
        "What replaces a layer must be a layer, a model or a function that returns one; got 'gelu' of type str."
    )
    with pytest.raises(ks.SplitError, match="got the class ELU"):
        ks.replace(model, {"relu1": layers.ELU})
    with pytest.raises(ks.SplitError) as caught:
        ks.replace(model, {"relu*": lambda old: "gelu"})
    assert str(caught.value) == "The function for 'relu1' returned a str; expected a layer, a model or None."


def test_what_the_model_does_not_have_is_refused():
    model = images()
    with pytest.raises(ks.UnknownTensorError, match="has no tensor 'relu'. Did you mean 'relu2' or 'relu1'?"):
        ks.replace(model, {"relu": layers.ELU()})
    with pytest.raises(ks.UnknownTensorError, match=re.escape("No tensor of model 'images' matches 'elu*'")):
        ks.replace(model, {"elu*": layers.ELU()})
    with pytest.raises(ks.SplitError, match="'images' has no layer of the class LSTM."):
        ks.replace(model, {layers.LSTM: layers.ELU()})
    with pytest.raises(ks.SplitError, match="'images' does not call this layer 'other'"):
        ks.replace(model, {layers.ReLU(name="other"): layers.ELU()})


def test_of_a_layer_inside_another_one_the_outer_one_is_named():
    x = keras.Input((4, 3), name="x")
    outer = layers.Bidirectional(layers.LSTM(2, name="lstm"), name="both")
    model = keras.Model(x, outer(x), name="words")
    way = (
        " But 'both' (Bidirectional) has 'forward_lstm' inside, and is one call: replace it as a whole, or open it "
        "with `kerassplit.trace(model, open='both')`, if its code allows that."
    )
    for meant, said in (
        (layers.LSTM, "'words' has no layer of the class LSTM."),
        (outer.forward_layer, "'words' does not call this layer 'forward_lstm'."),
    ):
        for edit in (lambda meant: ks.replace(model, {meant: layers.GRU(2)}), lambda meant: ks.remove(model, meant)):
            with pytest.raises(ks.SplitError) as caught:
                edit(meant)
            assert str(caught.value) == said + way


def test_the_result_is_named():
    assert ks.replace(images(), {"relu1": layers.ELU()}, name="smooth").name == "smooth"


ARGUMENTS = {"activation": "gelu", "rate": 0.3, "stddev": 0.1, "factor": 0.5, "n": 2}


def ready_layers() -> list[keras.Layer]:
    """Layers of Keras that are built as soon as they are made."""
    found = []
    kinds = {id(one): one for one in vars(layers).values() if inspect.isclass(one) and issubclass(one, keras.Layer)}
    for kind in kinds.values():
        parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]
        wanted = {one.name for one in parameters if one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD}
        if wanted <= ARGUMENTS.keys() and kind.__module__.startswith("keras.src."):
            try:
                layer = kind(**{name: ARGUMENTS[name] for name in wanted})
            except (ImportError, ValueError):  # it needs more than its signature tells
                continue
            found += [layer] if layer.built and not layer.weights and kind is not layers.InputLayer else []
    return found


@pytest.mark.parametrize("shape", [(5, 3), (8, 8, 3)], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_a_new_layer_gives_what_keras_says_that_it_gives(shape, dtype):
    x = keras.Input(shape, dtype=dtype)
    model = keras.Model(x, layers.Activation("linear", dtype="float32", name="old")(x))
    kinds = set()
    for layer in ready_layers():
        try:
            expected = type(layer).from_config(layer.get_config())(x)
        except Exception:  # it does not take such tensors
            with pytest.raises(ks.UnsupportedModelError, match="in place of 'old' cannot be called on"):
                ks.replace(model, {"old": layer})
            continue
        if isinstance(expected, keras.KerasTensor):
            made = ks.replace(model, {"old": layer}).output
            assert (made.shape, made.dtype, made.sparse) == (expected.shape, expected.dtype, expected.sparse), layer
            assert has_mask(made) == has_mask(expected), layer
            kinds.add(type(layer))
    assert {layers.Masking, layers.Dropout, layers.ReLU} <= kinds and len(kinds) > 15


def test_a_masking_layer_in_place_of_another_masks():
    x = keras.Input((5, 3))
    lstm = layers.LSTM(2, name="lstm")
    model = keras.Model(x, lstm(layers.Activation("linear", name="gate")(x)))
    data = np.random.default_rng(0).normal(size=(2, 5, 3)).astype("float32")
    data[:, 3:] = 0
    edited = ks.replace(model, {"gate": layers.Masking(name="mask")})
    expected = keras.Model(x, lstm(layers.Masking()(x)))(data)
    assert same_bits(edited(data), expected) and not same_bits(edited(data), model(data))
    assert ks.split(edited, "mask", allow_crossing=True).verify(data).identical
