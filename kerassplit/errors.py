"""The errors. Each message says what happened, what was expected and how to mend it; the data is on attributes too."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from kerassplit.text import printable


def without_terminal_codes(text: str) -> str:
    """A text without the codes that color it on a terminal: Keras writes parts of its errors in bold."""
    return re.sub(r"\x1b(?:\[[0-9;?]*[A-Za-z]?)?", "", text)


def without_graph_trace(text: str) -> str:
    """A text without the files and lines that TensorFlow puts before what went wrong in a graph."""
    return re.sub(r"Graph execution error:\s.*\n\s*File \"[^\n]*\n\s*", "", text, flags=re.DOTALL)


def _plain(message: str) -> str:
    return printable(without_graph_trace(without_terminal_codes(message)))


class SplitError(ValueError):
    """What kerassplit raises for a mistake it can explain. All its other errors are kinds of this one."""

    def __init__(self, *args: object):
        super().__init__(*(_plain(one) if isinstance(one, str) else one for one in args))

    def __reduce__(self) -> tuple[Any, ...]:
        return restored, (type(self), self.args), vars(self)  # Python's own way knows no arguments by keyword


def restored(kind: type[Exception], args: tuple[Any, ...]) -> Exception:
    """An error out of its arguments, whatever its `__init__` takes; copying and unpickling then set its attributes."""
    return kind.__new__(kind, *args)


class _NameError(SplitError):
    """A name does not stand for one tensor of the model."""

    def __init__(self, message: str, *, name: str, matches: Sequence[str] = ()):
        super().__init__(message)
        self.name = name
        self.matches = tuple(matches)


class UnknownTensorError(_NameError):
    """No tensor of the model bears this name.

    Attributes:
        name: The name that was asked for.
        matches: Names of the model close to it, the closest first; empty when none is close.
    """


class AmbiguousTensorError(_NameError):
    """The name stands for several tensors.

    Attributes:
        name: The name that was asked for.
        matches: The tensors it can stand for, by their full names.
    """


class InsideBranchError(SplitError):
    """More tensors cross at this place than were named.

    Attributes:
        name: The tensors that were named, joined by commas.
        crossing: Names of all tensors that cross there, in execution order.
        before: The nearest split point before, or `None`.
        after: The nearest split point after, or `None`.
    """

    def __init__(self, message: str, *, name: str, crossing: Sequence[str], before: str | None, after: str | None):
        super().__init__(message)
        self.name = name
        self.crossing = tuple(crossing)
        self.before = before
        self.after = after


class NotConnectedError(SplitError):
    """The end of a sub-model does not follow from its start.

    Attributes:
        name: The tensor that is out of place.
    """

    def __init__(self, message: str, *, name: str):
        super().__init__(message)
        self.name = name


class UnsupportedModelError(SplitError):
    """The model is no graph that can be read, or the pieces make none."""


class PlanError(SplitError):
    """No cuts keep to all the limits that a plan was asked to keep to.

    Attributes:
        binding: The limits in the way, such as `"memory"`, `"largest_crossing"`, `"devices"` (too few or too many of
            them), `"must_cut"`, `"must_not_cut"`, `"first_to"`, `"last_from"`, `"links"`, `"seconds"` (what no device
            in its place can run), `"cuts"` (rules for cuts, not told apart), `"time"` (none was found in time; there
            may be one). Where there are several, the message says whether one of them or all have to be loosened.
        enough: What would be enough, the other limits as they are: for `"memory"` bytes on each device, for
            `"largest_crossing"` bytes, for `"devices"` how many. Only what is known.
    """

    def __init__(self, message: str, *, binding: Sequence[str] = (), enough: Mapping[str, float] | None = None):
        super().__init__(message)
        self.binding = tuple(binding)
        self.enough = dict(enough or {})


class StoreError(SplitError):
    """A folder of stages cannot be written or read.

    Attributes:
        path: The file or folder at fault.
    """

    def __init__(self, message: str, *, path: object):
        super().__init__(message)
        self.path = str(path)


class RunError(SplitError):
    """A stage fails on a batch, also when it is tried again.

    Attributes:
        stage: The stage's name.
        batch: The number of the batch, counted from 0.
        rows: The rows in it, as numbers of the first and of the one after the last.
    """

    def __init__(self, message: str, *, stage: str, batch: int, rows: tuple[int, int]):
        super().__init__(message)
        self.stage = stage
        self.batch = batch
        self.rows = rows


class VerificationError(SplitError):
    """A split does not compute what the model computes.

    Attributes:
        receipt: The `Receipt` with all that was compared.
    """

    def __init__(self, message: str, *, receipt: object):
        super().__init__(message)
        self.receipt = receipt
