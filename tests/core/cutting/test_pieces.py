"""Taps, blocks, Sequential models from blocks."""

import keras
import numpy as np
import pytest
from comparing import fingerprint, same_bits

import kerassplit as ks
from kerassplit.cutting.pieces import blocks, tap, to_sequential
from kerassplit.zoo.random_weights import randomize


def values_of(model, tensors, x):
    """Returns what Keras itself computes for symbolic tensors of a model."""
    return keras.Model(model.input, tensors)(x)


@pytest.fixture
def shared():
    """One ReLU called twice, a layer with two outputs, a nested model."""
    inputs = keras.Input((4, 6), name="sequence")
    relu = keras.layers.ReLU(name="relu")
    x = relu(keras.layers.Dense(8, name="first")(inputs))
    x = relu(keras.layers.Dense(8, name="second")(x))
    x, state = keras.layers.GRU(5, return_state=True, name="encoder")(x)
    inner = keras.Input((5,), name="features")
    backbone = keras.Model(inner, keras.layers.Dense(2, name="top")(keras.layers.Dense(3, name="low")(inner)))
    backbone.name = "backbone"
    model = keras.Model(inputs, keras.layers.Add(name="sum")([backbone(x), backbone(state)]), name="shared")
    randomize(model, seed=4)
    return model


def test_taps_give_the_values_that_the_model_computes_inside(resnet, images):
    names = ["conv4_block6_2_relu", "conv2_block3_out", "conv1_relu", "avg_pool"]
    x = images(resnet)
    tapped = tap(resnet, names)
    given = tapped(x)
    assert list(tapped.output) == names
    expected = values_of(resnet, [resnet.get_layer(name).output for name in names], x)
    assert same_bits([given[name] for name in names], expected)


def test_a_glob_taps_all_it_matches_and_a_tensor_named_twice_is_given_once(resnet):
    tapped = tap(resnet, ["conv5_block?_out", "conv5_block3_out", resnet.get_layer("conv5_block3_out"), "conv5_*_add"])
    assert list(tapped.output) == [f"conv5_block{block}_{end}" for end in ("out", "add") for block in (1, 2, 3)]


def test_a_single_tap_gives_a_dict_too(small):
    x = {"image": np.ones((2, 8, 8, 3), "float32"), "extra": np.ones((2, 4), "float32")}
    for reference in ("stem", small.get_layer("stem"), small.get_layer("stem").output):
        given = tap(small, reference)(x["image"])
        assert list(given) == ["stem"]
        assert same_bits(given["stem"], small.get_layer("stem")(x["image"]))


def test_taps_take_only_the_inputs_they_depend_on(small):
    assert [tensor.name for tensor in tap(small, "block1_out").inputs] == ["image"]
    assert not isinstance(tap(small, "block1_out").input, (list, dict))
    both = tap(small, ["block1_out", "both"])
    assert [tensor.name for tensor in both.input] == ["image", "extra"]


def test_with_keep_outputs_the_models_own_outputs_are_in_the_dict(small):
    x = [np.ones((2, 8, 8, 3), "float32"), np.ones((2, 4), "float32")]
    given = tap(small, ["block1_add", "pool"], keep_outputs=True)(x)
    assert sorted(given) == ["block1_add", "pool", "score"]
    expected = small(x)
    assert same_bits([given["pool"], given["score"]], [expected["pooled"], expected["score"]])


def test_inputs_and_outputs_can_be_tapped(resnet, images):
    name = resnet.layers[0].name
    x = images(resnet)
    given = tap(resnet, [name, "predictions"])(x)
    assert same_bits([given[name], given["predictions"]], [x, resnet(x)])
    with pytest.raises(ks.NotConnectedError, match=f"'{name}' is an input of the model: there is nothing to compute"):
        tap(resnet, name)


def test_calls_outputs_and_nested_tensors_are_tapped_under_their_full_names(shared, tmp_path):
    x = np.random.default_rng(1).uniform(-1, 1, (3, 4, 6)).astype("float32")
    names = ["relu@0", "relu@1", "encoder:1", "backbone@0/top", "backbone@*/low"]
    tapped = tap(shared, names, keep_outputs=True)
    given = tapped(x)
    assert sorted(given) == sorted([*names[:-1], "backbone@0/low", "backbone@1/low", "sum"])
    layer = {name: shared.get_layer("backbone").get_layer(name) for name in ("low", "top")}
    first = keras.ops.relu(shared.get_layer("first")(x))
    state = given["encoder:1"]
    assert same_bits(given["relu@0"], first)
    assert same_bits(given["backbone@1/low"], layer["low"](state))
    assert same_bits(given["backbone@0/top"] + shared.get_layer("backbone")(state), given["sum"])
    assert same_bits(given["sum"], shared(x))
    predicted = tapped.predict(x, verbose=0)
    assert {name: value.shape for name, value in predicted.items()} == {name: given[name].shape for name in given}
    tapped.save(tmp_path / "tapped.keras")
    loaded = keras.models.load_model(tmp_path / "tapped.keras")(x)
    assert list(loaded) == list(given)
    assert same_bits(loaded, given)


def test_a_tapped_model_shares_the_variables_and_holds_no_others(resnet):
    tapped = tap(resnet, "conv3_block1_1_relu")
    assert {id(variable) for variable in tapped.variables} < {id(variable) for variable in resnet.variables}
    expected = ks.build_submodel(resnet, end="conv2_block3_out").variables
    assert len(tapped.variables) == len(expected) + len(resnet.get_layer("conv3_block1_1_conv").variables) + 4


def test_a_tap_far_down_a_long_chain_is_built():
    x = inputs = keras.Input((2,), name="x")
    for number in range(1500):
        x = keras.layers.Activation("linear", name=f"step_{number}")(x)
    given = tap(ks.build_submodel(_deep_model(inputs, x), end="step_1499"), "step_14?0")(np.ones((1, 2), "float32"))
    assert len(given) == 10


def _deep_model(inputs, outputs):
    from kerassplit.graph.internals.process_state import deep_recursion

    with deep_recursion():
        return keras.Model(inputs, outputs)


def test_a_dict_renames_taps(shared):
    names = {"relu@0": "early", "backbone@1/low": "inner", "second": "second/dense"}
    tapped = tap(shared, {"relu@0": "early", "backbone@1/low": "inner", shared.get_layer("second"): "second/dense"})
    assert list(tapped.output) == list(names.values())
    x = np.ones((2, 4, 6), "float32")
    plain = tap(shared, list(names))(x)
    assert same_bits(tapped(x), {new: plain[old] for old, new in names.items()})
    both = tap(shared, {"sum": "result", "first": "features"}, keep_outputs=True)
    assert list(both.output) == ["result", "features"]
    assert list(tap(shared, {"fir*": "f"}).output) == ["f"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({}, "`names` is empty"),
        ({"first": ""}, "`names` says what to call a tensor, such as {'relu': 'features'}; got ''."),
        ({"first": 3}, "got 3."),
        ({"relu@?": "relus"}, "Each tensor gets one name, but 'relus' is given to 'relu@0' and 'relu@1'."),
        ({"first": "a", "fir*": "b"}, "'b' is given to 'first', which is already called 'a'."),
        ({"first": "a", "second": "a"}, "Several tensors would be called 'a': give each a name of its own."),
        ({"nowhere": "a"}, "has no tensor 'nowhere'"),
    ],
)
def test_new_names_that_do_not_fit_are_refused(shared, names, message):
    with pytest.raises(ks.SplitError) as error:
        tap(shared, names)
    assert message in str(error.value)


def test_a_new_name_is_not_that_of_an_output_that_is_kept(shared):
    with pytest.raises(ks.SplitError, match="Several tensors would be called 'sum'"):
        tap(shared, {"first": "sum"}, keep_outputs=True)


def test_all_tensors_that_are_listed_can_be_tapped(shared):
    listed = ks.tensors(shared)
    assert listed == (
        *("first", "relu@0", "second", "relu@1", "encoder:0", "encoder:1"),
        *("backbone@0/low", "backbone@0/top", "backbone@1/low", "backbone@1/top", "sum"),
    )
    assert tuple(tap(shared, listed).output) == listed
    for name in listed:
        assert list(tap(shared, name).output) == [name]


def test_what_has_no_graph_has_no_tensors_to_list():
    with pytest.raises(ks.UnsupportedModelError, match="a name, not a model"):
        ks.tensors("ResNet50")


def test_a_tap_that_is_not_there_is_refused(resnet):
    with pytest.raises(ks.SplitError, match="`names` is empty: name at least one tensor to tap"):
        tap(resnet, [])
    with pytest.raises(ks.UnknownTensorError, match="Did you mean 'conv4_block6_out'"):
        tap(resnet, "conv4_block6_outt")
    with pytest.raises(ks.SplitError, match="Expected a single item or a list, got a set: {'conv1_relu'}"):
        tap(resnet, {"conv1_relu"})
    with pytest.raises(ks.UnknownTensorError, match="matches 'nothing_\\*'"):
        tap(resnet, ["conv1_relu", "nothing_*"])


def test_a_block_ends_behind_the_activations_of_its_merge_and_before_the_next_merge():
    x = keras.Input((4,), name="x")
    for number in range(2):
        merged = keras.layers.Add(name=f"add{number}")([x, keras.layers.Dense(4, name=f"dense{number}")(x)])
        x = keras.layers.ReLU(name=f"relu{number}")(keras.layers.LayerNormalization(name=f"norm{number}")(merged))
    direct = keras.layers.Multiply(name="gate")([x, x + 1.0])
    outputs = keras.layers.Maximum(name="largest")([direct, keras.ops.tanh(direct)])
    model = keras.Model(keras.utils.get_source_inputs(outputs), keras.layers.Dense(2, name="top")(outputs))
    assert list(blocks(model)) == ["relu0", "relu1", "gate", "largest", "top"]


def test_blocks_of_late_inputs_and_early_outputs_take_and_give_dicts(small):
    pieces = blocks(small)
    assert list(pieces) == ["block1_out", "block2_out", "both", "score"]
    assert sorted(pieces["both"].input) == ["block2_out", "extra"]
    x = [np.ones((2, 8, 8, 3), "float32"), np.ones((2, 4), "float32")]
    features = pieces["block2_out"](pieces["block1_out"](x[0]))
    given = pieces["both"]({"block2_out": features, "extra": keras.ops.convert_to_tensor(x[1])})
    assert same_bits([given["pool"], pieces["score"](given["both"])], list(map(small(x).get, ("pooled", "score"))))


def test_blocks_can_have_names_that_no_file_could_bear():
    x = inputs = keras.Input((4,), name="x")
    for name in ("1 + 1", "Sum", "sum"):
        x = keras.layers.Add(name=name)([x, keras.layers.Dense(4)(x)])
    model = keras.Model(inputs, keras.layers.Dense(2, name="last one")(x))
    assert {name: piece.name for name, piece in blocks(model).items()} == {
        "1 + 1": "_1___1",
        "Sum": "Sum",
        "sum": "sum_1",
        "last one": "last_one",
    }
    assert same_bits(to_sequential(model)(np.ones((1, 4), "float32")), model(np.ones((1, 4), "float32")))


@pytest.mark.parametrize("structure", [list, dict])
def test_a_model_that_takes_and_gives_structures_of_one_becomes_sequential(structure):
    x = keras.Input((4,), name="x")
    outputs = keras.layers.Dense(2, name="y")(keras.layers.Add(name="add")([x, keras.layers.Dense(4, name="d")(x)]))
    model = keras.Model(*([[x], [outputs]] if structure is list else [{"x": x}, {"y": outputs}]))
    values = np.random.default_rng(0).uniform(-1, 1, (3, 4)).astype("float32")
    expected = model([values] if structure is list else {"x": values})
    given = to_sequential(model)(values)
    assert given.shape == (3, 2)
    assert same_bits(given, expected)


def test_a_sequential_model_keeps_the_dtype_of_what_it_takes():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        x = keras.Input((4,), name="x", dtype="float32")
        third = x / 3.0
        model = keras.Model(x, keras.layers.Add(name="add")([third, keras.layers.Dense(4, name="d")(third)]))
        values = np.random.default_rng(0).uniform(-9, 9, (3, 4)).astype("float32")
        sequential = to_sequential(model)
        assert sequential.inputs[0].dtype == "float32"
        assert same_bits(sequential(values), model(values))
    finally:
        keras.config.set_dtype_policy("float32")


def test_a_model_of_several_inputs_or_outputs_does_not_become_sequential(small):
    with pytest.raises(ks.SplitError) as caught:
        to_sequential(small)
    assert str(caught.value) == (
        "Model 'small' takes 2 tensors ('image' and 'extra'), but a keras.Sequential passes on only one. "
        "Use `kerassplit.split(model, at=...)`, which routes several."
    )
    image = small.inputs[0]
    with pytest.raises(ks.SplitError, match=r"returns 2 tensors \('block1_out' and 'block2_out'\)"):
        to_sequential(keras.Model(image, [small.get_layer("block1_out").output, small.get_layer("block2_out").output]))


def test_a_layer_in_several_blocks_is_announced():
    x = inputs = keras.Input((4,), name="x")
    dense, relu = keras.layers.Dense(4, name="dense"), keras.layers.ReLU(name="relu")
    for number in range(3):
        x = relu(keras.layers.Add(name=f"add{number}")([x, dense(x)]))
    model = keras.Model(inputs, x, name="tied")
    with pytest.warns(
        UserWarning, match="Blocks 'relu_0', 'relu_1' and 'relu_2' of model 'tied' share the layer 'dense'"
    ):
        sequential = to_sequential(model)
    values = np.ones((2, 4), "float32")
    assert same_bits(sequential(values), model(values))
    assert sequential.count_params() == model.count_params()


def test_pieces_leave_the_model_as_it_was(resnet, images):
    before = fingerprint(resnet)
    x = images(resnet)
    for build in (
        lambda: tap(resnet, "conv4_block*_out", keep_outputs=True)(x),
        lambda: [piece.name for piece in blocks(resnet).values()],
        lambda: to_sequential(resnet)(x),
        lambda: to_sequential(resnet).predict(x, verbose=0),
    ):
        build()
        assert fingerprint(resnet) == before
