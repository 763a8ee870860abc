"""build_submodel: what it accepts, returns and refuses."""

import gc

import keras
import numpy as np
import pytest
from comparing import same_bits

import kerassplit as ks


def test_the_input_bears_the_tensors_name_and_the_layer_that_made_it_is_gone(resnet):
    tail = ks.build_submodel(resnet, start="conv4_block6_out")
    assert tail.input.name == "conv4_block6_out"
    assert tail.layers[0].name == "conv4_block6_out"
    assert isinstance(tail.layers[0], keras.layers.InputLayer)
    assert tail.output_names == ["predictions"]
    assert tail.name == "resnet50_from_conv4_block6_out"


def test_layers_and_variables_are_the_models_own(resnet):
    tail = ks.build_submodel(resnet, start="conv4_block6_out")
    for layer in tail.layers[1:]:
        assert layer is resnet.get_layer(layer.name)
    own = {id(variable) for variable in resnet.variables}
    assert all(id(variable) in own for variable in tail.variables)


def test_copied_weights_are_independent_and_equal(resnet, images):
    head = ks.build_submodel(resnet, end="conv5_block2_out")
    tail = ks.build_submodel(resnet, start="conv5_block2_out", copy_weights=True, name="mine")
    assert tail.name == "mine"
    own = {id(variable) for variable in resnet.variables}
    assert not any(id(variable) in own for variable in tail.variables)
    x = head(images(resnet))
    expected = ks.build_submodel(resnet, start="conv5_block2_out")(x)
    assert same_bits(tail(x), expected)
    before = resnet.get_weights()
    tail.set_weights([weight + 1 for weight in tail.get_weights()])
    assert same_bits(resnet.get_weights(), before)


def test_start_and_end_can_be_layers_and_tensors(resnet, images):
    x = images(resnet)
    by_layer = ks.build_submodel(resnet, end=resnet.get_layer("conv2_block3_out"))
    by_tensor = ks.build_submodel(resnet, resnet.get_layer("conv2_block3_out").output, resnet.output)
    assert same_bits(by_tensor(by_layer(x)), resnet(x))


def test_a_part_in_the_middle(resnet, images):
    x = images(resnet)
    pieces = [
        ks.build_submodel(resnet, end="conv2_block3_out"),
        ks.build_submodel(resnet, "conv2_block3_out", "conv4_block1_out"),
        ks.build_submodel(resnet, start="conv4_block1_out"),
    ]
    assert same_bits(pieces[2](pieces[1](pieces[0](x))), resnet(x))
    assert pieces[1].name == "resnet50_conv2_block3_out_to_conv4_block1_out"


def test_the_whole_crossing_inside_a_branch_can_be_named(resnet, images):
    x = images(resnet)
    crossing = ["conv4_block5_out", "conv4_block6_2_relu"]
    head = ks.build_submodel(resnet, end=crossing)
    tail = ks.build_submodel(resnet, start=crossing)
    assert set(tail.input) == set(head.output) == set(crossing)
    assert same_bits(tail(head(x)), resnet(x))


def test_a_start_inside_a_branch_is_refused_with_what_else_crosses(resnet):
    with pytest.raises(ks.InsideBranchError) as error:
        ks.build_submodel(resnet, start="conv4_block6_2_relu")
    assert str(error.value) == (
        "'conv4_block6_2_relu' is inside a branch: 'conv4_block5_out' crosses there too.\n"
        "Nearest split points: 'conv4_block5_out' before, 'conv4_block6_add' after. "
        "To build on both tensors, pass ['conv4_block5_out', 'conv4_block6_2_relu']."
    )
    assert error.value.name == "conv4_block6_2_relu"
    assert error.value.crossing == ("conv4_block5_out", "conv4_block6_2_relu")
    assert (error.value.before, error.value.after) == ("conv4_block5_out", "conv4_block6_add")


def test_an_end_inside_a_branch_is_built(resnet, images):
    head = ks.build_submodel(resnet, end="conv4_block6_2_relu")
    x = images(resnet)
    assert same_bits(head(x), ks.tap(resnet, "conv4_block6_2_relu")(x)["conv4_block6_2_relu"])
    section = ks.build_submodel(resnet, start="conv4_block4_out", end="conv4_block6_2_relu")
    assert same_bits(section(ks.tap(resnet, "conv4_block4_out")(x)["conv4_block4_out"]), head(x))


class TestAnEndOfSeveral:
    """Everything that leads to a tensor is complete, whatever else the model computes from it."""

    @staticmethod
    def whole(model, names, x):
        made = ks.tap(model, names)(x)
        for name in names:
            head = ks.build_submodel(model, end=name)
            assert same_bits(head(x), made[name])
            assert not keras.tree.is_nested(head.output)

    def test_one_output_of_two(self):
        face = keras.Input((8,), name="face")
        stem = keras.layers.Dense(8, name="stem")(face)
        age, gender = (keras.layers.Dense(count, name=name)(stem) for name, count in (("age", 1), ("gender", 2)))
        model = keras.Model(face, {"age": age, "gender": gender})
        self.whole(model, ["age", "gender", "stem"], np.ones((2, 8), "float32"))
        tail = ks.build_submodel(model, start="stem", end="gender")
        assert [layer.name for layer in tail.layers] == ["stem", "gender"]

    def test_the_encoder_of_a_unet(self):
        conv = keras.layers.Conv2D
        x = image = keras.Input((8, 8, 3), name="image")
        skips = []
        for level in (1, 2):
            x = conv(4, 3, padding="same", activation="relu", name=f"down_{level}")(x)
            skips.append(x)
            x = keras.layers.MaxPooling2D(name=f"pool_{level}")(x)
        for level in (2, 1):
            x = keras.layers.UpSampling2D(name=f"up_{level}")(x)
            x = keras.layers.Concatenate(name=f"join_{level}")([x, skips[level - 1]])
        model = keras.Model(image, conv(2, 1, name="mask")(x), name="unet")
        self.whole(model, ["pool_2", "down_2", "up_2"], np.ones((2, 8, 8, 3), "float32"))
        several = ks.build_submodel(model, end=["down_1", "pool_2"])
        assert set(several.output) == {"down_1", "pool_2"}

    def test_a_state_of_an_lstm(self):
        steps = keras.Input((5, 3), name="steps")
        lstm = keras.layers.LSTM(4, return_sequences=True, return_state=True, name="lstm")
        sequence, state, cell = lstm(steps)
        model = keras.Model(steps, keras.layers.Dense(2)(keras.layers.Concatenate()([sequence[:, -1], state, cell])))
        self.whole(model, ["lstm:0", "lstm:1", "lstm:2"], np.ones((2, 5, 3), "float32"))

    def test_late_inputs_and_nested_models(self):
        inner = keras.Input((4,), name="inner")
        left = keras.layers.Dense(3, name="left")(inner)
        backbone = keras.Model(inner, [left, keras.layers.Dense(3, name="right")(left)], name="backbone")
        one, other = keras.Input((4,), name="one"), keras.Input((3,), name="other")
        first, second = backbone(one)
        model = keras.Model([one, other], [keras.layers.Add(name="sum")([second, other]), first])
        head = ks.build_submodel(model, end="backbone/right")
        assert [tensor.name for tensor in head.inputs] == ["one"]
        assert set(ks.build_submodel(model, start="backbone/left", end="sum").input) == {"backbone.left", "other"}


def test_an_end_before_the_start_is_refused(resnet):
    with pytest.raises(ks.NotConnectedError, match="'conv3_block4_out' does not depend on 'conv4_block6_out'"):
        ks.build_submodel(resnet, start="conv4_block6_out", end="conv3_block4_out")


def test_the_same_start_and_end_are_refused(resnet):
    with pytest.raises(ks.NotConnectedError, match="The start and the end are the same"):
        ks.build_submodel(resnet, start="conv4_block6_out", end="conv4_block6_out")


def test_starting_at_the_output_or_ending_at_the_input_is_refused(resnet):
    with pytest.raises(ks.NotConnectedError, match="'predictions' is an output of the model: nothing comes after it"):
        ks.build_submodel(resnet, start="predictions")
    with pytest.raises(ks.NotConnectedError, match="is an input of the model: there is nothing to compute before it"):
        ks.build_submodel(resnet, end=resnet.input)


def test_a_start_that_leads_nowhere_is_refused(resnet):
    with pytest.raises(ks.NotConnectedError, match="'conv3_block4_out' leads to none of the ends"):
        ks.build_submodel(resnet, start=["conv3_block4_out", "conv4_block6_out"])


def test_wrong_references_are_refused(resnet):
    with pytest.raises(ks.UnknownTensorError, match="Did you mean 'conv4_block6_out'"):
        ks.build_submodel(resnet, start="conv4_block6_ouput")
    with pytest.raises(ks.SplitError, match="by a string, a keras.Layer or a KerasTensor of the model; got 3.5"):
        ks.build_submodel(resnet, start=3.5)
    with pytest.raises(ks.SplitError, match="`start` is empty"):
        ks.build_submodel(resnet, start=[])
    with pytest.raises(ks.SplitError, match="'avg_pool' is named twice in `end`"):
        ks.build_submodel(resnet, end=["avg_pool", "avg_pool"])
    with pytest.raises(ks.UnknownTensorError, match="has no tensor 'alien'"):
        ks.build_submodel(resnet, start=keras.layers.ReLU(name="alien"))
    for name in ("a/b", "", 5):
        with pytest.raises(ks.SplitError, match=f"{name!r} cannot name a model: give a string without '/'"):
            ks.build_submodel(resnet, end="avg_pool", name=name)


def test_late_inputs_and_early_outputs_stay_where_they_are(small):
    tail = ks.build_submodel(small, start="pool")
    assert set(tail.input) == {"extra", "pool"}
    assert tail.output_names == ["score"]  # `pooled` is made by the head
    head = ks.build_submodel(small, end="pool")
    assert head.input.name == "image"


def test_the_models_own_structure_is_kept(small):
    tail = ks.build_submodel(small, start="block1_out")
    assert set(tail.output) == {"score", "pooled"}
    whole = ks.build_submodel(small, end=["pool", "score"])
    assert [tensor.name for tensor in whole.input] == ["image", "extra"]
    data = [np.ones((2, 8, 8, 3), "float32"), np.ones((2, 4), "float32")]
    assert same_bits(whole(data), small(data))


def test_open_dimensions_and_dtypes_are_kept():
    inputs = keras.Input((None, None, 3), batch_size=None)
    x = keras.layers.Conv2D(4, 3, name="conv")(inputs)
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D(name="pool")(x))
    tail = ks.build_submodel(model, start="conv")
    assert tail.input.shape == (None, None, None, 4)
    for side in (5, 9):
        image = np.ones((1, side, side, 3), "float32")
        assert same_bits(tail(ks.build_submodel(model, end="conv")(image)), model(image))


def test_special_characters_of_tensor_names_do_not_reach_inputs():
    inputs = keras.Input((4,), name="x")
    relu = keras.layers.ReLU(name="relu")
    x = relu(inputs)
    x = keras.layers.Dense(4, name="relu_0")(x)  # the name that `relu@0` would get
    model = keras.Model(inputs, relu(x))
    tail = ks.build_submodel(model, start="relu@0")
    assert tail.input.name == "relu_0_1"


def test_a_sub_model_of_a_sub_model(resnet, images):
    x = images(resnet)
    tail = ks.build_submodel(resnet, start="conv2_block3_out")
    inner = ks.build_submodel(tail, start=tail.get_layer("conv4_block6_out"))
    again = ks.build_submodel(tail, start=tail.get_layer("conv4_block6_out").output)  # the original's own tensor
    expected = ks.build_submodel(resnet, start="conv4_block6_out")
    features = ks.build_submodel(resnet, end="conv4_block6_out")(x)
    del tail
    assert same_bits(inner(features), expected(features))
    assert same_bits(again(features), expected(features))


def test_a_sub_model_saves_and_loads_and_can_be_cloned(resnet, images, tmp_path):
    tail = ks.build_submodel(resnet, start="conv4_block6_out")
    features = ks.build_submodel(resnet, end="conv4_block6_out")(images(resnet))
    tail.save(tmp_path / "tail.keras")
    loaded = keras.saving.load_model(tmp_path / "tail.keras")
    assert same_bits(loaded(features), tail(features))
    assert [point.name for point in ks.split_points(loaded)] == [point.name for point in ks.split_points(tail)]
    clone = keras.models.clone_model(tail)
    clone.set_weights(tail.get_weights())


def test_a_sub_model_trains(small):
    tail = ks.build_submodel(small, start="both")
    before = [keras.ops.convert_to_numpy(weight) for weight in small.get_layer("score").weights]
    tail.compile("sgd", "mse")
    tail.fit(np.ones((4, 8), "float32"), np.zeros((4, 3), "float32"), verbose=0)
    after = [keras.ops.convert_to_numpy(weight) for weight in small.get_layer("score").weights]
    assert not same_bits(before, after)  # shared: the model learned too
    small.get_layer("score").set_weights(before)


def test_a_new_head_on_a_sub_model_outlives_it(resnet, images, tmp_path):
    def build():
        base = ks.build_submodel(resnet, start="conv4_block6_out", end="avg_pool")
        return keras.Model(base.input, keras.layers.Dense(5, name="classes")(base.output))

    model = build()
    gc.collect()
    features = np.ones((1, 4, 4, 1024), "float32")
    expected = model(features)
    model.save(tmp_path / "model.keras")
    assert same_bits(keras.saving.load_model(tmp_path / "model.keras")(features), expected)


def test_a_wrapper_around_a_sub_models_tensors_outlives_it(resnet, tmp_path):
    base = ks.build_submodel(resnet, start="conv5_block3_out")
    wrapper = keras.Model(base.input, base.output)
    del base
    gc.collect()
    features = np.ones((1, 2, 2, 2048), "float32")
    wrapper.save(tmp_path / "wrapper.keras")
    assert same_bits(keras.saving.load_model(tmp_path / "wrapper.keras")(features), wrapper(features))


def test_a_model_on_an_output_that_feeds_another_output_outlives_the_sub_model(tmp_path):
    x = inputs = keras.Input((4,), name="x")
    for name in "abcd":
        x = keras.layers.Dense(4, name=name)(x)
    whole = keras.Model(inputs, x)
    before = [len(layer._inbound_nodes) for layer in whole.layers]

    def build():
        base = ks.build_submodel(whole, end=["b", "c"])
        return keras.Model(base.input, base.outputs[0])

    model = build()
    gc.collect()
    data = np.ones((2, 4), "float32")
    model.save(tmp_path / "model.keras")
    assert same_bits(keras.saving.load_model(tmp_path / "model.keras")(data), model(data))
    further = keras.Model(model.input, keras.layers.Dense(3, name="new")(model.output))
    assert further(data).shape == (2, 3)
    del model, further
    gc.collect()
    model = build()
    del model
    gc.collect()
    assert [len(layer._inbound_nodes) for layer in whole.layers][-1] == before[-1]


def test_only_outputs_behind_the_start_are_taken():
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    x = keras.layers.Dense(4, name="a2")(keras.layers.Dense(4, name="a1")(a))
    model = keras.Model([a, b], [x, keras.layers.Dense(4, name="b1")(b)])
    tail = ks.build_submodel(model, start="a1")
    assert tail.output_names == ["a2"]
    assert tail.input.name == "a1"


def test_a_tensor_of_another_model_is_refused(small):
    alien = small.get_layer("score")(keras.Input((8,)))
    with pytest.raises(ks.UnknownTensorError, match="has no tensor 'score'"):
        ks.build_submodel(small, start=alien)
    with pytest.raises(ks.UnknownTensorError, match="has no tensor"):
        ks.explain(small, keras.KerasTensor((None, 4), name="loose"))


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="on torch Keras takes the values of any model it makes")
def test_variables_without_values_stay_so():
    """`load_model` builds such models when only the graph is needed: VGG16's weights would take 1.3 GB."""
    drawn = []

    def draw(shape, dtype=None):
        drawn.append(shape)
        return keras.ops.zeros(shape, dtype)

    with keras.StatelessScope(initialize_variables=False):
        x = keras.Input((4,), name="x")
        hidden = keras.layers.Dense(3, kernel_initializer=draw, name="hidden")(x)
        model = keras.Model(x, keras.layers.Dense(2, kernel_initializer=draw, name="scores")(hidden))
    ks.split_points(model), ks.profile(model), ks.crossings(model)
    ks.build_submodel(model, start="hidden")
    split = ks.split(model, "hidden")
    split.summary(), split.join(), str(ks.plot(split)), ks.plan(model, 2)
    ks.blocks(model), ks.to_sequential(model), ks.flatten(model), ks.tap(model, ["hidden"]), ks.trace(model)
    assert drawn == []
