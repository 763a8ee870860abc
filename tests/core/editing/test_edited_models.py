"""An edited model is an ordinary one, and the model it was made from is left alone."""

import gc

import keras
import menagerie
import numpy as np
import pytest
from comparing import collect, copied, fingerprint, same_bits
from gradients import gradients
from keras import layers, ops
from small_models import uneven

import kerassplit as ks
from kerassplit.editing.marks import mark_of
from kerassplit.zoo.random_weights import randomize

X = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")


def whole():
    """A nested model, a shared layer, a branch, normalizations and dropout."""
    inner = menagerie.backbone()
    x = keras.Input((8, 8, 3), name="x")
    relu = layers.ReLU(name="relu")
    y = inner(relu(layers.Conv2D(3, 3, padding="same", name="conv")(x)))
    y = relu(layers.BatchNormalization(name="norm")(y))
    y = layers.Dropout(0.5, seed=1, name="drop")(layers.GlobalAveragePooling2D(name="pool")(y))
    model = keras.Model(x, layers.Dense(2, name="score")(y), name="whole")
    randomize(model, seed=1)
    return model


def gated(x):
    return x * layers.Dense(x.shape[-1], "sigmoid", name="gate")(layers.GlobalAveragePooling2D(keepdims=True)(x))


def copy_of(old):
    return type(old).from_config(old.get_config())


EDITS = {
    "insert": lambda model, **options: ks.insert(
        model, ["relu@0", "backbone/block_conv"], lambda x: layers.GroupNormalization(1), **options
    ),
    "insert into": lambda model, **options: ks.insert(
        model, "relu@1", layers.SpatialDropout2D(0.1, name="new"), into="pool", **options
    ),
    "insert a graph": lambda model, **options: ks.insert(model, "norm", gated, **options),
    "insert a shape": lambda model, **options: ks.insert(
        model, "relu@0", layers.MaxPooling2D(2, name="smaller"), **options
    ),
    "replace": lambda model, **options: ks.replace(model, {layers.Conv2D: copy_of, "relu@1": layers.ELU()}, **options),
    "replace a nested model": lambda model, **options: ks.replace(
        model, {"backbone": layers.Activation("tanh", name="tanh")}, **options
    ),
    "remove": lambda model, **options: ks.remove(model, [layers.Dropout, "norm", "backbone/block_norm"], **options),
}
EVERY_EDIT = pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)


# Ordinary models


@EVERY_EDIT
def test_it_is_saved_and_loaded(edit, tmp_path):
    edited = edit(whole())
    randomize(edited, seed=2)
    edited.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert same_bits(loaded(X), edited(X))
    assert ks.tensors(loaded) == ks.tensors(edited)
    assert keras.Model.from_config(edited.get_config()).get_config() == edited.get_config()


@EVERY_EDIT
def test_it_is_cut_planned_drawn_and_compared(edit, tmp_path):
    edited = edit(whole())
    split = ks.split(edited, [0, len(ks.split_points(edited)) // 2])
    assert split.verify(X).identical
    assert len(ks.plan(edited, 2).stages) == 2
    assert ks.plot(edited, tmp_path / "edited.svg")
    assert ks.compare(edited, ks.flatten(edited), X).identical
    del split
    collect()  # or nodes of what is dead may go while Keras counts them
    edited.summary(print_fn=str)


@EVERY_EDIT
def test_it_is_trained_with_the_original_where_layers_are_shared(edit):
    model = whole()
    edited = edit(model)
    before = [copied(one) for one in edited.trainable_variables]
    edited.compile("sgd", "mse", run_eagerly=True)
    edited.fit(X, np.ones((2, 2)), verbose=0)
    changed = [not same_bits(one, old) for one, old in zip(edited.trainable_variables, before, strict=True)]
    assert sum(changed) >= len(changed) - 2  # a bias before a normalization gets no gradient
    assert edited.get_layer("score").kernel is model.get_layer("score").kernel


@EVERY_EDIT
def test_it_is_edited_again(edit):
    edited = edit(whole())
    again = ks.insert(edited, "pool", layers.Dense(3, name="again"))
    x = ks.build_submodel(edited, end="pool")(X)
    assert same_bits(again(X), ks.build_submodel(edited, start="pool")(again.get_layer("again")(x)))
    assert same_bits(ks.remove(again, "again")(X), edited(X))


@EVERY_EDIT
def test_copied_weights_are_its_own_and_equal(edit):
    model = whole()
    edited = edit(model, copy_weights=True, name="copy")
    assert edited.name == "copy"
    assert not {id(one) for one in edited.variables} & {id(one) for one in model.variables}
    old = {one.path: one for one in model.weights}
    same = [one for one in edited.weights if one.path in old]
    assert len(same) >= 4
    assert same_bits(same, [old[one.path] for one in same])


@EVERY_EDIT
def test_gradients_flow_to_all_variables_old_and_new(edit):
    edited = edit(whole())
    slopes = gradients(edited, lambda: ops.sum(ops.square(edited(X)), axis=1))
    assert len(slopes) == len(edited.trainable_variables) > 4
    assert all(slope is not None and np.isfinite(copied(slope)).all() for slope in slopes)


def test_everything_upstream_of_an_edit_is_equal_bit_for_bit():
    model = uneven()
    edited = ks.insert(model, "middle2", layers.Activation("tanh", name="new"))
    comparison = ks.compare(model, edited)
    assert comparison.first_difference == "middle3"
    assert [one.tensor for one in comparison.comparisons if one.identical] == ["first", "middle0", "middle1", "middle2"]
    assert comparison.only_in_other == ("new",)
    replaced = ks.replace(
        model, {"middle2": lambda old: type(old).from_config(old.get_config() | {"activation": "tanh"})}
    )
    assert ks.compare(model, replaced).first_difference == "middle2"
    removed = ks.remove(model, "middle2")
    assert ks.compare(model, removed).first_difference == "middle3"
    assert ks.compare(model, removed).only_in_model == ("middle2",)
    assert ks.compare(model, ks.replace(model, {"*": copy_of})).identical


def test_what_is_inserted_and_then_removed_leaves_the_models_config():
    model = whole()
    for at in ("x", "relu@0", "relu@1", "norm", "pool", "score", "backbone"):
        edited = ks.insert(model, at, layers.Activation("linear", name="new"))
        assert "new" in [one.name for one in edited.layers]
        assert ks.remove(edited, "new").get_config() == model.get_config(), at
    flat = ks.flatten(model)
    edited = ks.insert(model, "backbone/block_conv", layers.Activation("linear", name="new"))
    assert ks.remove(edited, "new").get_config() == flat.get_config()  # the nested model stays open


def test_what_was_inserted_and_replaced_is_marked():
    model = whole()
    edited = ks.insert(model, "norm", gated)
    marked = [type(one).__name__ for one in edited.operations if mark_of(one) == "inserted"]
    assert marked == ["GlobalAveragePooling2D", "Dense", "Multiply"]
    edited = ks.insert(model, "conv", lambda tensor: tensor * 2, copy_weights=True)
    assert [type(one).__name__ for one in edited.operations if mark_of(one)] == ["Multiply"]
    edited = ks.replace(model, {"conv": copy_of}, copy_weights=True)
    assert {one.name: mark_of(one) for one in edited.layers if mark_of(one)} == {"conv": "replaced"}
    assert not any(map(mark_of, model.layers))


# The original


def test_the_model_is_left_alone_also_when_an_edit_fails():
    model = whole()
    before = fingerprint(model)

    def fails(tensor):
        raise RuntimeError("a mistake of the user")

    for name, edit in EDITS.items():
        alive = edit(model)
        assert model.to_json() == before["config"], name
        alive(X)
        del alive
        assert fingerprint(model) == before, name
        copy = edit(model, copy_weights=True)
        assert fingerprint(model) == before, name
        del copy
    failing = [
        lambda: ks.insert(model, "norm", fails),
        lambda: ks.insert(model, ["relu@0", "norm"], lambda x: layers.Identity() if "relu" in x.name else fails(x)),
        lambda: ks.insert(model, "norm", lambda x: x + model.input),
        lambda: ks.insert(model, "norm", lambda x: model.get_layer("relu")(x) + model.get_layer("pool").output),
        lambda: ks.insert(model, "pool", layers.Conv2D(5, 1)),
        lambda: ks.insert(model, "pool", layers.Dense(7)),
        lambda: ks.insert(model, "pool", model.get_layer("backbone")),
        lambda: ks.insert(model, "norm", menagerie.backbone("conv")),
        lambda: ks.insert(model, "nothing", layers.Dense(7)),
        lambda: ks.insert(model, ["relu@0", "norm"], layers.Add()),
        lambda: ks.replace(model, {"relu@0": lambda old: fails(old)}),
        lambda: ks.replace(model, {"conv": layers.Conv2D(5, 3)}),
        lambda: ks.replace(model, {"pool": model.get_layer("score")}),
        lambda: ks.remove(model, ["drop", "score"]),
        lambda: ks.remove(model, "norm", name="a/b"),
    ]
    for place, fail in enumerate(failing):
        with pytest.raises((ValueError, RuntimeError)):
            fail()
        assert fingerprint(model) == before, place


def test_a_layer_of_the_user_keeps_nothing_of_a_dead_model():
    model, new = whole(), layers.Dense(3, name="new")
    edited = ks.insert(model, "pool", new)
    assert len(new._inbound_nodes) == 1
    del edited
    collect()
    assert (len(new._inbound_nodes), len(new._outbound_nodes)) == (0, 0)
    assert same_bits(ks.insert(model, "pool", new)(X), ks.insert(model, "pool", new)(X))


def test_models_overlapping_and_dropped_in_any_order():
    model = whole()
    before = fingerprint(model)
    expected = {
        name: copied(edit(model)(X)) for name, edit in EDITS.items() if name in ("remove", "replace a nested model")
    }
    generator = np.random.default_rng(0)
    alive = []
    for _ in range(12):
        name = [*expected][generator.integers(2)]
        alive.append((name, EDITS[name](model)))
        if len(alive) > 3:
            alive.pop(generator.integers(4))
            gc.collect()
        for name, edited in alive:
            assert same_bits(edited(X), expected[name])
            assert keras.Model.from_config(edited.get_config()).count_params() == edited.count_params()
    alive.clear()
    del edited
    assert fingerprint(model) == before


def test_memory_stays_flat():
    model = whole()
    counts = []
    for _ in range(4):
        for edit in EDITS.values():
            edit(model)
        collect()
        counts.append(len(gc.get_objects()))
    assert counts[3] - counts[2] < 200
