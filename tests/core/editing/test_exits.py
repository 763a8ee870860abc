"""Exits: outputs added to a model at its taps, trained alone or with it."""

import keras
import numpy as np
import pytest
import random_models as random_graphs
from applications import application
from comparing import copied, fingerprint, same_bits
from hypothesis import given, strategies as st
from small_models import exit_layers

import kerassplit as ks
from kerassplit.graph.reading import read_graph
from kerassplit.zoo.random_weights import randomize

layers = keras.layers
CLASSES = 5


def called(exit_, x):
    for layer in exit_ if isinstance(exit_, list) else [exit_]:
        x = layer(x)
    return x


@pytest.mark.parametrize("name", ["MobileNetV2", "ResNet50"])
def test_the_outputs_are_the_models_own_and_those_of_the_exits(name, images):
    model = application(name)
    taps = [point.name for point in ks.split_points(model)][5::20]
    exits = {tap: exit_layers(f"exit_{place}") for place, tap in enumerate(taps)}
    before = fingerprint(model, weights=False)
    multi = ks.with_outputs(model, exits)
    after = fingerprint(model, weights=False)
    assert {**after, "nodes": None} == {**before, "nodes": None}
    x = images(model)
    outputs, features = multi(x), ks.tap(model, taps)(x)
    assert set(outputs) == set(multi.output) == {"predictions", *taps}
    assert same_bits(outputs["predictions"], model(x))
    for tap in taps:
        assert same_bits(outputs[tap], called(exits[tap], features[tap]))
    ours = {id(variable) for variable in multi.variables}
    theirs = [
        *model.variables,
        *(variable for exit_ in exits.values() for layer in exit_ for variable in layer.variables),
    ]
    assert ours == {id(variable) for variable in theirs}
    assert multi.name == model.name and multi.get_layer("exit_0") is exits[taps[0]][1]


def test_the_model_is_left_alone_also_when_it_fails(resnet):
    before = fingerprint(resnet)
    ks.split(ks.with_outputs(resnet, {"conv3_block4_out": exit_layers("exit")}), [["conv3_block4_out", "exit"]])
    with pytest.raises(ks.UnsupportedModelError):
        ks.with_outputs(resnet, {"conv3_block4_out": [*exit_layers("exit"), layers.Conv2D(1, 1)]})
    with pytest.raises(ks.UnsupportedModelError):
        ks.with_outputs(resnet, {"conv3_block4_out": exit_layers("conv1_conv")})
    assert fingerprint(resnet) == before


def test_an_exit_is_a_layer_several_or_a_model_built_or_not(small):
    x = {"image": np.ones((2, 8, 8, 3), "float32"), "extra": np.ones((2, 4), "float32")}
    inputs = keras.Input((8, 8, 4), name="anything")
    functional = keras.Model(inputs, layers.Flatten(name="flat")(inputs), name="functional")
    exits = {
        "stem": layers.Flatten(name="alone"),
        "block1_add": exit_layers("two", 3),
        "block1_out": keras.Sequential(exit_layers("inner", 3), name="unbuilt"),
        small.get_layer("block2_add"): functional,
        small.get_layer("block2_out").output: keras.Sequential([inputs, *exit_layers("inner", 2)], name="built"),
    }
    multi = ks.with_outputs(small, exits)
    taps = ["stem", "block1_add", "block1_out", "block2_add", "block2_out"]
    assert set(multi.output) == {"score", "pooled", *taps}  # the keys of the model's own dict
    outputs, features = multi(x), ks.tap(small, taps)(x["image"])
    for tap, exit_ in zip(taps, exits.values(), strict=True):
        assert same_bits(outputs[tap], called(exit_, features[tap])), tap
    assert same_bits({key: outputs[key] for key in ("score", "pooled")}, small(list(x.values())))
    assert multi.get_layer("unbuilt") is exits["block1_out"]
    assert read_graph(multi).nests[0].name in ("unbuilt", "functional", "built")


def test_one_layer_serves_several_exits(small):
    head = layers.Dense(3, name="head")
    pools = [layers.GlobalAveragePooling2D(name=f"pool_{number}") for number in (1, 2)]
    multi = ks.with_outputs(small, {"block1_out": [pools[0], head], "block2_out": [pools[1], head]})
    x = [np.ones((2, 8, 8, 3), "float32"), np.ones((2, 4), "float32")]
    features = ks.tap(small, ["block1_out", "block2_out"])(x[0])
    for name, pool in zip(features, pools, strict=True):
        assert same_bits(multi(x)[name], head(pool(features[name])))


def nested_model():
    keras.utils.set_random_seed(1)
    x = inputs = keras.Input((8, 8, 3), name="pixels")
    for number in (1, 2, 3):
        x = layers.Conv2D(4, 3, padding="same", activation="relu", name=f"conv{number}")(x)
    backbone = keras.Model(inputs, x, name="backbone")
    return keras.Sequential(
        [keras.Input((8, 8, 3), name="photo"), backbone, *exit_layers("top", CLASSES)], name="outer"
    )


def test_a_tap_may_be_inside_a_nested_model(tmp_path):
    model = nested_model()
    before = fingerprint(model)
    exit_ = exit_layers("exit", CLASSES)
    multi = ks.with_outputs(model, {"backbone/conv2": exit_})
    x = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype("float32")
    outputs = multi(x)
    assert same_bits(outputs["top"], model(x))
    assert same_bits(outputs["backbone/conv2"], called(exit_, ks.tap(model, "backbone/conv2")(x)["backbone/conv2"]))
    targets = {name: np.arange(4, dtype="int32") for name in outputs}
    multi.compile("sgd", dict.fromkeys(targets, "sparse_categorical_crossentropy"), metrics={"backbone/conv2": ["acc"]})
    history = multi.fit(x, targets, verbose=0).history
    assert {"backbone/conv2_loss", "top_loss", "backbone/conv2_acc"} <= set(history)
    del history
    multi.save(tmp_path / "multi.keras")
    assert same_bits(keras.models.load_model(tmp_path / "multi.keras")(x), multi(x))
    split = ks.split(multi, [["conv2", "exit"]])
    split.save(tmp_path / "stages")
    assert same_bits(ks.load(tmp_path / "stages")(x), multi(x))
    assert {**fingerprint(model), "nodes": None, "values": None} == {**before, "nodes": None, "values": None}


def masked_model(top):
    ids = keras.Input((6,), dtype="int32", name="ids")
    x = layers.Embedding(9, 4, mask_zero=True, name="embed")(ids)
    return keras.Model(ids, top(x), name="text")


IDS = np.array([[3, 4, 0, 0, 0, 0], [1, 2, 3, 4, 5, 6]])


@pytest.mark.parametrize("top", [layers.LSTM(3, name="read"), layers.Dense(3, name="each")], ids=["used", "unused"])
def test_the_mask_of_a_tap_reaches_its_exit_also_over_a_cut(top):
    """Whether a layer of the model uses the mask, too, or only the exit."""
    model = masked_model(top)
    exit_ = [layers.GlobalAveragePooling1D(name="average"), layers.Dense(3, name="exit")]
    multi = ks.with_outputs(model, {"embed": exit_})
    expected = called(exit_, model.get_layer("embed")(keras.ops.convert_to_tensor(IDS)))
    assert same_bits(multi(IDS)["embed"], expected)
    assert same_bits(ks.split(multi, [["embed", "exit"]])(IDS), multi(IDS))
    split = ks.split(multi, "embed", allow_crossing=True)
    assert len(split[1].inputs) == 2  # the tensor and its mask
    assert same_bits(split(IDS), multi(IDS))


EXITS = {
    "vector": lambda name: [layers.Dense(2, name=f"{name}_dense"), layers.ReLU(name=f"{name}_relu")],
    "sequence": lambda name: [layers.GlobalAveragePooling1D(name=f"{name}_pool"), layers.Dense(2, name=f"{name}_top")],
}


@pytest.mark.filterwarnings(
    "ignore:Layer '.*' .* was passed an input with a mask:UserWarning",
    "ignore:'.*' keeps a state, and the stages call it in another order:UserWarning",
    "ignore:In '.*' a loss on '.*' is masked:UserWarning",
)
@random_graphs.examples(12)
@given(random_graphs.recipes | random_graphs.whole, st.lists(random_graphs.places, min_size=1, max_size=3))
def test_exits_at_tensors_of_any_graph(recipe, chosen):
    model = random_graphs.build(recipe)
    randomize(model, seed=1)
    before = fingerprint(model)
    graph = read_graph(model)
    kinds = {
        tensor.name: kind
        for tensor in graph.tensors
        for kind in [random_graphs.KINDS.get((len(tensor.symbol.shape), tensor.symbol.dtype))]
        if kind in EXITS and tensor.users and graph.calls[tensor.call].inputs
    }
    if not kinds:
        return
    names = list(dict.fromkeys(list(kinds)[place % len(kinds)] for place in chosen))
    exits = {name: EXITS[kinds[name]](f"exit_{place}") for place, name in enumerate(names)}
    x = random_graphs.data_for(model)
    try:
        multi = ks.with_outputs(model, exits)
    except ks.SplitError as error:  # two nested models with one name inside, opened
        assert "Two different layers are called" in str(error) or "name of another output" in str(error), error
        return
    outputs = multi(x)
    assert same_bits([outputs[key] for key in multi.output if key not in exits], keras.tree.flatten(model(x)))
    tapped = ks.tap(model, names)
    inputs = {one.name: value for one, value in zip(multi.inputs, keras.tree.flatten(x), strict=True)}
    given_ = [inputs[one.name] for one in tapped.inputs]
    features = tapped(keras.tree.pack_sequence_as(tapped.input, given_))
    for name, exit_ in exits.items():
        assert same_bits(outputs[name], called(exit_, features[name])), name
    last = [exits[name][-1].name for name in names]
    opened = read_graph(multi)  # a nested model with a tap inside is opened: its tensors have other names then
    tap = next(call.inputs[0] for call in opened.calls if call.operation is exits[names[-1]][0])
    try:
        split = ks.split(multi, [[opened.tensors[tap].name, *last]], allow_crossing=True)
    except ks.SplitError as error:
        assert "does not cross where" in str(error) or "would not cross it" in str(error), error
    else:
        assert set(last) <= set(split[0].outputs)
        assert same_bits(split(x), outputs)
        del split
    del opened
    del multi, tapped, graph, features, outputs
    assert fingerprint(model) == before


def trainable_model():
    keras.utils.set_random_seed(4)
    x = inputs = keras.Input((8, 8, 3), name="image")
    for number in (1, 2):
        x = layers.Conv2D(4, 3, padding="same", name=f"conv{number}")(x)
        x = layers.BatchNormalization(name=f"norm{number}")(x)
        x = layers.ReLU(name=f"relu{number}")(x)
    x = layers.Dense(CLASSES, "softmax", name="top")(layers.GlobalAveragePooling2D(name="pool")(x))
    return keras.Model(inputs, x, name="net")


def data():
    generator = np.random.default_rng(0)
    return generator.normal(size=(32, 8, 8, 3)).astype("float32"), generator.integers(0, CLASSES, 32).astype("int32")


LOSS = "sparse_categorical_crossentropy"


def test_exits_train_on_a_frozen_model_and_leave_its_bits():
    model = trainable_model()
    before = [copied(variable).tobytes() for variable in model.variables]
    exit_ = exit_layers("exit", CLASSES)
    multi = ks.with_outputs(model, {"relu1": exit_})
    start = copied(exit_[1].kernel)
    model.trainable = False
    multi.compile(keras.optimizers.Adam(0.1), loss={"relu1": LOSS})
    x, y = data()
    history = multi.fit(x, {"relu1": y}, epochs=5, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    assert [copied(variable).tobytes() for variable in model.variables] == before
    assert not np.array_equal(copied(exit_[1].kernel), start)


def test_trained_together_the_model_and_the_exits_learn():
    model = trainable_model()
    before = {variable.path: copied(variable) for variable in model.variables}
    exit_ = exit_layers("exit", CLASSES)
    multi = ks.with_outputs(model, {"relu1": exit_})
    start = copied(exit_[1].kernel)
    multi.compile(
        "sgd", loss={"top": LOSS, "relu1": LOSS}, loss_weights={"top": 1.0, "relu1": 0.3}, metrics={"relu1": "acc"}
    )
    x, y = data()
    history = multi.fit(x, {"top": y, "relu1": y}, verbose=0).history
    assert {"top_loss", "relu1_loss", "relu1_acc"} <= set(history)
    moved = {
        variable.path for variable in model.variables if not np.array_equal(copied(variable), before[variable.path])
    }
    assert {"conv1/kernel", "conv2/kernel", "top/kernel", "norm1/moving_mean", "norm2/moving_mean"} <= moved
    assert not np.array_equal(copied(exit_[1].kernel), start)


def wrong(resnet):
    tap = "conv3_block4_out"
    dense = layers.Dense(3, name="dense_for_64")
    dense.build((None, 64))
    return {
        "`exits` is empty: name at least one tensor": {},
        "`exits` must be a dict from tensors to layers, such as": [layers.Flatten(name="flat")],
        "has no tensor 'conv3_block9_out'. Did you mean": {"conv3_block9_out": layers.Flatten(name="flat")},
        "The exit at 'conv3_block4_out' has no layers": {tap: []},
        "The exit at 'conv3_block4_out' contains the class Flatten": {tap: layers.Flatten},
        "The exit at 'conv3_block4_out' contains the int 3": {tap: [3]},
        "The exit at 'predictions' would have the name of another output; there are 'predictions'. Use another": {
            "predictions": layers.Dense(3, name="more")
        },
        "would have the name of another output; there are 'predictions' and 'conv3_block4_out'": {
            tap: layers.Flatten(name="flat"),
            resnet.get_layer(tap): layers.Flatten(name="flat2"),
        },
        "'avg_pool' in the exit at 'conv3_block4_out' is a layer of 'resnet50' itself": {
            tap: resnet.get_layer("avg_pool")
        },
        "A layer of the exit at 'conv3_block4_out' is called 'avg_pool', and so is another one": {
            tap: layers.GlobalAveragePooling2D(name="avg_pool")
        },
        "The tensor 'conv3_block4_out', where the exit begins, gives shape (None, 8, 8, 512) and dtype float32, but "
        "the layer 'dense_for_64' takes shape (None, 8, 8, 64)": {tap: dense},
        "'pool' in the exit at 'conv3_block4_out' gives shape (None, 512) and dtype float32, but the layer 'conv' "
        "after it cannot be called on that": {
            tap: [layers.GlobalAveragePooling2D(name="pool"), layers.Conv2D(3, 1, name="conv")]
        },
        "'both' in the exit at 'conv3_block4_out' returns 2 tensors. Use layers that return one.": {
            tap: Twice(name="both")
        },
    }


class Twice(layers.Layer):
    def call(self, x):
        return x, x


def test_what_cannot_be_an_exit_is_refused_with_a_way_out(resnet):
    for message, exits in wrong(resnet).items():
        with pytest.raises(ks.SplitError) as raised:
            ks.with_outputs(resnet, exits)
        assert message in str(raised.value)
