"""Pictures drawn by other processes and on machines with other fonts."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkout import ROOT

from kerassplit.pictures import FORMATS


def run(code: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs Python in a new process."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT), **variables}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True, check=False
    )


def test_the_same_model_gives_the_same_files_in_every_process(tmp_path: Path):
    code = """
import sys, keras, kerassplit as ks
with keras.StatelessScope():
    model = keras.applications.ResNet50(weights=None)
split = ks.split(model, ["conv3_block4_out", "conv4_block6_out"])
for extension in sys.argv[2:]:
    ks.plot(split[1], f"{sys.argv[1]}/stage.{extension}", detail="layers")
    ks.plot(split, f"{sys.argv[1]}/split.{extension}")
"""
    contents = []
    for seed in ("1", "2"):
        folder = tmp_path / seed
        folder.mkdir()
        done = run(code, str(folder), *FORMATS, PYTHONHASHSEED=seed)
        assert done.returncode == 0, done.stderr
        contents.append({path.name: path.read_bytes() for path in sorted(folder.iterdir())})
    assert contents[0] == contents[1]
    assert len(contents[0]) == 2 * len(FORMATS)


def test_what_fontconfig_finds_odd_in_its_configuration_is_not_told(tmp_path: Path):
    odd = '<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd"><fontconfig><odd/></fontconfig>'
    (tmp_path / "fonts.conf").write_text(odd)
    code = """
import os, keras, kerassplit as ks
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="first"), keras.layers.Dense(2)], name="tiny")
os.write(2, b"before")
for _ in range(2):
    ks.plot(model).render("svg")
    os.write(2, b"after")
"""
    variables = {"FONTCONFIG_FILE": str(tmp_path / "fonts.conf"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = run(code, **variables)
    assert done.returncode == 0, done.stderr
    assert done.stderr.endswith("beforeafterafter")


@pytest.fixture
def without_fonts(tmp_path: Path) -> Iterator[dict[str, str]]:
    empty = tmp_path / "fonts.conf"
    empty.write_text('<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd"><fontconfig></fontconfig>')
    yield {"FONTCONFIG_FILE": str(empty), "XDG_CACHE_HOME": str(tmp_path / "cache")}


def test_without_fonts_letters_are_not_silently_lost(tmp_path: Path, without_fonts: dict[str, str]):
    code = """
import sys, keras, kerassplit as ks
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="first"), keras.layers.Dense(2)], name="tiny")
ks.plot(model, sys.argv[1] + "/tiny.svg")
for extension in ("png", "pdf"):
    try:
        ks.plot(model, f"{sys.argv[1]}/tiny.{extension}")
    except ks.SplitError as error:
        print(error)
"""
    done = run(code, str(tmp_path), **without_fonts)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("This machine has no fonts") == 2
    assert "first" in (tmp_path / "tiny.svg").read_text()
    assert not list(tmp_path.glob("*.p*"))
