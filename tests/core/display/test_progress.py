"""Progress on a terminal: it appears by itself, and shows the remaining time."""

import contextlib
import os
import select
import sys
from collections.abc import Callable, Iterator

import pytest

from kerassplit.display import progress as display
from kerassplit.display.progress import progress

pytestmark = pytest.mark.skipif(not hasattr(os, "openpty"), reason="terminals of Unix")


@pytest.fixture(autouse=True)
def wide(monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")


@contextlib.contextmanager
def terminal() -> Iterator[Callable[[str], str]]:
    """Makes standard error a terminal; yields a function that waits for a text there and returns all output."""
    master, slave = os.openpty()
    seen = ""

    def until(text: str) -> str:
        nonlocal seen
        while text not in seen:
            assert select.select([screen], [], [], 30)[0], f"{text!r} never appears in {seen!r}"
            seen += screen.read(10_000).decode()
        return seen

    with (
        os.fdopen(master, "rb", buffering=0) as screen,
        os.fdopen(slave, "w") as standard_error,
        contextlib.redirect_stderr(standard_error),
    ):
        yield until


def test_it_appears_while_the_first_of_many_things_is_done(monkeypatch):
    monkeypatch.setattr(display, "_LONG_WORK", 0.01)
    with terminal() as shown, progress("Exporting resnet50 as ONNX", 4, None, unit=""):
        assert "Exporting resnet50 as ONNX" in shown("0/4")


def test_it_says_how_long_the_rest_takes_after_the_first():
    with terminal() as shown, progress("Running", 4_000_000, True) as show:
        show(1, 1)
        assert "1/4000000" in shown(" left")


def test_short_work_shows_nothing():
    with terminal() as shown:
        with progress("Running", 4, None) as show:
            show(4, 4)
        sys.stderr.write("end")
        sys.stderr.flush()
        assert shown("end") == "end"
