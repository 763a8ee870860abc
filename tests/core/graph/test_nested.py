"""Nested models: named, opened if a cut goes through them, kept whole otherwise."""

import keras
import numpy as np
import pytest
from comparing import fingerprint, same_bits
from samples import due

import kerassplit as ks
from kerassplit.graph.reading import read_graph
from kerassplit.zoo.random_weights import randomize

layers = keras.layers


@pytest.fixture(scope="module")
def transfer():
    """The usual fine-tuning model: preprocessing, a frozen backbone with unknown dimensions, a head."""
    inputs = keras.Input((64, 64, 3), name="image")
    preparation = keras.Sequential(
        [layers.Resizing(64, 64, name="resizing"), layers.Rescaling(1 / 127.5, -1, name="rescaling")],
        name="preparation",
    )
    backbone = keras.applications.MobileNetV2(weights=None, include_top=False, alpha=0.35, name="backbone")
    backbone.trainable = False
    x = backbone(preparation(inputs), training=False)
    outputs = layers.Dense(3, name="logits")(layers.GlobalAveragePooling2D(name="pool")(x))
    model = keras.Model(inputs, outputs, name="transfer")
    randomize(model, seed=1)
    return model


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 3)).astype("float32")


def towers():
    """One nested model called twice, and its outputs compared."""
    x = keras.Input((8,), name="x")
    relu = layers.ReLU(name="relu")
    tower = keras.Model(x, relu(layers.Dense(6, name="second")(relu(layers.Dense(4, name="first")(x)))), name="tower")
    left, right = keras.Input((8,), name="left"), keras.Input((8,), name="right")
    outputs = layers.Dense(1, name="score")(layers.Subtract(name="difference")([tower(left), tower(right)]))
    return keras.Model([left, right], outputs, name="siamese")


def namesakes(names="ab"):
    """Two consecutive nested models with layers of the same names."""

    def nested(name):
        return keras.Sequential([keras.Input((4,)), *(layers.Dense(4, name=one) for one in names)], name=name)

    inputs = keras.Input((4,), name="x")
    return keras.Model(inputs, nested("two")(nested("one")(inputs)), name="namesakes")


def test_tensors_inside_a_nested_model_are_split_points_with_the_shapes_they_have_there(transfer):
    points = {point.name: point for point in ks.split_points(transfer)}
    assert points["backbone/block_6_expand_relu"].shape == (None, 8, 8, 96)
    assert points["preparation/rescaling"].bytes == 64 * 64 * 3 * 4
    assert list(points)[-2:] == ["backbone/out_relu", "pool"]
    assert points["backbone/block_5_add"].after_merge


@pytest.mark.parametrize(
    "at", due(["preparation", "backbone/block_6_expand_relu", "backbone/block_12_add", "backbone"], 2)
)
def test_a_cut_through_a_nested_model_computes_the_same(transfer, pictures, at):
    before = fingerprint(transfer)
    split = ks.split(transfer, at)
    assert same_bits(split(pictures), transfer(pictures))
    assert split.verify(pictures).check().identical
    np.testing.assert_allclose(split.predict(pictures), transfer.predict(pictures, verbose=0), rtol=1e-4, atol=1e-5)
    del split
    assert fingerprint(transfer) == before


def test_a_nested_model_that_no_cut_goes_through_stays_one_layer(transfer):
    head, tail = ks.split(transfer, "preparation")
    assert [layer.name for layer in tail.model.layers] == ["preparation.rescaling", "backbone", "pool", "logits"]
    assert tail.model.get_layer("backbone") is transfer.get_layer("backbone")
    assert "preparation" in [layer.name for layer in head.model.layers]


def test_start_and_end_can_lie_in_different_nested_models(transfer, pictures):
    part = ks.build_submodel(transfer, start="preparation/resizing", end="backbone/block_1_project")
    assert part.input.name == "preparation.resizing"
    expected = ks.build_submodel(transfer, end="backbone/block_1_project")(pictures)
    assert same_bits(part(transfer.get_layer("preparation").layers[0](pictures)), expected)


def test_training_false_of_the_nested_call_reaches_the_layers_inside(transfer, pictures):
    tail = ks.build_submodel(transfer, start="backbone/block_12_add")
    cut = ks.build_submodel(transfer, end="backbone/block_12_add")(pictures)
    norm = transfer.get_layer("backbone").get_layer("block_13_expand_BN")
    before = keras.ops.convert_to_numpy(norm.moving_mean)
    tail(cut)
    assert same_bits(norm.moving_mean, before)
    assert same_bits(tail(cut), transfer(pictures))


def test_a_nested_model_called_twice_has_two_sets_of_tensors():
    model = towers()
    names = [tensor.name for tensor in read_graph(model).tensors]
    assert [name for name in names if name.startswith("tower@0")] == [
        "tower@0/first", "tower@0/relu@0", "tower@0/second", "tower@0/relu@1",
    ]  # fmt: skip
    assert [point.name for point in ks.split_points(model)] == [
        "tower@0/first", "tower@0/relu@0", "tower@0/second", "tower@0/relu@1",
        "tower@1/first", "tower@1/relu@0", "tower@1/second", "tower@1/relu@1", "difference",
    ]  # fmt: skip
    with pytest.raises(ks.AmbiguousTensorError, match="'tower' stands for 2 tensors.*'tower@0/relu@1' and 'tower@1"):
        ks.build_submodel(model, start="tower")
    with pytest.raises(ks.AmbiguousTensorError, match="'tower/first' stands for 2 tensors.*'tower@0/first' and 'tower"):
        ks.build_submodel(model, start="tower/first")
    with pytest.raises(ks.AmbiguousTensorError, match="'tower/relu' stands for 4 tensors"):
        ks.build_submodel(model, start="tower/relu")
    with pytest.raises(
        ks.AmbiguousTensorError, match="'tower' stands for 2 calls.*: 'tower@0' and 'tower@1'. Name one"
    ):
        ks.explain(model, "tower")
    assert "'tower@1' is a nested model of 4 calls" in str(ks.explain(model, "tower@1"))


@pytest.mark.parametrize("at", ["tower@0", "tower@1/relu@0", "difference"])
def test_a_cut_through_one_of_two_calls_computes_the_same(at):
    model = towers()
    data = list(np.random.default_rng(0).normal(size=(2, 3, 8)).astype("float32"))
    split = ks.split(model, at)
    assert same_bits(split(data), model(data))
    assert split.verify(data).check().identical
    if at != "difference":
        assert "first/kernel" in split.shared_variables


def test_a_glob_stops_at_the_border_of_a_nested_model(transfer):
    def ends(pattern):
        tensors = ks.build_submodel(transfer, end=pattern).output
        return len(tensors) if isinstance(tensors, dict) else 1

    with pytest.raises(ks.UnknownTensorError, match="matches 'block_1_\\*'"):
        ks.split(transfer, "block_1_*")
    assert len(ks.split(transfer, "backbone/block_1?_add")) == 5
    assert len(ks.split(transfer, "back*")) == 2  # what it gives
    assert ends("back*/block_1?_expand_relu") == 7


def test_explain_of_a_nested_model_says_what_is_inside(transfer):
    explanation = ks.explain(transfer, "backbone")
    points = [point.name for point in ks.split_points(transfer) if point.name.startswith("backbone/")]
    assert list(explanation.inside) == points
    assert explanation.is_split_point
    assert str(explanation) == (
        f"'backbone' is a nested model of 153 calls; {len(points)} of its tensors are split points. "
        "'backbone/out_relu' is a split point: it alone crosses a cut there.\n"
        "Nearest split points: 'backbone/Conv_1_bn' before, 'pool' after."
    )
    assert ks.explain(transfer, transfer.get_layer("backbone")) == explanation
    assert ks.explain(transfer, "backbone/Conv1").inside == ()


def test_a_layer_or_tensor_of_the_nested_model_names_its_tensor(transfer):
    layer = transfer.get_layer("backbone").get_layer("block_2_add")
    for reference in (layer, layer.output, "backbone/block_2_add"):
        assert ks.build_submodel(transfer, start=reference).input.name == "backbone.block_2_add"


def test_flatten_inlines_nested_models_and_shares_their_weights(transfer, pictures):
    before = fingerprint(transfer)
    flat = ks.flatten(transfer)
    assert not any(isinstance(layer, keras.Model) for layer in flat.layers)
    assert flat.name == "transfer"
    assert flat.get_layer("Conv1") is transfer.get_layer("backbone").get_layer("Conv1")
    assert same_bits(flat(pictures), transfer(pictures))
    assert [variable.path for variable in flat.weights] == [variable.path for variable in transfer.weights]
    del flat
    assert fingerprint(transfer) == before


def test_flatten_opens_every_depth():
    inner = keras.Sequential([keras.Input((3,)), layers.Dense(3, name="deep")], name="inner")
    middle = keras.Sequential([keras.Input((3,)), inner, layers.ReLU(name="relu")], name="middle")
    outer = keras.Sequential([keras.Input((3,)), middle, layers.Dense(2, name="last")], name="outer")
    assert [point.name for point in ks.split_points(outer)] == ["middle/inner/deep", "middle/relu"]
    assert [layer.name for layer in ks.flatten(outer).layers[1:]] == ["deep", "relu", "last"]
    data = np.ones((1, 3), "float32")
    for at in (0, 1):
        assert same_bits(ks.split(outer, [at])(data), outer(data))


def hint(model, name):
    with pytest.raises(ks.UnknownTensorError) as caught:
        ks.tap(model, name)
    return str(caught.value).partition(". ")[2], caught.value.matches


def test_a_name_without_the_nested_model_is_found_inside_of_it(transfer):
    assert hint(transfer, "out_relu") == ("Did you mean 'backbone/out_relu'?", ("backbone/out_relu",))
    assert hint(transfer, "Conv_1_bnn")[1][0] == "backbone/Conv_1_bn"
    assert hint(transfer, "backbon/out_relu")[1][0] == "backbone/out_relu"
    assert hint(transfer, "block_*_add") == ("Did you mean 'backbone/block_*_add'?", ("backbone/block_*_add",))
    assert len(ks.tap(transfer, "backbone/block_*_add").output) == 10
    for name in ("nothing_of_the_kind", "*_of_no_kind"):
        assert hint(transfer, name) == ("`kerassplit.split_points(model)` lists the names.", ())
    assert hint(namesakes(), "a") == ("Did you mean 'one/a' or 'two/a'?", ("one/a", "two/a"))
    outer = keras.Sequential([keras.Input((4,)), namesakes()], name="outer")
    assert hint(outer, "two/b") == ("Did you mean 'namesakes/two/b'?", ("namesakes/two/b",))
    assert hint(outer, "*/b") == ("Did you mean 'namesakes/*/b'?", ("namesakes/*/b",))


def test_names_that_collide_are_refused_in_one_flat_model_and_renamed_in_copies():
    model = namesakes()
    data = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    with pytest.raises(
        ks.UnsupportedModelError,
        match=r"Two different layers are called 'a' \('one/a' and 'two/a'\), and a Keras.*copy_weights=True",
    ):
        ks.flatten(model)
    copy = ks.flatten(model, copy_weights=True)
    assert [layer.name for layer in copy.layers[1:]] == ["a", "b", "a_1", "b_1"]
    assert same_bits(copy(data), model(data))
    assert not {id(variable) for variable in copy.weights} & {id(variable) for variable in model.weights}


def tapped(model, one, two):
    return list(ks.tap(model, [one, two])(COLLIDING).values())


def cut(model, one, two):
    assert ks.split(model, [one, two]).verify(COLLIDING).ok
    return tapped(model, one, two)


def with_exits(model, one, two):
    exits = {name: layers.Rescaling(1.0, name=f"exit_{place}") for place, name in enumerate((one, two))}
    given = ks.with_outputs(model, exits)(COLLIDING)
    return [given[one], given[two]]


COLLIDING = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")


@pytest.mark.parametrize("build", [tapped, cut, with_exits])
def test_where_names_collide_both_ways_out_that_the_message_names_work(build):
    model = namesakes("abc")
    one, two = model.get_layer("one"), model.get_layer("two")
    expected = [one.layers[0](COLLIDING), two.layers[1](two.layers[0](one(COLLIDING)))]
    with pytest.raises(ks.UnsupportedModelError) as caught:
        build(model, "one/a", "two/b")
    assert str(caught.value).endswith(
        "and a Keras model accepts a name only once. Keep them in different models or stages, or rename one of them "
        "(`layer.name = ...`); or take `kerassplit.flatten(model, copy_weights=True)` in the model's place, which has "
        "layers of its own: layers of one name get new ones."
    )
    copy = ks.flatten(model, copy_weights=True)
    assert same_bits(build(copy, "a", "b_1"), expected)
    for layer in two.layers:
        layer.name = f"two_{layer.name}"
    assert same_bits(build(model, "one/a", "two/two_b"), expected)


def test_names_that_collide_are_no_matter_where_stages_keep_them_apart(tmp_path):
    model = namesakes()
    data = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    split = ks.split(model, ["one/a", "two/a"])
    assert split.verify(data).check().identical
    split.save(tmp_path / "out")
    loaded = ks.load(tmp_path / "out")
    assert same_bits(loaded(data), model(data))
    assert ks.verify(model, loaded, data).check().identical
    with pytest.raises(ks.UnsupportedModelError, match="Two different layers are called 'a', and"):
        split.join()


def test_a_saved_split_of_a_nested_model_loads_and_is_verified(transfer, pictures, tmp_path):
    ks.split(transfer, ["backbone/block_6_expand_relu", "backbone"]).save(tmp_path / "out")
    loaded = ks.load(tmp_path / "out")
    assert same_bits(loaded(pictures), transfer(pictures))
    assert loaded.verify(pictures).check().identical
    assert ks.verify(transfer, loaded, pictures).check().identical


def test_names_inside_nested_models_survive_saving(transfer, tmp_path):
    transfer.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert [tensor.name for tensor in read_graph(loaded).tensors] == [
        tensor.name for tensor in read_graph(transfer).tensors
    ]


def test_a_nested_model_is_given_what_keras_makes_of_its_input():
    """A cast to the dtype of its Input, and an added axis of 1."""
    x = keras.Input((4, 1), dtype="float32")
    nested = keras.Model(x, layers.Flatten(name="flat")(x + 0.1), name="nested")
    inputs = keras.Input((4,), dtype="int32", name="x")
    model = keras.Model(inputs, layers.Dense(2)(nested(inputs)))
    data = np.arange(8).reshape(2, 4)
    names = [tensor.name for tensor in read_graph(model).tensors]
    assert names[:3] == ["x", "nested_cast", "nested_expand_dims"]
    for at in ("nested_cast", "nested_expand_dims", names[3], "nested"):
        assert same_bits(ks.split(model, at)(data), model(data))
    assert same_bits(ks.flatten(model)(data), model(data))


def test_a_keras_without_a_private_attribute_is_named_with_both_versions():
    model = towers()
    del model._nodes_by_depth
    with pytest.raises(
        ks.UnsupportedModelError,
        match=rf"Keras {keras.__version__} has no 'Functional._nodes_by_depth', which kerassplit {ks.__version__}",
    ):
        ks.split_points(model)


def test_a_nested_model_called_twice_is_opened_in_both_calls_or_in_none(tmp_path):
    model = towers()
    data = list(np.random.default_rng(0).normal(size=(2, 3, 8)).astype("float32"))
    tapped = ks.tap(model, "tower@1/first", keep_outputs=True)
    assert "tower" not in [layer.name for layer in tapped.layers]
    tapped.save(tmp_path / "tapped.keras")
    loaded = keras.saving.load_model(tmp_path / "tapped.keras")
    assert same_bits(loaded(data)["score"], model(data))
    assert "tower" in [layer.name for layer in ks.tap(model, ["difference", "score"]).layers]


def test_training_that_two_levels_of_nesting_fix_is_the_outer_ones():
    inner = keras.Sequential([keras.Input((8,)), layers.Dropout(0.5, seed=1, name="drop")], name="inner")
    x = keras.Input((8,))
    middle = keras.Model(x, layers.ReLU(name="relu")(inner(layers.Dense(8, name="d")(x), training=True)), name="middle")
    y = keras.Input((8,), name="y")
    model = keras.Model(y, layers.Dense(2, name="last")(middle(y, training=False)))
    data = np.random.default_rng(0).normal(size=(3, 8)).astype("float32")
    for at in ("middle/d", "middle/inner/drop", "middle"):
        split = ks.split(model, at)
        assert same_bits(split(data), model(data))
        assert same_bits(split.join()(data), model(data))


def test_a_layer_inside_and_beside_a_nested_model_is_tied_when_loaded(tmp_path):
    dense = layers.Dense(8, name="d")
    tower = keras.Sequential([keras.Input((8,)), dense, layers.ReLU(name="relu")], name="tower")
    x = keras.Input((8,), name="x")
    model = keras.Model(x, layers.Dense(2, name="last")(tower(dense(tower(x)))))
    data = np.random.default_rng(0).normal(size=(3, 8)).astype("float32")
    split = ks.split(model, "d")
    with pytest.warns(UserWarning, match="Several stages share 'tower/d/kernel' and 'tower/d/bias'"):
        split.save(tmp_path / "out")
    loaded = ks.load(tmp_path / "out")
    loaded.summary()
    assert len(loaded.shared_variables) == len(split.shared_variables) == 2
    assert same_bits(loaded(data), model(data))
    assert same_bits(loaded.model(data), model(data))


def test_a_random_generator_in_two_stages_is_reported_and_tied(tmp_path):
    drop = layers.Dropout(0.5, seed=1, name="drop")
    x = keras.Input((8,), name="x")
    model = keras.Model(x, drop(layers.Dense(8, name="a")(drop(x))))
    split = ks.split(model, "a")
    assert list(split.shared_variables.values()) == [("stage_0", "stage_1")]
    with pytest.warns(UserWarning, match="Several stages share"):
        split.save(tmp_path / "out")
    loaded = ks.load(tmp_path / "out")
    assert loaded[0].model.get_layer("drop") is loaded[1].model.get_layer("drop")


def test_a_nested_model_with_an_output_that_nobody_uses_is_only_called():
    a = keras.Input((3,), name="a")
    inner = keras.Model(a, [keras.layers.Dense(3, name="used")(a), keras.layers.Dense(2, name="idle")(a)], name="inner")
    x = keras.Input((3,), name="x")
    model = keras.Model(x, keras.layers.Dense(1, name="score")(inner(x)[0]), name="whole")
    assert ks.build_submodel(model, name="whole").get_config() == model.get_config()
