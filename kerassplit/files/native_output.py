"""Captures what C and C++ libraries write to standard error, bypassing `sys.stderr`."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def quiet_native_code(noise: str = "") -> Iterator[None]:
    """Holds back standard error, including that of C++ code, and shows it afterwards without lines containing `noise`.

    If the block raises an error, everything is shown.
    """
    try:
        kept = os.dup(2)
    except OSError:  # standard error is closed
        yield
        return
    with tempfile.TemporaryFile() as written:
        os.dup2(written.fileno(), 2)
        failed = True
        try:
            yield
            failed = False
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            written.seek(0)
            lines = written.read().decode(errors="replace").splitlines(keepends=True)
            if shown := "".join(line for line in lines if failed or noise not in line):
                sys.stderr.write(shown)
