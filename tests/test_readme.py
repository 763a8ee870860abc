"""What the README shows works as it stands there."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import kerassplit
from kerassplit.photo import shipped_photo

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_the_python_examples(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "readme"}
    for code in blocks("python"):
        exec(compile(code, "README.md", "exec"), names)
    assert names["split"].verify(names["images"]).identical
    assert names["classifier"].input.name == "conv4_block6_out"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "exported",
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
    assert [point.name for point in kerassplit.split_points(names["graph"])] == ["first/add"]


@pytest.mark.slow
def test_the_command_line_example(tmp_path):
    commands = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("kerassplit ")]
    assert len(commands) == 5
    (tmp_path / "photos").mkdir()
    for name in ("cat.jpg", "same_cat.jpg"):
        (tmp_path / "photos" / name).write_bytes(shipped_photo().read_bytes())
    for line in commands:
        command = [sys.executable, "-m", *shlex.split(line, comments=True)]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=300)
    assert (tmp_path / "out" / "kerassplit.json").is_file()
    here, on_ray = (np.load(tmp_path / name) for name in ("scores.npy", "on_ray.npy"))
    assert here.shape == (2, 1000)
    np.testing.assert_allclose(on_ray, here, rtol=1e-4, atol=1e-7)
    assert (tmp_path / "exported" / "kerassplit-export.json").is_file()


def test_the_two_commands_come_first():
    install, test = (block.strip() for block in blocks("sh")[:2])
    assert install == 'pip install ".[tensorflow]" && kerassplit demo'
    assert test == 'pip install -e ".[test]" && pytest'


def test_every_file_it_links_to_is_there():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (Path(__file__).parent.parent / target).exists(), target


def test_every_public_name_is_where_the_package_looks_for_it():
    assert sorted(kerassplit.__all__) == sorted(kerassplit._HOME)
    for name in kerassplit.__all__:
        assert getattr(kerassplit, name).__module__.startswith("kerassplit.")
