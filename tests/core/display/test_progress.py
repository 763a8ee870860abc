"""The progress bar: when it appears."""

import io
import sys
import time

import pytest

from kerassplit.display.progress import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("verbose", "shown"), [(None, True), (True, True), (False, False)])
def test_it_appears_while_the_first_step_is_still_under_way(verbose, shown, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr("kerassplit.display.progress._LONG_WORK", 0.0)
    with progress("Verifying", 3, verbose):
        while shown and "Verifying" not in terminal.getvalue():
            time.sleep(0.01)  # the step, of which nothing is told
    assert ("Verifying" in terminal.getvalue()) is shown


def test_work_that_is_done_soon_shows_nothing(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress("Verifying", 3, None) as show:
        show(3, 3)
    assert terminal.getvalue() == ""
