"""Untrusted plans and profiles: read exactly as written, or refused in one way."""

import json
import os
import re

import keras
import pytest
from fuzzing import altered, damaged, fuzzed
from hypothesis import given, strategies as st

import kerassplit as ks

POSIX = pytest.mark.skipif(os.name == "nt", reason="pipes of POSIX")


def chain():
    x = inputs = keras.Input((4,), name="x")
    for name in ("a", "b", "c"):
        x = keras.layers.Dense(4, name=name)(x)
    return keras.Model(inputs, keras.layers.Add(name="sum")([x, inputs]), name="chain")


MODEL = chain()
PLANS = [
    ks.plan(MODEL, 2),
    ks.plan(MODEL, [ks.Device("phone", "1 GFLOPS"), ks.Device("server", "9 GFLOPS")], links=ks.Link("20 Mbit/s")),
]
PROFILE = ks.profile(MODEL, 3)
TIMED = json.loads(json.dumps(PROFILE.to_dict()))
TIMED |= {"device": "here", "whole": {"median": 0.2, "low": 0.1, "high": 0.3, "repeats": 5}, "whole_seconds": 0.1}
TIMED["overhead"] = TIMED["whole"]
for one in TIMED["blocks"]:
    one |= {"time": TIMED["whole"], "seconds": 0.05}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("plans") / "plan.json"


def load_plan(file, content):
    file.write_bytes(content)
    try:
        plan = ks.Plan.load(file)
    except ks.SplitError as error:
        assert re.search(r"holds no plan. Expected a file that `Plan.save` wrote; here, |Make it", str(error))
        return
    plan.save(file)
    assert ks.Plan.load(file) == plan
    assert plan.model in repr(plan) or not plan.model.isprintable()
    assert str(plan)
    assert (plan.gap, plan.bottleneck, plan.latency, len(plan.at)) >= (0, 0, 0, 0)


def load_profile(file, content):
    file.write_bytes(content)
    try:
        profile = ks.Profile.load(file)
    except ks.SplitError as error:
        assert re.search(r"holds no profile. Expected a file that `Profile.save` wrote; here, |Make it", str(error))
        return
    profile.save(file)
    assert ks.Profile.load(file) == profile
    assert str(profile)
    last = len(profile.blocks) - 1
    if last >= 0:
        assert profile.parameter_bytes_of(0, last) <= profile.parameter_bytes
        profile.peak_live_bytes_of(0, last)


def as_json(content):
    """Encodes with Python's own writer, including surrogates and infinity; deep nesting that it refuses is replaced."""
    try:
        return json.dumps(content).encode()
    except RecursionError:
        return b"[" * 2000


@fuzzed
@given(
    st.one_of(
        altered(*[plan.to_dict() for plan in PLANS]).map(as_json), damaged(*[as_json(plan.to_dict()) for plan in PLANS])
    )
)
def test_plans_are_read_or_refused(file, content):
    load_plan(file, content)


@fuzzed
@given(
    st.one_of(
        altered(PROFILE.to_dict(), TIMED).map(as_json),
        damaged(as_json(TIMED)),
    )
)
def test_profiles_are_read_or_refused(file, content):
    load_profile(file, content)


HOSTILE = {
    "huge whole number": ('"batch_size": 1', f'"batch_size": {10**400}', "a number has 401 digits"),
    "longer than Python reads": ('"batch_size": 1', f'"batch_size": {"9" * 5000}', "a number has 5000 digits"),
    "no number": ('"batch_size": 1', '"batch_size": NaN', "NaN is no number of JSON"),
    "infinite": ('"batch_size": 1', '"batch_size": 1e999', "1e999 is no number of JSON, or too large"),
    "twice": ('"batch_size": 1', '"batch_size": 1, "batch_size": 2', "it has a field twice"),
    "deep": ('"batch_size": 1', f'"batch_size": {"[" * 9999}{"]" * 9999}', "it is nested too deeply"),
    "deeper than is read": ('"batch_size": 1', f'"batch_size": {"[" * 200}{"]" * 200}', "it is nested too deeply"),
    "text": ('"batch_size": 1', '"batch_size": "1"', "batch_size is '1'"),
    "truth": ('"batch_size": 1', '"batch_size": true', "batch_size is True"),
    "below 0": ('"batch_size": 1', '"batch_size": -1', "batch_size is -1"),
    "missing": ('"batch_size": 1', '"batch_sizes": 1', "there is no 'batch_size'"),
    "half a character": ('"model": "chain"', r'"model": "\udc80"', "surrogates not allowed"),
    "name of another kind": ('"model": "chain"', '"model": ["chain"]', r"model is \['chain'\]"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_is_wrong_with_a_plan_or_profile_is_said(tmp_path, case):
    good, bad, message = HOSTILE[case]
    file = tmp_path / "plan.json"
    for written in (json.dumps(one.to_dict()) for one in (PLANS[0], ks.profile(MODEL))):
        text = written.replace(good, bad, 1)
        assert text != written
        file.write_text(text)
        with pytest.raises(ks.SplitError, match=f"Expected .* here, .*{message}"):
            (ks.Plan if "stages" in text else ks.Profile).load(file)


@POSIX
def test_a_plan_that_is_no_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ks.SplitError, match="is a pipe, socket or device: expected a regular file"):
        ks.Plan.load(tmp_path / "pipe")
    with pytest.raises(ks.SplitError, match="cannot be read: Is a directory"):
        ks.Plan.load(tmp_path)
    with pytest.raises(ks.SplitError, match="There can be no file or folder .*: File name too long"):
        ks.Plan.load(tmp_path / ("x" * 300))
    PLANS[0].save(tmp_path / "plan.json")
    (tmp_path / "link").symlink_to("plan.json")
    assert ks.Plan.load(tmp_path / "link") == PLANS[0]


def test_a_plan_file_after_a_power_cut_is_whole_or_refused(tmp_path):
    file = tmp_path / "plan.json"
    PLANS[0].save(file)
    whole = file.read_bytes()
    for at in range(0, len(whole), 97):
        for content in (whole[:at], whole[:at] + bytes(len(whole) - at), whole[:at] + whole[at + 97 :]):
            load_plan(file, content)
