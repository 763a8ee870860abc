"""The committed diagrams are up to date."""

import os
import subprocess
import sys

from checkout import ROOT


def test_the_committed_diagrams_are_those_that_the_code_makes():
    done = subprocess.run(
        [sys.executable, str(ROOT / "diagrams" / "make.py"), "--check"],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
