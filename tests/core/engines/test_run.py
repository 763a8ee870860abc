"""Running stages: for any input and output, the rows are those of the model, each exactly once."""

import copy
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
import warnings
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from click.testing import CliRunner
from fuzzing import altered, damaged, fuzzed
from hypothesis import given, strategies as st
from PIL import Image

import kerassplit as ks
from kerassplit.cli import main
from kerassplit.engines.inputs import load_input
from kerassplit.engines.running import run_stages
from kerassplit.graph.backends import backend
from kerassplit.zoo.photos import shipped_photo

ROWS = 100


@pytest.fixture(scope="module")
def chain():
    keras.utils.set_random_seed(3)
    x = inputs = keras.Input((8,), name="x")
    for name in "abcd":
        x = keras.layers.Dense(8, "tanh", name=name)(x)
    return ks.split(keras.Model(inputs, x, name="chain"), ["a", "c"])


@pytest.fixture(scope="module")
def rows():
    return np.random.default_rng(5).normal(size=(ROWS, 8)).astype("float32")


@pytest.fixture(scope="module")
def expected(chain, rows):
    """Returns the output of the stages, which equals the model's up to rounding by the compiler."""
    result = chain.predict(rows)
    np.testing.assert_allclose(result, chain.model.predict(rows, verbose=0), rtol=1e-5, atol=1e-6)
    return result


@pytest.fixture(scope="module")
def saved(chain, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "stages"
    chain.save(folder)
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Five images of different sizes, formats and colors in folders, and a file that is not an image."""
    folder = tmp_path_factory.mktemp("photos")
    with shipped_photo().open("rb") as file:
        photo = Image.open(file).copy()
    (folder / "cats").mkdir()
    photo.save(folder / "cats" / "b.png")
    photo.rotate(90, expand=True).save(folder / "cats" / "a.jpg")
    photo.convert("L").resize((50, 200)).save(folder / "grey.bmp")
    photo.crop((0, 0, 64, 64)).save(folder / "z.WEBP")
    photo.convert("RGBA").save(folder / "alpha.png")
    (folder / "notes.txt").write_text("no image")
    (folder / "._z.WEBP").write_text("what macOS leaves")
    return folder


@pytest.fixture(scope="module")
def on_photos():
    x = keras.Input((24, 32, 3), name="pixels")
    y = keras.layers.Conv2D(4, 5, 3, name="conv")(x)
    y = keras.layers.GlobalAveragePooling2D(name="pool")(y)
    return ks.split(keras.Model(x, keras.layers.Dense(2, name="score")(y), name="tiny"), "conv")


class OwnBatches(keras.utils.PyDataset):
    def __init__(self, rows):
        super().__init__()
        self.rows = rows

    def __len__(self):
        return -(-len(self.rows) // 32)

    def __getitem__(self, index):
        part = self.rows[index * 32 : index * 32 + 32]
        return part, np.zeros(len(part))


def sources(rows):
    return {
        "array": rows,
        "tensor": keras.ops.convert_to_tensor(rows),
        "float64": rows.astype("float64"),
        "memory map": rows,
        "generator of batches": (rows[start : start + 32] for start in range(0, ROWS, 32)),
        "generator of batches and labels": ((rows[start : start + 32], 0) for start in range(0, ROWS, 32)),
        "generator of rows": iter(rows),
        "generator of dicts": ({"x": row} for row in rows),
        "PyDataset": OwnBatches(rows),
    }


@pytest.mark.parametrize("kind", sources(np.zeros((ROWS, 8))))
def test_rows_come_from_arrays_and_anything_that_gives_batches_or_rows(chain, rows, expected, kind):
    np.testing.assert_array_equal(chain.predict(sources(rows)[kind]), expected)


def test_rows_come_from_a_tf_data_dataset(chain, rows, expected):
    data = pytest.importorskip("tensorflow").data.Dataset.from_tensor_slices(rows)
    for dataset in (data, data.batch(32), data.map(lambda row: (row, 1)).batch(32)):
        np.testing.assert_array_equal(chain.predict(dataset), expected)


def test_rows_come_from_files(chain, rows, expected, tmp_path):
    np.save(tmp_path / "rows.npy", rows)
    np.save(tmp_path / "columns.npy", np.asfortranarray(rows))
    np.savez(tmp_path / "plain.npz", rows)
    np.savez_compressed(tmp_path / "packed.npz", other=np.zeros(3), x=rows)
    for name in ("rows.npy", "columns.npy", "plain.npz", "packed.npz"):
        np.testing.assert_array_equal(chain.predict(tmp_path / name), expected, err_msg=name)
    np.save(tmp_path / "one.npy", rows[0])
    np.testing.assert_array_equal(chain.predict(str(tmp_path / "one.npy")), chain.predict(rows[:1]))


def test_several_inputs_and_outputs(small, tmp_path):
    split = ks.split(small, ["block1_out", "pool"])
    generator = np.random.default_rng(0)
    image, extra = generator.normal(size=(50, 8, 8, 3)).astype("float32"), np.ones((50, 4), "float32")
    expected = split.predict([image, extra], batch_size=16)
    np.savez_compressed(tmp_path / "both.npz", extra=extra, image=image)
    for x in (
        tmp_path / "both.npz",
        ([image[start : start + 16], extra[start : start + 16]] for start in range(0, 50, 16)),
        {"image": image, "extra": extra},
    ):
        result = split.predict(x, batch_size=16, output=tmp_path / "out.npy", overwrite=True)
        assert set(result) == {"score", "pooled"}
        for name in result:
            assert isinstance(result[name], np.memmap)
            np.testing.assert_array_equal(result[name], expected[name])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "both.npz",
        "out.npy.json",
        "out.pool.npy",
        "out.score.npy",
    ]
    with pytest.raises(ks.SplitError, match="'.*lonely.npz' has no array 'extra'; it has 'image'. The model takes 'im"):
        np.savez(tmp_path / "lonely.npz", image=image)
        split.predict(tmp_path / "lonely.npz")


def test_a_folder_of_images(on_photos, photos, tmp_path):
    names = ["alpha.png", "cats/a.jpg", "cats/b.png", "grey.bmp", "z.WEBP"]
    images = np.concatenate([load_input(photos / name, on_photos.model, "MobileNetV2") for name in names])
    assert images.shape == (5, 24, 32, 3)
    with pytest.warns(UserWarning, match="1 files in '.*' are not images and were left out"):
        result = on_photos.predict(photos, 2, preprocess="MobileNetV2", output=tmp_path / "out.npy")
    np.testing.assert_array_equal(result, on_photos.predict(images, 2))
    assert json.loads((tmp_path / "out.npy.json").read_text())["files"] == names
    with pytest.warns(UserWarning, match="The preprocessing of 'tiny' is not known; it gets pixels from 0 to 255"):
        pixels = on_photos.predict(photos / "grey.bmp")
    np.testing.assert_array_equal(pixels, on_photos.predict(photos / "grey.bmp", preprocess="none"))
    with pytest.raises(ks.SplitError, match="The preprocessing of 'LeNet' is not known. Name an architecture of"):
        on_photos.predict(photos, preprocess="LeNet")


def test_what_does_not_fit_is_refused_before_anything_runs(chain, on_photos, rows, photos, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "folder.npy").mkdir()
    huge = b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (%s, 8), }"
    for name, rows_there in (
        ("huge", b"1" + b"0" * 12),
        ("absurd", b"1" + b"0" * 30),
        ("negative", b"-5"),
        ("t", b"True"),
    ):
        (tmp_path / f"{name}.npy").write_bytes((huge % rows_there).ljust(127) + b"\n")
    with zipfile.ZipFile(tmp_path / "odd.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", (tmp_path / "huge.npy").read_bytes() + bytes(5000))
    content = bytearray((tmp_path / "odd.npz").read_bytes())
    content[60:75] = bytes(15)
    (tmp_path / "odd.npz").write_bytes(content)
    (tmp_path / "bad.npy").write_bytes(b"no array")
    (tmp_path / "bad.npz").write_bytes(b"no archive")
    np.save(tmp_path / "wide.npy", np.zeros((3, 9)))
    np.save(tmp_path / "text.npy", np.array([["a"] * 8]))
    np.save(tmp_path / "none.npy", rows[:0])
    np.save(tmp_path / "objects.npy", np.array([{}] * 8, dtype=object), allow_pickle=True)
    for x, message in [
        (tmp_path / "missing", "There is no file or folder '.*missing' to take input from"),
        (tmp_path / "empty", "There are no images in '.*empty'. Expected files such as .jpg or .png"),
        (tmp_path / "bad.npy", "bad.npy' cannot be read as NumPy arrays"),
        (tmp_path / "bad.npz", "bad.npz' cannot be read as NumPy arrays"),
        (tmp_path / "odd.npz", "odd.npz' cannot be read as NumPy arrays"),
        (
            tmp_path / "huge.npy",
            r"huge.npy' cannot be read .*\(1000000000000, 8\) takes 32000000000000 bytes, but there are 0",
        ),
        (tmp_path / "absurd.npy", "absurd.npy' cannot be read as NumPy arrays"),
        (
            tmp_path / "negative.npy",
            r"negative.npy' cannot be read as NumPy arrays: its header does not describe an array",
        ),
        (tmp_path / "t.npy", r"t.npy' cannot be read as NumPy arrays: its header does not describe an array"),
        (tmp_path / "wide.npy", r"wide.npy' holds an array of shape \(3, 9\); 'x' of 'chain' takes 8 for each row"),
        (tmp_path / "text.npy", "text.npy' holds values of type <U1; 'x' takes float32"),
        (tmp_path / "none.npy", "at least one, along the first dimension; got 'x' \\(0, 8\\)"),
        (tmp_path / "objects.npy", "holds Python objects, which are never unpickled"),
        (photos, "'chain' does not take a single image; it takes 'x' \\(None, 8\\). Pass these as .npy or .npz"),
        (np.zeros((3, 9)), r"There is an array of shape \(3, 9\); 'x' of 'chain' takes 8 for each row"),
        (iter([]), "The input holds no rows. Expected at least one"),
        (iter([np.zeros((2, 7))]), r"There is an array of shape \(2, 7\)"),
        (iter([{"y": rows}]), "does not have the structure that 'chain' takes"),
    ]:
        with pytest.raises(ks.SplitError, match=message), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            chain.predict(x, output=tmp_path / "out.npy")
        assert not list(tmp_path.glob("out*"))
    for options, message in [
        ({"resume": True}, "`resume` and `overwrite` apply to result files. Say where these are, with `output`"),
        ({"output": 3}, "`output` must be the path of a .npy file; got 3"),
        ({"output": "a\0.npy"}, "expected a name that ends in .npy"),
        ({"output": tmp_path / ("n" * 300 + ".npy")}, "There can be no file or folder '"),
        ({"output": tmp_path / "folder.npy", "overwrite": True}, "folder.npy' is a folder. Name a file"),
        ({"output": tmp_path / "out.npy", "overwrite": True, "resume": True}, "resume=True .* exclude each other"),
        ({"output": tmp_path / "out.txt"}, "expected a name that ends in .npy; got '.*out.txt'"),
        ({"output": tmp_path / "bad.npy" / "out.npy"}, "Cannot write '[^']*bad.npy'"),
        ({"engine": "quantum"}, "There is no engine 'quantum'. Expected 'local' or 'ray'"),
        ({"replicas": {}}, "The engine 'local' has no option 'replicas'. It has 'devices'"),
        ({"devices": ["gpu:77"]}, "`devices` must name devices of this machine, '.*cpu.*got \\['gpu:77'\\]"),
        ({"preprocess": "ResNet50"}, "`preprocess` is for image files; arrays are used as they are. Leave it out"),
        ({"batch_size": 2.5}, "`batch_size` must be a whole number, at least 1; got 2.5"),
    ]:
        with pytest.raises(ks.SplitError, match=message):
            chain.predict(rows, **options)
    mended = tmp_path / "photos"
    shutil.copytree(photos, mended)
    (mended / "grey.bmp").write_bytes(b"BM no picture")
    message = "grey.bmp' cannot be read as an image, .* The 2 rows before it are kept: continue with resume=True"
    with pytest.raises(ks.SplitError, match=message), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        on_photos.predict(mended, 2, preprocess="none", output=tmp_path / "out.npy")
    (mended / "grey.bmp").unlink()
    (mended / "notes.txt").unlink()
    result = on_photos.predict(mended, 2, preprocess="none", output=tmp_path / "out.npy", resume=True)
    np.testing.assert_array_equal(result, on_photos.predict(mended, 2, preprocess="none"))
    files = ["alpha.png", "cats/a.jpg", "cats/b.png", "z.WEBP"]
    assert json.loads((tmp_path / "out.npy.json").read_text())["files"] == files
    (mended / "alpha.png").write_bytes((mended / "z.WEBP").read_bytes())
    with pytest.raises(ks.SplitError, match="exists already"):
        on_photos.predict(mended, 2, preprocess="none", output=tmp_path / "out.npy", resume=True)


def test_results_in_a_file_are_those_in_memory_and_nothing_is_replaced_unasked(chain, rows, expected, tmp_path):
    output = tmp_path / "new" / "out.npy"
    result = chain.predict(rows, output=output)
    assert isinstance(result, np.memmap)
    np.testing.assert_array_equal(np.load(output), expected)
    record = json.loads(output.with_name("out.npy.json").read_text())
    assert record["rows"] == ROWS
    assert record["model"] == "chain"
    assert sorted(path.name for path in output.parent.iterdir()) == ["out.npy", "out.npy.json"]
    before = output.read_bytes()
    with pytest.raises(ks.SplitError, match="'.*out.npy' exists already. Name another file, or pass overwrite=True"):
        chain.predict(rows[:10], output=output)
    assert output.read_bytes() == before
    np.testing.assert_array_equal(chain.predict(rows, output=output, resume=True), expected)
    with pytest.raises(ks.SplitError, match="exists already"):
        chain.predict(rows, 16, output=output, resume=True)
    assert chain.predict(rows[:10], output=output, overwrite=True).shape == (10, 8)


class Failing:
    """Batches that raise an error after some."""

    def __init__(self, rows, good):
        self.rows, self.good, self.read = rows, good, []

    def __iter__(self):
        for start in range(0, len(self.rows), 10):
            if start >= self.good:
                raise OSError("the network is gone")
            self.read.append(start)
            yield self.rows[start : start + 10]


def test_an_interrupted_run_goes_on_where_it_stopped(chain, rows, tmp_path):
    output = tmp_path / "out.npy"
    expected = chain.predict(Failing(rows, ROWS))
    with pytest.raises(OSError, match="the network is gone"):
        chain.predict(Failing(rows, 30), output=output)
    assert not output.exists()
    with pytest.raises(ks.SplitError, match="unfinished' holds an unfinished run. To continue it, pass resume=True"):
        chain.predict(Failing(rows, 100), output=output)
    with pytest.raises(
        ks.SplitError, match="a different one: its batch_size was 32 and is now 10. Resume it as it beg"
    ):
        chain.predict(Failing(rows, 100), 10, output=output, resume=True)
    with pytest.raises(ks.SplitError, match="a different one: it had a different 'content of stages'"):
        changed = ks.split(keras.models.clone_model(chain.model), ["a", "c"])
        changed.predict(Failing(rows, 100), output=output, resume=True)
    with pytest.raises(OSError, match="the network is gone"):
        chain.predict(Failing(rows, 70), output=output, resume=True)
    assert not output.exists()
    assert (output.with_name("out.npy.unfinished") / "out.npy").stat().st_size == 128 + 70 * 8 * 4
    np.testing.assert_array_equal(chain.predict(Failing(rows, 100), output=output, resume=True), expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.npy", "out.npy.json"]


@pytest.fixture(scope="module")
def cut_short(small, tmp_path_factory):
    """A run with two outputs, interrupted after 64 rows, with its input and its expected results."""
    folder = tmp_path_factory.mktemp("cut")
    split = ks.split(small, ["block1_out", "pool"])
    generator = np.random.default_rng(0)
    image = generator.normal(size=(ROWS, 8, 8, 3)).astype("float32")
    extra = generator.normal(size=(ROWS, 4)).astype("float32")
    np.savez(folder / "in.npz", image=image, extra=extra)
    whole = {name: np.array(value) for name, value in split.predict(folder / "in.npz", 16).items()}
    stop_at(4, split, folder / "in.npz", folder / "out.npy")
    assert sorted(path.name for path in (folder / "out.npy.unfinished").iterdir()) == [
        "lock",
        "out.pool.npy",
        "out.score.npy",
        "rows",
        "run.json",
    ]
    return split, folder, whole


def stop_at(batch, split, x, output, **options):
    """Interrupts a run before this batch."""
    from kerassplit.engines.outputs import InFiles

    class Stopped(Exception):
        pass

    add = InFiles.add

    def limited(self, one):
        if one.number >= batch:
            raise Stopped
        add(self, one)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InFiles, "add", limited)
        with pytest.raises(Stopped):
            split.predict(x, 16, output=output, **options)


def zeroed(place, count=None):
    def damage(content):
        end = len(content) if count is None else min(len(content), place + count)
        return content[:place] + bytes(max(0, end - place)) + content[end:]

    return damage


DAMAGE = {
    "nothing": lambda content: content,
    "zeros at the beginning": zeroed(0, 64),
    "zeros in the header": zeroed(20, 30),
    "zeros in the first batch": zeroed(128, 64),
    "zeros in the middle": zeroed(700, 100),
    "zeros at the end": zeroed(1400),
    "all zeros": zeroed(0),
    "the last byte lost": lambda content: content[:-1],
    "half of it lost": lambda content: content[: len(content) // 2],
    "a page in the middle lost": lambda content: content[:512] + content[1024:],
    "empty": lambda content: b"",
    "missing": None,
    "longer by zeros": lambda content: content + bytes(4096),
    "longer by rows": lambda content: content + content[128:] * 4,
    "old": lambda content: content[: content.find(b"\n") + 1],
    "garbage": lambda content: bytes(range(256)) * 8,
    "one bit": lambda content: (
        content[:900] + bytes([content[900] ^ 1]) + content[901:] if len(content) > 900 else content
    ),
}


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("name", ["out.pool.npy", "out.score.npy", "rows", "run.json", "lock"])
def test_whatever_a_power_cut_left_of_a_file_the_results_are_those_of_a_run_without(cut_short, tmp_path, name, how):
    split, folder, whole = cut_short
    shutil.copytree(folder / "out.npy.unfinished", tmp_path / "out.npy.unfinished")
    path, damage = tmp_path / "out.npy.unfinished" / name, DAMAGE[how]
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage(path.read_bytes()))
    result = split.predict(folder / "in.npz", 16, output=tmp_path / "out.npy", resume=True)
    for output, expected in whole.items():
        np.testing.assert_array_equal(result[output], expected)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["out.npy.json", "out.pool.npy", "out.score.npy"]


def test_rows_that_are_certain_are_not_computed_again_and_others_are(cut_short, tmp_path):
    from kerassplit.engines.outputs import InFiles

    split, folder, _ = cut_short
    computed = []
    add = InFiles.add
    for how, again in (("nothing", [4, 5, 6]), ("zeros in the middle", None), ("all zeros", list(range(7)))):
        target = tmp_path / how.replace(" ", "")
        shutil.copytree(folder / "out.npy.unfinished", target / "out.npy.unfinished")
        path = target / "out.npy.unfinished" / "out.score.npy"
        path.write_bytes(DAMAGE[how](path.read_bytes()))
        computed.clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(InFiles, "add", lambda self, batch: (computed.append(batch.number), add(self, batch)))
            split.predict(folder / "in.npz", 16, output=target / "out.npy", resume=True)
        if again is None:
            assert 0 < computed[0] < 4
            assert computed == list(range(computed[0], 7))
        else:
            assert computed == again


@pytest.mark.parametrize("moved", [0, 1, 2])
@pytest.mark.parametrize("how", ["nothing", "zeros in the middle", "the last byte lost"])
def test_a_power_cut_while_finished_files_are_put_in_their_places(cut_short, tmp_path, moved, how):
    """All rows are there and said to be: they are kept only if their digests match."""
    from kerassplit.engines.output_paths import OutputPaths

    split, folder, whole = cut_short
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OutputPaths, "move", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            split.predict(folder / "in.npz", 16, output=tmp_path / "out.npy")
    names = ["out.pool.npy", "out.score.npy"]
    for name in names[:moved]:
        shutil.move(tmp_path / "out.npy.unfinished" / name, tmp_path / name)
    path = next(tmp_path.rglob("out.score.npy"))
    path.write_bytes(DAMAGE[how](path.read_bytes()))
    result = split.predict(folder / "in.npz", 16, output=tmp_path / "out.npy", resume=True)
    for output, expected in whole.items():
        np.testing.assert_array_equal(result[output], expected)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["out.npy.json", *names]


def test_a_finished_file_that_lost_rows_is_not_taken_for_the_result(chain, rows, tmp_path):
    output = tmp_path / "out.npy"
    chain.predict(rows, output=output)
    np.save(output, np.load(output)[:50])
    with pytest.raises(ks.SplitError, match="exists already. Name another file, or pass overwrite=True"):
        chain.predict(rows, output=output, resume=True)


@pytest.mark.parametrize("how", ["zeros at the beginning", "all zeros", "half of it lost", "missing", "garbage"])
@pytest.mark.parametrize("name", ["run.json", "rows", "out.npy"])
def test_the_list_of_images_is_that_of_all_rows_whatever_a_power_cut_left(on_photos, photos, tmp_path, name, how):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = on_photos.predict(photos, 2, preprocess="none", output=tmp_path / "whole.npy")
        from kerassplit.engines.outputs import InFiles

        add = InFiles.add
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(InFiles, "add", lambda self, one: add(self, one) if one.number < 1 else 1 / 0)
            with pytest.raises(ZeroDivisionError):
                on_photos.predict(photos, 2, preprocess="none", output=tmp_path / "out.npy")
        path, damage = tmp_path / "out.npy.unfinished" / name, DAMAGE[how]
        if damage is None:
            path.unlink()
        else:
            path.write_bytes(damage(path.read_bytes()))
        result = on_photos.predict(photos, 2, preprocess="none", output=tmp_path / "out.npy", resume=True)
    np.testing.assert_array_equal(result, expected)
    records = [json.loads((tmp_path / f"{one}.npy.json").read_text()) for one in ("out", "whole")]
    for record in records:
        del record["outputs"]
    assert records[0] == records[1]


def test_never_more_rows_than_the_input_has(chain, rows, tmp_path):
    output = tmp_path / "out.npy"
    with pytest.raises(OSError, match="gone"):
        chain.predict(Failing(rows, 60), output=output)
    message = "The input has 30 rows, but the run to resume has computed 60. It was a different input: pass overwrite"
    with pytest.raises(ks.SplitError, match=message) as error:
        chain.predict(Failing(rows[:30], 100), output=output, resume=True)
    assert "resume=True" not in str(error.value)
    assert not output.exists()
    result = chain.predict(Failing(rows[:30], 100), output=output, overwrite=True)
    np.testing.assert_array_equal(result, chain.predict(Failing(rows[:30], 100)))  # in the same batches


@fuzzed
@given(st.data())
def test_any_damage_to_an_unfinished_run_ends_in_right_rows_or_none(data):
    """The files alone, without a model: only rows that were written are kept."""
    from kerassplit.files.atomic_file import Folder
    from kerassplit.files.growing_array import GrowingArrays

    arrays = {"a": np.arange(40, dtype="float32").reshape(10, 4), "b": np.arange(10, dtype="int64")}
    files = {name: f"{name}.npy" for name in arrays}
    names = [*files.values(), "rows"]
    with tempfile.TemporaryDirectory() as place, Folder(Path(place)) as folder:
        growing = GrowingArrays(folder, "rows", files)
        for first in range(0, 10, 3):
            growing.add({name: array[first : first + 3] for name, array in arrays.items()})
        growing.close()
        contents = [Path(place, name).read_bytes() for name in names]
        for name, content in zip(names, contents, strict=True):
            if data.draw(st.booleans()):
                Path(place, name).write_bytes(data.draw(damaged(content, *contents)))
        growing = GrowingArrays(folder, "rows", files)
        rows = growing.rows
        assert rows in (0, 3, 6, 9, 10)
        growing.cut(rows)
        growing.close()
        for name, array in zip(names, arrays.values(), strict=False):
            if rows:
                assert Path(place, name).read_bytes().endswith(array[:rows].tobytes())


STATE = {
    "model": "m",
    "stages": ["a", "b"],
    "batch_size": 32,
    "input": {"file": "x.npy", "bytes": 3},
    "files": ["a.png", "b.png"],
    "states of files": [[1, 2], [3, 4]],
    "outputs": {"y": "out.npy"},
    "rows": 2,
}


@fuzzed
@given(damaged(json.dumps(STATE).encode()) | altered(STATE).map(lambda state: json.dumps(state).encode()))
def test_a_damaged_state_of_a_run_is_this_run_or_told_apart_from_it(content):
    from kerassplit.engines.output_paths import differing, output_paths

    with tempfile.TemporaryDirectory() as place:
        job = {key: value for key, value in STATE.items() if key not in ("rows", "outputs")}
        places = output_paths(Path(place, "out.npy"), ["y"], job)
        places.folder.mkdir()
        (places.folder / "run.json").write_bytes(content)
        state = places.state
        assert isinstance(state, dict)
        told = differing(state, places.job)
        assert told or all(state[key] == places.job[key] for key in places.job)
        assert len(told) < 2000


def test_what_was_finished_with_another_input_or_model_is_not_taken_for_this_one(chain, rows, tmp_path):
    output = tmp_path / "out.npy"
    chain.predict(rows, output=output)
    other = keras.models.clone_model(chain.model)
    other.set_weights(chain.model.get_weights())
    other.get_layer("b").activation = keras.activations.relu
    for split, x in ((chain, rows + 1), (ks.split(other, ["a", "c"]), rows), (chain, iter(rows))):
        with pytest.raises(ks.SplitError, match="exists already"):
            split.predict(x, output=output, resume=True)


def test_a_run_whose_layers_keep_a_state_is_not_gone_on_with(tmp_path):
    x = keras.Input(batch_shape=(2, 3, 4), name="x")
    y = keras.layers.LSTM(4, stateful=True, name="lstm")(keras.layers.Dense(4, name="a")(x))
    split = ks.split(keras.Model(x, y), "a")
    data = np.ones((4, 3, 4), "float32")
    split.predict(data, 2, output=tmp_path / "out.npy")
    with pytest.raises(ks.SplitError, match="Layer 'lstm' of stage 'stage_1' keeps a state from batch to batch"):
        split.predict(data[:2], 2, output=tmp_path / "more.npy", resume=True)


def test_single_rows_and_batches_keep_their_order(chain, rows):
    mixed = [rows[0], rows[1:4], rows[4], rows[5], rows[6:9]]
    np.testing.assert_allclose(chain.predict(iter(mixed)), chain.predict(rows[:9]), rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource")
def test_a_full_disk_is_named_and_the_rows_before_it_stay(saved, rows, expected, tmp_path):
    np.save(tmp_path / "rows.npy", rows)
    arguments = ["run", str(saved), "--input", str(tmp_path / "rows.npy"), "-o", str(tmp_path / "out.npy")]
    code = f"""
        import resource, signal
        import kerassplit.engines.running
        from kerassplit.cli import main
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
        main({[*arguments, "--batch-size", "32"]!r})
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 2
    assert "Cannot write into" in done.stderr
    assert "rows before it are kept" in " ".join(done.stderr.split())
    result = run_stages(saved, tmp_path / "rows.npy", tmp_path / "out.npy", resume=True)
    assert result.computed < ROWS
    np.testing.assert_array_equal(result.results, expected)


def test_two_processes_do_not_write_into_one_file(chain, rows, tmp_path):
    fcntl = pytest.importorskip("fcntl")
    with pytest.raises(OSError, match="gone"):
        chain.predict(Failing(rows, 30), output=tmp_path / "out.npy")
    with (tmp_path / "out.npy.unfinished" / "lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(ks.SplitError, match="Another process is writing into '.*unfinished'. Wait for it"):
            chain.predict(Failing(rows, 100), output=tmp_path / "out.npy", resume=True)


class Picky(keras.layers.Layer):
    """Accepts rows in pairs, so that it fails on batches with an odd number of them."""

    def call(self, x):
        pairs = keras.ops.reshape(x, (-1, 8))
        return keras.ops.reshape(keras.ops.matmul(pairs, keras.ops.ones((8, 8))), (-1, 4))

    def compute_output_shape(self, shape):
        return shape


def test_a_stage_that_fails_is_named_with_batch_and_rows_and_what_was_finished_is_kept(tmp_path):
    x = keras.Input((4,), name="x")
    model = keras.Model(x, Picky(name="picky")(keras.layers.Dense(4, name="a")(x)), name="m")
    split = ks.split(model, "a", names=["head", "tail"])
    data = [np.ones((size, 4), "float32") for size in (4, 6, 3, 2)]
    message = r"Stage 'tail' fails on batch 2 \(rows 10 to 12\): .* The 10 rows before it are kept: continue"
    with pytest.raises(ks.RunError, match=message) as error:
        split.predict(iter(data), output=tmp_path / "out.npy")
    assert (error.value.stage, error.value.batch, error.value.rows) == ("tail", 2, (10, 13))
    data[2] = np.ones((4, 4), "float32")
    assert split.predict(iter(data), output=tmp_path / "out.npy", resume=True).shape == (16, 4)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="only TensorFlow refuses such names")
def test_a_stage_that_tensorflow_cannot_trace_leaves_no_name_scope_open():
    x = keras.Input((4,), name="x")
    model = keras.Model(x, keras.layers.Dense(4, name="größe")(keras.layers.Dense(4, name="a")(x)), name="m")
    with pytest.raises(ks.RunError, match="'größe' is not a valid"):
        ks.split(model, "a").predict(np.ones((2, 4), "float32"))
    later = keras.layers.Dense(2, name="later")
    later.build((None, 4))
    assert later.kernel.path == "later/kernel"


def test_rows_of_different_shapes_make_no_array(tmp_path):
    x = keras.Input((None, 3), name="x")
    split = ks.split(keras.Model(x, keras.layers.Dense(3, name="b")(keras.layers.Dense(3, name="a")(x))), "a")
    data = [np.ones((2, side, 3), "float32") for side in (4, 5)]
    with pytest.raises(ks.SplitError, match=r"'b' has rows of shape \(5, 3\) in rows 2 to 3, but \(4, 3\) before"):
        split.predict(iter(data))
    with pytest.raises(ks.SplitError, match=r"Rows of shape \(5, 3\) and type float32 follow rows of shape \(4, 3\)"):
        split.predict(iter(data), output=tmp_path / "out.npy")


def test_what_was_learned_between_two_calls_counts(rows):
    x = keras.Input((8,), name="x")
    model = keras.Model(x, keras.layers.Dense(2, name="b")(keras.layers.Dense(8, name="a")(x)))
    split = ks.split(model, "a")
    split.predict(rows)
    model.get_layer("a").kernel.assign(np.zeros((8, 8)))
    assert not split.predict(rows).any()


def test_the_input_is_read_no_further_than_needed(chain, rows):
    for devices in (None, [backend().devices()[-1]]):
        read = []
        results = []

        def batches(read=read, results=results):
            for start in range(0, ROWS, 2):
                read.append(start)
                assert len(read) - len(results) < 12
                yield rows[start : start + 2]

        from kerassplit.engines.inputs import source_of
        from kerassplit.engines.local import LocalOptions, run
        from kerassplit.engines.route import route_of

        source = source_of(batches(), route_of(chain), 2)
        for batch in run(chain, source.batches(0), LocalOptions(devices)):
            results.append(batch.first)
            time.sleep(0.001)
        assert results == read == list(range(0, ROWS, 2))


DEVICES = """
    import sys, numpy as np, keras
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf
        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
        )
    import kerassplit as ks
    from kerassplit.engines import local
    from kerassplit.graph.backends import backend
    split, rows = ks.load(sys.argv[1]), np.load(sys.argv[2])
    devices = backend().devices()
    print(devices)
    copies = []
    build = local.build_submodel
    def watched(model, **options):
        copies.append(build(model, **options))
        return copies[-1]
    local.build_submodel = watched
    np.save(sys.argv[3], split.predict(rows, devices=devices))
    used = [str(copy.weights[0].value.device) for copy in copies]
    print(len(set(used)), len(used))
"""


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="torch has one CPU device")
def test_each_stage_on_a_device_of_its_own(saved, rows, expected, tmp_path):
    np.save(tmp_path / "rows.npy", rows)
    files = [str(saved), str(tmp_path / "rows.npy"), str(tmp_path / "out.npy")]
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(DEVICES), *files],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout.splitlines() == ["('cpu:0', 'cpu:1')", "2 3"]
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, rtol=1e-6, atol=1e-7)


class TestCommand:
    def run(self, *arguments):
        return CliRunner().invoke(main, ["run", *map(str, arguments)])

    def test_it_writes_what_the_stages_compute(self, saved, rows, expected, tmp_path):
        np.save(tmp_path / "rows.npy", rows)
        output = tmp_path / "out.npy"
        done = self.run(saved, "--input", tmp_path / "rows.npy", "-o", output)
        assert done.exit_code == 0, done.output
        assert "100 rows, " in done.stdout
        assert f"Wrote {output}: d, 8 per row." in done.stdout
        np.testing.assert_array_equal(np.load(output), expected)
        again = self.run(saved, "--input", tmp_path / "rows.npy", "-o", output)
        assert again.exit_code == 2
        assert "exists already. Name another file, or pass --overwrite." in " ".join(again.stderr.split())
        resumed = self.run(saved, "--input", tmp_path / "rows.npy", "-o", output, "--resume", "--json")
        data = json.loads(resumed.stdout)
        assert (data["rows"], data["computed"]) == (100, 0)
        assert data["outputs"] == {"d": {"file": str(output), "shape": [100, 8]}}

    def test_images_that_it_knows_nothing_of(self, on_photos, photos, tmp_path):
        on_photos.save(tmp_path / "stages")
        done = self.run(tmp_path / "stages", "--input", photos, "-o", tmp_path / "out.npy", "--batch-size", 2)
        assert done.exit_code == 0, done.output
        assert "Note: 1 files in" in done.stderr
        assert "name it: --preprocess ResNet50." in done.stderr
        assert np.load(tmp_path / "out.npy").shape == (5, 2)

    def test_options_of_another_engine_are_refused(self, saved, tmp_path):
        np.save(tmp_path / "rows.npy", np.zeros((2, 8), "float32"))
        done = self.run(saved, "--input", tmp_path / "rows.npy", "-o", tmp_path / "out.npy", "--replicas", "stage_1=2")
        assert done.exit_code == 2
        assert "The engine 'local' has no option 'replicas'. It has 'devices'." in " ".join(done.stderr.split())
        done = self.run(saved, "--input", tmp_path / "rows.npy", "-o", tmp_path / "out.npy", "--replicas", "2")
        assert "--replicas needs a stage and a whole number, such as stage_1=2." in " ".join(done.stderr.split())
        assert not list(tmp_path.glob("out*"))


def test_resnet50_agrees_with_keras_predict(resnet, images, tmp_path):
    split = ks.split(resnet, ["conv3_block4_out", "conv4_block6_out"])
    x = np.concatenate([images(resnet)] * 3)
    result = split.predict(x, batch_size=4, output=Path(tmp_path / "out.npy"))
    np.testing.assert_allclose(result, resnet.predict(x, batch_size=4, verbose=0), rtol=1e-5, atol=1e-7)


class Sharpened(keras.Model):
    def predict_step(self, *args):
        return super().predict_step(*args) * 10


def test_a_prediction_of_the_models_own_is_not_passed_over(tmp_path):
    x = keras.Input((4,), name="x")
    out = keras.layers.Dense(2, "softmax", name="out")(keras.layers.Dense(4, name="a")(x))
    model = Sharpened(x, out, name="sharpened")
    rows = np.ones((3, 4), "float32")
    message = "'sharpened' has its own `predict_step`, which its stages do not run: they return what `model(x)` returns"
    split = ks.split(model, [["a"]])
    with pytest.warns(UserWarning, match=re.escape(message)):
        split.predict(rows)
    split.save(tmp_path / "out")
    loaded = ks.load(tmp_path / "out")
    loaded.save(tmp_path / "again")
    for one in (loaded, ks.load(tmp_path / "again"), copy.deepcopy(split), copy.deepcopy(loaded)):
        with pytest.warns(UserWarning, match=re.escape(message)):
            one.predict(rows)
    notes = []
    run_stages(tmp_path / "out", rows, tmp_path / "y.npy", note=notes.append)
    assert [note.startswith(message) for note in notes] == [True]
    plain = keras.Model(x, out, name="plain")
    ks.split(plain, "a").predict(rows)
    plain.predict_step = lambda data: 0
    with pytest.warns(UserWarning, match="'plain' has its own `predict_step`"):
        ks.split(plain, "a").predict(rows)


class Traced(keras.layers.Layer):
    runs = 0

    def __init__(self, **options):
        super().__init__(**options)
        self.supports_masking = True

    def call(self, x):
        self.runs += 1
        return x * 2


def per_step(masked: bool) -> keras.Model:
    keras.utils.set_random_seed(5)
    ids = keras.Input((None,), dtype="int32", name="ids")
    x = Traced(name="traced")(keras.layers.Embedding(20, 8, mask_zero=masked, name="embedding")(ids))
    x = keras.layers.TimeDistributed(keras.layers.Dense(8), name="each")(x)
    return keras.Model(ids, keras.layers.LSTM(3, name="last")(x), name="per_step")


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("rows", [3, 7])
def test_steps_of_any_number_are_each_computed_in_every_batch(masked, rows):
    model = per_step(masked)
    split = ks.split(model, ["embedding", "each"])
    for steps in (5, 8, 5):
        ids = np.random.default_rng(steps).integers(0, 3, (rows, steps)).astype("int32")
        for batch_size in (rows, 2):
            given = split.predict(ids, batch_size=batch_size)
            np.testing.assert_allclose(given, keras.ops.convert_to_numpy(model(ids)), rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="JAX traces for each shape, torch for none")
@pytest.mark.parametrize("as_numpy", [True, False])
def test_batches_of_all_sizes_are_traced_once(as_numpy):
    model = per_step(masked=True)
    stage = ks.split(model, ["each"])[0]
    traced, compute = model.get_layer("traced"), stage.compiled
    before = traced.runs
    for rows in (4, 3, 1):
        ids = np.ones((rows, 5), "int32")
        compute([ids if as_numpy else keras.ops.convert_to_tensor(ids)])
        assert traced.runs == before + 1


def test_an_output_without_a_batch_is_refused_with_a_way_out(tmp_path):
    x = keras.Input((4,), name="x")
    h = keras.layers.Dense(2, name="h")(x)
    total = keras.layers.Lambda(keras.ops.sum, output_shape=(), name="total")(h)
    model = keras.Model(x, {"y": keras.layers.Dense(2, name="y")(h), "total": total})
    split = ks.split(model, "h")
    rows = np.ones((3, 4), "float32")
    for output, message in (
        (
            None,
            "'total' is one value for all 3 rows of a batch, so batches cannot be joined. Call `split(x)`",
        ),
        (tmp_path / "y.npy", "'total' has shape () for a batch of 3 rows, .* Call `split(x)`"),
    ):
        with pytest.raises(ks.SplitError, match=re.escape(message).replace(re.escape(".*"), ".*")):
            split.predict(rows, output=output)
    given, expected = (keras.ops.convert_to_numpy(one(rows)["total"]) for one in (split, model))
    np.testing.assert_allclose(given, expected, rtol=1e-6)
