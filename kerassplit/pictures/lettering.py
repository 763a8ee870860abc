"""Breaks the texts of a picture into lines, and estimates their sizes."""

import re

from kerassplit.pictures.picture import Box

TEXT, NAME, STAGE, TITLE = 12, 14, 15, 18
"""Font sizes in points."""

LINE, NAME_LINE = 16.5, 18.5
"""Heights of lines in points, including the space to the next line."""

HEADER = 46
"""Height of the text at the top of a stage's frame, in points."""

BORDER = 8
"""Width of a second border in points, on both sides together."""

_PADDING = 24, 9  # points, beside and above the text in a box
_WIDTHS = (  # of an em, in DejaVu Sans: most fonts are narrower
    (" .,:;'|!()[]ijlI·/-", 0.4),
    ("frt_", 0.5),
    ("ABCDEGHKNOPQRUVXY&", 0.78),
    ("mwMW@%×→●…≠", 1.0),
)
_WORD_ENDS = re.compile(r"(?<=[_/.\-])|(?<=[a-z]{2})(?=[A-Z0-9])|(?<=[A-Z]{2})(?=[A-Z][a-z])")


def text_width(text: str, size: float, *, bold: bool = False) -> float:
    """Returns an upper bound, for most fonts, on the width of a line in points."""
    widths = (next((width for signs, width in _WIDTHS if sign in signs), 0.635) for sign in text)
    return sum(widths) * size * (1.12 if bold else 1.0)


def broken(name: str, longest: int = 19) -> list[str]:
    """Breaks a long name into lines, only between words: after `_`, `/`, `.` or `-`, or before a digit or capital."""
    lines = [""]
    for word in re.split(_WORD_ENDS, name):
        if not lines[-1] or len((lines[-1] + word).rstrip()) <= longest:
            lines[-1] += word
        else:
            lines.append(word)
    # A few letters are not worth a line.
    return lines if len(lines) < 2 or len(lines[-1]) > 3 else [*lines[:-2], lines[-2] + lines[-1]]


def name_lines(box: Box) -> list[str]:
    """Breaks the title of a box into several lines if it is long, to keep boxes narrow."""
    if len(box.title) <= 14:
        return [box.title]
    for sign in (" · ", " … "):
        if sign in box.title:
            *first, last = box.title.split(sign)
            parts = [*(part + sign.rstrip() for part in first), last]
            return [line for part in parts for line in broken(part)]
    return broken(box.title)


def text_lines(box: Box) -> list[str]:
    """Returns the text of a box below its name: its lines and its shape."""
    shape = [box.shape if box.is_input else f"→ {box.shape}"] if box.shape else []
    return [*box.lines, *shape]


def mark_lines(box: Box) -> list[str]:
    """Returns the name of the tensor at the end of a box, in lines, if the model can be cut there."""
    return [] if box.mark is None else broken(f"● {box.mark}")


def edit_lines(box: Box) -> list[tuple[str, str]]:
    """Returns what was inserted and replaced in a box: lines, each with the sign at the beginning of its text."""
    return [(line, edit[0]) for edit in box.edits for line in broken(edit)]


def box_size(box: Box) -> tuple[float, float]:
    """Returns the width and height of a box in points, including a second border."""
    edits = [line for line, _ in edit_lines(box)]
    names, texts = name_lines(box), [*text_lines(box), *edits, *mark_lines(box)]
    wide = max([*(text_width(line, NAME, bold=True) for line in names), *(text_width(line, TEXT) for line in texts)])
    border = BORDER if box.count > 1 else 0
    return wide + _PADDING[0] + border, NAME_LINE * len(names) + LINE * len(texts) + _PADDING[1] + border
