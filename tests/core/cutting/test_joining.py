"""Joining pieces into one model, and the adapters that messages suggest."""

import re

import keras
import numpy as np
import pytest
from applications import NEEDS_STRINGS, OLD_KERAS
from comparing import fingerprint, same_bits

import kerassplit as ks
from kerassplit.cutting.adapters import adapters
from kerassplit.cutting.joining import join

layers = keras.layers


def passing(shape, dtype="float32", name="tail", kind=layers.Identity):
    """A model that passes on a tensor of this shape and dtype."""
    x = keras.Input(batch_shape=shape, dtype=dtype, name=f"{name}_in")
    return keras.Model(x, kind(dtype=dtype, name=f"{name}_out")(x), name=name)


def values(shape, dtype="float32"):
    sides = [2 if side is None else side for side in shape]
    return np.random.default_rng(0).integers(0, 3, sides).astype(dtype)


def two_layers():
    return keras.Sequential([keras.Input((4,)), layers.Dense(4, name="one"), layers.Dense(4, name="two")])


def suggested(message):
    """Creates the layers that a message suggests from its text."""
    (text,) = re.findall(r"put between them: `(.+)`", str(message))
    return text, eval(f"[{text}]", {"keras": keras})


def test_head_adapter_and_tail_become_one_flat_model(resnet, images, tmp_path):
    head = ks.build_submodel(resnet, end="conv4_block6_out")
    tail = ks.build_submodel(resnet, start="conv4_block6_out")
    adapter = layers.Conv2D(1024, 1, name="adapter")
    model = join([head, adapter, tail])
    x = images(resnet)
    assert same_bits(model(x), tail(adapter(head(x))))
    assert [layer.name for layer in model.layers if isinstance(layer, keras.Model)] == []
    ours = [variable for piece in (head, adapter, tail) for variable in piece.variables]
    assert [id(variable) for variable in model.variables] == [id(variable) for variable in ours]
    assert keras.Model(model.input, model.get_layer("adapter").output).output_shape == (None, 4, 4, 1024)
    model.save(tmp_path / "joined.keras")
    assert same_bits(keras.models.load_model(tmp_path / "joined.keras")(x), model(x))


def test_head_and_tail_joined_are_the_model(resnet, images):
    pieces = [ks.build_submodel(resnet, end="avg_pool"), ks.build_submodel(resnet, start="avg_pool")]
    assert same_bits(join(pieces)(images(resnet)), resnet(images(resnet)))
    assert join([resnet]).count_params() == resnet.count_params()


def test_stages_are_joined_by_the_names_of_their_tensors(resnet, images):
    split = ks.split(resnet, ["conv3_block1_2_relu", "conv3_block2_2_relu"], allow_crossing=True)
    assert len(split.crossings[0].tensors) == 2
    for pieces in (split, split.stages):
        assert same_bits(join(pieces)(images(resnet)), resnet(images(resnet)))


def test_late_inputs_become_inputs_and_what_nobody_takes_becomes_an_output(small):
    split = ks.split(small, ["block1_out", "block2_out"])
    x = {"image": values((2, 8, 8, 3)), "extra": values((2, 4))}
    joined = join(split.stages)
    assert sorted(joined.input) == ["extra", "image"]
    assert same_bits(joined(x), small(list(x.values())))
    early = keras.Model(split[0].model.input, [split[0].model.output, layers.Flatten(name="f")(split[0].model.output)])
    joined = join([early, split[1], split[2]])
    assert sorted(joined.output) == ["f", "pool", "score"]
    assert same_bits(joined(x)["score"], small(list(x.values()))["score"])


def test_a_layer_between_two_pieces_stands_for_what_it_took(small):
    head, tail = ks.build_submodel(small, end="block2_out"), ks.build_submodel(small, start="block2_out")
    doubled = join([head, layers.Rescaling(2.0), layers.Rescaling(0.25), tail])
    assert sorted(doubled.input) == ["extra", "image"]
    x = {"image": values((2, 8, 8, 3)), "extra": values((2, 4))}
    features = head(x["image"]) * 2.0 * 0.25
    expected = tail({"block2_out": features, "extra": keras.ops.convert_to_tensor(x["extra"])})
    assert same_bits(doubled(x), expected)


def test_a_later_piece_takes_what_an_earlier_one_gave_also_behind_a_layer():
    x = keras.Input((4,), name="x")
    head = keras.Model(x, layers.Dense(4, name="h")(x), name="head")
    ends = [keras.Input((4,), name=name) for name in ("wide", "h")]
    tail = keras.Model(ends, layers.Subtract(name="minus")(ends), name="tail")
    wide = layers.Dense(4, name="wide")
    given = join([head, wide, tail])(values((3, 4)))
    assert same_bits(given, wide(head(values((3, 4)))) - head(values((3, 4))))
    middle_in = keras.Input((4,), name="anything")
    middle = keras.Model(middle_in, wide(middle_in), name="middle")
    assert same_bits(join([head, middle, tail])(values((3, 4))), given)


def test_several_tensors_go_by_name_else_by_position():
    x = keras.Input((4,), name="x")
    head = keras.Model(x, [layers.Dense(3, name="a")(x), layers.Dense(3, name="b")(x)], name="head")
    for names, swapped in ((("b", "a"), True), (("p", "q"), False)):
        ends = [keras.Input((3,), name=name) for name in names]
        tail = keras.Model(ends, layers.Subtract(name=f"minus_{names[0]}")(ends), name="tail")
        a, b = head(values((2, 4)))
        assert same_bits(join([head, tail])(values((2, 4))), b - a if swapped else a - b)


def test_a_layer_takes_all_that_the_piece_before_gives():
    x = keras.Input((4,), name="x")
    head = keras.Model(x, [layers.Dense(3, name="a")(x), layers.Dense(2, name="b")(x)], name="head")
    model = join([head, layers.Concatenate(name="both"), layers.Dense(1, name="top")])
    assert model.output_shape == (None, 1)
    assert same_bits(
        join([head, layers.Concatenate()])(values((2, 4))), keras.ops.concatenate(head(values((2, 4))), -1)
    )


def test_towers_cut_at_their_ends_are_joined_without_mixing_their_inputs():
    image, text = keras.Input((4,), name="image"), keras.Input((4,), name="text")
    towers = [layers.Dense(4, name="see")(image), layers.Dense(4, name="read")(text)]
    model = keras.Model([image, text], layers.Subtract(name="compare")(towers))
    split = ks.split(model, ["see", "read"])
    x = {"image": values((2, 4)), "text": values((2, 4)) + 1}
    assert same_bits(join(split.stages)(x), model(list(x.values())))


def forked(names=("stem", "branch")):
    """A model with two parallel tensors, its head and its tail."""
    x = keras.Input((8,), name="i")
    stem = layers.Dense(8, name=names[0])(x)
    branch = layers.Dense(8, "relu", name=names[1])(stem)
    model = keras.Model(x, layers.Dense(2, name="out")(layers.Subtract(name="minus")([stem, branch])))
    return model, ks.build_submodel(model, end=list(names)), ks.build_submodel(model, start=list(names))


def scaling(takes, factor, name=None):
    """A model that multiplies the tensor with this name."""
    x = keras.Input((8,), name=takes)
    name = name or f"times_{factor}"
    return keras.Model(x, layers.Rescaling(float(factor), name=name)(x), name=f"{name}_model")


def test_a_model_stands_for_the_one_of_several_tensors_that_it_is_named_after():
    model, head, tail = forked()
    x = values((3, 8))
    given = head(x)
    joined = join([head, scaling("branch", 100), tail])
    assert same_bits(joined(x), tail({"stem": given["stem"], "branch": given["branch"] * 100.0}))
    assert not same_bits(joined(x), model(x))
    assert joined.output.shape == (None, 2) and joined.input.name == "i"
    for first, second in (("stem", "branch"), ("branch", "stem")):
        both = join([head, scaling(first, 3), scaling(second, 5), tail])
        factors = {first: 3.0, second: 5.0}
        assert same_bits(both(x), tail({name: given[name] * factors[name] for name in given}))


def test_pieces_for_one_of_several_tensors_follow_one_another():
    _, head, tail = forked()
    x = values((3, 8))
    given = head(x)
    expected = tail({"stem": given["stem"], "branch": given["branch"] * 4.0 * 0.5 * 3.0})
    twice = [scaling("branch", 4), layers.Rescaling(0.5, name="half"), scaling("branch", 3)]
    assert same_bits(join([head, *twice, tail])(x), expected)
    own_name = [scaling("branch", 4), layers.Rescaling(0.5, name="half"), scaling("half", 3)]
    assert same_bits(join([head, *own_name, tail])(x), expected)


def test_a_piece_between_tensors_of_nested_models_is_found_by_their_names():
    x = keras.Input((8,), name="x")
    inner, _, _ = forked(("zeroth", "first"))
    model = keras.Model(x, layers.Dense(2, name="end")(inner(layers.Dense(8, name="begin")(x))))
    names = [f"{inner.name}/zeroth", f"{inner.name}/first"]
    head, tail = ks.build_submodel(model, end=names), ks.build_submodel(model, start=names)
    keys = [name.replace("/", ".") for name in names]
    given = head(values((3, 8)))
    expected = tail({keys[0]: given[keys[0]] * 9.0, keys[1]: given[keys[1]]})
    assert same_bits(join([head, scaling(keys[0], 9), tail])(values((3, 8))), expected)


def test_what_a_model_gives_in_a_dict_goes_by_the_keys():
    _, head, tail = forked()
    ends = {name: keras.Input((8,), name=name) for name in ("stem", "branch")}
    swapped = {
        "stem": layers.Rescaling(2.0, name="from_branch")(ends["branch"]),
        "branch": layers.Rescaling(3.0, name="from_stem")(ends["stem"]),
    }
    given = head(values((3, 8)))
    expected = tail({"stem": given["branch"] * 2.0, "branch": given["stem"] * 3.0})
    assert same_bits(join([head, keras.Model(ends, swapped, name="swap"), tail])(values((3, 8))), expected)
    twisted = keras.Model(ends, {"stem": ends["branch"], "branch": ends["stem"]}, name="twist")
    expected = tail({"stem": given["branch"], "branch": given["stem"]})
    assert same_bits(join([head, twisted, tail])(values((3, 8))), expected)


def test_a_layer_that_gives_a_list_gives_it_in_the_place_of_what_it_took():
    class Apart(keras.Layer):
        def call(self, inputs):
            return [inputs[0] * 3.0, inputs[1] * 5.0]

    _, head, tail = forked(("zeroth", "first"))  # a dict is taken in the order of its keys
    given = head(values((3, 8)))
    expected = tail({"first": given["first"] * 3.0, "zeroth": given["zeroth"] * 5.0})
    assert same_bits(join([head, Apart(name="apart"), tail])(values((3, 8))), expected)
    assert same_bits(join([head, layers.Identity(), tail])(values((3, 8))), tail(given))


def test_a_layer_that_makes_one_of_several_tensors_stands_for_each_but_not_for_two():
    _, head, tail = forked()
    merged = layers.Add(name="merged")
    x = keras.Input((8,), name="branch")
    alone = keras.Model(x, layers.Dense(3, name="alone_out")(x), name="alone")
    given = head(values((3, 8)))
    expected = alone(given["stem"] + given["branch"])
    assert same_bits(join([head, merged, alone])(values((3, 8))), expected)
    told = ks.Stage("tail", tail, tuple({"stem": "merged"}.get(one.name, one.name) for one in tail.inputs), ("out",))
    expected = tail({"stem": given["stem"] + given["branch"], "branch": given["branch"]})
    assert same_bits(join([head, merged, told])(values((3, 8))), expected)
    with pytest.raises(ks.SplitError) as caught:
        join([head, merged, tail])
    assert str(caught.value).startswith(
        f"'{tail.name}' takes 'branch' and 'stem', but 'merged' gives one tensor, 'merged', in place of both. "
    )


@pytest.mark.parametrize("layer", [layers.Rescaling(2.0, name="twice"), layers.Dense(8, name="twice")])
def test_a_layer_for_one_tensor_behind_several_is_refused_with_a_way_out(layer):
    _, head, tail = forked()
    with pytest.raises(ks.UnsupportedModelError, match="the layer 'twice' after it cannot") as caught:
        join([head, layer, tail])
    assert str(caught.value).endswith(
        "\nTo pass one of them, use a model whose Input has its name: `x = keras.Input((8,), name='branch')` and "
        "`keras.Model(x, layer(x))`."
    )
    x = keras.Input((8,), name="branch")
    given = head(values((3, 8)))
    expected = tail({"stem": given["stem"], "branch": layer(given["branch"])})
    assert same_bits(join([head, keras.Model(x, layer(x)), tail])(values((3, 8))), expected)


def attended(mask_of):
    """Two attention blocks, a0 and a1, with masks computed from ids."""
    ids = keras.Input((6,), dtype="int32", name="ids")
    x = layers.Embedding(9, 8, name="embed")(ids)
    for name in ("a0", "a1"):
        attention = layers.MultiHeadAttention(1, 8, name=f"heads_{name}")(x, x, attention_mask=mask_of(ids))
        x = layers.Add(name=name)([x, attention])
    return keras.Model(ids, x, name="attended")


def not_padding(ids):
    return keras.ops.not_equal(ids, 0)[:, None]


def shorter(ids):
    """A mask computed from lengths, which are integers and take fewer bytes than the mask."""
    lengths = keras.ops.sum(keras.ops.cast(keras.ops.not_equal(ids, 0), "int32"), -1, keepdims=True)
    return keras.ops.less(keras.ops.arange(6, dtype="int32")[None], lengths)[:, None]


IDS = np.array([[3, 1, 4, 0, 0, 0], [2, 7, 1, 8, 2, 0]], "int32")


@pytest.mark.parametrize("mask_of", [not_padding, shorter])
def test_layers_behind_a_cut_take_the_tensor_and_masks_pass_by(mask_of):
    model = attended(mask_of)
    split = ks.split(model, "a0")
    assert len(split[1].inputs) == 2
    expected = model(IDS)
    x = keras.Input((6, 8))
    unnamed = keras.Model(x, layers.Identity()(x))
    identity = layers.Identity()
    subclassed = Doubling()
    for between in (
        [identity],
        [layers.Dropout(0.5)],
        [layers.Dropout(0.5), identity],
        [unnamed],
        [identity, unnamed, layers.Dropout(0.5)],
        [ks.Stage("between", unnamed, ("a0",), ("other",)), ks.Stage("back", identity_model(), ("other",), ("a0",))],
    ):
        joined = join([split[0], *between, split[1]])
        assert same_bits(joined(IDS), expected)
        assert [one.name for one in joined.inputs] == ["ids"] and len(joined.outputs) == 1
    tail = ks.build_submodel(model, start=list(split[1].inputs))
    for adapter in (layers.LayerNormalization(), layers.Dense(8), subclassed):
        joined = join([split[0], adapter, split[1]])
        given = dict(zip(split[0].outputs, keras.tree.flatten(split[0].model(IDS)), strict=True))
        assert same_bits(joined(IDS), tail({**given, "a0": adapter(given["a0"])}))
        assert not same_bits(joined(IDS), expected)


class Doubling(keras.Model):
    def call(self, x):
        return x * 2.0


def identity_model():
    x = keras.Input((6, 8))
    return keras.Model(x, layers.Identity()(x), name="back")


def test_masks_that_passed_a_piece_by_keep_their_position():
    _, *pieces = masked_pieces("mask_first")
    head, tail = pieces
    given = head(IDS)
    expected = tail([given["a_mask"], given["words"] * 2.0])
    x = keras.Input((6, 8))
    doubling = keras.Model(x, layers.Rescaling(2.0)(x))
    for between in ([layers.Rescaling(2.0)], [doubling], [layers.Rescaling(4.0), doubling, layers.Rescaling(0.25)]):
        assert same_bits(join([head, *between, tail])(IDS), expected)
    mean = layers.GlobalAveragePooling1D(name="mean")
    joined = join([head, mean])
    assert {name.rstrip("_0123456789") for name in joined.output} == {"mean", "not_equal"}
    assert same_bits(joined(IDS)["mean"], mean(given["words"]))


def masked_pieces(name):
    """A head that returns a mask and words, and a tail that takes both by position."""
    ids = keras.Input((6,), dtype="int32", name="ids")
    words = layers.Embedding(9, 8, name="words")(ids)
    head = keras.Model(ids, {"a_mask": keras.ops.not_equal(ids, 0), "words": words}, name="head")
    mask, x = keras.Input((6,), dtype="bool"), keras.Input((6, 8))
    attention = layers.MultiHeadAttention(1, 8, name=f"{name}_heads")
    return ids, head, keras.Model([mask, x], attention(x, x, key_mask=mask), name="tail")


def test_the_way_out_for_a_layer_that_takes_a_mask_too_works():
    class Blanked(keras.Layer):
        def call(self, inputs):
            words, mask = inputs
            return words * keras.ops.cast(mask[..., None], "float32")

    model = attended(not_padding)
    head, tail = (stage.model for stage in ks.split(model, "a0"))
    layer = Blanked(name="blanked")
    with pytest.raises(ks.UnsupportedModelError) as caught:
        join([head, layer, tail])
    said, way = str(caught.value).rsplit("\n", 1)
    (mask,) = re.findall(r"^'(.+?)'", way)
    assert said.startswith(f"'{head.name}' gives 'a0' of shape (None, 6, 8) and dtype float32, but the layer 'blanked'")
    assert way.replace(mask, "mask") == (
        "'mask', given too, passes by layers, as masks do. To pass all of them to the layer, use a model whose Inputs "
        "have these names: `x = [keras.Input((6, 8), name='a0'), keras.Input((6,), name='mask', dtype='bool')]` and "
        "`keras.Model(x, layer(x))`."
    )
    x = eval(re.findall(r"`x = (.+?)`", way)[0], {"keras": keras})
    given = head(IDS)
    expected = tail({**given, "a0": layer([given["a0"], given[mask]])})
    joined = join([head, keras.Model(x, layer(x), name="middle"), tail])
    assert same_bits(joined(IDS), expected)


def test_where_names_and_positions_disagree_a_model_is_refused():
    _, head, tail = forked()
    ends = [keras.Input((8,), name=name) for name in ("stem", "branch")]
    scaled = [layers.Rescaling(2.0, name=f"{end.name}_twice")(end) for end in ends]
    middle = keras.Model(ends, scaled, name="middle")
    with pytest.raises(ks.SplitError) as caught:
        join([head, middle, tail])
    assert str(caught.value) == (
        f"'{tail.name}' takes 2 tensors ('branch' and 'stem'): by name, tensors that an earlier piece has already "
        "used; by position, those that 'middle' before it gives ('stem_twice' and 'branch_twice'). Name the Inputs "
        "after the tensors that they receive, or pass a `kerassplit.Stage(name, model, inputs, outputs)`: its names "
        "always count."
    )
    order = [one.name for one in tail.inputs]
    given = head(values((3, 8)))
    for told, factor in (([f"{name}_twice" for name in order], 2.0), (order, 1.0)):
        stage = ks.Stage("tail", tail, tuple(told), ("out",))
        expected = tail({name: value * factor for name, value in given.items()})
        if factor == 1.0:
            with pytest.warns(UserWarning, match="No piece after 'middle' uses what it gives"):
                assert same_bits(join([head, middle, stage])(values((3, 8)))["out"], expected)
        else:
            assert same_bits(join([head, middle, stage])(values((3, 8))), expected)


def test_a_name_that_several_pieces_give_is_refused():
    shared = layers.Dense(8, name="h")
    x, z = keras.Input((8,), name="x"), keras.Input((8,), name="z")
    head = keras.Model(x, [shared(x), layers.Dense(8, name="k")(x)], name="head")
    k = keras.Input((8,), name="k")
    middle = keras.Model(k, {"u": shared(k), "v": layers.Dense(8, name="v")(k)}, name="middle")
    ends = [keras.Input((8,), name="h"), z]
    tail = keras.Model(ends, layers.Add(name="sum")(ends), name="tail")
    with pytest.raises(ks.SplitError) as caught:
        join([head, ks.Stage("m", middle, ("k",), ("h", "v")), tail])
    assert str(caught.value) == (
        "'tail' takes 'h', but several pieces give a tensor of that name: 'head' and 'm'. Rename it in one of them: "
        "pass a `kerassplit.Stage(name, model, inputs, outputs)` in its place."
    )
    x = {"x": values((3, 8)), "z": values((3, 8))}
    given = head(x["x"])
    for name, expected in (("other", given[0]), ("h", middle(given[1])["u"])):
        pieces = [head, ks.Stage("m", middle, ("k",), (name, "v")), tail]
        if name == "h":
            pieces[0] = ks.Stage("head", head, ("x",), ("other", "k"))
        assert same_bits(join(pieces)(x)["sum"], keras.ops.add(expected, x["z"]))


def test_towers_are_joined_by_names_also_where_one_tensor_could_go_by_position():
    x = keras.Input((8,), name="x")
    head = keras.Model(x, [layers.Dense(8, name=name)(x) for name in ("a", "b")], name="head")
    ends = [keras.Input((8,), name=name) for name in ("times_3", "times_5")]
    tail = keras.Model(ends, layers.Subtract(name="minus")(ends), name="tail")
    a, b = head(values((3, 8)))
    for pieces in ([scaling("a", 3), scaling("b", 5)], [scaling("b", 5), scaling("a", 3)]):
        assert same_bits(join([head, *pieces, tail])(values((3, 8))), a * 3.0 - b * 5.0)


@pytest.mark.parametrize("as_stages", [True, False])
def test_an_adapter_stands_for_its_tensor_in_all_later_pieces(as_stages):
    x = keras.Input((8,), name="x")
    head = keras.Model(x, layers.Dense(8, name="cut")(x), name="head")
    ends = [keras.Input((8,), name=name) for name in ("cut", "times_5")]
    tail = keras.Model(ends, layers.Subtract(name="minus")(ends), name="tail")
    pieces = [head, scaling("cut", 5), tail]
    if as_stages:
        names = [("x",), ("cut",)], [("cut",), ("times_5",)], [("cut", "times_5"), ("minus",)]
        pieces = [ks.Stage(piece.name, piece, *named) for piece, named in zip(pieces, names, strict=True)]
    pieces.insert(1, layers.Rescaling(3.0, name="adapter"))
    adapted = head(values((3, 8))) * 3.0
    assert same_bits(join(pieces)(values((3, 8))), adapted - adapted * 5.0)


def test_a_piece_that_later_ones_pass_by_is_told_and_a_stage_is_taken_at_its_word():
    _, head, tail = forked()
    x = keras.Input((8,), name="branch")
    two = keras.Model(x, [layers.Dense(3, name="p")(x), layers.Dense(2, name="q")(x)], name="two")
    two_ends = [keras.Input((8,), name="stem"), keras.Input((8,), name="branch"), keras.Input((1,), name="extra")]
    tail = keras.Model(two_ends, layers.Concatenate(name="sum")(two_ends), name="tail")
    with pytest.warns(UserWarning) as told:
        passed = join([head, two, tail])
    assert [str(one.message) for one in told] == [
        "No piece after 'two' uses what it gives ('p' and 'q'), so it becomes an output of the joined model. "
        "If a later piece should use it, name an Input there after it; if it should be an output, pass a "
        "`kerassplit.Stage(name, model, inputs, outputs)` in its place."
    ]
    assert told[0].filename == __file__
    x = {"i": values((3, 8)), "extra": values((3, 1))}
    expected = passed(x)
    assert same_bits(expected["p"], two(head(x["i"])["branch"])[0])
    assert same_bits(join([head, ks.Stage("two", two, ("branch",), ("p", "q")), tail])(x), expected)


@pytest.mark.parametrize("with_mask", [True, False])
def test_a_piece_between_a_tensor_and_its_mask_stands_for_the_tensor(with_mask):
    tokens = keras.Input((5,), name="tokens", dtype="int32")
    words = layers.Dense(4, name="mix")(layers.Embedding(9, 4, mask_zero=True, name="embed")(tokens))
    model = keras.Model(tokens, layers.GRU(3, name="reader")(words, training=False))
    ends = ["mix", "not_equal"]
    head, tail = ks.build_submodel(model, end=ends), ks.build_submodel(model, start=ends)
    x = keras.Input((5, 4), name="mix")
    middle = keras.Model(x, layers.Rescaling(7.0, name="seven")(x), name="middle")
    if with_mask:
        mask = keras.Input((5,), name="not_equal", dtype="bool")
        attention = layers.MultiHeadAttention(1, 2, name="attention")
        middle = keras.Model([x, mask], attention(x, x, key_mask=mask), name="middle")
    x = np.array([[1, 2, 0, 0, 0], [3, 0, 4, 5, 6]], "int32")
    given = {name: keras.ops.convert_to_numpy(value) for name, value in head(x).items()}
    made = middle([given[name] for name in ends] if with_mask else given["mix"])
    expected = tail({"mix": keras.ops.convert_to_numpy(made), "not_equal": given["not_equal"]})
    joined = join([head, middle, tail])
    assert same_bits(joined(x), expected)
    assert not same_bits(joined(x), model(x)) and joined.output.shape == (None, 3)


def test_exits_added_to_a_tail_are_joined_behind_a_piece_between():
    _, head, tail = forked()
    exits = ks.with_outputs(tail, {"minus": layers.Dense(4, name="exit")})
    given = head(values((3, 8)))
    expected = exits({"stem": given["stem"], "branch": given["branch"] * 6.0})
    joined = join([head, scaling("branch", 6), exits])
    assert sorted(joined.output) == ["minus", "out"]
    assert same_bits(joined(values((3, 8))), expected)


def test_a_misfit_of_a_tensor_from_further_back_names_the_piece_that_gave_it():
    x = keras.Input((4,), name="x")
    head = keras.Model(x, layers.Dense(4, name="h")(x), name="head")
    ends = [keras.Input((4,), name="wide"), keras.Input((3,), name="h")]
    tail = keras.Model(ends, layers.Concatenate(name="both")(ends), name="tail")
    with pytest.raises(ks.UnsupportedModelError) as caught:
        join([head, layers.Dense(4, name="wide"), tail])
    assert str(caught.value).endswith("To make it fit, pass 'h' at the end of 'head' through: `keras.layers.Dense(3)`.")


def test_layers_alone_are_joined_behind_a_keras_input():
    model = join([keras.Input((8, 8, 3), name="pixels"), layers.Rescaling(1 / 255), layers.Flatten()])
    assert model.input.name == "pixels"
    assert same_bits(model(values((2, 8, 8, 3))), (values((2, 8, 8, 3)) * np.float32(1 / 255)).reshape(2, -1))


def test_the_same_piece_twice_is_called_twice():
    block = passing((None, 4), name="block", kind=lambda dtype, name: layers.Dense(4, name=name))
    relu = layers.ReLU(name="relu")
    model = join([block, relu, block, relu])
    assert model.count_params() == block.count_params()
    assert [name for name in map(str, ks.split_points(model)) if "relu@0" in name]
    assert same_bits(model(values((2, 4))), relu(block(relu(block(values((2, 4)))))))


def test_a_subclassed_model_and_a_sequential_one_can_stand_between():
    class Doubling(keras.Model):
        def call(self, inputs):
            return inputs * 2.0

    head, tail = passing((None, 4), name="head"), passing((None, 4))
    between = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="dense")], name="between")
    model = join([head, Doubling(name="doubling"), between, tail])
    assert "dense" in [layer.name for layer in model.layers]
    assert same_bits(model(values((2, 4))), between(values((2, 4)) * 2.0))


def test_masks_go_on_behind_a_seam():
    tokens = keras.Input((5,), name="tokens", dtype="int32")
    head = keras.Model(tokens, layers.Embedding(9, 4, mask_zero=True, name="embed")(tokens), name="head")
    words = keras.Input((5, 4), name="words")
    reader = layers.GRU(3, name="reader")
    x = np.array([[1, 2, 0, 0, 0], [3, 0, 4, 5, 6]], "int32")
    expected = reader(head(x))
    assert not same_bits(expected, reader(keras.ops.convert_to_tensor(keras.ops.convert_to_numpy(head(x)))))
    assert same_bits(join([head, reader])(x), expected)
    assert same_bits(join([head, keras.Model(words, reader(words), name="tail")])(x), expected)


def test_nested_models_inside_pieces_stay_nested():
    outer = keras.Input((4,), name="outer")
    inner = passing((None, 4), name="inner", kind=lambda dtype, name: layers.Dense(4, name=name))
    model = join([keras.Model(outer, inner(outer), name="head"), passing((None, 4))])
    assert [layer.name for layer in model.layers] == ["outer", "inner", "tail_out"]
    assert same_bits(model(values((2, 4))), inner(values((2, 4))))


def test_open_dimensions_fit_anything():
    for given, wanted in (((None, None, None, 3), (None, 8, 8, 3)), ((None, 8, 8, 3), (None, None, None, 3))):
        model = join([passing(given, name="head"), passing(wanted)])
        assert same_bits(model(values((2, 8, 8, 3))), values((2, 8, 8, 3)))


def test_a_misfit_names_both_pieces_and_an_adapter():
    with pytest.raises(ks.UnsupportedModelError) as caught:
        join([passing((None, 14, 14, 1024), name="head"), passing((None, 14, 14, 512))])
    assert str(caught.value) == (
        "'head' gives 'head_out' of shape (None, 14, 14, 1024) and dtype float32, but 'tail' takes 'tail_in' of shape "
        "(None, 14, 14, 512) and dtype float32.\nTo make it fit, put between them: `keras.layers.Conv2D(512, 1)`."
    )


MISFITS = {
    "channels": ((None, 4, 4, 6), "float32", (None, 4, 4, 5), "float32", "Conv2D(5, 1)"),
    "sides": ((None, 4, 4, 6), "float32", (None, 3, 2, 6), "float32", "Resizing(3, 2)"),
    "one side": ((None, 4, 4, 6), "float32", (None, None, 2, 6), "float32", "Resizing(4, 2)"),
    "sides and channels": ((None, 4, 4, 6), "float32", (None, 2, 2, 5), "float32", "Resizing(2, 2), Conv2D(5, 1)"),
    "open sides": ((None, None, None, 6), "float32", (None, 2, 2, 5), "float32", "Conv2D(5, 1)"),
    "vectors": ((None, 6), "float32", (None, 5), "float32", "Dense(5)"),
    "sequences": ((None, 7, 6), "float32", (None, 7, 5), "float32", "Dense(5)"),
    "open sequences": ((None, None, 6), "float32", (None, None, 5), "float32", "Dense(5)"),
    "flattened": ((None, 4, 4, 6), "float32", (None, 96), "float32", "Reshape((96,))"),
    "unflattened": ((None, 96), "float32", (None, 4, 4, 6), "float32", "Reshape((4, 4, 6))"),
    "to open sequence": ((None, 4, 4, 6), "float32", (None, None, 6), "float32", "Reshape((-1, 6))"),
    "turned": ((None, 8, 6), "float32", (None, 6, 8), "float32", "Reshape((6, 8))"),
    "pooled": ((None, 4, 4, 6), "float32", (None, 6), "float32", "GlobalAveragePooling2D()"),
    "pooled more": ((None, None, 4, 6), "float32", (None, 5), "float32", "GlobalAveragePooling2D(), Dense(5)"),
    "decoder": ((None, 6), "float32", (None, 4, 4, 2), "float32", "Dense(32), Reshape((4, 4, 2))"),
    "patches": ((None, 4, 4, 6), "float32", (None, 16, 5), "float32", "Reshape((16, 6)), Dense(5)"),
    "half": ((None, 6), "float16", (None, 6), "float32", 'Identity(dtype="float32")'),
    "to half": ((None, 6), "float32", (None, 6), "float16", 'Identity(dtype="float16")'),
    "to brain": ((None, 6), "float16", (None, 6), "bfloat16", 'Identity(dtype="bfloat16")'),
    "pixels": ((None, 6), "uint8", (None, 6), "float32", 'Rescaling(1.0, dtype="float32")'),
    "indices": ((None, 6), "float32", (None, 6), "int32", 'Identity(dtype="int32")'),
    "wider indices": ((None, 6), "uint8", (None, 6), "int32", 'Rescaling(1.0, dtype="int32")'),
    "flags": ((None, 6), "bool", (None, 6), "float32", 'Rescaling(1.0, dtype="float32")'),
    "to flags": ((None, 6), "float32", (None, 6), "bool", 'Identity(dtype="bool")'),
    "indices to flags": (
        (None, 6),
        "int32",
        (None, 6),
        "bool",
        'Rescaling(1.0, dtype="float32"), Identity(dtype="bool")',
    ),
    "half and channels": ((None, 4, 4, 6), "float16", (None, 4, 4, 5), "float32", "Conv2D(5, 1)"),
    "to half channels": ((None, 4, 4, 6), "float32", (None, 4, 4, 5), "float16", 'Conv2D(5, 1, dtype="float16")'),
    "half reshaped": ((None, 4, 6), "float16", (None, 24), "float16", 'Reshape((24,), dtype="float16")'),
    "pixels resized": (
        (None, 4, 4, 3),
        "uint8",
        (None, 8, 8, 3),
        "float32",
        'Rescaling(1.0, dtype="float32"), Resizing(8, 8)',
    ),
    "indices reshaped": ((None, 4, 6), "int32", (None, 24), "int32", "Reshape((24,))"),
    "indices cast and reshaped": (
        (None, 4, 6),
        "float32",
        (None, 24),
        "int32",
        'Identity(dtype="int32"), Reshape((24,))',
    ),
}


@pytest.mark.parametrize("case", MISFITS)
def test_the_suggested_adapter_fits_and_the_model_runs_and_loads(case, tmp_path):
    given, given_dtype, wanted, wanted_dtype, expected = MISFITS[case]
    head, tail = passing(given, given_dtype, "head"), passing(wanted, wanted_dtype)
    with pytest.raises(ks.UnsupportedModelError) as caught:
        join([head, tail])
    text, between = suggested(caught.value)
    assert text.replace("keras.layers.", "") == expected
    model = join([head, *between, tail])
    x = values(given, given_dtype)
    y = model(x)
    assert keras.backend.standardize_dtype(y.dtype) == wanted_dtype
    assert len(y.shape) == len(wanted)
    assert all(side in (None, ours) for ours, side in zip(y.shape, wanted, strict=True))
    if given == wanted:
        assert same_bits(y, x.astype(wanted_dtype) if wanted_dtype != "bfloat16" else keras.ops.cast(x, "bfloat16"))
    model.predict(x, verbose=0)
    model.save(tmp_path / "joined.keras")
    assert same_bits(keras.models.load_model(tmp_path / "joined.keras")(x), y)


def test_channels_first_is_respected():
    x = keras.Input((6, 4, 4), name="x")
    tail = keras.Model(x, layers.GlobalAveragePooling2D(data_format="channels_first", name="pool")(x), name="tail")
    for given, expected in (
        ((None, 5, 4, 4), 'Conv2D(6, 1, data_format="channels_first")'),
        ((None, 6, 8, 8), 'Resizing(4, 4, data_format="channels_first")'),
    ):
        head = passing(given, name="head")
        with pytest.raises(ks.UnsupportedModelError) as caught:
            join([head, tail])
        text, between = suggested(caught.value)
        assert text == f"keras.layers.{expected}"
        assert join([head, *between, tail]).output.shape == (None, 6)  # not every CPU runs such convolutions
    keras.config.set_image_data_format("channels_first")
    try:
        assert adapters((None, 5, 4, 4), "float32", (None, 6, 4, 4), "float32") == ["keras.layers.Conv2D(6, 1)"]
    finally:
        keras.config.set_image_data_format("channels_last")


def test_adapters_have_the_dtype_that_is_needed_also_under_a_mixed_policy():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        for dtype, expected in (("float32", 'Dense(5, dtype="float32")'), ("float16", "Dense(5)")):
            head, tail = passing((None, 6), "float16", "head"), passing((None, 5), dtype)
            with pytest.raises(ks.UnsupportedModelError) as caught:
                join([head, tail])
            text, between = suggested(caught.value)
            assert text == f"keras.layers.{expected}"
            assert join([head, *between, tail]).output.dtype == dtype
    finally:
        keras.config.set_dtype_policy("float32")


def test_nothing_is_suggested_where_nothing_would_fit():
    for given, wanted in (((None, 5, 6), (None, 7, 6)), ((3, 4), (2, 4)), ((None, None, 5), (None, 4, 4, 4))):
        with pytest.raises(ks.UnsupportedModelError, match="No Keras layers are known that would convert it"):
            join([passing(given, name="head"), passing(wanted)])
    assert adapters((None, 4), "string", (None, 4), "float32") == []
    assert adapters((None, 4), "float32", (None, 5), "int32") == []
    assert adapters((None, 4), "float32", (None, 4), "float32") == []


def test_a_misfit_of_one_of_several_tensors_says_which():
    x = keras.Input((4,), name="x")
    head = keras.Model(x, [layers.Dense(3, name="a")(x), layers.Dense(2, name="b")(x)], name="head")
    ends = [keras.Input((3,), name=name) for name in ("a", "b")]
    with pytest.raises(ks.UnsupportedModelError) as caught:
        join([head, keras.Model(ends, layers.Add(name="sum")(ends), name="tail")])
    assert "'head' gives 'b' of shape (None, 2) and dtype float32, but 'tail' takes 'b' of shape (None, 3)" in str(
        caught.value
    )
    assert str(caught.value).endswith("To make it fit, pass 'b' at the end of 'head' through: `keras.layers.Dense(3)`.")


def test_a_layer_that_is_built_for_another_shape_is_refused_with_an_adapter():
    built = layers.Conv2D(2, 3, name="built")
    built.build((None, 8, 8, 6))
    head = passing((None, 8, 8, 5), name="head")
    with pytest.raises(ks.UnsupportedModelError) as caught:
        join([head, built])
    assert "but the layer 'built' takes shape (None, 8, 8, 6) and dtype float32" in str(caught.value)
    _, between = suggested(caught.value)
    assert join([head, *between, built])(values((2, 8, 8, 5))).shape == (2, 6, 6, 2)
    with pytest.raises(ks.UnsupportedModelError, match="the layer 'convolution' after it cannot be called on that"):
        join([passing((None, 5), name="head"), layers.Conv2D(2, 3, name="convolution")])
    x = keras.Input((4,), name="x")
    both = keras.Model(x, [layers.Dense(3, name="a")(x), layers.Dense(2, name="b")(x)], name="both")
    with pytest.raises(ks.UnsupportedModelError, match="the layer 'dense' after it cannot be called on that"):
        join([both, layers.Dense(3, name="dense")])


def test_what_is_no_piece_is_refused():
    for pieces, message in (
        ([], "There are no pieces to join"),
        ([passing((None, 4)), 3], "Piece 1 is the int 3; expected a keras.Model, a kerassplit.Stage or a keras layer"),
        ([keras.Input((4,))], "There is nothing to join after the `keras.Input`"),
        ([layers.Dense(3)(keras.Input((4,)))], "Piece 0 is the KerasTensor"),
        ([layers.Dense], "Piece 0 is the class Dense; expected"),
        (5, "Piece 0 is the int 5; expected"),
        (None, "Piece 0 is the NoneType None; expected"),
        ({passing((None, 4))}, "Expected a single item or a list, got a set"),
        ([passing((None, 4)), ks.split(two_layers(), "one")], r"Piece 1 is a Split. Put its stages there: .*\*split"),
        (
            [layers.Dense(3, name="first")],
            r"The first piece, layer 'first', does not define its input. Put a `keras.In",
        ),
    ):
        with pytest.raises(ks.SplitError, match=message):
            join(pieces)


def test_names_that_do_not_say_what_goes_where_are_refused():
    ends = [keras.Input((4,), name=name) for name in ("p", "q")]
    tail = keras.Model(ends, layers.Add(name="sum")(ends), name="tail")
    with pytest.raises(ks.SplitError) as caught:
        join([passing((None, 4), name="head"), tail])
    assert str(caught.value).startswith(
        "'tail' takes 2 tensors ('p' and 'q'), but 'head' before it gives 1 tensor ('head_out'): no names match. "
        "Name the Inputs after the tensors that they receive"
    )
    told = ks.Stage("told", tail, ("head_out", "q"), ("sum",))
    assert sorted(join([passing((None, 4), name="head"), told]).input) == ["head_in", "q"]


def test_different_layers_of_one_name_are_refused():
    x = keras.Input((4,), name="x")
    pieces = [keras.Model(x, layers.Dense(4, name="dense")(x), name=name) for name in ("head", "tail")]
    with pytest.raises(ks.UnsupportedModelError, match="Two different layers .*'dense'"):
        join(pieces)
    pieces[1].get_layer("dense").name = "other"
    assert same_bits(join(pieces)(values((2, 4))), pieces[1](pieces[0](values((2, 4)))))


def test_inputs_of_one_name_and_different_shapes_are_refused():
    def piece(name, width):
        ends = [keras.Input((4,), name="h"), keras.Input((width,), name="extra")]
        return keras.Model(ends, layers.Concatenate(name=f"{name}_both")(ends), name=name)

    x = keras.Input((4,), name="x")
    head = keras.Model(x, layers.Dense(4, name="h")(x), name="head")
    cut = layers.Dense(4, name="cut")
    tail = ks.Stage("tail", piece("tail", 3), ("cut", "extra"), ("tail_both",))
    with pytest.raises(
        ks.UnsupportedModelError, match="'one' takes 'extra' of shape \\(None, 2\\) .* and 'tail' takes"
    ):
        join([head, piece("one", 2), cut, tail])
    same = ks.Stage("tail", piece("tail", 2), ("cut", "extra"), ("tail_both",))
    assert sorted(join([head, piece("one", 2), cut, same]).input) == ["extra", "x"]


def test_the_pieces_are_left_alone(resnet, images):
    before = fingerprint(resnet)
    head, tail = ks.build_submodel(resnet, end="avg_pool"), ks.build_submodel(resnet, start="avg_pool")
    adapter = layers.Dense(2048, name="adapter")
    pieces = [fingerprint(piece) for piece in (head, tail)]
    join([head, adapter, tail])(images(resnet))
    with pytest.raises(ks.SplitError):
        join([head, layers.Dense(5, name="other"), tail])
    assert [fingerprint(piece) for piece in (head, tail)] == pieces
    assert adapter._inbound_nodes == adapter._outbound_nodes == []
    del head, tail
    assert fingerprint(resnet) == before


@pytest.mark.parametrize(
    "dtype",
    [
        "float32",
        "int32",
        pytest.param("string", marks=[NEEDS_STRINGS, pytest.mark.skipif(OLD_KERAS, reason="it makes no such model")]),
    ],
)
def test_an_input_that_leads_nowhere_stays_an_input(dtype):
    x, unused = keras.Input((3,), name="x"), keras.Input((2,), dtype=dtype, name="unused")
    if dtype != "string":
        keras.layers.Flatten()(unused)  # Keras 3.13 makes no model without some call on it
    hidden = keras.layers.Dense(4, name="hidden")(x)
    model = keras.Model([x, unused], keras.layers.Dense(2, name="score")(hidden))
    whole = ks.split(model, "hidden").join()
    assert [symbol.name for symbol in whole.inputs] == ["x", "unused"]
    values = np.full((2, 2), "a" if dtype == "string" else 1)
    given = [keras.ops.ones((2, 3)), keras.ops.convert_to_tensor(values, dtype=dtype)]
    assert same_bits(whole(given), model(given))
