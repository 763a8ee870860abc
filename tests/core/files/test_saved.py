"""Records on disk: `save` and `load` of plans, profiles, sweeps and receipts."""

import json
import math
from dataclasses import replace

import keras
import numpy as np
import pytest

import kerassplit as ks
from kerassplit.storage.exports.receipt import ExportComparison, ExportedStage, ExportReceipt


@pytest.fixture(scope="module")
def records() -> dict:
    x = inputs = keras.Input((4,), name="x")
    for name in "abcd":
        x = keras.layers.Dense(4, name=name)(x)
    model = keras.Model(inputs, x, name="chain")
    devices = [ks.Device("phone", "1 MFLOPS"), ks.Device("server", "9 GFLOPS")]
    exported = ExportedStage("stage_0", "stage_0.onnx", 12, 12, 0.5, None)
    compared = ExportComparison("d", "stage_0", True, (2, 4), "float32", 1e-7, 2.0, 2e-4, 8)
    return {
        "plan": ks.plan(model, 2),
        "profile": ks.profile(model),
        "sweep": ks.plan_sweep(model, devices),
        "receipt": ks.split(model, "b").verify(np.ones((2, 4), "float32")),
        "export receipt": ExportReceipt(
            "chain", "onnx", "out", (exported,), (compared,), "given input", "onnxruntime 1.20", 1e-4
        ),
    }


KINDS = ("plan", "profile", "sweep", "receipt", "export receipt")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_is_loaded(records, kind, tmp_path):
    record = records[kind]
    record.save(tmp_path / "record.json")
    loaded = type(record).load(tmp_path / "record.json")
    assert loaded == record
    assert (repr(loaded), str(loaded)) == (repr(record), str(record))
    assert json.loads((tmp_path / "record.json").read_text())["format_version"] == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_something_else_is_refused(records, kind, tmp_path):
    record, other = records[kind], records["profile" if kind != "profile" else "plan"]
    file = tmp_path / "record.json"
    other.save(file)
    name = type(record).__name__
    with pytest.raises(ks.SplitError, match=f"holds no {kind}. Expected a file that `{name}.save` wrote; here, there"):
        type(record).load(file)
    file.write_text(json.dumps({"format_version": 2}))
    with pytest.raises(ks.SplitError, match=rf"holds an? {kind} of format 2, but this kerassplit reads 1\."):
        type(record).load(file)
    with pytest.raises(ks.SplitError, match="nothing.json' cannot be read: No such file"):
        type(record).load(tmp_path / "nothing.json")


def test_an_infinite_difference_survives(records, tmp_path):
    receipt = records["receipt"]
    broken = replace(receipt, comparisons=tuple(replace(one, max_difference=math.inf) for one in receipt.comparisons))
    broken.save(tmp_path / "receipt.json")
    loaded = ks.Receipt.load(tmp_path / "receipt.json")
    assert loaded == broken
    assert not loaded.ok
    assert "Infinity" not in (tmp_path / "receipt.json").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ranges": []}, "there are no ranges, or one has no bandwidths"),
        ({"ranges.low": 0}, "there are no ranges, or one has no bandwidths"),
        ({"ranges.seconds": 1e308, "ranges.moved": 1e308, "ranges.low": 1e-9}, "numbers are too large"),
        ({"ranges.at": [3]}, r"ranges\[0\].at\[0\] is 3"),
        ({"ranges.at": [["a", 3]]}, r"ranges\[0\].at\[0\]\[1\] is 3"),
        ({"ranges.high": "inf"}, r"ranges\[0\].high is 'inf'"),
        ({"front.stages": []}, "there are no stages, no samples, or no devices of a stage"),
    ],
)
def test_a_sweep_that_makes_no_sense_is_refused(records, change, message, tmp_path):
    data = json.loads(json.dumps({"format_version": 1, **records["sweep"].to_dict()}))
    for place, value in change.items():
        outer, _, inner = place.partition(".")
        if inner:
            data[outer][0][inner] = value
        else:
            data[outer] = value
    (tmp_path / "sweep.json").write_text(json.dumps(data))
    with pytest.raises(ks.SplitError, match=f"holds no sweep. Expected .* wrote; here, {message}"):
        ks.Sweep.load(tmp_path / "sweep.json")


def test_an_export_receipt_of_an_unknown_format_is_refused(records, tmp_path):
    replace(records["export receipt"], format="h5").save(tmp_path / "receipt.json")
    with pytest.raises(ks.SplitError, match="There is no format 'h5'"):
        ExportReceipt.load(tmp_path / "receipt.json")
