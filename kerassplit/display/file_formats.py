"""File formats of pictures and charts, by file name extension."""

from collections.abc import Sequence
from pathlib import Path

from kerassplit.errors import SplitError
from kerassplit.files.untrusted import check_path

PICTURE_FORMATS = ("svg", "png", "pdf", "dot", "mmd", "txt")
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


def check_file(path: Path, formats: Sequence[str], what: str) -> str:
    """Returns the format of a file, as `check_format` does, if the file can be written.

    Raises:
        SplitError: The format is unknown, the name is invalid, or the folder does not exist.
    """
    check_path(path)
    extension = check_format(path, formats, what)
    if not path.parent.is_dir():
        raise SplitError(f"There is no folder '{path.parent}' to write '{path.name}' to: make it first.")
    return extension
