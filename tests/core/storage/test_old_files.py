"""Files from earlier versions of kerassplit (`tests/support/written_by`) are read as those versions read them."""

import json
import shutil
import sys
from hashlib import sha256
from pathlib import Path

import keras
import numpy as np
import pytest
from applications import OLD_KERAS
from checkout import SUPPORT

import kerassplit as ks
from kerassplit import wire
from kerassplit.engines.running import run_stages
from kerassplit.storage.exports.manifest import read_export

KERAS_THAT_WROTE = pytest.mark.skipif(OLD_KERAS, reason="Keras 3.15 wrote the stages, and older ones refuse them")
WRITTEN = SUPPORT / "written_by"
sys.path.insert(0, str(WRITTEN))

import write  # noqa: E402  (what wrote them)


@pytest.fixture(params=sorted(path.name for path in WRITTEN.iterdir() if (path / "expected.json").exists()))
def old(request, tmp_path) -> Path:
    """A copy of the folder of a version."""
    return Path(shutil.copytree(WRITTEN / request.param, tmp_path / "old"))


def expected(old: Path, what: str):
    return json.loads((old / "expected.json").read_text())[what]


def holds(new, earlier):
    """Whether these plain values hold all the earlier ones: later versions add fields, and change none."""
    if isinstance(earlier, dict):
        return all(name in new and holds(new[name], value) for name, value in earlier.items())
    if isinstance(earlier, list):
        return len(new) == len(earlier) and all(map(holds, new, earlier))
    return new == earlier


@KERAS_THAT_WROTE
def test_a_split(old):
    split = ks.load(old / "split")
    assert [stage.name for stage in split] == ["head", "tail"]
    outputs = keras.ops.convert_to_numpy(split(write.images()))
    np.testing.assert_allclose(outputs, expected(old, "outputs"), atol=1e-6)
    assert {name: list(stages) for name, stages in split.shared_variables.items()} == expected(old, "shared")
    assert split.verify().ok


def test_a_profile_and_a_plan(old):
    for name in ("profile", "measured"):
        profile = ks.Profile.load(old / f"{name}.json")
        assert holds(json.loads(json.dumps(profile.to_dict())), json.loads((old / f"{name}.json").read_text()))
    plan = ks.Plan.load(old / "plan.json")
    assert holds(json.loads(json.dumps(plan.to_dict())), json.loads((old / "plan.json").read_text()))
    assert [stage.name for stage in ks.split(write.model(), plan)] == ["stage_0", "stage_1"]


def test_tensors_as_bytes(old):
    for form, digests in expected(old, "tensors").items():
        tensors = wire.unpack((old / f"{form}.wire").read_bytes())
        assert {name: (one.dtype, one.shape) for name, one in tensors.items()} == {
            name: (one.dtype, one.shape) for name, one in write.tensors().items()
        }
        assert {name: sha256(one.tobytes()).hexdigest() for name, one in tensors.items()} == digests


def test_a_cache_of_features(old, capsys):
    if keras.__version__ != expected(old, "keras"):
        pytest.skip("another Keras describes layers in another way: to it, the cache is one of another head")
    data = (write.images(), write.labels())
    head = ks.load(old / "split")[0]
    before = {path.name: path.read_bytes() for path in (old / "features").iterdir()}
    features = ks.cache_features(head, data, old / "features", batch_size=2, storage="float16", shuffle=False)
    assert {path.name: path.read_bytes() for path in (old / "features").iterdir()} == before
    assert "Caching" not in capsys.readouterr().err
    for (values, labels), wanted, start in zip(features, expected(old, "features"), (0, 2, 4), strict=True):
        assert keras.ops.convert_to_numpy(values).tolist() == wanted
        assert keras.ops.convert_to_numpy(labels).tolist() == write.labels()[start : start + 2].tolist()


def test_a_finished_run(old):
    ran = run_stages(old / "split", write.images(), old / "result.npy", batch_size=2, resume=True)
    assert (ran.rows, ran.computed) == (5, 0)
    np.testing.assert_allclose(ran.results, expected(old, "outputs"), atol=1e-6)


@KERAS_THAT_WROTE
def test_an_unfinished_run(old):
    ran = run_stages(old / "split", write.batches(5), old / "part.npy", batch_size=2, resume=True)
    assert (ran.rows, ran.computed) == (5, 1)
    np.testing.assert_allclose(ran.results, expected(old, "outputs"), atol=1e-6)


def test_exported_stages(old):
    assert [stage["path"] for stage in read_export(old / "onnx")["stages"]] == ["head.onnx", "tail.onnx"]
    pytest.importorskip("onnxruntime")
    from kerassplit.storage.exports.running import run_exported

    np.testing.assert_allclose(run_exported(old / "onnx", write.images()), expected(old, "outputs"), atol=1e-5)
