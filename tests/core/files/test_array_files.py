"""Arrays from untrusted files: values that fit or an error, and no more memory than bytes in the file."""

import io
import tempfile
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from fuzzing import damaged, fuzzed
from hypothesis import given

import kerassplit as ks
from kerassplit.engines.inputs import load_input
from kerassplit.engines.running import run_stages
from kerassplit.files.arrays import open_arrays, read_arrays, write_arrays


def on_ids(dtype="int32"):
    ids = keras.Input((3,), dtype=dtype, name="ids")
    y = keras.layers.Embedding(10, 4, name="embedding")(ids) if dtype != "uint8" else keras.ops.cast(ids, "float32")
    y = keras.layers.Flatten(name="flat")(y)
    model = keras.Model(ids, keras.layers.Dense(2, name="score")(y), name="lm")
    return ks.split(model, ["flat"])


@pytest.fixture(scope="module")
def ids():
    return on_ids()


@pytest.fixture(scope="module")
def floats():
    x = keras.Input((4,), name="x")
    return ks.split(keras.Model(x, keras.layers.Dense(2, name="b")(keras.layers.Dense(4, name="a")(x)), name="m"), "a")


def stored(array, compressed=False, **more):
    stream = io.BytesIO()
    if compressed:
        np.savez_compressed(stream, array, **more)
    else:
        np.save(stream, array)
    return stream.getvalue()


class TestValues:
    @pytest.mark.parametrize(
        ("array", "shown"),
        [
            (np.full((5, 3), 2**32 + 1), "4294967297"),
            (np.full((5, 3), -(2**40)), "-1099511627776"),
            (np.full((5, 3), 1.7), "1.7"),
            (np.full((5, 3), np.nan), "nan"),
            (np.full((5, 3), 1e20), "1e+20"),
            (np.full((5, 3), 2**63, "uint64"), "9223372036854775808"),
        ],
    )
    def test_of_files_fit_the_type_or_are_refused(self, ids, array, shown, tmp_path):
        np.save(tmp_path / "x.npy", array)
        np.savez(tmp_path / "x.npz", ids=array)
        np.save(tmp_path / "columns.npy", np.asfortranarray(array))
        for name in ("x.npy", "x.npz", "columns.npy"):
            for read in (lambda path: ids.predict(path), lambda path: load_input(path, ids.model)):
                with pytest.raises(ks.SplitError) as error:
                    read(tmp_path / name)
                assert f"'{tmp_path / name}' does not fit the model: 'ids' takes int32, and" in str(error.value)
                assert f"{shown}, {shown}" in str(error.value)
                assert "whole numbers from -2147483648 to 2147483647 do" in str(error.value)
        assert not list(tmp_path.glob("out*"))

    @pytest.mark.parametrize("dtype", ["int8", "uint64", "float64", "bool", "int64"])
    def test_of_files_that_fit_are_the_same_in_any_type(self, ids, dtype, tmp_path):
        array = np.array([[0, 1, 1], [1, 0, 0]])
        np.save(tmp_path / "x.npy", array.astype(dtype))
        np.testing.assert_array_equal(ids.predict(tmp_path / "x.npy"), ids.predict(array.astype("int32")))
        given = load_input(tmp_path / "x.npy", ids.model)
        assert given.dtype == np.int32
        np.testing.assert_array_equal(given, array)

    def test_the_rows_before_one_that_does_not_fit_are_kept(self, ids, tmp_path):
        array = np.ones((8, 3))
        array[5, 1] = 0.5
        np.save(tmp_path / "x.npy", array)
        with pytest.raises(ks.SplitError, match=r"and 0.5 does not fit in: .* The 4 rows before it are kept"):
            ids.predict(tmp_path / "x.npy", 2, output=tmp_path / "out.npy")

    @pytest.mark.parametrize("wrong", [2**32 + 1, -(2**31) - 1, float("nan"), float("inf"), 3e9])
    def test_in_memory_and_streams_none_wraps(self, ids, wrong):
        array = np.array([[0, 1, wrong]])
        for x in (array, [array], {"ids": array}, iter([array]), keras.ops.convert_to_tensor(array)):
            if keras.ops.is_tensor(x) and keras.ops.convert_to_numpy(x)[0, 2] != array[0, 2]:
                continue  # the backend wrapped it before
            with pytest.raises(
                ks.SplitError, match=r"'ids' takes int32, and .* does not fit in: numbers from -2147483648"
            ):
                ids.predict(x)

    def test_in_memory_and_streams_fractions_are_cut_off_as_keras_does(self, ids):
        array = np.array([[0.2, 1.7, 2.9]])
        for x in (array, iter([array])):
            np.testing.assert_array_equal(ids.predict(x), ids.predict(array.astype("int32")))
        np.testing.assert_allclose(ids.predict(array), ids.model.predict(array, verbose=0), rtol=1e-5, atol=1e-6)

    def test_bytes_do_not_wrap(self):
        split = on_ids("uint8")
        for wrong in (-1, 256):
            with pytest.raises(
                ks.SplitError, match=f"'ids' takes uint8, and {wrong} does not fit in: numbers from 0 to 255"
            ):
                split.predict(np.array([[0, 1, wrong]]))

    def test_infinity_stays_and_what_becomes_infinite_is_refused(self, floats, tmp_path):
        np.save(tmp_path / "x.npy", np.array([[1e39, 0, 0, 0]]))
        with pytest.raises(
            ks.SplitError, match=r"'x' takes float32, and 1e\+39 does not fit in: numbers up to 3.403e\+38"
        ):
            floats.predict(tmp_path / "x.npy")
        np.save(tmp_path / "x.npy", np.array([[np.inf, np.nan, 0, 0]]))
        assert load_input(tmp_path / "x.npy", floats.model)[0, 0] == np.inf


def test_rows_that_hold_no_numbers_are_refused(tmp_path):
    x = keras.Input((None,), name="x")
    model = keras.Model(
        x, keras.layers.Activation("relu", name="b")(keras.layers.Rescaling(2.0, name="a")(x)), name="m"
    )
    split = ks.split(model, "a")
    header = b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904, 0), }"
    (tmp_path / "x.npy").write_bytes(header.ljust(127) + b"\n")
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("x.npy", (tmp_path / "x.npy").read_bytes())
    for one in (
        tmp_path / "x.npy",
        tmp_path / "x.npz",
        np.zeros((3, 0)),
        np.zeros((2**58, 0)),
        iter([np.zeros((3, 0))]),
    ):
        with pytest.raises(
            ks.SplitError, match="The samples hold no numbers: got 'x' \\(.*, 0\\). Expected no dimension"
        ):
            split.predict(one, output=tmp_path / "out.npy")
    for name in ("x.npy", "x.npz"):
        with pytest.raises(ks.SplitError, match="hold no numbers: got .x. .*4611686018427387904, 0"):
            load_input(tmp_path / name, model)
    assert not list(tmp_path.glob("out*"))


def test_by_default_no_more_than_a_gibibyte_is_unpacked(tmp_path):
    x = keras.Input((None,), name="x")
    model = keras.Model(x, keras.layers.Rescaling(2.0, name="a")(x), name="m")
    header = b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (1, 498073600), }"
    packed(tmp_path / "x.npz", header.ljust(127) + b"\n")
    content = bytearray((tmp_path / "x.npz").read_bytes())
    place = content.rindex(b"PK\x01\x02") + 24
    content[place : place + 4] = (128 + 4 * 498073600).to_bytes(4, "little")
    (tmp_path / "x.npz").write_bytes(content)
    message = (
        "contains a compressed array that would take 1.9 GiB of memory at a time; the limit is 1.0 GiB. Save it as "
        ".npy, or raise the limit with the environment variable KERASSPLIT_MAX_UNPACKED, to 8GiB for example."
    )
    with pytest.raises(ks.SplitError, match=message):
        load_input(tmp_path / "x.npz", model)


def test_arrays_that_are_not_packed_are_never_bombs(floats, tmp_path, monkeypatch):
    array = np.asfortranarray(np.ones((64, 4), "float32"))
    np.savez(tmp_path / "x.npz", x=array)
    monkeypatch.setenv("KERASSPLIT_MAX_UNPACKED", "1000 B")
    np.testing.assert_array_equal(floats.predict(tmp_path / "x.npz"), floats.predict(array))
    np.testing.assert_array_equal(load_input(tmp_path / "x.npz", floats.model), array)


def test_the_limit_to_what_is_unpacked_can_be_raised(floats, tmp_path, monkeypatch):
    array = np.asfortranarray(np.ones((64, 4), "float32"))
    np.savez_compressed(tmp_path / "x.npz", x=array)
    monkeypatch.setenv("KERASSPLIT_MAX_UNPACKED", "1000 B")
    for read in (lambda path: floats.predict(path), lambda path: load_input(path, floats.model)):
        with pytest.raises(ks.SplitError, match="would take 1.0 KiB of memory at a time; the limit is 1000 B"):
            read(tmp_path / "x.npz")
    monkeypatch.setenv("KERASSPLIT_MAX_UNPACKED", "1 KiB")
    np.testing.assert_array_equal(floats.predict(tmp_path / "x.npz"), floats.predict(array))
    np.testing.assert_array_equal(load_input(tmp_path / "x.npz", floats.model), array)
    monkeypatch.setenv("KERASSPLIT_MAX_UNPACKED", "much")
    with pytest.raises(ks.SplitError, match="KERASSPLIT_MAX_UNPACKED"):
        load_input(tmp_path / "x.npz", floats.model)


def packed(path, content, method=zipfile.ZIP_DEFLATED, name="x.npy"):
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr(name, content)


def test_archives_that_are_not_what_they_say(floats, tmp_path):
    array = stored(np.ones((6, 4), "float32"))
    header = array[:128]
    cases = {
        "more.npz": (
            header.replace(b"(6, 4), }  ", b"(600, 4), }") + array[128:],
            "takes 9600 bytes, but there are 96",
        ),
        "fewer.npz": (array + bytes(5000), "takes 96 bytes, but there are 5096"),
    }
    for name, (content, _) in cases.items():
        packed(tmp_path / name, content)
    packed(tmp_path / "bz2.npz", array, zipfile.ZIP_BZIP2)
    packed(tmp_path / "lzma.npz", array, zipfile.ZIP_LZMA)
    packed(tmp_path / "locked.npz", array)
    content = bytearray((tmp_path / "locked.npz").read_bytes())
    content[6] |= 1
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "locked.npz").write_bytes(content)
    packed(tmp_path / "flipped.npz", array, zipfile.ZIP_STORED)
    content = bytearray((tmp_path / "flipped.npz").read_bytes())
    content[content.index(array[128:]) + 50] ^= 1
    (tmp_path / "flipped.npz").write_bytes(content)
    packed(tmp_path / "lying.npz", array)
    content = bytearray((tmp_path / "lying.npz").read_bytes())
    place = content.rindex(b"PK\x01\x02") + 24
    content[place : place + 4] = (128 + 6 * 4 * 400).to_bytes(4, "little")
    (tmp_path / "lying.npz").write_bytes(content)
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(tmp_path / "twice.npz", "w") as archive:
        archive.writestr("x.npy", array)
        archive.writestr("x.npy", stored(np.zeros((6, 4), "float32")))
    messages = {name: message for name, (_, message) in cases.items()} | {
        "bz2.npz": "it uses a compression method that NumPy never uses",
        "lzma.npz": "it uses a compression method that NumPy never uses",
        "locked.npz": "encrypted",
        "flipped.npz": "Bad CRC-32",
        "lying.npz": "takes 96 bytes, but there are 9600",
        "twice.npz": "contains two arrays with the same name",
    }
    for name, message in messages.items():
        for read in (lambda path: floats.predict(path), lambda path: load_input(path, floats.model)):
            with pytest.raises(ks.SplitError, match=message):
                read(tmp_path / name)


def test_what_goes_to_another_process_and_back_is_the_same(tmp_path):
    arrays = {"a/b": np.ones((2, 3)), "text": np.array(["x", "yy"], dtype=object), "none": np.zeros((0, 3), "int8")}
    arrays |= {"flag": np.array(True), "columns": np.asfortranarray(np.arange(6).reshape(2, 3))}
    names = write_arrays(tmp_path / "x.npz", arrays)
    found = read_arrays(tmp_path / "x.npz", names)
    assert found["text"].tolist() == [b"x", b"yy"]
    for name in ("a/b", "none", "flag", "columns"):
        np.testing.assert_array_equal(found[name], arrays[name])
        assert found[name].flags.writeable


def test_memory_maps_of_results_hold_what_was_written(floats, tmp_path):
    floats.save(tmp_path / "stages")
    ran = run_stages(tmp_path / "stages", np.ones((3, 4), "float32"), tmp_path / "out.npy")
    assert isinstance(ran.results, np.memmap)
    assert Path(str(ran.results.filename)).samefile(tmp_path / "out.npy")


WHOLE_NPY = [
    stored(array) for array in (np.ones((3, 4), "float32"), np.asfortranarray(np.ones((3, 4))), np.ones(4, "i2"))
]
WHOLE_NPZ = [
    stored(np.ones((3, 4), "float32"), compressed=True),
    stored(np.asfortranarray(np.ones((3, 4))), compressed=True, x=np.ones((2, 4), "int8")),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("suffix", "whole"), [(".npy", WHOLE_NPY), (".npz", WHOLE_NPZ)])
def test_damaged_array_files_are_read_or_refused_in_one_way(floats, suffix, whole):
    model = floats.model

    @fuzzed
    @given(damaged(*whole))
    def check(content):
        with tempfile.TemporaryDirectory() as place:
            path = Path(place, f"x{suffix}")
            path.write_bytes(content)
            try:
                given_ = load_input(path, model)
            except ks.SplitError:
                pass
            else:
                assert given_.dtype == np.float32
                assert given_.shape[1:] == (4,)
                assert given_.nbytes < 100_000
            try:
                array = open_arrays(path, ["x"])["x"]
                if array.shape and 0 not in array.shape:
                    parts = list(array.parts(0, 2))
                    assert sum(map(len, parts)) == array.shape[0]
                    assert sum(part.nbytes for part in parts) < 100_000
            except ks.SplitError:
                pass

    check()
