"""The examples, as a user runs them: they end by themselves, and nothing stays."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from pages import ROOT

EXAMPLES = sorted(
    path.relative_to(ROOT / "examples")
    for pattern in ("*.py", "*/run.py")
    for path in (ROOT / "examples").glob(pattern)
    if path.name != "colab.py"  # cells of a notebook, which test_notebook.py runs
)


def tree(folder: Path) -> Iterator[tuple[Path, bytes | None]]:
    for path in sorted(folder.rglob("*")):
        yield path.relative_to(folder), path.read_bytes() if path.is_file() else None


def within_tolerances(output: str) -> None:
    rows = {row[0]: row[1:] for row in re.findall(r"│ (\w+)\s*│ ([\d,]+)\s*│ \S+\s*│ \S+\s*│ (\S+)\s*│ (\S+)", output)}
    assert list(rows) == ["float32", "float16", "int8"]
    sent = [int(row[0].replace(",", "")) for row in rows.values()]
    assert sent[0] > 1.99 * sent[1]
    assert sent[0] > 3.5 * sent[2]
    assert all(float(difference) <= float(tolerance) for _, difference, tolerance in rows.values())
    assert "within the tolerances: True" in output


def photo_and_mistakes_answered(output: str) -> None:
    assert "chelsea.jpg: 200, class " in output
    assert "equal to the whole model here: True" in output
    assert "as text/plain: 415, The content type is text/plain" in output
    assert "as image/png: 400," in output
    assert "as application/json: 422," in output


def cut_and_equal(output: str) -> None:
    assert "bit for bit" in output
    assert "loaded classifier equal: True" in output


SAYS = {
    "cut_and_compare.py": cut_and_equal,
    "edge_and_server/run.py": within_tolerances,
    "serve/run.py": photo_and_mistakes_answered,
}


@pytest.mark.slow
@pytest.mark.plain
@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_an_example_runs_says_what_it_should_and_leaves_nothing_behind(example, tmp_path):
    before = dict(tree(ROOT / "examples"))
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    settings = {"HOME": str(home), "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    # What other packages keep of their own, in the places that they are told.
    theirs = {"KERAS_HOME": str(tmp_path / "keras"), "MPLCONFIGDIR": str(tmp_path / "matplotlib")}
    done = subprocess.run(
        [sys.executable, str(tmp_path / "examples" / example)],
        capture_output=True,
        text=True,
        timeout=600,
        cwd=here,
        env={**os.environ, **settings, **theirs},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    SAYS.get(example.as_posix(), lambda output: None)(done.stdout)
    assert dict(tree(tmp_path / "examples")) == before
    assert not list(here.iterdir())
    assert not list(home.iterdir())
    assert not any(str(tmp_path) in " ".join(one.cmdline()) for one in psutil.Process().children(recursive=True))


@pytest.mark.plain
def test_every_example_says_what_it_is_for():
    for example in EXAMPLES:
        text = (ROOT / "examples" / example).read_text(encoding="utf-8")
        first = text.split('"""')[1].strip().splitlines()
        assert text.startswith('"""'), example
        assert first[0].endswith((".", "?")) and len(first) > 2, example
