"""Where rows come from: arrays, files, and whatever gives batches when it is iterated over."""

import hashlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kerassplit.engines.ahead import ahead
from kerassplit.engines.array_files import ArrayFile, open_arrays
from kerassplit.engines.route import Batch, Route
from kerassplit.errors import SplitError
from kerassplit.photo import IMAGE_SUFFIXES, read_photo
from kerassplit.stages import CrossingTensor, named_tensors
from kerassplit.units import format_shape
from kerassplit.zoo import find_architecture

_NO_PREPROCESSING = "none"
_READ_AHEAD = 2  # batches that are read from files while others are computed


@dataclass(frozen=True, eq=False)
class Source:
    """Rows for a model.

    Attributes:
        rows: How many there are; `None` where that is not known beforehand.
        batches: Gives the batches from the one on that holds a row, the rows before it unread where that is possible.
        identify: Gives what tells it from another one, as plain values: an unfinished run goes on with the same input
            only. `None`: nothing can tell.
        files: For images the file of each row, relative to their folder, with its size and time of change.
        notes: What somebody should know who did not ask.
    """

    rows: int | None
    batches: Callable[[int], Generator[Batch]]
    identify: Callable[[], dict[str, Any]] | None
    files: tuple[tuple[str, int, int], ...] = ()
    notes: tuple[str, ...] = ()


def source_of(x: Any, route: Route, batch_size: int, preprocess: str | None = None) -> Source:
    """Makes a source of what a user passes.

    Args:
        x: Arrays or tensors in the structure of the model's inputs; a path; or an iterable, such as a
            `tf.data.Dataset`, of batches or of single rows in that structure. Of a tuple, the first element is the
            input, as in Keras.
        route: What the model takes.
        batch_size: Rows in a batch. The batches of an iterable stay as they are.
        preprocess: For images: the architecture whose `preprocess_input` they get; `"none"`: they stay pixels from 0 to
            255; `None`: the architecture that bears the model's name, or none.

    Raises:
        SplitError: It does not fit the model, or cannot be read.
    """
    if isinstance(x, (str, Path)):
        return _from_path(Path(x), route, batch_size, preprocess)
    if preprocess is not None:
        raise SplitError("`preprocess` is for images in files; what you pass as arrays is taken as it is.")
    if is_stream(x):
        return _from_stream(x, route, batch_size)
    return _from_arrays(named_tensors(x, route.inputs, route.model), route, batch_size)


def _from_arrays(given: dict[str, Any], route: Route, batch_size: int) -> Source:
    arrays = {name: as_array(value) for name, value in given.items()}
    rows = _number_of_rows(_shapes(arrays))
    check_shapes(arrays, route)

    def batches(row: int) -> Generator[Batch]:
        for first, count in spans(row, rows, batch_size):
            part = {name: None if array is None else array[first : first + count] for name, array in arrays.items()}
            yield Batch(first // batch_size, first, count, part)

    return Source(rows, batches, lambda: {name: digest_of_array(array) for name, array in arrays.items()})


def _from_path(path: Path, route: Route, batch_size: int, preprocess: str | None) -> Source:
    if path.is_dir():
        there = [one for one in path.rglob("*") if not one.name.startswith(".") and one.is_file()]
        found = sorted(one for one in there if one.suffix.lower() in IMAGE_SUFFIXES)
        if not found:
            raise SplitError(
                f"There are no images in '{path}'. Expected files such as .jpg or .png, in subfolders too."
            )
        others = len(there) - len(found)
        notes = [f"{others} files in '{path}' are no images and were left out."] if others else []
        return _from_images(path, found, route, batch_size, preprocess, notes)
    if not path.is_file():
        raise SplitError(f"There is no file or folder '{path}' to take input from.")
    if path.suffix.lower() not in (".npy", ".npz"):
        return _from_images(path.parent, [path], route, batch_size, preprocess, [])
    if preprocess is not None:
        raise SplitError(f"`preprocess` (--preprocess) is for images; the arrays in '{path}' are taken as they are.")
    return _from_array_files(path, open_arrays(path, [tensor.name for tensor in route.takes]), route, batch_size)


def _from_array_files(path: Path, arrays: dict[str, ArrayFile], route: Route, batch_size: int) -> Source:
    shapes = {}
    for tensor in route.takes:
        array = arrays[tensor.name]
        single = len(array.shape) == len(tensor.shape) - 1 > 0
        shapes[tensor.name] = shape = (1, *array.shape) if single else array.shape
        _check_shape(shape, tensor, route, where=f"'{path}' holds")
        if array.dtype.kind not in "biuf":
            raise SplitError(f"'{path}' holds values of type {array.dtype}; '{tensor.name}' takes {tensor.dtype}.")
    rows = _number_of_rows(shapes)

    def batches(row: int) -> Generator[Batch]:
        start = row // batch_size * batch_size
        readers = {
            name: array.parts(start, batch_size if shapes[name] == array.shape else array.shape[0])
            for name, array in arrays.items()
        }
        for first, count in spans(row, rows, batch_size):
            part = {name: np.reshape(next(reader), (count, *shapes[name][1:])) for name, reader in readers.items()}
            yield Batch(first // batch_size, first, count, part)

    status = path.stat()
    identity = {"file": str(path.resolve()), "bytes": status.st_size, "changed": status.st_mtime_ns}
    return Source(rows, lambda row: ahead(batches(row), _READ_AHEAD), lambda: identity)


def _from_images(
    folder: Path, paths: Sequence[Path], route: Route, batch_size: int, preprocess: str | None, notes: Sequence[str]
) -> Source:
    architecture, more = _architecture(preprocess, route.model)
    if len(route.takes) != 1 or len(route.takes[0].shape) != 4:
        takes = ", ".join(f"'{tensor.name}' {tensor.shape}" for tensor in route.takes)
        raise SplitError(f"'{route.model}' does not take one image; it takes {takes}. Give these as .npy or .npz.")
    name, shape = route.takes[0].name, route.takes[0].shape[1:]

    def batches(row: int) -> Generator[Batch]:
        for first, count in spans(row, len(paths), batch_size):
            images = [read_photo(path, shape, architecture, route.model) for path in paths[first : first + count]]
            yield Batch(first // batch_size, first, count, {name: np.stack(images)})

    status = [path.stat() for path in paths]
    files = tuple(
        (path.relative_to(folder).as_posix(), one.st_size, one.st_mtime_ns)
        for path, one in zip(paths, status, strict=True)
    )
    identity = {"folder": str(folder.resolve()), "preprocess": architecture}
    return Source(len(paths), lambda row: ahead(batches(row), _READ_AHEAD), lambda: identity, files, (*notes, *more))


def _from_stream(stream: Any, route: Route, batch_size: int) -> Source:
    if isinstance(stream, keras.utils.PyDataset):
        stream = map(stream.__getitem__, range(len(stream)))
    known = {tensor.name: tensor for tensor in route.takes}

    def elements() -> Iterator[dict[str, Any]]:
        for element in stream:
            inputs = element[0] if isinstance(element, tuple) and element else element
            given = named_tensors(inputs, route.inputs, route.model)
            yield {name: as_array(value) for name, value in given.items()}

    def batches(row: int) -> Generator[Batch]:
        number = first = 0
        for arrays in _gathered(elements(), known, batch_size):
            rows = _number_of_rows(_shapes(arrays))
            check_shapes(arrays, route)
            if first + rows > row:
                yield Batch(number, first, rows, arrays)
            number, first = number + 1, first + rows

    return Source(None, batches, None)


def _gathered(
    elements: Iterator[dict[str, Any]], known: dict[str, CrossingTensor], batch_size: int
) -> Iterator[dict[str, Any]]:
    """Batches as they are; single rows as batches."""
    rows: list[dict[str, Any]] = []
    for element in elements:
        single = all(array is None or array.ndim == len(known[name].shape) - 1 for name, array in element.items())
        if rows and (not single or len(rows) == batch_size or _left_out(element) != _left_out(rows[0])):
            yield _stacked(rows)
            rows = []
        if single:
            rows.append(element)
        else:
            yield element
    if rows:
        yield _stacked(rows)


def _left_out(element: dict[str, Any]) -> list[str]:
    return [name for name, value in element.items() if value is None]


def _stacked(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {name: None if value is None else np.stack([row[name] for row in rows]) for name, value in rows[0].items()}


def digest_of_array(array: np.ndarray | None) -> str | None:
    """What tells an array from others: its values, shape and type."""
    if array is None:
        return None
    digest = hashlib.sha256(f"{array.dtype} {array.shape}".encode())
    for row in array:  # a memory map is read row by row
        digest.update(row.tobytes())
    return digest.hexdigest()


def is_stream(x: Any) -> bool:
    """Whether this gives batches when it is iterated over."""
    if isinstance(x, keras.utils.PyDataset):
        return True
    array = hasattr(x, "shape") or hasattr(x, "__array__")
    return hasattr(x, "__iter__") and not array and not isinstance(x, (list, tuple, dict))


def as_array(value: Any) -> np.ndarray | None:
    """An array, a tensor of the backend or numbers as a NumPy array."""
    if value is None:
        return None
    return np.asarray(keras.ops.convert_to_numpy(value) if keras.ops.is_tensor(value) else value)


def _number_of_rows(shapes: Mapping[str, tuple[int, ...]]) -> int:
    counts = {shape[0] for shape in shapes.values() if shape}
    if len(counts) != 1 or () in shapes.values() or counts == {0}:
        given = ", ".join(f"'{name}' {shape}" for name, shape in shapes.items())
        raise SplitError(
            f"All inputs need the same number of samples, at least one, along the first dimension; got {given}."
        )
    return counts.pop()


def _shapes(arrays: dict[str, np.ndarray | None]) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in arrays.items() if array is not None}


def check_shapes(arrays: dict[str, np.ndarray | None], route: Route) -> None:
    """Refuses arrays that do not have the shapes which a model takes."""
    for tensor in route.takes:
        array = arrays[tensor.name]
        if array is not None:
            _check_shape(array.shape, tensor, route)


def _check_shape(shape: Sequence[int], tensor: CrossingTensor, route: Route, where: str = "There is") -> None:
    fits = len(shape) == len(tensor.shape) and all(
        wanted in (None, side) for wanted, side in zip(tensor.shape[1:], shape[1:], strict=True)
    )
    if not fits:
        raise SplitError(
            f"{where} an array of shape {tuple(shape)}; '{tensor.name}' of '{route.model}' takes "
            f"{format_shape(tensor.shape)} for each row, {tensor.shape} in all."
        )


def spans(row: int, rows: int, batch_size: int) -> Iterator[tuple[int, int]]:
    """First row and number of rows of each batch, from the one on that holds a row."""
    if row < rows:
        for first in range(row // batch_size * batch_size, rows, batch_size):
            yield first, min(batch_size, rows - first)


def _architecture(preprocess: str | None, model: str) -> tuple[str | None, list[str]]:
    """The architecture whose preprocessing images get, and what to say of that."""
    if preprocess is None:
        found = find_architecture(model)
        note = (
            f"How '{model}' wants its images is not known; it gets pixels from 0 to 255. If it is an architecture of "
            "keras.applications, name that: preprocess='ResNet50' (--preprocess ResNet50)."
        )
        return found, [] if found else [note]
    if preprocess == _NO_PREPROCESSING:
        return None, []
    found = find_architecture(preprocess)
    if found is None:
        raise SplitError(
            f"'{preprocess}' is no architecture whose preprocessing is known. Name one of keras.applications, such as "
            f"'ResNet50', or '{_NO_PREPROCESSING}' for pixels from 0 to 255."
        )
    return found, []
