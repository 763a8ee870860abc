"""Data model of a picture, shared by all writers: boxes in clusters, and edges between boxes."""

from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Literal

from kerassplit.text import printable, with_short_repr

EdgeKind = Literal["flow", "open", "cut", "carried"]


@with_short_repr
@dataclass(frozen=True)
class Box:
    """A block, a layer or an input of a model.

    Attributes:
        id: Id, unique in the picture. It is derived from positions, so the same model always gets the same ids.
        name: Its name, shown in bold.
        count: Number of similar blocks that it stands for; more than one is drawn with a double border.
        lines: Further lines of text.
        shape: Shape of its output per sample, formatted; empty if it has several outputs.
        mark: Name of the tensor at its end, if the model can be cut there.
        is_input: True if it is an input of the model.
        edits: Which of its layers an edit has inserted (`+ inserted: dropout`) or put in the place of others
            (`≠ 2 replaced`).
    """

    id: str
    name: str
    count: int = 1
    lines: tuple[str, ...] = ()
    shape: str = ""
    mark: str | None = None
    is_input: bool = False
    edits: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The name with the number of blocks, such as `conv4 ×6`."""
        return f"{self.name} ×{self.count}" if self.count > 1 else self.name


@with_short_repr
@dataclass(frozen=True)
class Edge:
    """A tensor, drawn from the box that computes it to the boxes that use it.

    Attributes:
        source: Id of the box that computes it.
        targets: Ids of the boxes that use it.
        kind: `flow` inside a stage; `open` if the model can be cut there; `cut` from one stage to the next; `carried`
            for all else that crosses: inputs of the model used later, and tensors that pass over a stage.
        label: If it crosses a cut: its name, shape, dtype and size, one per line.
    """

    source: str
    targets: tuple[str, ...]
    kind: EdgeKind = "flow"
    label: tuple[str, ...] = ()


@with_short_repr
@dataclass(frozen=True)
class Cluster:
    """Boxes that belong together: a stage.

    Attributes:
        boxes: The boxes, in execution order.
        name: Name of the stage; empty for a model without stages, which has no frame.
        lines: Lines of text about the stage.
    """

    boxes: tuple[Box, ...]
    name: str = ""
    lines: tuple[str, ...] = ()


@with_short_repr
@dataclass(frozen=True)
class Picture:
    """A model or a split, ready to be written.

    Attributes:
        title: First line above it.
        subtitle: Second line above it.
        clusters: One per stage; for a model, a single one without a name.
        edges: All edges between boxes.
    """

    title: str
    subtitle: str
    clusters: tuple[Cluster, ...]
    edges: tuple[Edge, ...]


def safe(part: Any) -> Any:
    """Escapes all texts of a picture, or of a part of one, so that each is printable and on one line."""
    if isinstance(part, str):
        return printable(part, kept="")
    if isinstance(part, tuple):
        return tuple(map(safe, part))
    if is_dataclass(part) and not isinstance(part, type):
        return replace(part, **{field.name: safe(getattr(part, field.name)) for field in fields(part)})
    return part
