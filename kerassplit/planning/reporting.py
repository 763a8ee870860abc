"""Reports the progress of the search for a plan."""

import contextlib
import math
from collections.abc import Callable, Iterator

from kerassplit.display.progress import progress

Report = Callable[[float, float], None]
"""Receives the best value found so far, `inf` if there is none, and the proved lower bound."""


def silent(value: float, bound: float) -> None:
    """Reports nothing."""


@contextlib.contextmanager
def reporting(what: str, time_limit: float, verbose: bool | None) -> Iterator[Report]:
    """Shows a progress bar for searches, with their time limit and the lower bound as a percentage of the value.

    Args:
        what: Description of the work.
        time_limit: Seconds that a search may take.
        verbose: Whether to show the bar; `None`: on a terminal, after two seconds.
    """
    line = f"{what} (a search takes {time_limit:g} s at most); proved, % of the value"
    with progress(line, 100, verbose, unit="") as show:
        yield lambda value, bound: show(math.floor(100 * bound / value) if 0 < bound <= value < math.inf else 0, 0)
