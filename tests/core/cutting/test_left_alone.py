"""Cutting does not change the model, and sub-models do not disturb each other."""

import gc
import threading

import keras
import numpy as np
import pytest
from comparing import copied, fingerprint, same_bits

import kerassplit as ks
from kerassplit.cutting.joining import join
from kerassplit.graph.internals.process_state import lock


def nothing(model, directory):
    """Calls that create nothing permanent."""
    return {
        "split_points": lambda: ks.split_points(model),
        "explain": lambda: ks.explain(model, "conv4_block6_2_relu"),
        "build_submodel": lambda: ks.build_submodel(model, start="conv4_block6_out"),
        "copy": lambda: ks.build_submodel(model, start="conv5_block3_out", copy_weights=True),
        "split": lambda: ks.split(model, [5, 20]),
        "call": lambda: ks.split(model, [20])(np.ones((1, 64, 64, 3), "float32")),
        "predict": lambda: ks.split(model, [20]).predict(np.ones((1, 64, 64, 3), "float32")),
        "summary": lambda: ks.split(model, [20]).summary(),
        "join": lambda: ks.split(model, [20]).join(),
        "verify": lambda: ks.split(model, [20]).verify(),
        "compare": lambda: ks.compare(model, ks.split(model, [20])),
        "plot model": lambda: ks.plot(model, directory / "model.svg"),
        "plot split": lambda: ks.split(model, [20]).plot(directory / "split.svg"),
        "save": lambda: ks.split(model, [20]).save(directory / "saved"),
        "inside a branch": lambda: ks.build_submodel(model, start="conv4_block6_2_relu"),
        "unknown": lambda: ks.build_submodel(model, start="nothing like it"),
        "not connected": lambda: ks.build_submodel(model, "conv4_block6_out", "conv3_block4_out"),
        "wrong cut": lambda: ks.split(model, ["conv4_block6_out", "conv4_block6_out"]),
        "wrong input": lambda: ks.split(model, [20])(np.ones((1, 3))),
        "wrong folder": lambda: ks.split(model, [20]).save(directory / "saved"),
        "wrong format": lambda: ks.plot(model, directory / "model.jpeg2"),
    }


FAILING = {"inside a branch", "unknown", "not connected", "wrong cut", "wrong input", "wrong folder", "wrong format"}


def test_every_public_call_leaves_the_model_as_it_was_also_when_it_fails(resnet, tmp_path):
    before, with_weights = fingerprint(resnet, weights=False), fingerprint(resnet)
    for name, call in nothing(resnet, tmp_path).items():
        if name in FAILING:
            with pytest.raises(ValueError):
                call()
        else:
            call()
        assert fingerprint(resnet, weights=False) == before, name
    assert fingerprint(resnet) == with_weights


def test_the_saved_config_and_the_tensors_are_the_same_while_sub_models_live(resnet):
    before = fingerprint(resnet, weights=False)
    alive = [ks.build_submodel(resnet, start=point.name) for point in ks.split_points(resnet)[::5]]
    after = fingerprint(resnet, weights=False)
    before.pop("nodes"), after.pop("nodes")  # sharing layers makes Keras append nodes to them
    assert after == before
    assert len(alive) == 8


def test_keras_own_way_does_leave_nodes_behind(small):
    """The counterexample: `keras.Model` leaves its nodes in the layers."""
    model = keras.models.clone_model(small)
    before = fingerprint(model, weights=False)["nodes"]
    keras.Model([model.get_layer("both").output], model.get_layer("score").output)
    assert fingerprint(model, weights=False)["nodes"] != before


def test_sub_models_overlapping_nested_and_dropped_in_any_order(resnet, images):
    before = fingerprint(resnet, weights=False)
    features = ks.build_submodel(resnet, end="conv3_block4_out")(images(resnet))
    expected = copied(resnet(images(resnet)))
    generator = np.random.default_rng(0)
    for _ in range(4):
        models = [ks.build_submodel(resnet, start="conv3_block4_out") for _ in range(4)]
        nested = ks.build_submodel(models[1], end="conv4_block6_out")
        last = ks.build_submodel(models[2], start="conv4_block6_out")
        order = generator.permutation(len(models))
        for place in order[:3]:
            models[place] = None
            gc.collect()
        (left,) = [model for model in models if model is not None]
        assert same_bits(left(features), expected)
        assert same_bits(last(nested(features)), expected)
        assert len(left.get_config()["layers"]) == len(left.layers)
        del nested, left, models
        gc.collect()
        assert same_bits(last(ks.build_submodel(resnet, end="conv4_block6_out")(images(resnet))), expected)
        del last
    assert fingerprint(resnet, weights=False) == before


def test_a_failure_while_building_takes_the_nodes_back():
    inputs = keras.Input((4,), name="x")
    model = keras.Model(inputs, keras.layers.Dense(4, name="b")(keras.layers.Dense(4, name="a")(inputs)))
    stages = (ks.Stage("one", model, ("x",), ("b",)),)
    before = fingerprint(model)
    with pytest.raises(ks.UnsupportedModelError, match="none of them has an input or output 'missing'"):
        ks.Split(stages, "x", "missing", "broken").join()  # found when the calls have been made
    assert fingerprint(model) == before


def test_pieces_with_different_layers_of_one_name_are_not_joined():
    inputs = keras.Input((4,), name="x")
    one, other = (keras.Model(inputs, keras.layers.Dense(4, name="dense")(inputs)) for _ in range(2))
    stages = (ks.Stage("one", one, ("x",), ("h",)), ks.Stage("two", other, ("h",), ("y",)))
    with pytest.raises(ks.UnsupportedModelError, match="Two different layers are called 'dense'"):
        ks.Split(stages, "x", "y", "twice").join()


def test_keras_models_built_by_other_threads_meanwhile_are_right(resnet):
    stop, failures = threading.Event(), []

    def build_by_keras():
        while not stop.is_set():
            inputs = keras.Input((3,))
            outputs = keras.layers.Dense(2)(keras.layers.Dense(4)(inputs))
            if len(keras.Model(inputs, outputs).layers) != 3:
                failures.append("wrong layers")

    thread = threading.Thread(target=build_by_keras)
    thread.start()
    try:
        for _ in range(50):
            assert len(ks.build_submodel(resnet, start="conv4_block6_out").layers) == 34 + 1
    finally:
        stop.set()
        thread.join()
    assert not failures


def test_a_sub_model_that_dies_while_another_thread_changes_lists_of_nodes_leaves_them_afterwards(small):
    """Garbage collection runs in any thread: it neither disturbs the thread with the lock nor waits for it."""
    model = keras.models.clone_model(small)
    before = fingerprint(model)
    tail = ks.build_submodel(model, start="block1_out")
    alive = fingerprint(model)
    held, done = threading.Event(), threading.Event()

    def change():
        with lock:
            held.set()
            done.wait()

    thread = threading.Thread(target=change)
    thread.start()
    try:
        held.wait()
        del tail
        assert fingerprint(model) == alive
    finally:
        done.set()
        thread.join()
    ks.build_submodel(model, start="block2_out")
    assert fingerprint(model) == before


def test_a_place_that_a_dead_sub_model_left_empty_is_taken_and_left_empty_again(small):
    """A later sub-model stays alive, so that the place stays in the list."""
    model = keras.models.clone_model(small)
    dead, living = (ks.build_submodel(model, start="block1_out") for _ in range(2))

    def empty_places():
        return sum(nodes.count(None) for nodes, _ in fingerprint(model)["nodes"])

    del dead
    before = fingerprint(model)
    assert empty_places() > 3
    third = ks.build_submodel(model, start="block1_out")
    assert not empty_places()
    del third
    assert fingerprint(model) == before
    assert [one.name for one in living.inputs] == ["block1_out", "extra"]


def test_splits_that_follow_one_another_in_a_loop_take_the_places_of_those_before(small):
    """The old split lives until the new one exists: its nodes are never the last ones."""
    model = keras.models.clone_model(small)
    x = [np.ones((2, 8, 8, 3), "float32"), np.ones((2, 4), "float32")]
    expected = model(x)
    before = fingerprint(model, weights=False)
    point = ks.split_points(model)[-1].name
    lengths = []
    for _ in range(30):
        split = ks.split(model, point)
        gc.collect()
        lengths.append(max(len(layer._inbound_nodes) for layer in model.layers))
        assert same_bits(split(x), expected)
        assert len(split.join().get_config()["layers"]) == len(split.join().layers)
        split.join().summary(print_fn=str)
    assert max(lengths[5:]) <= max(lengths[:5])
    del split
    assert fingerprint(model, weights=False) == before


def test_a_layer_whose_first_call_is_gone_can_be_called_again(small):
    """Keras reads the number of outputs from the first node in a layer's list."""
    model = keras.models.clone_model(small)
    head, tail = ks.split(model, "both")
    x = [keras.ops.ones((2, 8, 8, 3)), keras.ops.ones((2, 4))]
    between = keras.layers.Identity()
    first, second = (join([head, between, tail]) for _ in range(2))
    del first
    gc.collect()
    symbol = keras.Input((3,))
    other = keras.Model(symbol, between(symbol))
    assert same_bits(other(x[1][:, :3]), x[1][:, :3])
    assert same_bits(second(x), model(x))
    other.summary(print_fn=str)
    second.summary(print_fn=str)
