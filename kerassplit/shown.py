"""What is a table where it is printed."""

from rich.console import Console, RenderableType


class Shown:
    """Something whose tables are those of its `__rich__`: in a terminal, in a notebook, and as text."""

    def __rich__(self) -> RenderableType:
        raise NotImplementedError

    def summary(self) -> None:
        """Prints it as tables."""
        Console(markup=False).print(self)

    def __str__(self) -> str:
        console = Console(width=160, color_system=None, markup=False)
        with console.capture() as captured:
            console.print(self)
        return captured.get().rstrip()
