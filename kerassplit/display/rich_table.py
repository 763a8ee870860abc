"""Objects that print as tables, and the console that prints them."""

import io
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from typing import Any, Self, SupportsIndex, TypeVar, overload

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Column
from rich.text import Text

from kerassplit.display.table import FittedTable
from kerassplit.display.units import format_count, format_shape
from kerassplit.files.sizes import format_bytes
from kerassplit.text import in_words, printable, shortened

Item = TypeVar("Item")
_HTML = '<pre style="line-height: normal; overflow-x: auto; white-space: pre">{code}</pre>'

WIDE = 1000
"""Width in columns without a terminal, so that nothing is left out."""


def right(heading: str, **options: Any) -> Column:
    """Returns a right-aligned column, for numbers."""
    return Column(heading, justify="right", **options)


class SafeConsole(Console):
    """Console for untrusted text: no markup, no terminal control characters, and words are never cut."""

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
            longest = max(map(cell_len, renderable.plain.split()), default=0)  # may be a name: never folded
            options = options.update(width=max(longest, options.max_width))
        return super().render(renderable, options)


class Shown:
    """Mixin: terminals, notebooks and `str` show what `__rich__` returns. Fields with records print as tables, too."""

    def __post_init__(self) -> None:
        for field in fields(self):  # type: ignore[arg-type]  # a dataclass
            value = getattr(self, field.name)
            if type(value) is tuple and value and is_dataclass(value[0]):
                object.__setattr__(self, field.name, Records(value))

    def __rich__(self) -> RenderableType:
        raise NotImplementedError

    def summary(self) -> None:
        """Prints the object as tables."""
        SafeConsole().print(self)

    def __str__(self) -> str:
        console = SafeConsole(color_system=None)
        with console.capture() as captured:
            console.print(self)
        return captured.get().rstrip()

    def _repr_html_(self) -> str:
        console = SafeConsole(width=WIDE, record=True, file=io.StringIO(), force_jupyter=False)
        console.print(self)
        return console.export_html(code_format=_HTML, inline_styles=True)


class Records(Shown, tuple[Item, ...]):
    """A tuple of dataclass instances of one class. Prints as a table; its `repr` is one line.

    The columns are the fields of the records, or those that their class lists in `_columns`; empty ones are left out.
    """

    def __new__(cls, records: Iterable[Item] = ()) -> Self:
        plain: Any = tuple(records)  # returned as it is if `asdict` has turned the records into dicts
        return super().__new__(cls, plain) if plain and is_dataclass(plain[0]) else plain

    @overload
    def __getitem__(self, key: SupportsIndex, /) -> Item: ...
    @overload
    def __getitem__(self, key: slice, /) -> Self: ...
    def __getitem__(self, key: Any, /) -> Any:
        found = super().__getitem__(key)
        return type(self)(found) if isinstance(key, slice) else found

    def __rich__(self) -> FittedTable:
        columns = {name: [_cell(name, getattr(record, name)) for record in self] for name in self._columns()}
        filled = {name: cells for name, cells in columns.items() if any(cells)}
        headings = [self._heading(name) for name in filled]
        table = FittedTable(self._title(), *headings, whole=1)
        for row in zip(*filled.values(), strict=True):
            table.add_row(*row)
        return table

    def _heading(self, name: str) -> Column:
        numbers = all(isinstance(getattr(record, name), int | float | None) for record in self)
        return Column(name.replace("_", " "), justify="right" if numbers else "left")

    def __repr__(self) -> str:
        first = self._columns()[0]
        return _brief(self._title(), [_cell(first, getattr(record, first)) for record in self])

    def _columns(self) -> list[str]:
        return list(getattr(self[0], "_columns", ())) or [one.name for one in fields(self[0]) if one.repr]  # type: ignore[arg-type]

    def _title(self) -> str:
        return f"{len(self)} {in_words(type(self[0]).__name__)}{'s' * (len(self) > 1)}"


class ShownDict(Shown, dict[str, Item]):
    """A dict from names to objects. Prints as a table; its `repr` is one line."""

    def __rich__(self) -> FittedTable:
        table = FittedTable(f"{len(self)} objects", "name", "object", whole=1)
        for name, value in self.items():
            table.add_row(name, _cell("", value))
        return table

    def __repr__(self) -> str:
        return _brief(f"dict of {len(self)}", list(self))


def _brief(title: str, names: list[str]) -> str:
    shown = names if len(names) < 5 else [*names[:3], "…", names[-1]]
    return shortened(f"<{title}: {'; '.join(shown)}>")


def _cell(name: str, value: Any) -> str:
    """Formats the value of a field for a table."""
    if value is None or isinstance(value, bool):
        return "yes" if value else ""
    if name == "shape":
        return format_shape(value)
    if isinstance(value, tuple | list):
        return ", ".join(str(one) for one in value[:4]) + (f", … ({len(value)})" if len(value) > 4 else "")
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int):
        return format_bytes(value) if name.endswith("bytes") else str(value) if name == "index" else format_count(value)
    return type(value).__name__ if hasattr(value, "get_config") else str(value)
