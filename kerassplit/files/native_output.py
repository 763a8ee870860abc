"""What libraries in C and C++ write to standard error, past `sys.stderr`."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def quiet_native_code(noise: str = "") -> Iterator[None]:
    """Keeps what is written to standard error, also by C++, and shows it later, without the lines that hold `noise`.

    Where an error follows, it shows all of it.
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
            if told := "".join(line for line in lines if failed or noise not in line):
                sys.stderr.write(told)
