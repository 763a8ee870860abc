"""`explore`: the page to explore a model, in a notebook."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

import keras

from kerassplit.cutting.stages import Stage, Stages
from kerassplit.pictures import plot
from kerassplit.pictures.page.data import Planned
from kerassplit.text import shortened


@dataclass(frozen=True, repr=False)
class Exploration:
    """A page to explore the cuts of a model, displayed by notebooks.

    Attributes:
        page: The page as HTML, complete in itself.
        title: Its title.
        height: Height in the notebook, in pixels.
    """

    page: str
    title: str
    height: int

    def __repr__(self) -> str:
        return shortened(f"<Page of {self.title}: notebooks show it; `plot` writes it to a file>")

    def _repr_html_(self) -> str:
        # In a frame without an origin of its own, the page cannot reach the notebook.
        page = self.page.replace("&", "&amp;").replace("'", "&#39;")
        return (
            f'<iframe title="{escape(self.title)}" sandbox="allow-scripts" allow="clipboard-write" '
            f"style=\"width: 100%; height: {self.height}px; border: 1px solid #8888\" srcdoc='{page}'></iframe>"
        )


def explore(
    model_or_split: keras.Model | Stages | Stage | Planned, *, height: int = 680, **options: Any
) -> Exploration:
    """Shows the page to explore cuts in a notebook's cell: the page that `plot` writes to an `.html` file.

    Args:
        model_or_split: A functional or built Sequential model, a `Split`, a `Stage`, or a `Plan`.
        height: Height in the cell, in pixels.
        **options: Options of `plot`: `detail`, `title`, `open_sides`.

    Returns:
        `Exploration`: notebooks display it as the last value of a cell, or by `IPython.display.display`.

    Raises:
        SplitError: Graphviz is missing, or input dimensions are unknown and `open_sides` is not given.
        UnsupportedModelError: The model has no graph.

    Example:

    >>> ks.explore(resnet)
    <Page of resnet50: notebooks show it; `plot` writes it to a file>
    """
    drawing = plot(model_or_split, **options)
    return Exploration(drawing.render("html").decode(), drawing.picture.title, height)
