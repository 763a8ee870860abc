"""How far work has come: a bar on standard error."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from kerassplit.display.rich_table import SafeConsole

_LONG_WORK = 2.0  # seconds after which progress is shown


@contextlib.contextmanager
def progress(
    what: str, total: int | None, verbose: bool | None, unit: str = "rows"
) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error, once the work takes long; gives a function that takes how much is there and computed.

    Args:
        what: The work.
        total: How much there is to do; `None`: that is not known.
        verbose: Whether to show it; `None`: on a terminal, after two seconds.
        unit: What is counted, for the rate; empty: no rate.
    """
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    shown = verbose or (verbose is None and sys.stderr.isatty())
    progress = Progress(*columns, console=SafeConsole(stderr=True), transient=True)
    task = progress.add_task(what, total=total, rate="")
    began = time.monotonic()
    timer = threading.Timer(_LONG_WORK, progress.start)  # not at the first news: that may be minutes away
    timer.daemon = True

    def show(there: int, computed: int) -> None:
        seconds = time.monotonic() - began
        rate = f"{computed / max(seconds, 1e-9):,.0f} {unit}/s" if unit else ""
        progress.update(task, completed=there, rate=rate)

    if verbose:
        progress.start()
    elif shown:
        timer.start()
    try:
        yield show
    finally:
        timer.cancel()
        if timer.is_alive():
            timer.join()
        if progress.live.is_started:  # else it would print an empty line where there is no terminal
            progress.stop()
