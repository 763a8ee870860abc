"""Writes a page to explore the cuts of a model: one HTML file that needs no network, no server and no build.

In reading order:

- `data`: what the page shows, as JSON.
- `settings`: settings of layers as short texts.
- `levels`: boxes within boxes.
- `layout`: the places of boxes, layers and lines.
- `page.html`, `page.css`: the page without its contents.
- `model.js`: reads the data; what lies before a cut and what crosses it.
- `plan.js`: the best cuts for devices, as `ks.plan` finds them; plain numbers.
- `places.js`: where boxes and lines are, as boxes are opened and folded.
- `view.js`: moves and zooms.
- `minimap.js`: the whole graph in a corner.
- `graph.js`: draws the graph; opens and folds its boxes.
- `panel.js`: what is known about a tensor.
- `chart.js`: what crosses each split point.
- `stages.js`: the stages between several cuts.
- `planner.js`: the sliders.
- `main.js`: ties these together: selection, links, search, keys.

The scripts are plain ES modules. They are joined here, in this order, without `import` and `export`, so that the page
is a single file and building the package takes no tools.
"""

import base64
import hashlib
import json
import re
from functools import cache
from html import escape
from pathlib import Path

import keras

from kerassplit.cutting.stages import Stages
from kerassplit.graph.shapes import OpenSides
from kerassplit.pictures.page.data import Cuts, cuts_of, data_of
from kerassplit.pictures.picture import Picture

SCRIPTS = (
    "model.js",
    "plan.js",
    "places.js",
    "view.js",
    "minimap.js",
    "graph.js",
    "panel.js",
    "chart.js",
    "stages.js",
    "planner.js",
    "main.js",
)
_FOLDER = Path(__file__).parent
_MODULE_LINES = re.compile(r"^import .*?;\n|^export (?=\w)", re.MULTILINE | re.DOTALL)


def write_page(
    drawn: keras.Model | Stages | Cuts, picture: Picture, open_sides: OpenSides = None, *, opened: bool = False
) -> bytes:
    """Returns the page as HTML.

    Its content-security policy allows its own script and style only: no network, no inline handlers.

    Args:
        drawn: The model, or one with cuts to show at first: a split, or `Cuts`.
        picture: Its overview, for title and subtitle.
        open_sides: Sizes to assume for unknown input dimensions.
        opened: Whether all blocks are open at first.
    """
    script, style = _script(), (_FOLDER / "page.css").read_text("utf-8")
    # In a script element, only `<` could end the data: as JSON may escape any sign, none is left.
    found = data_of(cuts_of(drawn), picture, open_sides, opened=opened)
    data = json.dumps(found, separators=(",", ":")).replace("<", "\\u003c")
    parts = {
        "policy": f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'",
        "title": escape(picture.title),
        "style": style,
        "data": data,
        "script": script,
    }
    page = (_FOLDER / "page.html").read_text("utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], page).encode()


@cache
def _script() -> str:
    """Joins the scripts."""
    return "".join(re.sub(_MODULE_LINES, "", (_FOLDER / name).read_text("utf-8")) for name in SCRIPTS)


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
