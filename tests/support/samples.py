"""Samples of tests that are too many for every run: a different one for each commit.

`KERASSPLIT_SAMPLE=7` selects sample 7, `KERASSPLIT_LONG=1` everything.
"""

import os
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from applications import parameters


def sample() -> int:
    """Returns the number in the environment, else one from the commit, or 0 outside of a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=6", "HEAD"]
    if chosen := os.environ.get("KERASSPLIT_SAMPLE"):
        return int(chosen)
    try:
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout, 16)
    except (OSError, subprocess.CalledProcessError):
        return 0


LONG = os.environ.get("KERASSPLIT_LONG") == "1"
SAMPLE = sample()


def due(items: Sequence[Any], turns: int, turn: int | None = None) -> Sequence[Any]:
    """Returns one in `turns` of the items, at least one; over time, all of them."""
    first = (SAMPLE if turn is None else turn) % min(turns, len(items)) if items else 0
    return items if LONG else items[first::turns]


def marked(names: Iterable[str]) -> list[Any]:
    """Architectures for `pytest.mark.parametrize`, with the sample in the ids of the tests."""
    when = "all" if LONG else f"sample{SAMPLE}"
    return [pytest.param(*one.values, marks=one.marks, id=f"{one.values[0]}-{when}") for one in parameters(names)]
