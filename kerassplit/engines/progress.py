"""How far work has come: a bar on standard error."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_LONG_WORK = 2.0  # seconds after which progress is shown


@contextlib.contextmanager
def progress(what: str, rows: int | None, verbose: bool | None) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error, once the work takes long; gives a function that takes the rows there and computed."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    shown = verbose or (verbose is None and sys.stderr.isatty())
    progress = Progress(*columns, console=Console(stderr=True), transient=True)
    task = progress.add_task(what, total=rows, rate="")
    began = time.monotonic()

    def show(there: int, computed: int) -> None:
        seconds = time.monotonic() - began
        progress.update(task, completed=there, rate=f"{computed / max(seconds, 1e-9):,.0f} rows/s")
        if shown and not progress.live.is_started and (verbose or seconds > _LONG_WORK):
            progress.start()

    try:
        yield show
    finally:
        if progress.live.is_started:  # else it would print an empty line where there is no terminal
            progress.stop()
