"""Cuts with several tensors: complete, unique, in order, and cut by `split` as described."""

from itertools import pairwise

import keras
import numpy as np
import pytest
from comparing import fingerprint, same_bits
from hypothesis import given, strategies as st
from oracle import as_in_the_oracle, cuts_by_brute_force, edges_of, without
from random_models import EXAMPLES, build, data_for, places, recipes

import kerassplit as ks
from kerassplit.cutting.crossings import crossings, cuts
from kerassplit.cutting.frontiers import leaving
from kerassplit.graph.reading import read_graph
from kerassplit.graph.sides import read_sides


def names(crossing):
    return [tensor.name for tensor in crossing.tensors]


def all_names(model, max_tensors=2):
    return [names(crossing) for crossing in crossings(model, max_tensors)]


@EXAMPLES
@given(recipes, st.integers(1, 3))
def test_crossings_are_those_of_brute_force_each_once_and_in_order(recipe, limit):
    model = build(recipe)
    graph = read_graph(model)
    sides = read_sides(graph)
    found = cuts(sides, limit)
    assert len({tuple(cut) for cut in found}) == len(found)
    received = edges_of(model)[0]
    received = without(received, {call for call, tensors in received.items() if not tensors})
    assert {as_in_the_oracle(graph, cut) for cut in found} == cuts_by_brute_force(received, limit)
    for cut in found:
        assert leaving(sides.main, graph.ancestors(cut)) == cut
    for one, other in pairwise(found):
        assert max(graph.ancestors(one)) <= max(graph.ancestors(other))
    assert [graph.names(cut) for cut in found] == all_names(model, limit)
    assert [point.name for point in ks.split_points(model)] == [name for (name,) in all_names(model, 1)]


@EXAMPLES
@given(recipes, places)
def test_a_split_at_a_crossing_computes_what_the_model_computes(recipe, place):
    model = build(recipe)
    looked_at = place % 5 == 0  # collecting all that is dead takes longer than all else
    before = looked_at and fingerprint(model)
    found = crossings(model, 3)
    assert before == (looked_at and fingerprint(model))
    if found:
        crossing = found[place % len(found)]
        x = data_for(model)
        assert same_bits(ks.split(model, [names(crossing)])(x), model(x))


@pytest.fixture(scope="module")
def unet() -> keras.Model:
    """Two levels down and up; each level and the image itself are passed to the way up."""
    conv = keras.layers.Conv2D
    x = image = keras.Input((16, 16, 3), name="image")
    skips = [image]
    for level in (1, 2):
        x = conv(4 * level, 3, strides=2, padding="same", name=f"down{level}")(x)
        skips.append(x)
    x = conv(8, 3, padding="same", name="bottom")(x)
    for level in (2, 1, 0):
        x = keras.layers.Concatenate(name=f"join{level}")([x, skips[level]])
        x = conv(4, 3, padding="same", name=f"up{level}")(x)
        x = keras.layers.UpSampling2D(name=f"size{level}")(x) if level else x
    return keras.Model(image, x, name="unet")


class TestUNet:
    def test_the_image_comes_along_and_is_not_counted(self, unet):
        assert all_names(unet, 1) == [["down1"], ["join1"], ["up1"], ["size1"], ["join0"]]
        along = [[tensor.name for tensor in crossing.also] for crossing in crossings(unet, 1)]
        assert along == [["image"]] * 4 + [[]]
        assert [cut for cut in all_names(unet, 2) if len(cut) == 2] == [
            ["down1", name] for name in ("down2", "join2", "up2", "size2")
        ]
        assert ["down1", "down2", "bottom"] in all_names(unet, 3)

    def test_every_crossing_cuts_it_exactly(self, unet):
        x = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype("float32")
        expected = unet(x)
        for crossing in crossings(unet, 4):
            split = ks.split(unet, [names(crossing)])
            assert same_bits(split(x), expected)
            carried = {tensor.name for tensor in split.crossings[0].tensors}
            assert carried == {tensor.name for tensor in (*crossing.tensors, *crossing.also)}
            assert split.crossings[0].bytes == crossing.bytes

    def test_a_crossing_says_what_crosses_and_its_bytes(self, unet):
        crossing = crossings(unet)[1]
        assert isinstance(crossing, ks.Crossing)
        assert str(crossing) == "down1 8×8×4 float32, down2 4×4×8 float32, and along with it image 16×16×3 float32"
        assert [tensor.bytes for tensor in crossing.tensors] == [8 * 8 * 4 * 4, 4 * 4 * 8 * 4]
        assert crossing.bytes == 8 * 8 * 4 * 4 + 4 * 4 * 8 * 4 + 16 * 16 * 3 * 4


def test_two_towers_can_be_cut_at_every_pair_of_their_layers():
    layers = [[f"{tower}{number}" for number in range(6)] for tower in ("left", "right")]
    towers = []
    for tower in layers:
        x = keras.Input((4,), name=f"{tower[0]}_input")
        towers.append([x])
        for name in tower:
            x = keras.layers.Dense(4, name=name)(x)
        towers[-1].append(x)
    (left, left_end), (right, right_end) = towers
    outputs = keras.layers.Dense(1, name="top")(keras.layers.Add(name="sum")([left_end, right_end]))
    model = keras.Model([left, right], outputs)
    found = all_names(model)
    assert sorted(name for cut in found if len(cut) == 1 for name in cut) == sorted([*layers[0], *layers[1], "sum"])
    pairs = {frozenset((one, other)) for one in layers[0] for other in layers[1]}
    assert {frozenset(cut) for cut in found if len(cut) == 2} == pairs
    assert len(found) == 13 + len(pairs)


def test_what_nothing_uses_never_crosses():
    inputs = keras.Input((5, 3), name="steps")
    sequence, state, _ = keras.layers.LSTM(4, return_sequences=True, return_state=True, name="lstm")(inputs)
    pooled = keras.layers.GlobalAveragePooling1D(name="pool")(sequence)
    aside = keras.layers.Dense(2, name="aside")(keras.layers.Dense(4, name="inner")(state))
    model = keras.Model(inputs, [keras.layers.Dense(2, name="last")(pooled), aside])
    assert {frozenset(cut) for cut in all_names(model, 5)} == {
        frozenset((one, other)) for one in ("lstm:0", "pool") for other in ("lstm:1", "inner")
    }


def test_a_model_without_calls_between_inputs_and_outputs_has_no_crossing():
    inputs = keras.Input((4,))
    assert crossings(keras.Model(inputs, keras.layers.Dense(2)(inputs)), 3) == ()


def test_open_dimensions_have_no_size():
    inputs = keras.Input((None, None, 3), name="image")
    hidden = keras.layers.Conv2D(3, 1, name="hidden")(inputs)
    (crossing,) = crossings(keras.Model(inputs, keras.layers.Add(name="sum")([hidden, inputs])))
    assert (names(crossing), [tensor.name for tensor in crossing.also]) == (["hidden"], ["image"])
    assert crossing.bytes is None


def test_a_residual_block_can_be_cut_with_its_shortcut(resnet):
    assert [point.name for point in ks.split_points(resnet)] == [name for (name,) in all_names(resnet, 1)]
    found = all_names(resnet)
    assert ["conv4_block5_out", "conv4_block6_2_relu"] in found
    assert len(found) == 239
    assert all_names(resnet, 4) == found


@pytest.mark.parametrize("wrong", [0, -1, True, 2.0, "2", None])
def test_the_number_of_tensors_is_checked(unet, wrong):
    with pytest.raises(ks.SplitError) as error:
        crossings(unet, wrong)
    assert str(error.value) == (
        f"`max_tensors` says how many tensors may cross: a whole number, 1 or more; got {wrong!r}."
    )


def test_a_whole_number_of_numpy_is_one(unet):
    assert crossings(unet, np.int64(2)) == crossings(unet, 2)
