"""Draws models and splits: one data model for pictures, and a writer for each format.

In reading order:

- `picture`: the data model: boxes, clusters, edges.
- `layer_names`: blocks, as layer names tell them.
- `wording`: short descriptions of layers and blocks.
- `groups`: groups of calls between split points, and merging them.
- `opening`: divides regions that have no split point inside but are several blocks.
- `cells`: divides regions into cells that pass on a few tensors each.
- `folding`: folds a graph into the blocks of its overview.
- `overview`: turns a model or split into a picture.
- `layers`: every layer, as Keras draws it.
- `write_text`: plain text.
- `write_mermaid`: Mermaid.
- `lettering`: line breaks and text sizes.
- `rows`: places boxes and lines in rows if one row is too wide.
- `write_dot`: Graphviz source.
- `svg_text`: centers the texts of an SVG in their boxes.
- `render`: lays out and draws Graphviz source.
- `page/`: a page to explore the cuts of a model.
- `exploring`: shows the page in notebooks.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import keras

from kerassplit.cutting.stages import Stage, Stages
from kerassplit.display.file_formats import PICTURE_FORMATS as FORMATS
from kerassplit.errors import SplitError
from kerassplit.files.atomic_file import write_whole
from kerassplit.files.untrusted import check_path
from kerassplit.graph.reading import read_graph
from kerassplit.graph.shapes import OpenSides
from kerassplit.pictures.layers import layers_dot
from kerassplit.pictures.overview import model_picture, split_picture
from kerassplit.pictures.page import write_page
from kerassplit.pictures.page.data import Cuts, Planned
from kerassplit.pictures.picture import Box, Cluster, Edge, Picture, safe
from kerassplit.pictures.render import NoLayoutError, render
from kerassplit.pictures.write_dot import WIDEST, to_dot
from kerassplit.pictures.write_mermaid import to_mermaid
from kerassplit.pictures.write_text import to_text
from kerassplit.text import shortened

__all__ = ["FORMATS", "Box", "Cluster", "Drawing", "Edge", "Picture", "plot"]


@dataclass(frozen=True, repr=False)
class Drawing:
    """A picture, ready to be shown: notebooks display it, and `print` shows it as text.

    Attributes:
        picture: The boxes, clusters and edges.
        widest: Largest width in points; a wider picture is laid out in several rows.
    """

    picture: Picture
    _drawn: keras.Model | Stages | Cuts
    _layers: tuple[keras.Model, str, dict[str, int] | None] | None = None
    widest: float = WIDEST
    _open_sides: OpenSides = None

    @cached_property
    def dot(self) -> str:
        """The picture as Graphviz source."""
        return to_dot(self.picture, self.widest) if self._layers is None else layers_dot(*self._layers)

    def render(self, extension: str) -> bytes:
        """Returns the contents of a file of this format, one of `FORMATS`.

        Raises:
            SplitError: The format is unknown, or the picture cannot be laid out or drawn on this machine.
        """
        if extension == "txt":
            return to_text(self.picture).encode()
        if extension == "mmd":
            return to_mermaid(self.picture).encode()
        if extension == "dot":
            return self.dot.encode()
        if extension == "html":
            return write_page(self._drawn, self.picture, self._open_sides, opened=self._layers is not None)
        return render(self.dot, _known(extension))

    def __str__(self) -> str:
        return to_text(self.picture)

    def __repr__(self) -> str:
        return shortened(f"<Drawing of {self.picture.title}: {self.picture.subtitle}>")

    def _repr_svg_(self) -> str:
        return self.render("svg").decode()


def plot(
    model_or_split: keras.Model | Stages | Stage | Planned | Cuts,
    to_file: str | os.PathLike | None = None,
    *,
    detail: Literal["blocks", "layers"] = "blocks",
    title: str | None = None,
    open_sides: OpenSides = None,
) -> Drawing:
    """Draws a model, a split, one of its stages, or a plan.

    A model is drawn as its blocks (a run of similar blocks as one box with a double border) with the tensors where it
    can be cut, named in red. A split is drawn as its stages, with each cut as a thick edge labeled with the tensor's
    name, shape, dtype and bytes per sample. Dashed edges show all else that crosses: inputs that a later stage needs,
    and tensors that pass over a stage. Layers that the model calls more than once are marked as shared, those that an
    edit has inserted with + (blue), those that have replaced others with ≠ (yellow).
    A plan is drawn as a page: its model, with the planned cuts and their costs; `Plan.plot` also draws its chart.
    On one machine, the same model produces the same file, byte for byte.

    Args:
        model_or_split: A functional or built Sequential model, a `Split`, a `Stage`, or a `Plan`.
        to_file: File to write. The extension selects the format: `svg`, `png` (about 1600 pixels wide), `pdf`, `dot`
            (Graphviz source), `mmd` (Mermaid), `txt`, or `html`: a page, complete in itself, to explore the cuts of the
            whole model, what they cost and the best ones for two devices. `None` writes no file.
        detail: `"blocks"`, or `"layers"` for every layer; as a page, all blocks are then open at first.
        title: The first line; by default the model's or stage's name.
        open_sides: For pages: sizes to assume for unknown (`None`) input dimensions; see `profile`.

    Returns:
        `Drawing`: notebooks display it, and `print` shows it as text.

    Raises:
        SplitError: The format is unknown, the folder does not exist, or Graphviz or fonts are missing. If Graphviz is
            missing, the source is written to a `.dot` file in the same folder.
        UnsupportedModelError: The model has no graph.

    Example:

    >>> ks.plot(ks.split(resnet, ["conv3_block4_out", "conv4_block6_out"]), "split.svg")
    """
    if detail not in ("blocks", "layers"):
        raise SplitError(f"`detail` is 'blocks' or 'layers'; got {detail!r}.")
    path = None if to_file is None else Path(to_file)
    is_page = path is not None and path.suffix.lower() == ".html"
    if isinstance(model_or_split, Planned):
        if path is not None and not is_page:
            raise SplitError(f"A plan is drawn as a page (.html); got '{path.name}'. `Plan.plot` draws its chart.")
        model_or_split = model_or_split._cuts_for_page()
    if path is not None:
        check_path(path)
        _known(path.suffix[1:].lower(), path)
        if not path.parent.is_dir():
            raise SplitError(f"There is no folder '{path.parent}' to write '{path.name}' to: make it first.")
        if open_sides is not None and not is_page:
            raise SplitError(f"`open_sides` applies only to pages (.html): pictures show no costs; got '{path.name}'.")
    drawing = replace(_drawing(model_or_split, detail == "layers", title), _open_sides=open_sides)
    if path is not None:
        _save(drawing, path)
    return drawing


def _drawing(model_or_split: keras.Model | Stages | Stage | Cuts, layers: bool, title: str | None) -> Drawing:
    if isinstance(model_or_split, Stages):
        picture = safe(split_picture(model_or_split, title, layers=layers))
        if not layers:
            return Drawing(picture, model_or_split)
        stage_of: dict[str, int] = {}
        for place, stage in enumerate(model_or_split.stages):
            for call in read_graph(stage.model).calls:
                if call.inputs or call.name in stage.inputs:
                    stage_of.setdefault(call.operation.name, place)
        return Drawing(
            picture, model_or_split, (model_or_split.model, f"{picture.title}: {picture.subtitle}", stage_of)
        )
    model = model_or_split.model if isinstance(model_or_split, Stage | Cuts) else model_or_split
    picture = safe(model_picture(model, title, layers=layers))
    drawn = model_or_split if isinstance(model_or_split, Cuts) else model
    return Drawing(picture, drawn, (model, f"{picture.title}: {picture.subtitle}", None) if layers else None)


def _known(extension: str, path: Path | None = None) -> str:
    if extension in FORMATS:
        return extension
    what = f"'.{extension}'" if extension else "no extension"
    where = f" ('{path.name}')" if path is not None else ""
    raise SplitError(f"Pictures are written as {', '.join('.' + each for each in FORMATS)}; got {what}{where}.")


def _save(drawing: Drawing, path: Path) -> None:
    try:
        content = drawing.render(path.suffix[1:].lower())
    except NoLayoutError as error:
        source = path.with_suffix(".dot")
        write_whole(source, drawing.dot.encode())
        raise NoLayoutError(f"{error} The picture's source is in '{source}'.") from None
    write_whole(path, content)
