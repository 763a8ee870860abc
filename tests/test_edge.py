"""The examples of two processes, as a user runs them: they end by themselves, and nothing stays."""

import os
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

if "CI" not in os.environ:
    pytest.importorskip("ray")

EXAMPLES = Path(__file__).parents[1] / "examples"


def run_example(path: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / path)], capture_output=True, text=True, timeout=300, cwd=folder
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(folder.iterdir()) == []
    assert not any("server.py" in " ".join(one.cmdline()) for one in psutil.Process().children(recursive=True))
    return done.stdout


@pytest.mark.slow
def test_head_here_and_tail_behind_http_stay_within_the_tolerances(tmp_path):
    output = run_example("edge_and_server/run.py", tmp_path)
    rows = {row[0]: row[1:] for row in re.findall(r"│ (\w+)\s*│ ([\d,]+)\s*│ \S+\s*│ \S+\s*│ (\S+)\s*│ (\S+)", output)}
    assert list(rows) == ["float32", "float16", "int8"]
    sent = [int(row[0].replace(",", "")) for row in rows.values()]
    assert sent[0] > 1.99 * sent[1]
    assert sent[0] > 3.5 * sent[2]
    assert all(float(difference) <= float(tolerance) for _, difference, tolerance in rows.values())
    assert "within the tolerances: True" in output


@pytest.mark.slow
def test_a_photo_is_served_and_mistakes_are_explained(tmp_path):
    output = run_example("serve/run.py", tmp_path)
    assert "chelsea.jpg: 200, class " in output
    assert "equal to the whole model here: True" in output
    assert "as text/plain: 415, The content type is text/plain" in output
    assert "as image/png: 400," in output
    assert "as application/json: 422," in output
