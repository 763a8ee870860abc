"""Where rows with their targets come from: arrays, and whatever gives batches when it is iterated over."""

import hashlib
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import keras
import numpy as np

from kerassplit.display.units import format_shape
from kerassplit.engines.inputs import as_array, digest_of_array, is_stream, spans
from kerassplit.errors import SplitError, StoreError
from kerassplit.training.features.structures import leaves_of, put_together, taken_apart

_WHOLE = {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
_STORABLE = {"bool", "bfloat16", "float16", "float32", "float64", "complex64"} | _WHOLE  # what safetensors takes
_PARTS = ("inputs", "targets", "sample weights")
_CHECKED_ROWS = 32  # of arrays, by which a change of the preprocessing is noticed


@dataclass(frozen=True, eq=False)
class Rows:
    """Some rows of data, as they came.

    Attributes:
        arrays: The leaves of `(inputs, targets, sample weights)`, the rows along the first dimension.
        outline: The structure of that, as plain values; its second and third parts may be missing.
        first: The first row, counted from 0 over all passes.
        digest: What tells all rows up to the last of these from others; `None` where that is not asked for.
    """

    arrays: tuple[np.ndarray, ...]
    outline: Any
    first: int = 0
    digest: str | None = None

    @property
    def rows(self) -> int:
        return len(self.arrays[0])

    @property
    def end(self) -> int:
        """The row behind the last one."""
        return self.first + self.rows

    @property
    def inputs(self) -> Any:
        """The inputs, in their structure."""
        return put_together(self.outline["tuple"][0], self.arrays)

    @property
    def others(self) -> Any:
        """A tuple of the targets and the sample weights, as far as there are any."""
        return tuple(put_together(plain, self.arrays) for plain in self.outline["tuple"][1:])

    @property
    def spec(self) -> dict[str, str]:
        """The shape and type of a row of each array, under the place in which the array is."""
        names = self._names(self.outline["tuple"])
        return {
            name: f"{format_shape(array.shape)} {array.dtype}" for name, array in zip(names, self.arrays, strict=True)
        }

    def cut(self, start: int, stop: int | None = None) -> "Rows":
        """A part of the rows, counted from the first of these."""
        if start == 0 and stop in (None, self.rows):
            return self
        return Rows(tuple(array[start:stop] for array in self.arrays), self.outline, self.first + start)

    def digests(self) -> dict[str, str]:
        """What tells these rows from others, for the inputs, the targets and the sample weights each."""
        parts = dict(zip(_PARTS, [self.inputs, *self.others], strict=False))
        return {name: _digest(part) for name, part in parts.items()}

    @staticmethod
    def _names(parts: Sequence[Any]) -> list[str]:
        found: dict[int, str] = {}

        def walk(plain: Any, name: str) -> None:
            if isinstance(plain, int):
                found[plain] = name
            elif plain is not None:
                ((kind, inner),) = plain.items()
                for key, one in inner.items() if kind == "dict" else enumerate(inner):
                    walk(one, f"{name}[{key!r}]")

        for plain, name in zip(parts, _PARTS, strict=False):
            walk(plain, name)
        return [found[place] for place in sorted(found)]


@dataclass(frozen=True, eq=False)
class Data:
    """Rows that can be gone through.

    Attributes:
        rows: How many there are in one pass; `None` where that is not known beforehand.
        at_least: So many there are in one pass, as far as that is known.
        batches: How many batches a stream says that it has; `None` for arrays, and where it does not say.
        first: The first rows: of a stream its first batch.
        leading: Gives so many of the first rows, or all where there are fewer.
        content: Gives what tells arrays from others; empty for streams.
        passes: Gives all rows, batch by batch: takes the number of passes, the row to begin at, and what tells the rows
            before it from others, which are then compared.
    """

    rows: int | None
    at_least: int
    batches: int | None
    first: Rows
    leading: Callable[[int], Rows]
    content: Callable[[], dict[str, str]]
    passes: Callable[[int, int, str | None], Generator[Rows]]


def data_of(data: Any, batch_size: int) -> Data:
    """Makes rows of what a user passes; what is that already stays.

    Args:
        data: `x`, `(x,)`, `(x, y)` or `(x, y, sample_weight)`, each an array or a structure of arrays; or an iterable
            of such batches, such as a `tf.data.Dataset` or a `keras.utils.PyDataset`.
        batch_size: Rows in a batch of arrays. The batches of an iterable stay as they are.

    Raises:
        SplitError: It is something else, or without end, or has no rows.
    """
    if isinstance(data, Data):
        return data
    if isinstance(data, (str, bytes)):
        raise SplitError(f"`data` must be arrays or give batches; got the text {data!r}.")
    return _of_stream(data) if is_stream(data) else _of_arrays(data, batch_size)


def _of_arrays(data: Any, batch_size: int) -> Data:
    every = _rows_of(data, "`data`")

    def passes(repeats: int, row: int, _: str | None) -> Generator[Rows]:
        for number in range(row // every.rows, repeats):
            begin = number * every.rows
            for first, count in spans(max(0, row - begin), every.rows, batch_size):
                start = max(first, row - begin)
                yield replace(every.cut(start, first + count), first=begin + start)

    first = every.cut(0, _CHECKED_ROWS)
    return Data(every.rows, every.rows, None, first, lambda count: every.cut(0, count), every.digests, passes)


def _of_stream(stream: Any) -> Data:
    batches = _number_of_batches(stream)
    waiting = iter(_batches(stream))
    one_shot = isinstance(stream, Iterator)
    first = next(waiting, None)
    if first is None:
        raise SplitError("The data holds no rows. Expected at least one.")
    begun: list[Iterator[Rows]] = [chain([first], waiting)]

    def passes(repeats: int, row: int, expected: str | None) -> Generator[Rows]:
        digest = _Running() if repeats == 1 else None
        end = 0
        for number in range(repeats):
            if number and one_shot:
                raise SplitError(
                    "The data can be gone through only once, and `repeats` needs it several times. Give something that "
                    "can be iterated over again, such as a tf.data.Dataset, a PyDataset or arrays."
                )
            if number and isinstance(stream, keras.utils.PyDataset):
                stream.on_epoch_end()
            for rows in begun.pop() if begun else _batches(stream):
                if rows.spec != first.spec:
                    raise SplitError(
                        f"The data changes its shapes: rows {end} to {end + rows.rows - 1} have {_shown(rows.spec)}, "
                        f"and the first ones {_shown(first.spec)}. Pad them to one size."
                    )
                begin, end = end, end + rows.rows
                parts = [rows.cut(0, row - begin), rows.cut(row - begin)] if begin < row < end else [rows]
                for part in parts:
                    if digest:
                        digest.add(part)
                    begin += part.rows
                    if begin <= row:
                        if digest and begin == row and expected not in (None, digest.value):
                            raise other_rows(row)
                    else:
                        yield replace(part, first=begin - part.rows, digest=digest.value if digest else None)
        if end < row:
            raise other_rows(row)

    def leading(count: int) -> Rows:
        taken = [first]
        next(begun[0])
        while sum(rows.rows for rows in taken) < count and (more := next(begun[0], None)):
            taken.append(more)
        begun[0] = chain(taken, begun[0])
        arrays = zip(*(rows.arrays for rows in taken), strict=True)
        return Rows(tuple(np.concatenate(parts) for parts in arrays), first.outline).cut(0, count)

    least = 1 if batches is None else (batches - 1) * first.rows + 1
    return Data(None, least, batches, first, leading, dict, passes)


class _Running:
    """What tells all the rows so far from others, however they are cut into batches."""

    def __init__(self) -> None:
        self._digests: list[Any] = []

    def add(self, rows: Rows) -> None:
        self._digests = self._digests or [hashlib.sha256() for _ in rows.arrays]
        for digest, array in zip(self._digests, rows.arrays, strict=True):
            digest.update(np.ascontiguousarray(array).reshape(-1).view("uint8").data)

    @property
    def value(self) -> str:
        return hashlib.sha256(b"".join(digest.digest() for digest in self._digests)).hexdigest()


def other_rows(row: int) -> StoreError:
    """The error for data that changed since so many of its rows were cached."""
    return StoreError(
        f"The first {row} rows of the data are others than when they were cached. If the data is shuffled or "
        "augmented, cache it as it is without; else pass overwrite=True to compute all features anew, or name "
        "another directory.",
        path="",
    )


def _number_of_batches(stream: Any) -> int | None:
    """How many batches a stream says that it has."""
    endless = isinstance(stream, keras.utils.PyDataset) and stream.num_batches is None
    if hasattr(stream, "cardinality"):
        endless = int(stream.cardinality()) == -1  # tf.data.INFINITE_CARDINALITY
    if endless:
        raise SplitError("The data never ends, so it cannot be cached. Leave out `.repeat()`, or `.take` a number.")
    try:
        return len(stream)
    except TypeError:
        return None


def _batches(stream: Any) -> Iterator[Rows]:
    if isinstance(stream, keras.utils.PyDataset):
        stream = map(stream.__getitem__, range(len(stream)))
    for number, element in enumerate(stream):
        rows = _rows_of(tuple(element) if isinstance(element, list) else element, f"Batch {number} of the data")
        yield replace(rows, arrays=tuple(np.array(array) for array in rows.arrays))  # some use one buffer for all


def _rows_of(element: Any, what: str) -> Rows:
    """`x`, `(x, y)` or `(x, y, sample_weight)` as rows."""
    parts = element if isinstance(element, tuple) else (element,)
    if not 1 <= len(parts) <= 3 or parts[0] is None:
        raise SplitError(
            f"{what} must be `x`, `(x, y)` or `(x, y, sample_weight)`; got a tuple of {len(parts)}. Several inputs go "
            "into a list or a dict."
        )
    while parts and parts[-1] is None:
        parts = parts[:-1]
    leaves: list[Any] = []
    outline = taken_apart(tuple(parts), leaves)
    arrays = [_checked(leaf, what) for leaf in leaves]
    counts = {array.shape[0] for array in arrays if array.ndim}
    if len(counts) != 1 or counts == {0} or not all(array.ndim for array in arrays):
        shapes = ", ".join(dict.fromkeys(str(array.shape) for array in arrays))
        raise SplitError(
            f"{what} must hold arrays with the same number of rows, at least one, along the first dimension; got the "
            f"shapes {shapes}. Single samples need to be put into batches first (`.batch(32)`), and lists of numbers "
            "into arrays (`np.array`)."
        )
    return Rows(tuple(arrays), outline)


def _checked(value: Any, what: str) -> np.ndarray:
    try:
        array = as_array(value)
    except Exception as error:
        raise SplitError(
            f"{what} holds a {type(value).__name__}, which is no array: {error}. Expected arrays or dense tensors."
        ) from error
    if array is None or array.dtype.hasobject or array.dtype.kind in "USmM":
        kind = "nothing" if array is None else f"values of type {array.dtype}"
        raise SplitError(f"{what} holds {kind}. Expected numbers: turn text into numbers first.")
    if array.dtype.name not in _STORABLE:
        raise SplitError(f"{what} holds {array.dtype}, which cannot be stored. Cast it: float64 and complex64 can.")
    return array


def _digest(structure: Any) -> str:
    digests = [str(digest_of_array(leaf)) for leaf in leaves_of(structure)]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def _shown(spec: dict[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in spec.items())
