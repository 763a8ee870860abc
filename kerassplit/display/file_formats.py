"""File formats of pictures and charts, by file name extension."""

from collections.abc import Sequence
from pathlib import Path

from kerassplit.errors import SplitError

PICTURE_FORMATS = ("svg", "png", "pdf", "dot", "mmd", "txt", "html")
CHART_FORMATS = ("png", "svg", "pdf")


def check_format(path: Path, formats: Sequence[str], what: str) -> str:
    """Returns the extension of a file name in lower case, if it is one of these formats.

    Args:
        path: The file.
        formats: The extensions to accept.
        what: The kind of file for the message, such as "Charts".

    Raises:
        SplitError: The extension is not one of `formats`.
    """
    extension = path.suffix[1:].lower()
    if extension not in formats:
        raise SplitError(f"{what} are written as {', '.join('.' + each for each in formats)}; got '{path.name}'.")
    return extension
