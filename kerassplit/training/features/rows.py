"""Sources of rows with their targets: arrays and iterables of batches."""

import hashlib
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from itertools import chain, takewhile
from typing import Any

import keras
import numpy as np

from kerassplit.display.units import format_shape
from kerassplit.engines.inputs import as_array, digest_of_array, is_stream, spans
from kerassplit.errors import SplitError, StoreError

_WHOLE = {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
_STORABLE = {"bool", "bfloat16", "float16", "float32", "float64", "complex64"} | _WHOLE  # dtypes of safetensors
_PARTS = ("inputs", "targets", "sample weights")
_CHECKED_ROWS = 32  # first rows of arrays, whose preprocessed values reveal a changed preprocessing


@dataclass(frozen=True, eq=False)
class Rows:
    """Consecutive rows of data, before preprocessing.

    Attributes:
        parts: `(inputs, targets, sample weights)`, as far as given: structures of arrays, the rows along the first
            dimension.
        first: Number of the first row, counted from 0 over all passes.
        digest: Digest of all rows up to the last of these; `None` if it is not computed.
    """

    parts: tuple[Any, ...]
    first: int = 0
    digest: str | None = None

    @property
    def arrays(self) -> list[np.ndarray]:
        """All arrays, in the order of the structure."""
        return leaves_of(self.parts)

    @property
    def rows(self) -> int:
        return len(self.arrays[0])

    @property
    def end(self) -> int:
        """Number of the row after the last one."""
        return self.first + self.rows

    @property
    def inputs(self) -> Any:
        return self.parts[0]

    @property
    def others(self) -> tuple[Any, ...]:
        """The targets and the sample weights, as far as given."""
        return self.parts[1:]

    @property
    def spec(self) -> dict[str, str]:
        """Shape and dtype of a row of each array, by its place in the structure."""
        return {
            _PARTS[part] + "".join(f"[{key!r}]" for key in path): f"{format_shape(array.shape)} {array.dtype}"
            for (part, *path), array in keras.tree.flatten_with_path(self.parts)
            if array is not None
        }

    def cut(self, start: int, stop: int | None = None) -> "Rows":
        """Returns rows `start` to `stop` (exclusive), counted from the first of these."""
        if start == 0 and stop in (None, self.rows):
            return self
        return Rows(map_arrays(lambda array: array[start:stop], self.parts), self.first + start)

    def digests(self) -> dict[str, str]:
        """Returns digests of the inputs, the targets and the sample weights."""
        return {name: digest_of(part) for name, part in zip(_PARTS, self.parts, strict=False)}


@dataclass(frozen=True, eq=False)
class Data:
    """Rows that can be iterated over.

    Attributes:
        rows: Number of rows in one pass; `None` if it is not known in advance.
        at_least: Lower bound on the number of rows in one pass.
        batches: Number of batches that a stream announces; `None` for arrays, and if it announces none.
        first: The first rows; for a stream, its first batch.
        leading: Returns the given number of first rows, or all if there are fewer.
        content: Returns digests of arrays; empty for streams.
        passes: Yields all rows, batch by batch. Takes the number of passes, the row to start at, and the expected
            digest of the rows before it, which is checked.
    """

    rows: int | None
    at_least: int
    batches: int | None
    first: Rows
    leading: Callable[[int], Rows]
    content: Callable[[], dict[str, str]]
    passes: Callable[[int, int, str | None], Generator[Rows]]


def data_of(data: Any, batch_size: int) -> Data:
    """Builds `Data` from what a user passes; `Data` stays as it is.

    Args:
        data: `x`, `(x,)`, `(x, y)` or `(x, y, sample_weight)`, each an array or a structure of arrays; or an iterable
            of such batches, such as a `tf.data.Dataset` or a `keras.utils.PyDataset`.
        batch_size: Rows per batch of arrays. The batches of an iterable stay as they are.

    Raises:
        SplitError: The data is something else, infinite or empty.
    """
    if isinstance(data, Data):
        return data
    if isinstance(data, (str, bytes)):
        raise SplitError(f"`data` must be arrays or an iterable of batches; got the text {data!r}.")
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
                    "The data can be iterated over only once, but `repeats` needs several passes. Pass data that can "
                    "be iterated over again, such as a tf.data.Dataset, a PyDataset or arrays."
                )
            if number and isinstance(stream, keras.utils.PyDataset):
                stream.on_epoch_end()
            for rows in begun.pop() if begun else _batches(stream):
                if rows.spec != first.spec:
                    raise SplitError(
                        f"The shapes of the data change: rows {end} to {end + rows.rows - 1} have {_shown(rows.spec)}, "
                        f"but the first ones {_shown(first.spec)}. Pad them to one size."
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
        alike = [rows.parts for rows in takewhile(lambda rows: rows.spec == first.spec, taken)]
        return Rows(map_arrays(lambda *arrays: np.concatenate(arrays), *alike)).cut(0, count)

    least = 1 if batches is None else (batches - 1) * first.rows + 1
    return Data(None, least, batches, first, leading, dict, passes)


class _Running:
    """Digest of all rows so far, independent of their division into batches."""

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
    """Returns the error for data that changed since its first `row` rows were cached."""
    return StoreError(
        f"The first {row} rows of the data differ from those that were cached. If the data is shuffled or augmented, "
        "cache it without that; else pass overwrite=True to compute all features anew, or name another directory.",
        path="",
    )


def _number_of_batches(stream: Any) -> int | None:
    """Returns the number of batches that a stream announces, if any."""
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
        yield Rows(map_arrays(np.array, rows.parts))  # copied, as some streams use one buffer for all batches


def _rows_of(element: Any, what: str) -> Rows:
    """Builds rows from `x`, `(x, y)` or `(x, y, sample_weight)`."""
    parts = element if isinstance(element, tuple) else (element,)
    if not 1 <= len(parts) <= 3 or parts[0] is None:
        raise SplitError(
            f"{what} must be `x`, `(x, y)` or `(x, y, sample_weight)`; got a tuple of {len(parts)}. Several inputs go "
            "into a list or a dict."
        )
    while parts and parts[-1] is None:
        parts = parts[:-1]
    rows = Rows(map_arrays(lambda leaf: _checked(leaf, what), tuple(parts)))
    arrays = rows.arrays
    counts = {array.shape[0] for array in arrays if array.ndim}
    if len(counts) != 1 or counts == {0} or not all(array.ndim for array in arrays):
        shapes = ", ".join(dict.fromkeys(str(array.shape) for array in arrays))
        raise SplitError(
            f"{what} must hold arrays with the same number of rows, at least one, along the first dimension; got the "
            f"shapes {shapes}. Put single samples into batches first (`.batch(32)`), and lists of numbers into arrays "
            "(`np.array`)."
        )
    return rows


def _checked(value: Any, what: str) -> np.ndarray:
    try:
        array = as_array(value)
    except Exception as error:
        raise SplitError(
            f"{what} holds a {type(value).__name__}, which is not an array: {error}. Expected arrays or dense tensors."
        ) from error
    if array is None or array.dtype.hasobject or array.dtype.kind in "USmM":
        kind = "nothing" if array is None else f"values of type {array.dtype}"
        raise SplitError(f"{what} holds {kind}. Expected numbers: turn text into numbers first.")
    if array.dtype.name not in _STORABLE:
        raise SplitError(f"{what} holds {array.dtype}, which cannot be stored. Cast it: float64 and complex64 can.")
    return array


def leaves_of(structure: Any) -> list[Any]:
    """Returns the leaves of a structure, without `None`."""
    return [leaf for leaf in keras.tree.flatten(structure) if leaf is not None]


def map_arrays(function: Callable[..., Any], *structures: Any) -> Any:
    """Applies a function to each leaf of structures; `None` stays `None`."""
    return keras.tree.map_structure(lambda *leaves: None if leaves[0] is None else function(*leaves), *structures)


def digest_of(structure: Any) -> str:
    """Identifies the arrays of a structure by a digest."""
    digests = [str(digest_of_array(leaf)) for leaf in leaves_of(structure)]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def _shown(spec: dict[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in spec.items())
