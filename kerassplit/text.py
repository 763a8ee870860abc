"""Text helpers: escaping for terminals, safe and unique names, lists in sentences, package names."""

import os
import re
import reprlib
import sys
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

Kind = TypeVar("Kind", bound=type)
_BRIEF = reprlib.Repr()
_BRIEF.maxtuple, _BRIEF.maxdict, _BRIEF.maxstring, _BRIEF.maxother = 4, 2, 60, 60
_PACKAGE = str(Path(__file__).parent) + os.sep
_ESCAPED = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode categories to escape: controls, invisible formatting (such as direction marks), surrogates, line breaks."""


def printable(text: str, kept: str = "\n\t") -> str:
    r"""Escapes the characters that a terminal acts on or that are invisible.

    Anything read from a file (names of models, layers, tensors, devices) goes through this before it is shown.

    Args:
        text: The text.
        kept: Characters to keep: by default newlines and tabs; `""` puts the text on one line.

    >>> printable("layer\x1b[2J")
    'layer\\x1b[2J'
    """
    if text.isprintable():
        return text
    return "".join(one if one in kept or unicodedata.category(one) not in _ESCAPED else _escape(one) for one in text)


def warn(text: str, category: type[Warning] = UserWarning) -> None:
    """Warns at the line that called this package; the text is made printable."""
    frame, level = sys._getframe(1), 2
    while frame.f_back and frame.f_code.co_filename.startswith(_PACKAGE):
        frame, level = frame.f_back, level + 1
    warnings.warn(printable(text), category, stacklevel=level)


def in_words(kind: str) -> str:
    """Returns the name of a class in words.

    >>> in_words("SplitPoint")
    'split point'
    """
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", kind).lower()


def shortened(text: str, most: int = 199) -> str:
    """Returns a text on one line of at most `most` characters, as for a `repr`."""
    line = printable(text, kept="")
    return line if len(line) <= most else f"{line[: most - 1]}…"


def with_short_repr(kind: Kind) -> Kind:
    """Decorates a dataclass with a one-line `repr` that omits fields with their default values."""

    def short(self: Any) -> str:
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.repr}
        defaults = {field.name: field.default for field in fields(self)}
        shown = [f"{name}={_BRIEF.repr(value)}" for name, value in values.items() if value is not defaults[name]]
        return shortened(f"{kind.__name__}({', '.join(shown)})")

    kind.__repr__ = short  # pyright: ignore[reportAttributeAccessIssue]
    return kind


def _escape(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode()


def listed(names: Iterable[str], conjunction: str = "and") -> str:
    """Lists quoted names in a sentence, shortened beyond eight: `'a', 'b' and 'c'`."""
    return enumerated([f"'{printable(name)}'" for name in names], conjunction)


def enumerated(things: Sequence[str], conjunction: str = "and") -> str:
    """Lists things in a sentence, shortened beyond eight: `a, b and c`."""
    if len(things) > 8:
        things = [*things[:7], f"{len(things) - 7} more"]
    if len(things) < 2:
        return "".join(things)
    return f"{', '.join(things[:-1])} {conjunction} {things[-1]}"


def safe_name(name: str) -> str:
    """Turns a tensor's name into the name of an Input or the key of a dict: `/`, `@`, `:` become `.`, `_`, `_`."""
    return name.replace("/", ".").replace("@", "_").replace(":", "_")


def package_of(thing: Any) -> str:
    """Returns the name of the package that defines a class or function.

    >>> package_of(Path)
    'pathlib'
    """
    return str(getattr(thing, "__module__", None) or "").partition(".")[0]


def snake_case(name: str) -> str:
    """Returns a class name in snake case, as Keras names operations.

    >>> snake_case("Conv2D"), snake_case("GetItem")
    ('conv2d', 'get_item')
    """
    return re.sub("([a-z])([A-Z])", r"\1_\2", re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)).lower()


def unique(name: str, taken: set[str], key: Callable[[str], str] = str) -> str:
    """Returns the first of `name`, `name_1`, `name_2`, ... whose `key` is not in `taken`, and adds it there."""
    candidate, number = name, 0
    while key(candidate) in taken:
        number += 1
        candidate = f"{name}_{number}"
    taken.add(key(candidate))
    return candidate
