"""One model of a picture, for all the writers: boxes in clusters, and the edges between boxes."""

from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Literal

from kerassplit.text import printable, with_short_repr

EdgeKind = Literal["flow", "open", "cut", "carried"]


@with_short_repr
@dataclass(frozen=True)
class Box:
    """A block, a layer or an input of a model.

    Attributes:
        id: Unique in the picture; made of places, so the same model gets the same ones.
        name: What it is called, in bold.
        count: How many like blocks it stands for; more than one is drawn with a doubled border.
        lines: What more there is to say, a line each.
        shape: Shape of what it gives for one sample, as people read it; empty where there are several.
        mark: The tensor at its end, if the model can be cut there.
        is_input: Whether it is an input of the model.
    """

    id: str
    name: str
    count: int = 1
    lines: tuple[str, ...] = ()
    shape: str = ""
    mark: str | None = None
    is_input: bool = False

    @property
    def title(self) -> str:
        """The name with the number of blocks, such as `conv4 ×6`."""
        return f"{self.name} ×{self.count}" if self.count > 1 else self.name


@with_short_repr
@dataclass(frozen=True)
class Edge:
    """A tensor on its way from the box that makes it to those that use it.

    Attributes:
        source: Id of the box that makes it.
        targets: Ids of the boxes that use it.
        kind: `flow` inside a stage; `open` where the model can be cut; `cut` from one stage to the next; `carried` for
            anything else that crosses: inputs of the model used later, and tensors that pass over a stage.
        label: For what crosses: the tensor's name, shape, dtype and size, a line each.
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
        boxes: In execution order.
        name: Name of the stage; empty for a model without stages, which has no frame.
        lines: What there is to say about the stage, a line each.
    """

    boxes: tuple[Box, ...]
    name: str = ""
    lines: tuple[str, ...] = ()


@with_short_repr
@dataclass(frozen=True)
class Picture:
    """A model or a split, ready to be written.

    Attributes:
        title: The first line above it.
        subtitle: The second.
        clusters: One per stage; a single one without a name for a model.
        edges: Between all the boxes.
    """

    title: str
    subtitle: str
    clusters: tuple[Cluster, ...]
    edges: tuple[Edge, ...]


def safe(part: Any) -> Any:
    """A picture, or a part of one, with all that it says on one line each and fit to be shown."""
    if isinstance(part, str):
        return printable(part, kept="")
    if isinstance(part, tuple):
        return tuple(map(safe, part))
    if is_dataclass(part) and not isinstance(part, type):
        return replace(part, **{field.name: safe(getattr(part, field.name)) for field in fields(part)})
    return part
