"""insert: names of inserted layers, shapes after them, and what is refused."""

import keras
import pytest
from insertion_models import around, check, dense, double, fan, images, names, tower
from keras import layers, ops

import kerassplit as ks

# Names


def test_an_unbuilt_layer_whose_name_is_taken_gets_a_number():
    new = dense("a")
    edited = ks.insert(fan(), "sum", new)
    assert new.name == "a_1"
    assert names(edited)[-1] == "a_1"
    assert new.kernel.path == "a_1/kernel"


def test_a_name_that_a_function_gives_twice_gets_a_number():
    edited = ks.insert(fan(), ["b", "c"], lambda tensor: dense("new"))
    assert names(edited) == ["x", "a", "b", "c", "new", "new_1", "sum"]


def test_automatic_names_do_not_collide_with_those_of_a_loaded_model(tmp_path):
    keras.backend.clear_session()
    x = keras.Input((3,))
    keras.Model(x, dense(None)(dense(None)(x))).save(tmp_path / "model.keras")
    keras.backend.clear_session()
    model = keras.saving.load_model(tmp_path / "model.keras")
    assert names(model)[1:] == ["dense_1", "dense"]
    edited = ks.insert(model, ["dense_1", "dense"], lambda tensor: layers.Dense(3))
    assert names(edited)[1:] == ["dense_1", "dense_2", "dense", "dense_1_1"]


def test_names_inside_nested_models_are_taken_too():
    model = around(tower())
    assert names(ks.insert(model, "tower/act", dense("inner"))) == ["x", "inner", "act", "inner_1", "join", "last"]


TWICE = "Two different layers are called 'a', and a Keras model accepts a name only once"


def test_a_layer_of_another_model_with_a_name_that_is_taken_is_refused():
    other = fan()
    for new in (other.get_layer("a"), lambda tensor: other.get_layer("a")(tensor) * 2, tower("a")):
        with pytest.raises(ks.UnsupportedModelError, match=TWICE):
            ks.insert(fan(), "b", new)
    assert names(other) == ["x", "a", "b", "c", "sum"]


def test_layers_that_a_function_calls_get_numbers_too():
    edited = ks.insert(fan(), ["b", "c"], lambda tensor: tensor + dense("a")(dense("new")(tensor)))
    assert sorted(names(edited)) == ["a", "a_1", "a_2", "b", "c", "new", "new_1", "sum", "x"]


def test_the_result_is_named():
    assert ks.insert(fan(), "a", double, name="wider").name == "wider"
    with pytest.raises(ks.SplitError, match="'a/b' cannot name a model"):
        ks.insert(fan(), "a", double, name="a/b")


# Shapes


def test_shapes_are_inferred_after_an_insertion():
    model = images()
    edited = ks.insert(model, "relu1", layers.MaxPooling2D(2))
    assert edited.get_layer("conv2").output.shape == (None, 8, 8, 4)
    assert [one.shape for one in keras.tree.flatten(ks.build_submodel(edited, end="conv2").output)] == [(None, 4, 4, 4)]
    check(edited, model, lambda f, x: f("score")(f("pool")(f("conv2")(ops.max_pool(f("relu1")(f("conv1")(x)), 2)))))


def test_shapes_are_inferred_through_a_nested_model_which_is_opened():
    x = keras.Input((8, 8, 3), name="inner_x")
    y = layers.Conv2D(3, 3, padding="same", name="inner_conv")(x)
    inner = keras.Model(x, layers.Add(name="join")([x, y]), name="inner")
    x = keras.Input((8, 8, 3), name="x")
    model = keras.Model(x, layers.GlobalMaxPooling2D(name="pool")(inner(layers.ReLU(name="relu")(x))))
    edited = ks.insert(model, "relu", layers.AveragePooling2D(2, name="smaller"))
    assert names(edited) == ["x", "relu", "smaller", "inner_conv", "join", "pool"]
    assert ks.build_submodel(edited, end="join").output_shape == (None, 4, 4, 3)
    edited = ks.insert(model, "relu", layers.SpatialDropout2D(0.1, name="drop"))
    assert names(edited) == ["x", "relu", "drop", "inner", "pool"]


def test_a_function_is_called_once_for_each_tensor_even_if_nested_models_must_be_opened():
    x = keras.Input((8, 8, 3), name="inner_x")
    core = keras.Model(x, layers.Conv2D(3, 3, padding="same", name="inner_conv")(x), name="core")
    y = keras.Input((8, 8, 3), name="y")
    shell = keras.Model(y, layers.Add(name="join")([y, core(y)]), name="shell")
    x = keras.Input((8, 8, 3), name="x")
    model = keras.Model(x, layers.GlobalMaxPooling2D(name="pool")(shell(layers.ReLU(name="relu")(x))))
    called = []

    def smaller(tensor):
        called.append(tensor.name)
        return layers.AveragePooling2D(2, name="smaller")(tensor) * 2

    edited = ks.insert(model, "relu", smaller)
    assert called == ["relu"]
    assert names(edited) == ["x", "relu", "smaller", "inner_conv", "join", "pool"]


def test_a_nested_model_of_open_sides_takes_another_shape_whole():
    x = keras.Input((None, None, 3), name="inner_x")
    inner = keras.Model(x, layers.Conv2D(2, 3, padding="same", name="inner_conv")(x), name="inner")
    x = keras.Input((8, 8, 3), name="x")
    model = keras.Model(x, inner(layers.ReLU(name="relu")(x)))
    edited = ks.insert(model, "relu", layers.AveragePooling2D(2, name="smaller"))
    assert names(edited) == ["x", "relu", "smaller", "inner"]
    assert edited.output_shape == (None, 4, 4, 2)


def test_a_layer_that_cannot_take_the_new_shape_is_named():
    with pytest.raises(ks.UnsupportedModelError) as caught:
        ks.insert(images(), "conv1", layers.Conv2D(5, 1, name="wider"))
    assert str(caught.value).startswith(
        "'conv2' (Conv2D) takes (None, 8, 8, 4) in the model and would receive (None, 8, 8, 5), which it cannot take: "
    )
    with pytest.raises(ks.UnsupportedModelError) as caught:
        ks.insert(around(tower()), "tower/inner", layers.Dense(2, name="two"))
    assert str(caught.value).startswith(
        "'tower/join' (Add) takes (None, 3), (None, 3) in the model and would receive (None, 3), (None, 2), which it "
        "cannot take: "
    )


def test_a_layer_that_cannot_be_called_on_the_tensor_is_named():
    with pytest.raises(ks.UnsupportedModelError) as caught:
        ks.insert(images(), "pool", layers.Conv2D(3, 1, name="conv"))
    assert str(caught.value).startswith("'conv', inserted after 'pool', cannot be called on (None, 4) float32: ")
    with pytest.raises(ZeroDivisionError):  # a fault of the user's function is the user's
        ks.insert(images(), "pool", lambda tensor: 1 / 0)


# Mistakes


def test_what_is_no_layer_is_refused():
    for given, said in {3: "3 of type int", "relu": "'relu' of type str", layers.ReLU: "the class ReLU"}.items():
        with pytest.raises(ks.SplitError) as caught:
            ks.insert(fan(), "a", given)
        assert str(caught.value) == f"`layer` must be a layer, a model or a function that returns one; got {said}."


def test_tensors_that_the_function_is_not_given_are_refused():
    model = fan()
    for foreign in (model.input, model.get_layer("b").output):
        with pytest.raises(ks.UnsupportedModelError) as caught:
            ks.insert(model, "a", lambda tensor, foreign=foreign: tensor + foreign)
        assert str(caught.value) == (
            "'x' is not among the tensors that the function is given. Compute from its arguments only."
        )
    with pytest.raises(ks.UnsupportedModelError, match="is not among the tensors that the function is given"):
        ks.insert(model, "a", lambda tensor: keras.Input((3,), name="other"))


def test_a_name_that_the_model_does_not_have_is_refused():
    with pytest.raises(ks.UnknownTensorError, match="Model 'fan' has no tensor 'summ'. Did you mean 'sum'?"):
        ks.insert(fan(), "summ", double)
    with pytest.raises(ks.SplitError, match="`at` is empty"):
        ks.insert(fan(), [], double)


def test_operations_leave_the_names_of_layers_to_them():
    x = keras.Input((3,), name="x")
    model = keras.Model(x, layers.ReLU(name="relu")(layers.Dense(3, name="dense")(x)))
    edited = ks.insert(model, "dense", lambda tensor: keras.ops.relu(tensor))
    assert edited.get_layer("relu") is model.get_layer("relu")
