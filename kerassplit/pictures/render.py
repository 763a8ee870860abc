"""Graphviz source laid out and drawn: by pygraphviz in this process, or by the `dot` program."""

import re
import shutil
import subprocess
from functools import cache

from kerassplit.errors import SplitError
from kerassplit.files.native_output import quiet_native_code
from kerassplit.graph.internals.process_state import lock
from kerassplit.pictures.svg_text import center_texts
from kerassplit.text import warn

_PIXELS = 1600  # the width of a PNG
_SMALLEST, _LARGEST = 60.0, 200.0  # dots per inch
_TALL = 8000  # pixels: a taller PNG is drawn at screen resolution
_SCREEN = 72.0  # dots per inch
_TALLEST = 32000  # pixels: Cairo draws no larger bitmaps
_PROBE = 'digraph { a [label="text", fontname="Helvetica"] }'


class NoLayoutError(SplitError):
    """Neither pygraphviz nor the `dot` program is there."""


def render(source: str, extension: str) -> bytes:
    """The picture that a Graphviz source describes.

    Args:
        source: Graphviz source.
        extension: `svg`, `png` or `pdf`. A PNG is about 1600 pixels wide; small pictures are narrower, not coarser.

    Returns:
        The file's contents. The same source gives the same on one machine: it tells no time.

    Raises:
        NoLayoutError: Graphviz is not there.
        SplitError: Graphviz failed, or the machine has no fonts and the letters would be lost.
    """
    if extension == "svg":
        return center_texts(_draw(source, "svg"), _measured_font())
    _require_fonts(extension)
    if extension == "png":
        return _draw(source.replace("{", f"{{\n  graph [dpi={_resolution(source):.2f}];", 1), "png")
    return re.sub(rb"(?<=/CreationDate \(D:)\d{14}", b"19700101000000", _draw(source, extension))


def _resolution(source: str) -> float:
    """The dots per inch at which the picture is as wide as wanted, and no taller than can be drawn."""
    found = re.match(rb"graph \S+ (\S+) (\S+)", _draw(source, "plain"))
    width, height = (float(number) for number in found.groups()) if found else (10.0, 10.0)
    wanted = min(max(_PIXELS / (width + 0.3), _SMALLEST), _LARGEST, max(_SCREEN, _TALL / height))
    possible = (_TALLEST - 10) / (max(width, height) + 0.5)
    if possible < min(wanted, _SMALLEST):
        warn(
            f"The picture is {max(width, height):.0f} inches long, too long for a PNG: its letters become small. "
            "Write .svg or .pdf for full size, or draw one stage at a time."
        )
    return min(wanted, possible)


def _measured_font() -> str | None:
    """The font of this machine in which Graphviz measures letters: what it puts into a PDF."""
    found = re.search(rb"/FontFamily \(([\w ]+)\)", _draw(_PROBE, "pdf"))
    return found[1].decode() if found else None


def _require_fonts(extension: str) -> None:
    """Refuses to draw letters without fonts: Graphviz would draw empty boxes and say nothing."""
    probe = _draw(_PROBE, "pdf")
    if b"/FontFile" not in probe and b"/Type /Font" not in probe:
        raise SplitError(
            f"This machine has no fonts, so a .{extension} would show boxes in place of letters. Install a font (on "
            "Debian and Ubuntu the package fonts-dejavu-core), or write .svg: who opens it brings the fonts."
        )


def _draw(source: str, extension: str) -> bytes:
    try:
        import pygraphviz
    except ImportError:
        return _draw_by_program(source, extension)
    try:
        _read_fonts()
        return pygraphviz.AGraph(string=source).draw(format=extension, prog="dot")
    except (OSError, ValueError, RuntimeError, pygraphviz.DotError) as error:
        raise SplitError(f"Graphviz could not draw the picture as .{extension}: {error}") from error


@cache
def _read_fonts() -> None:
    """Has Fontconfig read its configuration, once in a process: what it finds odd there, no user can mend."""
    import pygraphviz

    with lock, quiet_native_code("Fontconfig warning"):
        pygraphviz.AGraph(string=_PROBE).draw(format="plain", prog="dot")


def _draw_by_program(source: str, extension: str) -> bytes:
    program = shutil.which("dot")
    if program is None:
        raise NoLayoutError(
            "No Graphviz to lay the picture out with. Either `pip install pygraphviz` (2.0.4 or later brings Graphviz "
            "along), or install Graphviz so that its program `dot` is on the PATH."
        )
    done = subprocess.run([program, f"-T{extension}"], input=source.encode(), capture_output=True, check=False)
    if done.returncode != 0:
        raise SplitError(f"`{program}` could not draw the picture as .{extension}: {done.stderr.decode().strip()}")
    return done.stdout
