"""Progress bar on standard error."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from kerassplit.display.rich_table import SafeConsole

_LONG_WORK = 2.0  # seconds after which progress is shown


@contextlib.contextmanager
def progress(
    what: str, total: int | None, verbose: bool | None, unit: str = "rows"
) -> Iterator[Callable[[int, int], None]]:
    """Shows a progress bar on standard error once the work takes long.

    Yields a function that accepts how much is done and how much of that was computed here. The bar appears on time even
    if the first item takes longer than that.

    Args:
        what: Description of the work.
        total: How much there is to do; `None` if unknown.
        verbose: Whether to show the bar; `None`: on a terminal, after two seconds.
        unit: Unit of the rate; empty: no rate.
    """
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[speed]}"),
    )
    # When the timer starts the bar, the program may have redirected its output for a moment: the bar must not touch it.
    console = SafeConsole(stderr=True)
    bar = Progress(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False)
    task = bar.add_task(what, total=total, speed="")
    began = time.monotonic()
    timer = threading.Timer(_LONG_WORK, bar.start)
    timer.daemon = True
    if verbose:
        bar.start()
    elif verbose is None and sys.stderr.isatty():
        timer.start()

    def show(there: int, computed: int) -> None:
        seconds = max(time.monotonic() - began, 1e-9)
        speed = [f"{computed / seconds:,.0f} {unit}/s"] if unit else []
        if total and computed:
            left = timedelta(seconds=round((total - there) * seconds / computed))
            speed.append(f"{left} left")
        bar.update(task, completed=there, speed=", ".join(speed))

    try:
        yield show
    finally:
        timer.cancel()
        if timer.is_alive():
            timer.join()
        if bar.live.is_started:  # otherwise it would print an empty line without a terminal
            bar.stop()
