"""The exceptions. Each message says what happened, what was expected and how to fix it; attributes hold the data."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from kerassplit.text import printable


def without_terminal_codes(text: str) -> str:
    """Removes terminal color codes from a text: Keras prints parts of its errors in bold."""
    return re.sub(r"\x1b(?:\[[0-9;?]*[A-Za-z]?)?", "", text)


def without_graph_trace(text: str) -> str:
    """Removes the stack of files and lines that TensorFlow prints before the actual error in a graph."""
    return re.sub(r"Graph execution error:\s.*\n\s*File \"[^\n]*\n\s*", "", text, flags=re.DOTALL)


def _plain(message: str) -> str:
    return printable(without_graph_trace(without_terminal_codes(message)))


class SplitError(ValueError):
    """Base class of all kerassplit errors: a mistake that the message can explain."""

    def __init__(self, *args: object):
        super().__init__(*(_plain(one) if isinstance(one, str) else one for one in args))

    def __reduce__(self) -> tuple[Any, ...]:
        return restored, (type(self), self.args), vars(self)  # the default drops keyword arguments


def restored(kind: type[Exception], args: tuple[Any, ...]) -> Exception:
    """Rebuilds an error from its `args`, bypassing `__init__`; copying and unpickling then set its attributes."""
    return kind.__new__(kind, *args)


class _NameError(SplitError):
    """A name does not stand for exactly one tensor of the model."""

    def __init__(self, message: str, *, name: str, matches: Sequence[str] = ()):
        super().__init__(message)
        self.name = name
        self.matches = tuple(matches)


class UnknownTensorError(_NameError):
    """No tensor of the model has this name.

    Attributes:
        name: The name that was asked for.
        matches: Similar names in the model, closest first; may be empty.
    """


class AmbiguousTensorError(_NameError):
    """The name stands for several tensors.

    Attributes:
        name: The name that was asked for.
        matches: Full names of the tensors that it can stand for.
    """


class InsideBranchError(SplitError):
    """More tensors cross here than were named.

    Attributes:
        name: Names of the tensors that were named, joined by commas.
        crossing: Names of all tensors that cross here, in execution order.
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
    """The end of a sub-model does not depend on its start.

    Attributes:
        name: The offending tensor.
    """

    def __init__(self, message: str, *, name: str):
        super().__init__(message)
        self.name = name


class UnsupportedModelError(SplitError):
    """The model has no graph that can be read, or the pieces do not form one."""


class PlanError(SplitError):
    """No plan satisfies all the limits.

    Attributes:
        binding: The limits that rule out a plan, such as `"memory"`, `"largest_crossing"`, `"devices"` (too few or too
            many), `"must_cut"`, `"must_not_cut"`, `"first_to"`, `"last_from"`, `"links"`, `"seconds"` (a part that no
            device in its position can run), `"cuts"` (some of the rules for cuts), `"time"` (no plan was found
            in time; there may be one). If there are several, the message says whether to relax one of them or all.
        enough: Values that would be enough with the other limits unchanged, as far as they are known: for `"memory"`
            the bytes on each device, for `"largest_crossing"` the bytes, for `"devices"` their number.
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
    """A stage failed on a batch, even when retried.

    Attributes:
        stage: The stage's name.
        batch: Index of the batch, from 0.
        rows: Range of its rows, as the first and the one after the last.
    """

    def __init__(self, message: str, *, stage: str, batch: int, rows: tuple[int, int]):
        super().__init__(message)
        self.stage = stage
        self.batch = batch
        self.rows = rows


class VerificationError(SplitError):
    """A split does not compute what the model computes.

    Attributes:
        receipt: The `Receipt` with every comparison.
    """

    def __init__(self, message: str, *, receipt: object):
        super().__init__(message)
        self.receipt = receipt
