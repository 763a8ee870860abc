"""Saving and loading: complete or not at all, checked, and without the model."""

import json
import shutil

import keras
import numpy as np
import pytest
from comparing import same_bits
from folders import as_version_1, chain_split, change, content, read, seal

import kerassplit as ks
from kerassplit.storage.exports.running import run_exported
from kerassplit.zoo.models import load_model


@pytest.fixture(scope="module")
def three(resnet):
    return ks.split(resnet, ["conv3_block4_out", "conv4_block6_out"], names=["features", "middle", "classifier"])


@pytest.fixture(scope="module")
def saved(three, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "three"
    three.save(folder)
    return folder


@pytest.fixture
def chain():
    return chain_split()


def test_the_folder_holds_a_file_per_stage_and_a_manifest(saved, three):
    assert sorted(path.name for path in saved.iterdir()) == [
        "classifier.keras",
        "features.keras",
        "kerassplit.json",
        "middle.keras",
    ]
    manifest = json.loads((saved / "kerassplit.json").read_text())
    assert manifest["format_version"] == 2
    assert manifest["model"] == "resnet50"
    assert manifest["versions"] == {"kerassplit": ks.__version__, "keras": keras.__version__}
    middle = manifest["stages"][1]
    assert (middle["name"], middle["file"], len(middle["sha256"])) == ("middle", "middle.keras", 64)
    assert middle["bytes"] == (saved / "middle.keras").stat().st_size
    assert middle["inputs"] == [{"tensor": "conv3_block4_out", "shape": [None, 8, 8, 512], "dtype": "float32"}]
    assert middle["outputs"] == [{"tensor": "conv4_block6_out", "shape": [None, 4, 4, 1024], "dtype": "float32"}]
    assert manifest["outputs"] == three.outputs


def test_a_loaded_split_computes_the_same(saved, resnet, images):
    x = images(resnet)
    loaded = ks.load(saved)
    assert [stage.name for stage in loaded] == ["features", "middle", "classifier"]
    assert same_bits(loaded(x), resnet(x))
    receipt = ks.verify(resnet, loaded, x)
    assert receipt.ok
    assert receipt.identical
    assert (receipt.weights_shared, receipt.weights_equal) == (0, len(resnet.variables))
    assert same_bits(loaded.model(x), resnet(x))
    assert loaded.verify(x).ok


def test_one_stage_can_be_loaded_without_the_others(saved, three, resnet, images, tmp_path):
    alone = tmp_path / "alone"
    alone.mkdir()
    for name in ("kerassplit.json", "middle.keras"):
        shutil.copy(saved / name, alone)
    for which in ([1], ["middle"]):
        loaded = ks.load(alone, stages=which)
        assert [stage.name for stage in loaded] == ["middle"]
    features = three["features"].model(images(resnet))
    assert same_bits(loaded(features), three["middle"].model(features))
    assert same_bits(loaded[0].model(features), loaded(features))
    with pytest.raises(ks.StoreError, match="The file of stage 'features' is missing"):
        ks.load(alone)
    with pytest.raises(ks.StoreError, match="has no stage 7. Its stages: 'features', 'middle' and 'classifier'"):
        ks.load(alone, stages=[7])


def test_outputs_keep_their_structure(small, tmp_path):
    split = ks.split(small, ["block1_out", "pool"])
    split.save(tmp_path / "small")
    loaded = ks.load(tmp_path / "small")
    data = [np.random.default_rng(1).normal(size=(2, 8, 8, 3)).astype("float32"), np.ones((2, 4), "float32")]
    assert set(loaded(data)) == {"score", "pooled"}
    assert same_bits(loaded(data), small(data))
    assert ks.verify(small, loaded, data).ok


@pytest.mark.parametrize("name", ["features.keras", "middle.keras", "classifier.keras"])
def test_a_damaged_file_is_named(saved, tmp_path, name):
    folder = tmp_path / "damaged"
    shutil.copytree(saved, folder)
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(ks.StoreError, match=f"{name} is damaged .* SHA-256 differs") as error:
        ks.load(folder)
    assert error.value.path == str(folder / name)


def test_what_is_no_split_is_refused(tmp_path, chain):
    with pytest.raises(ks.StoreError, match="holds no split: there is no kerassplit.json in it"):
        ks.load(tmp_path)
    (tmp_path / "model.keras").write_bytes(b"PK")
    expected = r"'.*model.keras' is a file; expected a folder that `Split.save` or `kerassplit split -o` wrote\.$"
    with pytest.raises(ks.StoreError, match=expected):
        ks.load(tmp_path / "model.keras")
    with pytest.raises(ks.StoreError, match="holds no split: there is no kerassplit.json in it"):
        ks.load(tmp_path / "model.keras" / "inside")
    chain.save(tmp_path / "chain")
    path = tmp_path / "chain" / "kerassplit.json"
    manifest = json.loads(path.read_text())
    for text, message in [
        ("{", "cannot be read"),
        ("[]", "is not a manifest: it has no format_version"),
        (json.dumps({**manifest, "format_version": 99}), "has format version 99; .* Install a newer kerassplit"),
        (json.dumps({"format_version": 1, "model": "m"}), "there is no 'inputs'. Save the split again"),
        (json.dumps({**manifest, "model": "other"}), "is damaged or was changed: its checksum differs"),
    ]:
        path.write_text(text)
        with pytest.raises(ks.StoreError, match=message):
            ks.load(tmp_path / "chain")


def test_a_folder_that_is_not_ours_is_never_overwritten(tmp_path, chain):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(ks.StoreError, match="is not empty and holds no split, so it is never overwritten"):
            chain.save(tmp_path / "mine", overwrite=overwrite)
    (tmp_path / "file").write_text("a file")
    with pytest.raises(ks.StoreError, match="is a file; expected a folder"):
        chain.save(tmp_path / "file", overwrite=True)
    assert content(tmp_path / "mine") == {"thesis.txt": b"years of work"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "mine"]


def test_overwriting_must_be_asked_for_and_leaves_nothing_of_the_old(tmp_path, chain, resnet):
    folder = tmp_path / "out"
    chain.save(folder)
    before = content(folder)
    with pytest.raises(ks.StoreError, match="already holds a split. Name another folder, or pass overwrite=True"):
        chain.save(folder)
    assert content(folder) == before
    chain.save(folder, overwrite=True)
    assert not set(content(folder)) & (set(before) - {"kerassplit.json"})
    assert len(content(folder)) == 4
    (folder / "notes.txt").write_text("kept")
    ks.split(chain.model, "b", names=["left", "right"]).save(folder, overwrite=True)
    assert sorted(content(folder)) == ["kerassplit.json", "left.keras", "notes.txt", "right.keras"]
    assert ks.load(folder).verify().ok
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_empty_folder_is_filled(tmp_path, chain):
    chain.save(tmp_path)
    assert ks.load(tmp_path).verify().ok


def test_a_save_that_fails_leaves_nothing_or_the_old_folder(tmp_path, chain):
    class Unserialisable(keras.layers.Layer):
        def call(self, x):
            return x

        def get_config(self):
            raise OSError("no space left on device")

    x = keras.Input((4,), name="x")
    model = keras.Model(x, Unserialisable(name="bad")(keras.layers.Dense(4, name="a")(x)))
    broken = ks.split(model, "a")
    with pytest.raises(ks.StoreError, match="no space left on device"):
        broken.save(tmp_path / "new")
    assert list(tmp_path.iterdir()) == []
    chain.save(tmp_path / "old")
    before = content(tmp_path / "old")
    with pytest.raises(ks.StoreError, match="Existing files are unchanged"):
        broken.save(tmp_path / "old", overwrite=True)
    assert content(tmp_path / "old") == before
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_a_file_that_carries_code_is_not_run(tmp_path):
    x = keras.Input((4,), name="x")
    y = keras.layers.Lambda(lambda t: t * 2, name="double")(keras.layers.Dense(4, name="a")(x))
    split = ks.split(keras.Model(x, y), "a")
    split.save(tmp_path / "out")
    with pytest.raises(ks.StoreError, match="stage_1.keras contains code .* pass safe_mode=False"):
        ks.load(tmp_path / "out")
    data = np.ones((1, 4), "float32")
    assert same_bits(ks.load(tmp_path / "out", safe_mode=False)(data), split(data))


def test_weights_that_stages_share_are_told_of_and_tied_again_when_loaded(tmp_path):
    x = keras.Input((4,), name="x")
    dense = keras.layers.Dense(4, name="dense")
    relu = keras.layers.ReLU(name="relu")
    model = keras.Model(x, relu(dense(keras.layers.Dense(4, name="mid")(relu(dense(x))))))
    split = ks.split(model, "mid")
    stages = ("stage_0", "stage_1")
    assert split.shared_variables == {"dense/kernel": stages, "dense/bias": stages}
    assert split.verify().shared_variables == split.shared_variables
    with pytest.warns(UserWarning, match="Several stages share 'dense/kernel' and 'dense/bias'. In the saved files"):
        split.save(tmp_path / "out")
    loaded = ks.load(tmp_path / "out")
    assert loaded[0].model.get_layer("dense") is loaded[1].model.get_layer("dense")
    assert loaded.shared_variables == split.shared_variables
    data = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    assert same_bits(loaded(data), model(data))
    assert ks.verify(model, loaded, data).ok
    assert same_bits(loaded.model(data), model(data))
    assert len(loaded.model.weights) == len(model.weights)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (
            lambda manifest: manifest["stages"][0]["outputs"][0].update(tensor="other"),
            "needs 'a', which no stage before",
        ),
        (
            lambda manifest: manifest["stages"][1]["inputs"][0].update(tensor="zzz"),
            "needs 'zzz', which no stage before",
        ),
        (lambda manifest: manifest["stages"].reverse(), "needs 'c', which no stage before it computes"),
        (lambda manifest: manifest["stages"].clear(), "it has no stages"),
        (lambda manifest: manifest.update(stages={}), "stages is {}"),
        (lambda manifest: manifest.update(stages=["abc"]), r"stages\[0\] is 'abc'"),
        (lambda manifest: manifest.update(inputs=None), "'inputs' does not name tensors"),
        (lambda manifest: manifest.update(inputs={"module": "keras.layers", "n": 1}), "'inputs' does not name tensors"),
        (lambda manifest: manifest.update(outputs="nope"), "no stage computes the output 'nope'"),
        (lambda manifest: manifest.update(model=3), "model is 3"),
        (lambda manifest: manifest["stages"][0].update(name=3), r"stages\[0\].name is 3"),
        (lambda manifest: manifest["stages"][0].update(name="../evil"), "'../evil' is not a valid stage name"),
        (
            lambda manifest: manifest["stages"][0].update(name="stage_1"),
            "'stage_1' is not a valid stage name, or names two",
        ),
        (lambda manifest: manifest["stages"][0].pop("sha256"), r"there is no 'sha256' in stages\[0\]"),
        (lambda manifest: manifest["stages"][0].update(inputs=[{}]), r"there is no 'tensor' in stages.0..inputs.0."),
        (lambda manifest: manifest["stages"][0]["inputs"][0].update(shape=[None, 9]), "differ from those described"),
        (
            lambda manifest: manifest["stages"][0]["outputs"].append(dict(manifest["stages"][0]["outputs"][0])),
            "differ from those",
        ),
        (
            lambda manifest: manifest.update(format_version=True),
            "has format version True; this kerassplit reads",
        ),
        (
            lambda manifest: manifest.update(format_version=0),
            "has format version 0; this kerassplit reads",
        ),
        (
            lambda manifest: manifest.update(format_version=-3),
            "has format version -3; this kerassplit reads",
        ),
        (
            lambda manifest: manifest.update(format_version=2.0),
            "has format version 2.0; this kerassplit reads",
        ),
        (lambda manifest: manifest.update(format_version=3), "has format version 3; .* Install a newer kerassplit"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused_with_the_reason(tmp_path, chain, how, message):
    chain.save(tmp_path / "out")
    change(tmp_path / "out", how)
    with pytest.raises(ks.StoreError, match=message):
        ks.load(tmp_path / "out")


def test_odd_places(tmp_path, chain, monkeypatch):
    (tmp_path / "file").write_text("")
    for place in ("file/out", "file/x/out", "x" * 300):
        with pytest.raises(ks.StoreError, match="There can be no file or folder|Cannot write|is a file"):
            chain.save(tmp_path / place)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    chain.save(".")
    assert ks.load(".").verify().ok
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    chain.save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert ks.load(tmp_path / "empty").verify().ok
    chain.save("new/größe/")
    assert ks.load("new/größe").verify().ok
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file", "here", "link"]


def test_inputs_that_no_stage_takes_are_inputs_of_the_joined_model(tmp_path):
    a, b, c = (keras.Input((size,), name=name) for size, name in ((3, "a"), (2, "b"), (4, "c")))
    hidden = keras.layers.Dense(3, name="hidden")(a)
    try:
        model = keras.Model([a, b, c], [keras.layers.Dense(2, name="last")(hidden), c])
    except ValueError:
        pytest.skip("this Keras refuses inputs that nothing uses")
    split = ks.split(model, "hidden")
    assert [tensor.name for tensor in split.unused_inputs] == ["b", "c"]
    split.save(tmp_path / "out")
    loaded = ks.load(tmp_path / "out")
    data = [np.ones((2, size), "float32") for size in (3, 2, 4)]
    assert [symbol.shape for symbol in loaded.model.inputs] == [(None, 3), (None, 2), (None, 4)]
    assert all(map(same_bits, loaded.model(data), model(data)))
    assert loaded.verify(data).check().identical


def test_folders_of_the_first_version_load(tmp_path, chain):
    chain.save(tmp_path / "out")
    as_version_1(tmp_path / "out")
    loaded = ks.load(tmp_path / "out")
    data = np.ones((2, 4), "float32")
    assert same_bits(loaded(data), chain(data))
    loaded.save(tmp_path / "out", overwrite=True)
    assert read(tmp_path / "out")["format_version"] == 2
    assert same_bits(ks.load(tmp_path / "out")(data), chain(data))


def test_what_a_later_version_adds_is_kept(tmp_path, chain):
    later = {"license": "CC0", "signed by": {"key": [1, 2.5, None, True, "é"]}}

    def add(manifest):
        manifest.update(later)
        manifest["stages"][1]["device"] = "board 7"

    chain.save(tmp_path / "one")
    change(tmp_path / "one", add)
    for folder in (tmp_path / "two", tmp_path / "one", tmp_path / "one"):
        ks.load(tmp_path / "one").save(folder, overwrite=True)
        manifest = read(folder)
        assert {name: manifest[name] for name in later} == later
        assert [stage.get("device") for stage in manifest["stages"]] == [None, "board 7", None]
    ks.load(tmp_path / "one", stages=[1]).save(tmp_path / "part")
    assert read(tmp_path / "part")["stages"][0]["device"] == "board 7"
    assert read(tmp_path / "part")["license"] == "CC0"


def test_a_stage_whose_name_windows_gives_to_a_device_has_a_file_of_another_name(tmp_path):
    split = ks.split(chain_split().model, "b", names=["aux", "Con.v2"])
    split.save(tmp_path / "out")
    assert sorted(content(tmp_path / "out")) == ["_Con.v2.keras", "_aux.keras", "kerassplit.json"]
    assert [stage.name for stage in ks.load(tmp_path / "out")] == ["aux", "Con.v2"]
    as_version_1(tmp_path / "out")
    for old, new in (("_aux", "aux"), ("_Con.v2", "Con.v2")):  # so the first version has named them
        (tmp_path / "out" / f"{old}.keras").rename(tmp_path / "out" / f"{new}.keras")
        path = tmp_path / "out" / "kerassplit.json"
        path.write_text(path.read_text().replace(f'"{old}.keras"', f'"{new}.keras"'))
    assert ks.load(tmp_path / "out").verify().ok


def test_a_split_whose_manifest_would_be_too_large_to_load_is_not_saved(tmp_path, chain):
    chain.save(tmp_path / "out")
    loaded = ks.load(tmp_path / "out")
    before = content(tmp_path)
    loaded.unknown[""] = {"notes": "x" * 9_000_000}
    with pytest.raises(
        ks.StoreError, match="cannot be saved: its kerassplit.json would have 9,0.*, and the limit is 8,388,608"
    ):
        loaded.save(tmp_path / "out", overwrite=True)
    with pytest.raises(ks.StoreError, match="the limit is 8,388,608. Cut in fewer places"):
        loaded.save(tmp_path / "new")
    assert content(tmp_path) == before


def test_a_folder_with_a_manifest_that_cannot_be_read_is_not_overwritten(tmp_path, chain):
    chain.save(tmp_path / "out")
    seal(tmp_path / "out", {**read(tmp_path / "out"), "format_version": 9})
    before = content(tmp_path)
    with pytest.raises(ks.StoreError, match=r"'.*out' is not overwritten, .* Name another folder, or delete this one"):
        chain.save(tmp_path / "out", overwrite=True)
    assert content(tmp_path) == before


NO_NAMES = {
    "half a pair of surrogates": "\ud800x",
    "too long": "x" * 300,
    "too long in bytes": "é" * 200,
    "a path that is too long": "/".join(["y" * 200] * 30),
    "a null character": "a\0b",
}


@pytest.mark.parametrize("name", NO_NAMES.values(), ids=[*NO_NAMES])
def test_names_that_no_file_can_have_are_refused_and_nothing_is_left(chain, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    split, chain = chain, chain.model
    split.save("out")
    chain.save("chain.keras")
    works = {
        "save": lambda: split.save(name),
        "save inside": lambda: split.save(f"{name}/out"),
        "plot": lambda: ks.plot(split, f"{name}.dot"),
        "open": lambda: load_model(f"{name}.keras"),
        "weights": lambda: load_model("chain.keras", weights=f"{name}.h5"),
    }
    before = sorted(tmp_path.rglob("*"))
    for work in works.values():
        with pytest.raises(
            ks.SplitError, match=r"There can be no file or folder '.*: .*\. Name another one\.$"
        ) as error:
            work()
        assert len(str(error.value)) < 400
        str(error.value).encode()
    for work in (lambda: ks.load(name), lambda: run_exported(name, 1)):
        with pytest.raises(ks.StoreError, match="cannot be read"):
            work()
    with pytest.raises(ks.SplitError, match="cannot name a stage|File name too long"):
        ks.split(chain, "b", names=["head", name]).save("other")
    with pytest.raises(ks.StoreError, match="The folder has no stage"):
        ks.load("out", [name])
    assert sorted(tmp_path.rglob("*")) == before
