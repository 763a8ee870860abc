"""Lays out and draws Graphviz source, with pygraphviz in this process or with the `dot` program."""

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
_TALL = 8000  # pixels; a taller PNG gets a lower resolution, though not below that of a screen
_SCREEN = 72.0  # dots per inch
_TALLEST = 32000  # pixels; Cairo cannot draw larger bitmaps
_PROBE = 'digraph { a [label="text", fontname="Helvetica"] }'


class NoLayoutError(SplitError):
    """Neither pygraphviz nor the `dot` program is installed."""


def render(source: str, extension: str) -> bytes:
    """Draws Graphviz source.

    Args:
        source: Graphviz source.
        extension: `svg`, `png` or `pdf`. A PNG is about 1600 pixels wide, or narrower at 200 dots per inch.

    Returns:
        The contents of the file. On one machine, the same source produces the same bytes, which contain no time.

    Raises:
        NoLayoutError: Graphviz is not installed.
        SplitError: Graphviz failed, or the machine has no fonts to draw text with.
    """
    if extension == "svg":
        return center_texts(_draw(source, "svg"), _measured_font())
    _require_fonts(extension)
    if extension == "png":
        return _draw(source.replace("{", f"{{\n  graph [dpi={_resolution(source):.2f}];", 1), "png")
    return re.sub(rb"(?<=/CreationDate \(D:)\d{14}", b"19700101000000", _draw(source, extension))


def lay_out(
    source: str,
) -> tuple[dict[str, list[float]], dict[tuple[str, str], list[float]], list[float]]:
    """Places the nodes and edges of Graphviz source, at most one edge from one node to another.

    Returns:
        The center of each node, the points of the Bézier curves of each edge, and the whole width and height; in
        points, y down.

    Raises:
        NoLayoutError: Graphviz is not installed.
    """
    nodes: dict[str, list[float]] = {}
    edges: dict[tuple[str, str], list[float]] = {}
    size = [0.0, 0.0]
    for line in _draw(source, "plain").decode().replace("\\\n", "").splitlines():
        kind, *words = line.split()
        if kind == "graph":
            size = [_points(words[1]), _points(words[2])]
        elif kind == "node":
            nodes[words[0]] = [_points(words[1]), round(size[1] - _points(words[2]), 1)]
        elif kind == "edge":
            numbers = [_points(word) for word in words[3 : 3 + 2 * int(words[2])]]
            numbers[1::2] = [round(size[1] - number, 1) for number in numbers[1::2]]
            edges[words[0], words[1]] = numbers
    return nodes, edges, size


def _points(inches: str) -> float:
    return round(float(inches) * 72, 1)


def _resolution(source: str) -> float:
    """Returns the resolution, in dots per inch, at which the picture has the wanted width and can still be drawn."""
    found = re.match(rb"graph \S+ (\S+) (\S+)", _draw(source, "plain"))
    width, height = (float(number) for number in found.groups()) if found else (10.0, 10.0)
    wanted = min(max(_PIXELS / (width + 0.3), _SMALLEST), _LARGEST, max(_SCREEN, _TALL / height))
    possible = (_TALLEST - 10) / (max(width, height) + 0.5)
    if possible < min(wanted, _SMALLEST):
        warn(
            f"The picture is {max(width, height):.0f} inches long, too long for a PNG: its text becomes small. "
            "Write .svg or .pdf for full size, or draw one stage at a time."
        )
    return min(wanted, possible)


def _measured_font() -> str | None:
    """Returns the font in which Graphviz measures text on this machine: the one that it embeds in a PDF."""
    found = re.search(rb"/FontFamily \(([\w ]+)\)", _draw(_PROBE, "pdf"))
    return found[1].decode() if found else None


def _require_fonts(extension: str) -> None:
    """Refuses to draw without fonts: Graphviz would silently draw empty boxes in place of letters."""
    probe = _draw(_PROBE, "pdf")
    if b"/FontFile" not in probe and b"/Type /Font" not in probe:
        raise SplitError(
            f"This machine has no fonts, so a .{extension} would show boxes in place of letters. Install a font (on "
            "Debian and Ubuntu the package fonts-dejavu-core), or write .svg, which uses the fonts of the viewer."
        )


def _draw(source: str, extension: str) -> bytes:
    try:
        import pygraphviz
    except ImportError:
        return _draw_by_program(source, extension)
    try:
        _read_fonts()
        with lock, quiet_native_code("layout may take a long time"):
            return pygraphviz.AGraph(string=source).draw(format=extension, prog="dot")
    except (OSError, ValueError, RuntimeError, pygraphviz.DotError) as error:
        raise SplitError(f"Graphviz could not draw the picture as .{extension}: {error}") from error


@cache
def _read_fonts() -> None:
    """Makes Fontconfig read its configuration, once per process, without its warnings: users cannot act on them."""
    import pygraphviz

    with lock, quiet_native_code("Fontconfig warning"):
        pygraphviz.AGraph(string=_PROBE).draw(format="plain", prog="dot")


def _draw_by_program(source: str, extension: str) -> bytes:
    program = shutil.which("dot")
    if program is None:
        raise NoLayoutError(
            "No Graphviz to lay out the picture. Either `pip install pygraphviz` (2.0.4 or later includes Graphviz), "
            "or install Graphviz so that its program `dot` is on the PATH."
        )
    done = subprocess.run([program, f"-T{extension}"], input=source.encode(), capture_output=True, check=False)
    if done.returncode != 0:
        raise SplitError(f"`{program}` could not draw the picture as .{extension}: {done.stderr.decode().strip()}")
    return done.stdout
