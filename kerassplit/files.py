"""Files that are written whole or not at all."""

import contextlib
import os
import uuid
from pathlib import Path

from kerassplit.errors import SplitError


def write_whole(to_file: str | os.PathLike[str], content: bytes, *, flush: bool = False) -> None:
    """Writes a file beside its place and moves it there: whoever reads it finds the old one or the new one, whole.

    Args:
        to_file: Where it goes.
        content: All of it.
        flush: Whether to have it on the disk before, so that this holds for power cuts, too.

    Raises:
        SplitError: It cannot be written; what was there before is still there.
    """
    path = Path(to_file)
    temporary = path.with_name(f".kerassplit.{uuid.uuid4().hex}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            if flush:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise SplitError(f"'{path}' cannot be written: {error.strerror or error}.") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
