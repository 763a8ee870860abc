"""What is a table where it is printed, and the console that prints it."""

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Column
from rich.text import Text

from kerassplit.text import printable


def right(heading: str, **options: Any) -> Column:
    """A column of numbers."""
    return Column(heading, justify="right", **options)


class SafeConsole(Console):
    """A console for texts out of files: they are no markup, and a terminal acts on nothing in them."""

    def __init__(self, **options: Any):
        super().__init__(markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        if isinstance(renderable, Text) and printable(renderable.plain) != renderable.plain:
            renderable = Text(printable(renderable.plain), style=renderable.style, overflow=renderable.overflow)
        return super().render(renderable, options)


class Shown:
    """Something whose tables are those of its `__rich__`: in a terminal, in a notebook, and as text."""

    def __rich__(self) -> RenderableType:
        raise NotImplementedError

    def summary(self) -> None:
        """Prints it as tables."""
        SafeConsole().print(self)

    def __str__(self) -> str:
        console = SafeConsole(width=160, color_system=None)
        with console.capture() as captured:
            console.print(self)
        return captured.get().rstrip()
