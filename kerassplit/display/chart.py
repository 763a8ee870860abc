"""Charts drawn with matplotlib (the extra `kerassplit[charts]`)."""

import contextlib
import importlib.util
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kerassplit.display.file_formats import CHART_FORMATS, check_format
from kerassplit.errors import SplitError
from kerassplit.files.atomic_file import write_whole
from kerassplit.files.untrusted import check_path
from kerassplit.text import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NEEDED = "Charts need matplotlib: `pip install 'kerassplit[charts]'`."

WIDTH = 8.5
"""Width of a chart in inches: on a page 700 pixels wide, letters of size `SMALL` are 11 pixels high."""

SMALL = 10
"""The smallest font size of a chart, in points."""

BYTES = (("GiB", 2.0**30), ("MiB", 2.0**20), ("KiB", 2.0**10), ("bytes", 1.0))
"""Units of an axis, for `scale`."""

_STYLE: dict[Any, Any] = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "font.size": 11,
    "grid.color": "#ECEFF1",
    "svg.fonttype": "none",
    "svg.hashsalt": "kerassplit",
    "text.parse_math": False,  # names may hold a $
}


@dataclass(frozen=True)
class Chart:
    """A chart, displayed by notebooks.

    Attributes:
        figure: The `matplotlib.figure.Figure`; change it as you like.
    """

    figure: "Figure"

    def render(self, extension: str = "svg") -> bytes:
        """Returns the file contents in a format of `CHART_FORMATS`; the same chart always renders to the same bytes."""
        file = io.BytesIO()
        date = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(extension)
        with _style():
            self.figure.savefig(file, format=extension, dpi=200, metadata=date)
        return file.getvalue()

    def save(self, to_file: str | os.PathLike[str]) -> None:
        """Writes the chart completely or not at all, in the format of the file extension.

        Raises:
            SplitError: The format is unknown, or the file cannot be written.
        """
        check_path(to_file)
        write_whole(to_file, self.render(check_format(Path(to_file), CHART_FORMATS, "Charts")))

    def _repr_svg_(self) -> str:
        return self.render("svg").decode()


def check_chart(to_file: str | os.PathLike[str], *, or_page: bool = False) -> None:
    """Checks that a chart can be written to this path, before the work for it begins.

    Args:
        to_file: The path.
        or_page: Whether it may also be a page (.html), which needs no matplotlib.

    Raises:
        SplitError: The format is unknown, the folder does not exist, or matplotlib is not installed.
    """
    path = Path(to_file)
    check_path(path)
    extension = check_format(path, (*CHART_FORMATS, "html") if or_page else CHART_FORMATS, "Charts")
    if not path.parent.is_dir():
        raise SplitError(f"There is no folder '{path.parent}' to write '{path.name}' to: make it first.")
    if extension != "html" and importlib.util.find_spec("matplotlib") is None:
        raise SplitError(_NEEDED)


@contextlib.contextmanager
def new_figure(width: float, height: float) -> Iterator["Figure"]:
    """Yields an empty figure of this size in inches, to draw on in the style of this package.

    Does not touch matplotlib's global state: the user's own figures and settings stay as they are.

    Raises:
        SplitError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.text import Text
    except ImportError as error:
        raise SplitError(_NEEDED) from error
    with _style():
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        for text in figure.findobj(Text):
            text.set_text(printable(text.get_text()))


def chart_of(figure: "Figure", to_file: str | os.PathLike[str] | None) -> Chart:
    """Returns a finished figure as a chart, and writes it if there is a file to write to."""
    chart = Chart(figure)
    if to_file is not None:
        chart.save(to_file)
    return chart


def scale(largest: float, units: Sequence[tuple[str, float]]) -> tuple[str, float]:
    """Returns the first unit that is not above a number, and its factor; else the last one."""
    return next((unit for unit in units if largest >= unit[1]), units[-1])


@contextlib.contextmanager
def _style() -> Iterator[None]:
    import matplotlib

    with matplotlib.rc_context(_STYLE):
        yield
