"""What pictures and charts are written as, by file name extension."""

from collections.abc import Sequence
from pathlib import Path

from kerassplit.errors import SplitError

PICTURE_FORMATS = ("svg", "png", "pdf", "dot", "mmd", "txt")
CHART_FORMATS = ("png", "svg", "pdf")


def check_format(path: Path, formats: Sequence[str], what: str) -> str:
    """The extension of a file name, in small letters.

    Args:
        path: The file.
        formats: Those that there are.
        what: What is written, as in "Charts".

    Raises:
        SplitError: It is none of these.
    """
    extension = path.suffix[1:].lower()
    if extension not in formats:
        raise SplitError(f"{what} are written as {', '.join('.' + each for each in formats)}; got '{path.name}'.")
    return extension
