"""Captures what C and C++ libraries write to standard error, bypassing `sys.stderr`."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import IO


@contextlib.contextmanager
def quiet_native_code(noise: str = "") -> Iterator[IO[str] | None]:
    """Holds back standard error, including that of C++ code, and shows it afterwards without lines containing `noise`.

    If the block raises an error, everything is shown. Yields the actual standard error; `None` if it is closed.
    """
    try:
        kept = os.dup(2)
    except OSError:
        yield None
        return
    with os.fdopen(kept, "w", encoding="utf-8") as terminal, tempfile.TemporaryFile() as written:
        os.dup2(written.fileno(), 2)
        failed = True
        try:
            yield terminal
            failed = False
        finally:
            os.dup2(kept, 2)
            written.seek(0)
            lines = written.read().decode(errors="replace").splitlines(keepends=True)
            if shown := "".join(line for line in lines if failed or noise not in line):
                sys.stderr.write(shown)
