"""`kerassplit demo`, complete, in a new process; it must also work without a network."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from checkout import ROOT
from command_line import run
from folders import chain_split

import kerassplit as ks
from kerassplit.cli.demo import run_demo
from kerassplit.errors import StoreError


def test_the_whole_way_over_an_earlier_split_without_a_network(tmp_path):
    folder = tmp_path / "kerassplit-demo"
    chain_split().save(folder)
    # The proxy is nowhere, so no download can work; and nothing downloaded before is found.
    offline = {"https_proxy": "http://127.0.0.1:9", "KERAS_HOME": str(tmp_path / "keras"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "kerassplit", "demo"]
    environment = {**os.environ, **offline}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    for text in (
        "So weights are random (seed 0, with random batch-norm statistics).",
        "conv3_block4_out  ← cut",
        "resnet50 in 3 stages",
        "The stages compute what 'resnet50' computes, bit for bit.",
        "Saved the stages in kerassplit-demo.",
        "on the photograph the largest difference is 0, and all 320 weights are equal.",
        "Drew kerassplit-demo/split.svg.",
    ):
        assert text in done.stdout
    assert (folder / "split.svg").read_text(encoding="utf-8").lstrip().startswith("<?xml")
    assert len(list(folder.glob("*.keras"))) == 3
    assert [stage.name for stage in ks.load(folder)] == ["features", "middle", "classifier"]


@pytest.mark.parametrize("folder", ["mine", "other/kerassplit-demo"])
def test_another_split_is_left_alone_unless_it_may_be_replaced(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    chain_split().save(folder)
    before = {path: path.read_bytes() for path in Path(folder).iterdir()}
    assert f"'{folder}' already holds a split." in run("demo", "-o", folder, status=2).stderr
    with pytest.raises(StoreError, match="already holds a split"):
        run_demo(Path(folder), lambda _: None)
    assert {path: path.read_bytes() for path in Path(folder).iterdir()} == before


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(StoreError, match="holds no split"):
        run_demo(tmp_path, lambda _: None)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
