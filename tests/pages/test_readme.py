"""What the README shows works as it stands there."""

import re
import subprocess
import sys

import numpy as np
from checkout import ROOT
from pages import blocks, commands

import kerassplit
from kerassplit.zoo.photos import shipped_photo

README = ROOT / "README.md"


def test_the_python_examples(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "readme"}
    for block in blocks(README, "python"):
        exec(compile(block.code, "README.md", "exec"), names)
    assert names["split"].verify(names["images"]).identical
    assert names["classifier"].input.name == "conv4_block6_out"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "cache",
        "exported",
        "features",
        "out",
        "plan.json",
        "scores.npy",
        "scores.npy.json",
        "split.svg",
        "sweep.svg",
    ]
    assert len(names["residual_blocks"]) == 17
    assert len(names["two"]) == 104
    assert names["plan"].optimal
    assert len(names["stages"]) == 4
    assert 1 < len(names["sweep"].ranges) < 10
    assert next(iter(names["features"])) == "conv2_block3_out"
    assert [point.name for point in kerassplit.split_points(names["graph"])] == ["first/dense", "first/add"]


def test_the_command_line_example(tmp_path):
    ours = [words for block in blocks(README, "sh") for words in commands(block) if words[0] == "kerassplit"]
    assert len(ours) == 5
    (tmp_path / "photos").mkdir()
    for name in ("cat.jpg", "same_cat.jpg"):
        (tmp_path / "photos" / name).write_bytes(shipped_photo().read_bytes())
    for words in ours:
        command = [sys.executable, "-m", *words]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=300)
    assert (tmp_path / "out" / "kerassplit.json").is_file()
    here, on_ray = (np.load(tmp_path / name) for name in ("scores.npy", "on_ray.npy"))
    assert here.shape == (2, 1000)
    np.testing.assert_allclose(on_ray, here, rtol=1e-4, atol=1e-7)
    assert (tmp_path / "exported" / "kerassplit-export.json").is_file()


def test_the_two_commands_come_first():
    install, test = (block.code.strip() for block in blocks(README, "sh")[:2])
    assert install == 'pip install ".[tensorflow]" && kerassplit demo'
    assert test == 'pip install -e ".[test]" && pytest -n 2 --dist worksteal'


def test_every_file_it_links_to_is_there():
    for target in re.findall(r"\]\((?!https:)([^)#]+)\)", README.read_text(encoding="utf-8")):
        assert (ROOT / target).exists(), target


def test_every_public_name_is_where_the_package_looks_for_it():
    assert sorted(kerassplit.__all__) == sorted(kerassplit._HOME)
    for name in kerassplit.__all__:
        assert getattr(kerassplit, name).__module__.startswith("kerassplit.")
