"""Layers that contain layers but are one call: messages say that they are closed, and the suggested solution works."""

import keras
import numpy as np
import pytest
from comparing import same_bits

import kerassplit as ks

layers = keras.layers
X = np.random.default_rng(0).normal(size=(2, 3, 4)).astype("float32")


@pytest.fixture(scope="module")
def frames():
    """A model on the frames of a video, of any number, after another model."""
    x = keras.Input((4,), name="frame")
    features = layers.BatchNormalization(name="norm")(layers.Dense(4, "relu", name="features")(x))
    backbone = keras.Model(x, features, name="backbone")
    inputs = keras.Input((None, 4), name="frames")
    x = layers.TimeDistributed(backbone, name="per_frame")(layers.Dense(4, name="stem")(inputs))
    x = layers.Bidirectional(layers.LSTM(3, return_sequences=True, name="lstm"), name="both_ways")(x)
    x = layers.GRU(3, return_sequences=True, name="gru")(x)
    x = layers.MultiHeadAttention(1, 2, name="attention")(x, x)
    inner = keras.Model(inputs, x, name="video")
    outer = keras.Input((None, 4), name="outer")
    return keras.Model(outer, layers.Dense(2, name="score")(inner(outer)))


def refused(model, reference, call=ks.tap):
    with pytest.raises(ks.UnknownTensorError) as caught:
        call(model, reference)
    return str(caught.value).partition(": ")[2]


CLOSED = " which is closed: one call of the model, inside of which nothing can be tapped or cut.\n"


def test_a_name_inside_of_time_distributed_says_how_to_get_all_steps(frames):
    backbone = frames.get_layer("video").get_layer("per_frame").layer
    message = (
        f"'features' is inside of 'video/per_frame' (TimeDistributed),{CLOSED}For all steps at once, call "
        "`keras.layers.TimeDistributed(kerassplit.build_submodel(layer.layer, end='features'))` on 'video/stem', with "
        "`layer` for 'video/per_frame'."
    )
    references = "features", "video/per_frame/features", backbone.get_layer("features"), backbone.layers[1].output
    for reference in references:
        assert refused(frames, reference) == message
    for call in (ks.explain, ks.split, lambda model, name: ks.build_submodel(model, start=name)):
        assert refused(frames, "video/per_frame/features", call) == message
    stem = ks.tap(frames, "video/stem")(X)["video/stem"]
    layer = frames.get_layer("video").get_layer("per_frame")
    made = layers.TimeDistributed(ks.build_submodel(layer.layer, end="features"))(stem)
    for step in range(3):
        assert same_bits(made[:, step], backbone.get_layer("features")(stem[:, step]))
    assert refused(frames, "video/per_frame/*").startswith("'video/per_frame' is a layer with others inside (Time")


def test_the_model_in_time_distributed_is_named_by_the_wrapper(frames):
    assert refused(frames, "backbone") == (
        f"'backbone' is inside of 'video/per_frame' (TimeDistributed),{CLOSED}What 'backbone' gives for all steps "
        "together is the tensor 'video/per_frame': name that."
    )
    assert ks.tap(frames, "video/per_frame")(X)["video/per_frame"].shape == (2, 3, 4)


def test_a_direction_of_bidirectional_is_called_by_itself(frames):
    assert refused(frames, "video/both_ways/forward_lstm") == (
        f"'forward_lstm' is inside of 'video/both_ways' (Bidirectional),{CLOSED}Call `layer.forward_layer` or "
        "`layer.backward_layer` on 'video/per_frame', with `layer` for 'video/both_ways'."
    )
    given = ks.tap(frames, ["video/per_frame", "video/both_ways"])(X)
    layer = frames.get_layer("video").get_layer("both_ways")
    pair = layer.forward_layer(given["video/per_frame"]), given["video/both_ways"][..., :3]
    np.testing.assert_allclose(*map(keras.ops.convert_to_numpy, pair), rtol=1e-5, atol=1e-6)


def test_a_cell_in_a_loop_is_told(frames):
    assert refused(frames, "gru_cell") == (
        f"'gru_cell' is inside of 'video/gru' (GRU),{CLOSED}It runs its cell in a loop; made with "
        "return_sequences=True, it gives what the cell gives in each step."
    )


def test_composite_layers_are_opened_by_trace(frames):
    class Gate(keras.Layer):
        def __init__(self, **options):
            super().__init__(**options)
            self.inside = layers.Dense(4, "sigmoid", name="inside")

        def call(self, x):
            return x * self.inside(x)

    assert refused(frames, "video/attention/query") == (
        f"'query' is inside of 'video/attention' (MultiHeadAttention),{CLOSED}Open it, where Keras's code of it allows "
        "that: `kerassplit.trace(model, open='video/attention')` is the same model with names for what is inside."
    )
    opened = ks.trace(frames, open="video/attention")
    assert ks.tap(opened, "video/attention/query")(X)["video/attention/query"].shape == (2, 3, 1, 2)
    x = keras.Input((4,), name="x")
    gate = Gate(name="gate")
    model = keras.Model(x, layers.Dense(2, name="last")(gate(gate(x))))
    assert refused(model, "gate/inside") == (
        f"'inside' is inside of 'gate@0' (Gate),{CLOSED}Open it: `kerassplit.trace(model, open='gate')` is the same "
        "model with names for what is inside."
    )
    opened = ks.trace(model, open="gate")
    assert same_bits(ks.tap(opened, "gate@0/inside")(X[:, 0])["gate@0/inside"], gate.inside(X[:, 0]))


@pytest.fixture(scope="module")
def readers():
    """Layers with cells of the same name, in a model and in a nested one."""
    x = keras.Input((3, 4), name="x")
    both = layers.Bidirectional(layers.LSTM(3, return_sequences=True, name="lstm"), name="bi")(x)
    inner = keras.Model(x, layers.LSTM(2, return_sequences=True, name="l2")(both), name="inner")
    outer = keras.Input((3, 4), name="outer")
    last = layers.GRU(2, name="last")(layers.LSTM(2, return_sequences=True, name="l3")(inner(outer)))
    return keras.Model(outer, layers.Dense(2, name="score")(last), name="readers")


@pytest.mark.parametrize(
    ("reference", "start"),
    [
        ("inner/l2/lstm_cell", "'lstm_cell' is inside of 'inner/l2' (LSTM)"),
        ("l2/lstm_cell", "'lstm_cell' is inside of 'inner/l2' (LSTM)"),
        ("l3/lstm_cell", "'lstm_cell' is inside of 'l3' (LSTM)"),
        ("l3/*cell", "'lstm_cell' is inside of 'l3' (LSTM)"),
        ("l3/other", "'l3' is a layer with others inside (LSTM)"),
        ("bi/lstm_cell", "'lstm_cell' is inside of 'inner/bi' (Bidirectional)"),
        ("gru_*", "'gru_cell' is inside of 'last' (GRU)"),
    ],
)
def test_a_path_that_begins_with_a_layer_is_about_that_one(readers, reference, start):
    assert refused(readers, reference).startswith(f"{start},{CLOSED}")


def test_what_is_not_inside_of_the_layer_that_is_named_is_not_looked_for_in_others(readers):
    with pytest.raises(ks.UnknownTensorError) as caught:
        ks.tap(readers, "score/lstm_cell")
    assert str(caught.value) == (
        "Model 'readers' has no tensor 'score/lstm_cell'. `kerassplit.split_points(model)` lists the names."
    )


@pytest.mark.parametrize("reference", ["lstm", "bi/lstm", "inner/bi/lstm", "lst*"])
def test_the_layer_in_bidirectional_is_found_by_the_name_that_the_user_gave(readers, reference):
    told = "'lstm' is inside of 'inner/bi' as 'forward_lstm' and 'backward_lstm'"
    if reference == "lst*":
        told = "'lstm_cell' is inside of 'inner/bi'"
    assert refused(readers, reference).startswith(
        f"{told} (Bidirectional),{CLOSED}Call `layer.forward_layer` or `layer.backward_layer` on 'outer', with `layer` "
    )
    x = keras.Input((3, 4), name="x")
    own = layers.Bidirectional(
        layers.LSTM(3, name="ahead"), backward_layer=layers.GRU(3, go_backwards=True, name="back")
    )
    model = keras.Model(x, own(x))
    assert refused(model, "ahead").startswith("'ahead' is inside of 'bidirectional")
    assert " as 'forward_ahead' (Bidirectional)," in refused(model, "ahead")
    assert refused(model, "back").startswith("'back' is inside of 'bidirectional")
