"""profile(sample=..., wire=...): what is really sent, and what it changes."""

import json

import keras
import numpy as np
import pytest
from applications import NEEDS_STRINGS
from click.testing import CliRunner
from comparing import copied
from keras import layers, ops
from menagerie import Kind, kinds

import kerassplit as ks
from kerassplit.cli import main
from kerassplit.wire import FORMS, MESSAGE_BYTES, pack, packed_bytes, unpack


def images(rows=3, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, 8, 8, 3)).astype("float32")


@pytest.fixture
def sample():
    return {"image": images(), "extra": np.ones((3, 4), "float32")}


@pytest.fixture(scope="module")
def classifier() -> keras.Model:
    x = image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(8, 3, name="conv", activation="relu")(x)
    x = layers.Add(name="sum")([x, layers.Conv2D(8, 1, name="inner")(x)])
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, layers.Dense(5, "softmax", name="score")(x), name="classifier")


def values_of(model, names, x):
    found = ks.tap(model, list(names), keep_outputs=False)(x)
    return {name: keras.ops.convert_to_numpy(found[name]) for name in names}


@pytest.mark.parametrize("form", FORMS)
def test_every_tensor_that_can_cross_is_packed_to_the_byte(classifier, form):
    profile = ks.profile(classifier, sample=images(), wire=form)
    tensors = {tensor.name: tensor for tensor in profile.tensors}
    values = {"image": images(), **values_of(classifier, ["conv", "inner", "sum", "pool"], images())}
    assert {name for name, tensor in tensors.items() if tensor.wire_bytes is not None} == set(values)
    for name, value in values.items():
        assert tensors[name].wire_bytes == len(pack({name: value}, form)) - MESSAGE_BYTES
        assert min(tensors[name].pack_seconds, tensors[name].unpack_seconds) > 0
        if "+" not in form:
            assert tensors[name].wire_bytes == packed_bytes(name, tensors[name].shape, tensors[name].dtype, form)


@pytest.mark.parametrize("form", ["float16", "int8+zlib", "int4"])
def test_errors_are_those_of_a_split_whose_crossing_is_packed(small, sample, form):
    """`extra` is used late, `pool` is an output that is computed before the last cuts."""
    profile = ks.profile(small, sample=sample, wire=form)
    assert (profile.wire, profile.batch_size) == (form, 3)
    expected = small(sample)
    for block, point in zip(profile.blocks, ks.split_points(small), strict=False):
        head, tail = ks.split(small, point.name)
        made = head.run(dict(sample), training=False)
        crossing = [profile.tensors[one].name for one in block.crossing]
        data = pack({name: copied(made.get(name, sample.get(name))) for name in crossing}, form)
        assert block.wire_bytes == len(data)
        found = {**made, **sample, **unpack(data)}
        found |= tail.run(found, training=False)
        differences = [
            np.abs(copied(expected[key]) - copied(found[name])).max()
            for key, name in (("score", "score"), ("pooled", "pool"))
        ]
        assert block.difference == pytest.approx(max(differences), abs=1e-7)
        agreements = [
            np.argmax(copied(expected[key]), 1) == np.argmax(copied(found[name]), 1)
            for key, name in (("score", "score"), ("pooled", "pool"))
        ]
        assert block.agreement == np.mean(agreements[0] & agreements[1])
    last = profile.blocks[-1]
    assert (last.wire_bytes, last.agreement, last.difference) == (None, None, None)


def test_fewer_bits_make_larger_errors(classifier):
    x = images(16)
    found = {form: ks.profile(classifier, sample=x, wire=form).blocks[0] for form in ("float32+zlib", "int8", "int4")}
    assert (found["float32+zlib"].difference, found["float32+zlib"].agreement) == (0.0, 1.0)
    assert 0 < found["int8"].difference < found["int4"].difference
    assert found["int8"].wire_bytes > 1.8 * found["int4"].wire_bytes


KINDS = ("nested_three_deep", "nested_called_twice", "nested_that_makes_a_mask", "attention_with_implicit_masks")
KINDS += ("both_ways_with_states", "globally_mixed_float16", "tied_embeddings", "input_used_on_both_sides", "unet")
KINDS += ("outputs_that_the_head_makes", "optional_inputs_left_out", "takes_and_gives_nested_structures")


@pytest.mark.filterwarnings("ignore:[\\s\\S]*was passed an input with a mask:UserWarning")
@pytest.mark.parametrize("kind", [kind for kind in kinds() if kind.name in KINDS], ids=lambda kind: kind.name)
def test_many_kinds_of_models_are_packed_and_left_alone(kind: Kind):
    specimen = kind.build()
    before = [copied(variable).tobytes() for variable in specimen.model.variables]
    try:
        profile = ks.profile(specimen.model, sample=specimen.x, wire="float32")
    except ks.SplitError as error:
        assert kind.name == "optional_inputs_left_out" and "is left out of `sample`" in str(error)
        return
    assert [copied(variable).tobytes() for variable in specimen.model.variables] == before
    for block in profile.blocks:
        if block.crossing:
            assert block.wire_bytes >= block.crossing_bytes
            assert block.difference == 0


def test_a_model_without_class_scores_has_no_agreement():
    model = keras.Sequential([keras.Input((6, 4), name="x"), layers.Dense(3), layers.Dense(2)])
    block = ks.profile(model, sample=np.ones((2, 6, 4), "float32"), wire="int8").blocks[0]
    assert block.agreement is None
    assert block.difference < 0.1


def test_what_a_form_cannot_hold_is_left_open_and_told():
    x = inputs = keras.Input((40,), name="x")
    x = layers.Lambda(lambda x: x / 0.0, name="infinite")(x)
    x = layers.Lambda(lambda x: ops.where(ops.isinf(x), 1.0, x), name="finite")(x)
    model = keras.Model(inputs, layers.Dense(2, name="score")(x))
    for form, is_held in (("float32", True), ("int8", False)):
        profile = ks.profile(model, sample=np.ones((1, 40), "float32"), wire=form)
        infinite, finite, _ = profile.blocks
        assert (infinite.wire_bytes is not None, infinite.difference is not None) == (is_held, is_held)
        assert finite.difference is not None
        assert ("int8 cannot hold what crosses after 'infinite'" in str(profile)) != is_held


def test_a_number_that_becomes_infinite_is_an_infinite_difference(tmp_path):
    x = inputs = keras.Input((1,), name="x")
    x = layers.Lambda(lambda x: x * 1.0, name="same")(x)
    model = keras.Model(inputs, layers.Lambda(lambda x: 1 / (x - 1.0009765), name="pole")(x))
    profile = ks.profile(model, sample=np.array([[1.001], [2], [3]], "float32"), wire="float16")
    assert profile.blocks[0].difference is not None
    changed = ks.Profile.load(saved(profile, tmp_path))
    assert changed == profile


def saved(profile, folder):
    profile.save(folder / "profile.json")
    return folder / "profile.json"


def test_open_sides_and_batch_size_are_those_of_the_sample():
    x = inputs = keras.Input((None, None, 3), name="image")
    model = keras.Model(inputs, layers.GlobalAveragePooling2D()(layers.Conv2D(2, 3, name="conv")(x)))
    profile = ks.profile(model, sample=np.ones((2, 9, 5, 3), "uint8"), wire="float32")
    assert profile.batch_size == 2
    assert [tensor.shape for tensor in profile.tensors][:2] == [(2, 9, 5, 3), (2, 7, 3, 2)]
    with pytest.raises(ks.SplitError, match=r"shape \(2, 9, 5, 3\) for 'image', but .* for \(2, 8, 8, 3\)"):
        ks.profile(model, open_sides=8, sample=np.ones((2, 9, 5, 3)), wire="float32")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sample": images()}, "`sample` is given, but no form to pack its tensors in: pass `wire` too"),
        ({"wire": "int8"}, r"`wire` \('int8'\) packs the tensors of a sample: pass `sample` too"),
        ({"sample": images(), "wire": "int2"}, "each also packed .*; got 'int2'"),
        ({"sample": images(), "wire": "int8", "batch_size": 2}, r"shape \(3, 8, 8, 3\) .* Leave out `batch_size`"),
        ({"sample": images()[0], "wire": "int8"}, r"`sample` has shape \(8, 8, 3\) for 'image'; expected \(None, 8, 8"),
        ({"sample": images(0), "wire": "int8"}, "The inputs in `sample` have 0 rows"),
        ({"sample": {"photo": images()}, "wire": "int8"}, "The input does not have the structure that 'classifier'"),
        ({"sample": images().astype(str), "wire": "int8"}, "'image' takes float32, but"),
        ({"sample": images(2).tolist(), "wire": "int8"}, "got lists of numbers; pass NumPy arrays"),
        ({"sample": "cat.jpg", "wire": "int8"}, "'classifier' takes one array or tensor; got 'str'"),
    ],
)
def test_a_sample_that_does_not_fit_is_refused(classifier, options, message):
    with pytest.raises(ks.SplitError, match=message):
        ks.profile(classifier, **options)


def test_a_profile_whose_packed_figures_contradict_each_other_is_not_read(classifier, tmp_path):
    content = json.loads(saved(ks.profile(classifier, sample=images(), wire="int8"), tmp_path).read_text())
    size = content["blocks"][0]["wire_bytes"]
    for place, name, value, text in (
        (0, "agreement", 1.5, "the agreement of 'conv' is 1.5"),
        (0, "wire_bytes", size + 1, f"wire_bytes of 'conv' are {size + 1}"),
        (0, "wire_bytes", None, "wire_bytes of 'conv' are None"),
        (-1, "wire_bytes", 12, "wire_bytes of 'score' are 12"),
    ):
        changed = json.loads(json.dumps(content))
        changed["blocks"][place][name] = value
        (tmp_path / "changed.json").write_text(json.dumps(changed))
        with pytest.raises(ks.SplitError, match=f"holds no profile.*{text}"):
            ks.Profile.load(tmp_path / "changed.json")


def test_inputs_of_different_rows_are_refused(small, sample):
    with pytest.raises(ks.SplitError, match=r"The inputs in `sample` have 2 and 3 rows. Expected the same number"):
        ks.profile(small, sample={**sample, "extra": np.ones((2, 4))}, wire="int8")


@NEEDS_STRINGS
def test_strings_are_refused():
    lookup = layers.StringLookup(vocabulary=["a", "b"], name="lookup")
    x = inputs = keras.Input((2,), dtype="string", name="words")
    model = keras.Model(inputs, layers.Embedding(4, 2)(lookup(x)))
    with pytest.raises(ks.SplitError, match="'words' takes strings, which cannot be packed"):
        ks.profile(model, sample=np.array([["a", "b"]]), wire="int8")


def test_a_layer_that_fails_on_the_sample_is_told():
    def failing(x):
        if isinstance(x, keras.KerasTensor):
            return x
        raise RuntimeError("no")

    x = inputs = keras.Input((4,), name="x")
    model = keras.Model(inputs, layers.Lambda(failing, output_shape=(4,), name="fails")(x), name="failing")
    with pytest.raises(ks.SplitError, match="'failing' cannot be run on the sample: RuntimeError"):
        ks.profile(model, sample=np.ones((1, 4), "float32"), wire="int8")


def test_a_profile_with_packed_bytes_is_saved_tabled_and_shown(classifier, tmp_path):
    profile = ks.profile(classifier, sample=images(), wire="int8+zlib", measure=True)
    assert ks.Profile.load(saved(profile, tmp_path)) == profile
    assert profile.blocks[0].seconds is not None
    frame = profile.to_pandas()
    first = profile.blocks[0]
    columns = ["wire_bytes", "pack_seconds", "unpack_seconds", "agreement", "difference"]
    assert not {*columns} & {*ks.profile(classifier).to_pandas().columns}
    assert list(frame.loc["conv", columns]) == [getattr(first, column) for column in columns]
    text = " ".join(str(profile).split())
    assert "as int8+zlib" in text or "int8+zlib pack unpack class difference" in text
    assert f"{first.agreement:.0%} {first.difference:.1e}" in text
    assert "Packed as int8+zlib: what crosses when the sample (3 rows) runs." in text
    assert "Packed as" not in str(ks.profile(classifier))


def test_an_earlier_profile_has_no_packed_bytes(classifier, tmp_path):
    content = json.loads(saved(ks.profile(classifier), tmp_path).read_text())
    added = ("wire", "wire_bytes", "pack_seconds", "unpack_seconds", "agreement", "difference")
    for record in (content, *content["tensors"], *content["blocks"]):
        for name in added:
            record.pop(name, None)
    (tmp_path / "earlier.json").write_text(json.dumps(content))
    assert ks.Profile.load(tmp_path / "earlier.json") == ks.profile(classifier)
    (tmp_path / "other.json").write_text(json.dumps({**content, "wire": "int2"}))
    with pytest.raises(ks.SplitError, match="holds no profile.* wire is 'int2'"):
        ks.Profile.load(tmp_path / "other.json")


def test_the_command_measures_as_python_does(classifier, tmp_path):
    classifier.save(tmp_path / "model.keras")
    np.save(tmp_path / "x.npy", images())
    command = ["profile", str(tmp_path / "model.keras"), "--input", str(tmp_path / "x.npy")]
    result = CliRunner().invoke(main, [*command, "--wire", "int8+zlib", "--json"])
    assert result.exit_code == 0, result.output
    given = json.loads(result.stdout)
    profile = ks.profile(classifier, sample=images(), wire="int8+zlib")
    assert [block["wire_bytes"] for block in given["blocks"]] == [block.wire_bytes for block in profile.blocks]
    assert [block["difference"] for block in given["blocks"]] == [block.difference for block in profile.blocks]
    for wrong, message in (
        ([*command], "pass --input FILE and --wire FORM together"),
        ([*command, "--wire", "int9"], "each also packed ('int8+zlib'); got 'int9'"),
        (["profile", str(tmp_path / "model.keras"), "--wire", "int8"], "pass --input FILE and --wire FORM together"),
    ):
        result = CliRunner().invoke(main, wrong)
        assert (result.exit_code, message in " ".join(result.stderr.split())) == (2, True), result.stderr
