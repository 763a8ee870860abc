"""What is a table where it is printed, and the console that prints it."""

from collections.abc import Iterable
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Column
from rich.text import Text

from kerassplit.text import printable

WIDE = 1000
"""Columns where there is no terminal, so that nothing is left out."""


def right(heading: str, **options: Any) -> Column:
    """A column of numbers."""
    return Column(heading, justify="right", **options)


class SafeConsole(Console):
    """A console for texts out of files: no markup, nothing that a terminal acts on, and words that are never cut."""

    def __init__(self, **options: Any):
        super().__init__(markup=False, emoji=False, **options)
        if "width" not in options and not (self.is_terminal or self.is_jupyter):
            self.width = WIDE

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*objects, **{"crop": False, **options})

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        if isinstance(renderable, Text):
            if printable(renderable.plain) != renderable.plain:
                renderable = Text(printable(renderable.plain), style=renderable.style, overflow=renderable.overflow)
            options = options or self.options
            longest = max(map(cell_len, renderable.plain.split()), default=0)  # it may be a name: it is not folded
            options = options.update(width=max(longest, options.max_width))
        return super().render(renderable, options)


class Shown:
    """Something whose tables are those of its `__rich__`: in a terminal, in a notebook, and as text."""

    def __rich__(self) -> RenderableType:
        raise NotImplementedError

    def summary(self) -> None:
        """Prints it as tables."""
        SafeConsole().print(self)

    def __str__(self) -> str:
        console = SafeConsole(color_system=None)
        with console.capture() as captured:
            console.print(self)
        return captured.get().rstrip()
