"""Request bodies from untrusted clients: read exactly or refused, within limits, by many threads at once."""

import concurrent.futures
import io
import json
import tracemalloc
import zipfile

import numpy as np
import pytest
from fuzzing import altered, damaged, fuzzed
from hypothesis import given, strategies as st

pytest.importorskip("PIL")

from PIL import Image

from kerassplit.cutting.crossing import CrossingTensor
from kerassplit.engines.serve.bodies import JSON, NPY, NPZ, WIRE, read
from kerassplit.engines.serve.limits import Limits, Refused
from kerassplit.wire import FORMS, pack

LIMITS = Limits(2**20, 2**18, 8)
X = np.arange(6, dtype="float32").reshape(1, 2, 3)


def tensor(dtype, *shape, name="x"):
    return CrossingTensor(name, (None, *shape), dtype, None)


def told(kind, body, *taken, limits=LIMITS):
    """Returns the status and the text of a refusal."""
    with pytest.raises(Refused) as caught:
        read(kind, body, taken, limits, None)
    return caught.value.status, str(caught.value)


def from_json(text, *taken, limits=LIMITS):
    return read(JSON, text if isinstance(text, bytes) else text.encode(), taken, limits, None)


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def zipped(members, compression=zipfile.ZIP_DEFLATED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return stream.getvalue()


def picture(kind, side=8):
    stream = io.BytesIO()
    Image.fromarray(np.arange(side * side * 3, dtype="uint8").reshape(side, side, 3)).save(stream, kind)
    return stream.getvalue()


NUMBERS = st.one_of(
    st.integers(),
    st.integers(-(2**64), 2**64),
    st.floats(),
    st.booleans(),
    st.sampled_from([2**31, 2**32 + 1, 2**53 + 1, 2**63, 2**64 - 1, 1.7, 1e39, 1e300, True]),
)


@fuzzed
@given(
    st.lists(NUMBERS, min_size=1, max_size=6),
    st.sampled_from(["int8", "int32", "int64", "uint64", "float16", "float32", "float64", "bool"]),
)
def test_numbers_in_json_are_those_that_were_written_or_refused(values, dtype):
    try:
        [found] = from_json(json.dumps(values), tensor(dtype)).values()
    except Refused as refusal:
        assert refusal.status == 422
        return
    assert found.dtype == dtype
    for value, one in zip(values, found.tolist(), strict=True):
        if dtype.startswith("float"):
            np.testing.assert_equal(np.float64(one), np.float64(value).astype(dtype))
            assert np.isfinite(one) or not np.isfinite(value)
        else:
            assert one == value
            assert isinstance(one, bool) == (dtype == "bool")


@pytest.mark.parametrize(
    ("text", "dtype", "status", "message"),
    [
        ("[4294967297]", "int32", 422, "4294967297 does not fit in: whole numbers from -2147483648 to 2147483647 do"),
        ("[1.7]", "int32", 422, "1.7 does not fit in"),
        ("[1, 2.5, NaN, -1e999]", "int64", 400, "-1e999 is not a JSON number, or is too large"),
        ("[1, 2.5, NaN]", "int64", 422, "2.5, nan does not fit in"),
        ("[1e400]", "float32", 400, "1e400 is not a JSON number, or is too large"),
        ("[1e39]", "float32", 422, "1e+39 does not fit in: numbers up to 3.403e+38 do"),
        (f"[{10**400}]", "int32", 400, "a number has 401 digits"),
        ("[" + "9" * 5000 + "]", "int32", 400, "a number has 5000 digits"),
        ("[9007199254740993, 9007199254740993.0, 1.5]", "int64", 422, "and 1.5 does not fit in"),
        ("[18446744073709551616]", "uint64", 422, "18446744073709551616 does not fit in"),
        ("[2]", "bool", 422, "2 does not fit in: whole numbers from 0 to 1 do"),
        ("[true, 2]", "int32", 422, "'x' holds 'booleans' and 'numbers'; expected 'x' (any) int32"),
        ('["a", 1]', "string", 422, "'x' holds 'numbers' and 'strings'; expected 'x' (any) string"),
        ("[1, null]", "float32", 422, "'x' holds 'null' and 'numbers'"),
        ("null", "float32", 422, "'x' holds 'null'"),
        ('{"x": [{"y": 1}]}', "float32", 422, "'x' holds 'objects'"),
        ("[[1], [2, 3]]", "float32", 400, "The lists of 'x' are ragged or nested too deeply"),
        ("[[1, [2]]]", "float32", 400, "The lists of 'x' are ragged or nested too deeply"),
        ("[" * 100 + "]" * 100, "float32", 400, "The lists of 'x' are ragged or nested too deeply"),
        ("[" * 100_000, "float32", 400, "cannot be read as application/json"),
        ('{"x": [1], "x": [2]}', "float32", 400, "it repeats a field"),
        ('{"x": [1], "y": [2]}', "float32", 422, "The body holds 'x' and 'y'; expected 'x' (any) float32"),
        ('["\\ud800"]', "string", 422, "unpaired surrogate"),
        ('["a\\u0000"]', "string", 422, "ends with a NUL character"),
        (json.dumps(["a" * 1000] + ["a"] * 999), "string", 413, "take more than 1048576 bytes"),
        (json.dumps([0] * 9), "int32", 422, "9 rows; up to 8 can be sent at a time"),
        (json.dumps([0] * 2**17), "int32", 413, "up to 262144 are accepted as application/json. Send larger arrays as"),
        (b"\xff", "int32", 400, "it is not UTF-8"),
    ],
)
def test_what_json_says_and_no_tensor_holds_is_refused(text, dtype, status, message):
    found, sentence = told(JSON, text if isinstance(text, bytes) else text.encode(), tensor(dtype))
    assert (found, message in sentence) == (status, True), sentence


def test_whole_numbers_are_exact_in_every_kind_of_body():
    large = np.array([2**53 + 1, -(2**63)])
    texts = [json.dumps(large.tolist()), f"[{2**53 + 1}, {-(2.0**63)}]"]
    assert all(np.array_equal(from_json(text, tensor("int64"))["x"], large) for text in texts)
    for array in (np.array([2**32 + 1]), np.array([1.7]), np.array([np.nan], "float32")):
        for kind, body in ((NPY, npy(array)), (NPZ, zipped([("x.npy", npy(array))])), (WIRE, pack({"x": array}))):
            status, sentence = told(kind, body, tensor("int32"))
            assert (status, "does not fit in: whole numbers from" in sentence) == (422, True)


def test_memory_for_json_is_bounded():
    tracemalloc.start()
    for text in (b"[" + b"[0]," * (2**16 - 1) + b"[0]]", b"[" + b"{}," * (2**16) + b"{}]"):
        with pytest.raises(Refused):
            read(JSON, text, (tensor("float32", 2),), LIMITS, None)
    assert tracemalloc.get_traced_memory()[1] < 30 * LIMITS.json
    tracemalloc.stop()


def test_arrays_by_name_are_read_as_numpy_packs_them():
    both = tensor("float32", 2, 3), tensor("int32", name="y")
    for save in (np.savez, np.savez_compressed):
        stream = io.BytesIO()
        save(stream, x=X, y=np.array([3]))
        found = read(NPZ, stream.getvalue(), both, LIMITS, None)
        assert (found["x"].tolist(), found["y"].tolist()) == (X.tolist(), [3])


def encrypted(data):
    """An archive whose members are marked as encrypted."""
    data = bytearray(data)
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    return bytes(data)


def test_archives_that_are_bombs_or_make_no_sense_are_refused_before_they_take_memory():
    large = npy(np.zeros(2**24, "uint8"))
    lying = zipped([("x.npy", large)])
    lying = lying.replace(len(large).to_bytes(4, "little"), (200).to_bytes(4, "little"))
    with pytest.warns(UserWarning, match="Duplicate name"):
        double = zipped([("x.npy", npy(X)), ("x.npy", npy(X))])
    cases = {
        "The arrays take more than 1048576 bytes": (413, zipped([("x.npy", large)])),
        "it is not a zip file, or is damaged": (400, lying),
        "uses a compression that NumPy does not write": (400, zipped([("x.npy", large)], zipfile.ZIP_BZIP2)),
        "'x' is encrypted": (400, encrypted(zipped([("x.npy", npy(X))]))),
        "two arrays have the same name": (400, double),
        "holds 'other'; expected 'x'": (422, zipped([("other.npy", large)])),
        "more than 1000 arrays": (413, zipped([(f"{number}.npy", b"") for number in range(1001)])),
    }
    tracemalloc.start()
    for message, (status, body) in cases.items():
        found, sentence = told(NPZ, body, tensor("float32", 2, 3))
        assert (found, message in sentence) == (status, True), sentence
    assert tracemalloc.get_traced_memory()[1] < 5 * 2**20
    tracemalloc.stop()


def test_packed_tensors_are_taken_in_every_form_and_bombs_are_refused_before_they_take_memory():
    taken, sent = tensor("float32", 64), {"x": np.linspace(0, 1, 128, dtype="float32").reshape(2, 64)}
    for form in FORMS:
        np.testing.assert_allclose(read(WIRE, pack(sent, form), (taken,), LIMITS, None)["x"], sent["x"], atol=0.04)
    bomb = pack({"x": np.zeros((2**14, 64), "float32")}, "float32+zlib")
    assert len(bomb) < 2**13
    tracemalloc.start()
    status, sentence = told(WIRE, bomb, taken)
    assert (status, sentence) == (413, "The arrays take more than 1048576 bytes once unpacked.")
    assert tracemalloc.get_traced_memory()[1] < 2**18
    tracemalloc.stop()


def test_no_other_format_of_images_than_those_on_the_list_is_opened():
    taken = tensor("uint8", 8, 8, 3)
    for kind in ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP"):
        assert read("image/png", picture(kind), (taken,), LIMITS, None)["x"].shape == (1, 8, 8, 3)
    drawing = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
    for body in (drawing, picture("ICNS", 32)):
        status, sentence = told("image/png", body, taken)
        assert (status, "its format is not one of 'BMP', 'GIF', 'JPEG'" in sentence) == (400, True)


def test_whatever_pillow_trips_over_is_a_damaged_image():
    entry = (273).to_bytes(2, "little")  # where the pixels are, as a fraction: TypeError
    whole = picture("TIFF")
    for kind in (3, 4):
        body = whole.replace(entry + kind.to_bytes(2, "little"), entry + (5).to_bytes(2, "little"))
        if body != whole:
            break
    assert body != whole
    status, sentence = told("image/tiff", body, tensor("float32", 8, 8, 3))
    assert (status, sentence) == (400, "The body cannot be read as an image: it is damaged or truncated.")


def test_many_threads_read_arrays_at_a_time():
    body, archive = npy(X), zipped([("x.npy", npy(X))])
    kinds = [(NPY, body), (NPZ, archive), (JSON, json.dumps(X.tolist()).encode()), (WIRE, pack({"x": X}))] * 500
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        found = pool.map(lambda one: read(*one, (tensor("float32", 2, 3),), LIMITS, None)["x"], kinds)
        assert all(np.array_equal(one, X) for one in found)


TAKEN = (tensor("float32", 2, 3), tensor("int32", name="y"))
GOOD = {"x": X, "y": np.array([1], "int32")}
BODIES = {
    NPY: [npy(X), npy(X.astype("float64")), npy(np.asfortranarray(X))],
    NPZ: [zipped([("x.npy", npy(X)), ("y.npy", npy(GOOD["y"]))], how) for how in (0, zipfile.ZIP_DEFLATED)],
    WIRE: [pack(GOOD, form) for form in FORMS],
    JSON: [json.dumps({name: array.tolist() for name, array in GOOD.items()}).encode(), b'{"inputs": {"x": [[1e3]]}}'],
    "image/png": [picture("PNG"), picture("JPEG"), picture("GIF"), picture("TIFF"), picture("WEBP")],
}
TAKEN_BY = {NPY: TAKEN[:1], "image/png": (tensor("float32", 8, 8, 3),)}


def is_read_or_refused(kind, body):
    taken = TAKEN_BY.get(kind, TAKEN)
    try:
        found = read(kind, body, taken, LIMITS, None)
    except Refused as refusal:
        assert refusal.status in (400, 413, 422)
        assert not any(word in str(refusal) for word in ("Traceback", 'File "', "0x", "/kerassplit/"))
    else:
        for one in taken:
            assert found[one.name].dtype == one.dtype
            assert found[one.name].shape[1:] == one.shape[1:]


@pytest.mark.parametrize("kind", BODIES)
def test_damaged_bodies_are_read_or_refused(kind):
    @fuzzed
    @given(damaged(*BODIES[kind]))
    def of_one_kind(body):
        is_read_or_refused(kind, body)

    of_one_kind()


@fuzzed
@given(altered(*({name: array.tolist() for name, array in GOOD.items()}, {"inputs": {"x": X.tolist(), "y": [1]}})))
def test_altered_json_is_read_or_refused(content):
    is_read_or_refused(JSON, json.dumps(content).encode())
