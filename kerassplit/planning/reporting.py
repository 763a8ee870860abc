"""Tells how far the search for a plan has come."""

import contextlib
import math
from collections.abc import Callable, Iterator

from kerassplit.display.progress import progress

Report = Callable[[float, float], None]
"""Takes the best value found so far, `inf` if none is, and what is proved that no plan has less."""


def silent(value: float, bound: float) -> None:
    """Reports nothing."""


@contextlib.contextmanager
def reporting(what: str, time_limit: float, verbose: bool | None) -> Iterator[Report]:
    """A progress bar for searches, with their time limit and the part of the value that is proved, in percent.

    Args:
        what: The work.
        time_limit: Seconds that a search may take.
        verbose: Whether to show it; `None`: on a terminal, after two seconds.
    """
    line = f"{what} (a search takes {time_limit:g} s at most); proved, % of the value"
    with progress(line, 100, verbose, unit="") as show:
        yield lambda value, bound: show(math.floor(100 * bound / value) if 0 < bound <= value < math.inf else 0, 0)
