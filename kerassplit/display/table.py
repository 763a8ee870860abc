"""Tables that keep names whole, however narrow the screen."""

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Column, Table
from rich.text import Text

from kerassplit.text import enumerated, printable


class FittedTable(Table):
    """A table that fits the screen by leaving columns out; no cell is ever cut or folded.

    Columns are in order of importance: those that do not fit are left out from the right, and a line below the table
    names them. The first `whole` columns, which hold the names, always stay, even if they alone are wider than the
    screen.

    Args:
        title: Title above the table.
        columns: Headings of text columns, or columns.
        whole: Number of leading columns that always stay.
        notes: Lines below the table.
        show_footer: Whether columns have footers.
    """

    def __init__(
        self, title: str, *columns: Column | str, whole: int, notes: tuple[str, ...] = (), show_footer: bool = False
    ):
        super().__init__(*columns, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_footer=show_footer)
        self.whole = whole
        self.heading = title
        self.notes = notes
        for column in self.columns:
            column.no_wrap = True

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        every, width, fitting = self.columns, 1, 0
        for place, column in enumerate(every):
            column_width = _width(column) + 2
            if place >= self.whole and width + column_width > options.max_width:
                break
            width += column_width
            fitting += 1
        yield Text(self.heading, style="italic")
        try:
            self.columns = every[:fitting]
            yield from super().__rich_console__(console, options.update(width=max(width, options.max_width)))
        finally:
            self.columns = every
        left_out = [" ".join(str(column.header).split()) for column in every[fitting:]]
        if left_out:
            yield Text(f"Left out (a wider screen shows them): {enumerated(left_out)}.", style="dim")
        yield from (Text(note) for note in self.notes)


def _width(column: Column) -> int:
    texts: list[RenderableType] = [column.header, column.footer, *column.cells]
    return max(cell_len(line) for text in texts for line in printable(str(text)).split("\n"))
