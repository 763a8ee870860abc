"""Stages served over HTTP on Ray Serve: real requests, good and bad ones; it keeps serving."""

import concurrent.futures
import hashlib
import http.client
import io
import json
import os
import re
import shutil
import socket
import time
import traceback
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import keras
import numpy as np
import psutil
import pytest
from comparing import copied

import kerassplit as ks
from kerassplit.engines.inputs import load_input
from kerassplit.wire import pack, unpack
from kerassplit.zoo.photos import shipped_photo

if "CI" in os.environ:
    import ray
else:
    ray = pytest.importorskip("ray")
serve = pytest.importorskip("ray.serve") if "CI" not in os.environ else __import__("ray.serve").serve

from kerassplit.engines.serve.application import app  # noqa: E402 (needs Ray)
from kerassplit.engines.serve.options import options_in  # noqa: E402

NPY, NPZ, WIRE = "application/x-npy", "application/x-npz", "application/x-kerassplit"
MOST_BYTES = 2**20
TOKEN = "this-is-known-to-clients.only"
PLACES, BODY_SECONDS = 8, 2.0


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as one:
        return one.getsockname()[1]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Path]:
    """A cluster that counts eight CPUs; returns where it keeps its logs."""
    context = ray.init(address="local", num_cpus=8, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield Path(context.address_info["session_dir"]) / "logs"
    ray.shutdown()


@pytest.fixture(scope="module")
def port(cluster) -> Iterator[int]:
    """Serve on the cluster; returns its port."""
    number = free_port()
    serve.start(http_options={"port": number}, logging_config={"log_level": "ERROR"})
    yield number
    serve.shutdown()


@pytest.fixture(scope="module")
def mobilenet(applications):
    return applications("MobileNetV2")


@pytest.fixture(scope="module")
def photos(port, mobilenet, tmp_path_factory):
    """MobileNetV2 on 64 pixels, in two stages, at /photos; its tail at /tail."""
    folder = tmp_path_factory.mktemp("serve") / "photos"
    ks.split(mobilenet, ["block_6_expand_relu"], names=["head", "tail"]).save(folder)
    shared = {"folder": str(folder), "max_body": MOST_BYTES, "num_cpus": 0.5}
    serve.run(app({**shared, "architecture": "MobileNetV2"}), name="photos", route_prefix="/photos")
    serve.run(app({**shared, "stages": "tail"}), name="tail", route_prefix="/tail")
    return folder


@pytest.fixture(scope="module")
def words(port, tmp_path_factory):
    """Two unknown dimensions and an Embedding that refuses ids above 4, in two stages, at /words, with a token."""
    ids = keras.Input((None,), dtype="int32", name="ids")
    known = keras.layers.Embedding(5, 4, name="known")(keras.layers.Identity(name="same")(ids))
    model = keras.Model(ids, keras.layers.GlobalAveragePooling1D(name="mean")(known), name="words")
    folder = tmp_path_factory.mktemp("serve") / "words"
    ks.split(model, ["same"]).save(folder)
    options = {"folder": str(folder), "num_cpus": "0.5", "batch_wait_timeout_s": "0.05", "max_batch_size": "8"}
    limits = {"max_connections": str(PLACES), "body_timeout": str(BODY_SECONDS), "max_rows": "3", "token": TOKEN}
    limits["run_timeout"] = "290"  # processes that start again import Keras, which takes long where others work, too
    serve.run(app({**options, **limits}), name="words", route_prefix="/words")
    return model, folder


@pytest.fixture
def ask(port):
    """Sends a request: `ask(path, body, content type)` returns the status and the answer."""

    def send(path, body=None, kind=None, accept=None, method=None, token=TOKEN):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        headers = {"Content-Type": kind, "Accept": accept, "Authorization": f"Bearer {token}"}
        headers = {name: value for name, value in headers.items() if value}
        with closing(connection):
            connection.request(method or ("POST" if body is not None else "GET"), path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
        return answer.status, json.loads(content) if answer.getheader("content-type") == "application/json" else content

    return send


def npy(array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def npz(save=np.savez, **arrays) -> bytes:
    buffer = io.BytesIO()
    save(buffer, **arrays)
    return buffer.getvalue()


def png(width, height) -> bytes:
    """A black image with few bytes, however large it is."""

    def chunk(kind, data):
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    size = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 0, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_a_photo_gets_the_answer_of_the_model(ask, photos, mobilenet, tmp_path):
    photo = shipped_photo().read_bytes()
    (tmp_path / "cat.jpg").write_bytes(photo)
    expected = copied(mobilenet(load_input(tmp_path / "cat.jpg", mobilenet, "MobileNetV2")))
    status, answer = ask("/photos/", photo, "image/jpeg")
    assert status == 200
    np.testing.assert_allclose(answer["outputs"]["predictions"], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("accept", [NPY, NPZ, WIRE, f"text/html, {NPY};q=0.9"])
def test_arrays_are_taken_and_given_in_all_forms(ask, photos, mobilenet, images, accept):
    x, name = images(mobilenet), "input_layer"
    expected = copied(mobilenet(x))
    bodies = {NPY: npy(x), NPZ: npz(np.savez_compressed, **{name: x}), WIRE: pack({name: x})}
    for kind, body in bodies.items():
        status, answer = ask("/photos/", body, kind, accept)
        assert status == 200, answer
        readers = {NPZ: lambda data: np.load(io.BytesIO(data))["predictions"], WIRE: lambda d: unpack(d)["predictions"]}
        result = readers.get(accept, lambda data: np.load(io.BytesIO(data)))(answer)
        np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-6)


def test_a_tail_takes_what_crosses(ask, photos, mobilenet, images):
    x = images(mobilenet)
    head = ks.load(photos, stages=["head"])[0].model
    crossing = {"block_6_expand_relu": copied(head(x))}
    for form, tolerance in (("float32", 1e-6), ("float16", 1e-4), ("int8", 2e-3)):
        status, answer = ask("/tail/", pack(crossing, form), WIRE)
        assert status == 200
        np.testing.assert_allclose(answer["outputs"]["predictions"], copied(mobilenet(x)), atol=tolerance)


def test_it_says_what_it_takes(ask, photos):
    status, answer = ask("/tail/")
    assert (status, answer["stages"]) == (200, ["tail"])
    assert answer["takes"] == {"block_6_expand_relu": {"shape": [None, 8, 8, 192], "dtype": "float32"}}
    assert (answer["gives"], answer["max_body_bytes"]) == (["predictions"], MOST_BYTES)
    assert ask("/photos/health") == (200, {"status": "ok"})


def scratched(archive):
    """An archive whose compressed bytes were changed."""
    return archive[:100] + bytes(20) + archive[120:]


X = np.zeros((1, 64, 64, 3), "float32")
BAD = {
    "scratched zip": (
        scratched(npz(np.savez_compressed, input_layer=X)),
        NPZ,
        400,
        "cannot be read as application/x-npz: .* or is damaged",
    ),
    "half a character": (b'{"\\ud800": [[1]]}', "application/json", 422, r"holds '\\ud800'; expected"),
    "no content type": (npy(X), None, 415, "content type is missing; expected 'application/json'"),
    "text": (b"hello", "text/plain", 415, "content type is text/plain"),
    "no image": (b"hello", "image/jpeg", 400, "its format is not one of 'BMP', 'GIF', 'JPEG'"),
    "half a photo": (shipped_photo().read_bytes()[:5000], "image/jpeg", 400, "it is damaged or truncated"),
    "huge image": (png(60_000, 60_000), "image/png", 413, "pixels"),
    "large image": (png(9_000, 9_000), "image/png", 413, "9000×9000 pixels; 50,000,000 in all can be taken"),
    "no array": (b"hello", NPY, 400, "cannot be read as application/x-npy"),
    "cut off": (npy(X)[:-1], NPY, 400, r"takes 49152 bytes, and 49151 are there"),
    "pickle": (npy(np.array([{}])), NPY, 400, "Python objects, which are never unpickled"),
    "no zip": (b"hello", NPZ, 400, "it is not a zip file"),
    "zip bomb": (npz(np.savez_compressed, input_layer=np.zeros(2**24)), NPZ, 413, "more than 1048576 bytes"),
    "no JSON": (b"[[1, 2", "application/json", 400, "cannot be read as application/json"),
    "deep JSON": (b"[" * 100_000, "application/json", 400, "cannot be read as application/json"),
    "ragged JSON": (b"[[1], [2, 3]]", "application/json", 400, "are ragged"),
    "words": (b'["a"]', "application/json", 422, r"holds 'strings'; expected '.*' \(any, 64, 64, 3\) float32"),
    "damaged tensors": (pack({"x": X})[:-5], WIRE, 400, "cut off, or damaged"),
    "wrong shape": (npy(X[:, :32]), NPY, 422, r"shape \(1, 32, 64, 3\); expected '.*' \(any, 64, 64, 3\) float32"),
    "wrong dtype": (npy(X.astype("complex64")), NPY, 422, "takes float32, and these values are of type complex64"),
    "no rows": (npy(X[:0]), NPY, 422, r"shape \(0, 64, 64, 3\)"),
    "wrong name": (npz(y=X, z=X), NPZ, 422, r"holds 'y' and 'z'; expected '.*' \(any, 64, 64, 3\) float32"),
    "too many rows": (npy(np.zeros((33, 64, 64, 3), "uint8")), NPY, 422, "33 rows; up to 32 can be sent at a time"),
    "too long": (bytes(3 * MOST_BYTES // 2), NPY, 413, "up to 1048576 are taken"),
    "much too long": (bytes(9 * MOST_BYTES), NPY, 413, "up to 1048576 are taken"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_request_is_told_why_and_the_next_is_served(ask, photos, case):
    body, kind, expected, message = BAD[case]
    try:
        status, answer = ask("/photos/", body, kind)
    except ConnectionError:
        assert case == "much too long"  # the server need not listen to the end
    else:
        assert status == expected, answer
        assert set(answer) == {"error"}
        assert re.search(message, answer["error"]), answer["error"]
    assert ask("/photos/", npy(X), NPY)[0] == 200


def test_a_body_without_a_length_is_cut_off_when_it_is_too_long(ask, photos):
    parts = (bytes(2**16) for _ in range(24))  # 1.5 MiB, chunked
    assert ask("/photos/", parts, NPY)[0] == 413
    assert ask("/photos/", iter([npy(X)]), NPY)[0] == 200


def test_other_paths_methods_and_answers_are_refused(ask, photos):
    assert ask("/photos/elsewhere")[0] == 404
    assert ask("/photos/", method="DELETE")[0] == 405
    status, answer = ask("/photos/", npy(X), NPY, accept="text/html")
    assert (status, "results can be 'application/json'" in answer["error"]) == (406, True)


ABOVE = {
    "tensorflow": ": indices[0,0] = 9 is not in [0, 5)",
    "torch": ": index out of range in self",
}.get(keras.backend.backend(), "; see the server log")


def test_requests_that_come_together_run_together_and_nobody_suffers_for_another(ask, words):
    model, _ = words
    rows = [[1, 2], [0, 3], [2, 2, 1], [4], [9, 1], [4, 4], [3], [0, 1, 2, 3]]
    with concurrent.futures.ThreadPoolExecutor(len(rows)) as pool:
        answers = list(pool.map(lambda row: ask("/words/", json.dumps([row]), "application/json"), rows))
    for row, (status, answer) in zip(rows, answers, strict=True):
        if 9 in row:
            assert status == 422
            assert answer["error"] == f"Stage 'stage_1' fails on these values{ABOVE}."
        else:
            assert status == 200, answer
            np.testing.assert_allclose(answer["outputs"]["mean"], copied(model(np.array([row]))), rtol=1e-5)


def replicas(name) -> list[psutil.Process]:
    """Returns the processes of a stage."""
    found = [one for one in psutil.Process().children(recursive=True) if f"ServeReplica:{name}" in one.name()]
    assert found
    return found


def test_a_token_is_asked_for_and_appears_nowhere(ask, words, cluster, port):
    body = b"[[1, 2]]", "application/json"
    for token, challenge in (
        (None, 'Bearer realm="kerassplit"'),
        (TOKEN[:-1], 'Bearer realm="kerassplit", error="invalid_token"'),
        (f"{TOKEN}x", 'Bearer realm="kerassplit", error="invalid_token"'),
    ):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        with closing(connection):
            headers = {} if token is None else {"Authorization": f"Bearer {token}"}
            connection.request("POST", "/words/", body[0], {"Content-Type": body[1], **headers})
            answer = connection.getresponse()
            assert (answer.status, answer.getheader("www-authenticate")) == (401, challenge)
            assert json.loads(answer.read()) == {"error": "Missing or wrong token. Send `Authorization: Bearer TOKEN`."}
    assert ask("/words/", token=None)[0] == ask("/words/elsewhere", token=None)[0] == 401
    assert ask("/words/health", token=None) == (200, {"status": "ok"})
    assert ask("/words/", *body)[0] == 200
    status, answer = ask("/words/")
    assert (status, answer["max_rows"], TOKEN in str(answer)) == (200, 3, False)
    logs = [file for file in cluster.rglob("*") if file.is_file()]
    assert logs
    assert not [file for file in logs if TOKEN.encode() in file.read_bytes()]
    assert not [one for one in psutil.Process().children(recursive=True) if TOKEN in " ".join(one.cmdline())]


HEAD = f"POST /words/ HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\n"
HALF = f"{HEAD}Content-Length: 100\r\n\r\n[[1,".encode()


@pytest.fixture
def half_open(port) -> Iterator[Callable[[], socket.socket]]:
    """Begins a request whose body does not arrive."""
    with ExitStack() as opened:

        def begin() -> socket.socket:
            one = opened.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
            one.sendall(HALF)
            return one

        yield begin


def answer_on(one: socket.socket) -> tuple[int, str | None, str]:
    """Returns status, Retry-After header and error of the response on a connection."""
    answer = http.client.HTTPResponse(one)
    answer.begin()
    error = json.loads(answer.read())["error"]
    assert answer.status != 408 or one.recv(1) == b"", "a slow connection stays open"
    return answer.status, answer.getheader("retry-after"), error


def test_bodies_that_do_not_arrive_give_way_and_end(ask, words, half_open):
    slow = [half_open() for _ in range(PLACES)]
    time.sleep(1.2)  # long enough to count as slow, and less than they have
    began = time.monotonic()
    assert ask("/words/", b"[[1, 2]]", "application/json")[0] == 200
    assert time.monotonic() - began < BODY_SECONDS + 5
    for status, _, error in map(answer_on, slow):
        assert (status, error) == (
            408,
            "The body did not arrive in time: the limit is 2 seconds, less when the server is full.",
        )
    quick = [half_open() for _ in range(3 * PLACES)]  # none has waited long when the next comes
    answers = [answer_on(one) for one in quick]
    assert {status for status, _, _ in answers} == {408, 503}
    told = {(status, again, error) for status, again, error in answers if status == 503}
    assert told == {(503, "1", "The server is at its limit of 8 concurrent requests. Try again.")}
    assert ask("/words/", b"[[1, 2]]", "application/json")[0] == 200


def test_many_send_arrays_at_a_time_and_none_gets_a_500(ask, photos, mobilenet, images):
    x = images(mobilenet)
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: ask("/photos/", npy(x), NPY, NPY), range(96)))
    assert {status for status, _ in answers} == {200}
    expected = copied(mobilenet(x))
    for _, answer in answers:
        np.testing.assert_allclose(np.load(io.BytesIO(answer)), expected, rtol=1e-4, atol=1e-6)


def test_it_keeps_serving_when_the_process_of_a_stage_is_killed(ask, words):
    for process in [*replicas("words:stage_0"), *replicas("words:stage_1")]:
        process.kill()
    assert ask("/words/", b"[[1, 2]]", "application/json")[0] == 200


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "folder: Field required.* The options are 'folder', 'stages'"),
        ({"max_batchsize": 3}, "max_batchsize: Extra inputs are not permitted"),
        ({"max_batch_size": "none"}, "max_batch_size: Input should be a valid integer"),
        ({"max_body": "much"}, "max_body"),
        ({"stages": "heads"}, "`stages` must name stages one after another out of 'head' and 'tail'; got 'heads'"),
        ({"stages": "tail,head"}, "`stages` must name stages one after another"),
        ({"replicas": {"tails": 2}}, "`replicas` must be at least 1, for stages out of 'head' and 'tail'"),
        ({"replicas": 0}, "`replicas` must be at least 1"),
        ({"architecture": "resnet50"}, "no architecture 'resnet50'; expected ResNet50"),
        ({"num_cpus": 6}, "need 12 CPUs, cluster has 8"),
        ({"token": "too-short"}, "`token` .* is invalid: use at least 16 characters out of"),
        ({"token": "with spaces in it, and long"}, "`token` .* is invalid"),
        ({"token": 1234567890123456}, "token: Input should be a valid string"),
        ({"body_timeout": 0}, "body_timeout: Input should be greater than 0"),
        ({"max_json": "some"}, "max_json"),
    ],
)
def test_options_that_make_no_sense_are_refused(photos, options, message):
    folder = {"folder": str(photos)} if options else {}
    with pytest.raises(ks.SplitError, match=message) as caught:
        app({**folder, **options})
    if "token" in options:
        assert str(options["token"]) not in "".join(traceback.format_exception(caught.value))


def test_the_token_may_come_from_the_environment_and_must_be_one(photos, monkeypatch):
    monkeypatch.setenv("KERASSPLIT_SERVE_TOKEN", "")
    with pytest.raises(ks.SplitError, match=r"`token` \(or KERASSPLIT_SERVE_TOKEN\) is invalid"):
        app({"folder": str(photos)})
    monkeypatch.setenv("KERASSPLIT_SERVE_TOKEN", TOKEN)
    options, digest = options_in({"folder": str(photos)})
    assert digest == hashlib.sha256(TOKEN.encode()).digest()
    assert TOKEN not in repr(options)
    assert options_in({"folder": str(photos), "token": TOKEN[::-1]})[1] != digest


def wait_until_well(ask):
    until = time.monotonic() + 240
    while (answer := ask("/words/health"))[1]["status"] != "ok" and time.monotonic() < until:
        time.sleep(0.5)
    return answer


def test_a_folder_that_was_replaced_is_not_loaded_by_a_process_that_starts_again(ask, words, tmp_path):
    model, folder = words
    row, expected = [[1, 2, 3]], copied(model(np.array([[1, 2, 3]])))
    wait_until_well(ask)  # where processes were killed before
    shutil.copytree(folder, tmp_path / "as it was")
    other = keras.models.clone_model(model)
    ks.split(other, ["same"]).save(folder, overwrite=True)
    status, answer = ask("/words/", json.dumps(row), "application/json")
    np.testing.assert_allclose(answer["outputs"]["mean"], expected, rtol=1e-5)
    assert ask("/words/health") == (200, {"status": "ok"})
    for process in replicas("words:stage_1"):
        process.kill()
    status, answer = ask("/words/", json.dumps(row), "application/json")
    assert (status, answer) == (503, {"error": "A stage is down and cannot restart; see /health."})
    reason = (
        "Stage 'stage_1' has 0 of 1 processes. Restarts fail: the folder of the stages now holds a different split. "
        "Redeploy the application."
    )
    assert ask("/words/health") == (503, {"status": "down", "reason": reason})
    assert ask("/words/health", token=None) == (503, {"status": "down"})
    shutil.rmtree(folder)
    shutil.copytree(tmp_path / "as it was", folder)
    assert wait_until_well(ask)[0] == 200
    status, answer = ask("/words/", json.dumps(row), "application/json")
    assert status == 200, answer
    np.testing.assert_allclose(answer["outputs"]["mean"], expected, rtol=1e-5)


def test_a_zip_that_lies_about_its_size_is_refused(ask, photos):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("input_layer.npy", npy(np.zeros(2**22)))
    data = buffer.getvalue().replace((2**25 + 128).to_bytes(4, "little"), (1000).to_bytes(4, "little"))
    assert data != buffer.getvalue()
    status, _ = ask("/photos/", data, NPZ)
    assert status in (400, 413)


def test_a_prediction_of_the_models_own_is_told_of(tmp_path):
    x = keras.Input((4,), name="x")
    model = keras.Model(x, keras.layers.Dense(2, name="out")(keras.layers.Dense(4, name="a")(x)), name="own")
    model.predict_step = lambda data: 0
    ks.split(model, "a").save(tmp_path / "out")
    with pytest.warns(UserWarning, match="'own' has its own `predict_step`, which its stages do not run"):
        app({"folder": str(tmp_path / "out")})
