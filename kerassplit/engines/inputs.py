"""Sources of rows: arrays, files, and iterables of batches."""

import contextlib
import hashlib
import sys
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from scipy.sparse import issparse

from kerassplit.cutting.arrays import named_tensors
from kerassplit.cutting.crossing import CrossingTensor, crossing_tensor
from kerassplit.display.units import format_shape
from kerassplit.engines.prefetch import prefetch
from kerassplit.engines.route import Batch, Route
from kerassplit.errors import SplitError
from kerassplit.files.arrays import ArrayFile, open_arrays
from kerassplit.files.atomic_file import check_regular, status_of
from kerassplit.files.values import as_values, check_range, fits
from kerassplit.graph.reading import read_graph
from kerassplit.zoo.names import find_architecture
from kerassplit.zoo.photos import photos_in, read_photo

_NO_PREPROCESSING = "none"
_READ_AT_ONCE = 256  # rows of an array that is hashed
_READ_AHEAD = 2  # batches read from files while others are computed


class EndedEarly(SplitError):  # noqa: N818 (an end rather than an error)
    """An iterable ended before the rows that an interrupted run had computed."""


@dataclass(frozen=True, eq=False)
class Source:
    """Rows for a model.

    Attributes:
        rows: Number of rows; `None` if it is not known in advance.
        batches: Yields the batches from the one that holds the given row; earlier rows are not read where that can be
            avoided.
        identify: Returns the identity of the input, as plain values: an unfinished run resumes only with the same
            input. `None`: it cannot be identified.
        files: For images, the file of each row, relative to their folder, with its size and modification time.
        notes: Hints that the user should see unasked.
        reads: Files that rows are read from.
    """

    rows: int | None
    batches: Callable[[int], Generator[Batch]]
    identify: Callable[[], dict[str, Any]] | None
    files: tuple[tuple[str, int, int], ...] = ()
    notes: tuple[str, ...] = ()
    reads: tuple[Path, ...] = ()


def source_of(x: Any, route: Route, batch_size: int, preprocess: str | None = None, *, exif: bool = True) -> Source:
    """Builds a source from the input that a user passes.

    Args:
        x: Arrays or tensors in the structure of the model's inputs; a path; or an iterable, such as a
            `tf.data.Dataset`, of batches or of single rows in that structure. The first element of a tuple is the
            input, as in Keras.
        route: Describes the model's inputs.
        batch_size: Rows per batch. The batches of an iterable stay as they are.
        preprocess: For images: the architecture whose `preprocess_input` is applied; `"none"`: pixels stay 0 to 255;
            `None`: the architecture that the model is named after, or none.
        exif: Rotate images as their EXIF data says.

    Raises:
        SplitError: The input does not fit the model, or cannot be read.
    """
    if isinstance(x, (str, Path)):
        return _from_path(Path(x), route, batch_size, preprocess, exif)
    if preprocess not in (None, _NO_PREPROCESSING):
        raise SplitError("`preprocess` is for image files; arrays are used as they are. Leave it out.")
    if is_stream(x):
        return _from_stream(x, route, batch_size)
    return _from_arrays(named_tensors(x, route.inputs, route.model), route, batch_size)


def load_input(
    path: str | Path,
    model: keras.Model,
    architecture: str | None = None,
    note: Callable[[str], None] = warnings.warn,
    *,
    exif: bool = True,
) -> Any:
    """Reads the input of a model from a file.

    Args:
        path: An image in one of `IMAGE_FORMATS`, cropped at the center to the aspect ratio of the model's input and
            resized; a `.npy` file with the array of a single input; or a `.npz` file with one array per input.
        model: The model that the input is for.
        architecture: Such as `"ResNet50"`: its own `preprocess_input` is applied to an image. `None`: the pixels stay
            as they are, 0 to 255.
        note: Called with a message when only part of the file is used.
        exif: Rotate an image as its EXIF data says. Keras's own loader does not: `False` reproduces its numbers.

    Returns:
        The input, structured as the model's inputs. An image is a `float32` batch of one; arrays as they were
        saved, with a missing batch dimension added. For a model with a fixed batch size, the first batch of that size.

    Raises:
        SplitError: The file is missing or cannot be read, or its content does not fit the model.

    Example:

    >>> load_input("cat.jpg", resnet, "ResNet50").shape
    (1, 224, 224, 3)
    """
    path = Path(path)
    if status_of(path) is None or path.is_dir():
        raise SplitError(f"There is no file '{path}' to take an input from.")
    graph = read_graph(model)
    names = graph.names(graph.flat_inputs())
    inputs = keras.tree.pack_sequence_as(model.input, names)
    route = Route(model.name, inputs, None, (), tuple(map(crossing_tensor, names, model.inputs)))
    preprocess = None if _is_arrays(path) else architecture or _NO_PREPROCESSING
    source = source_of(path, route, route.batch or sys.maxsize, preprocess, exif=exif)
    if route.batch is not None and _is_arrays(path) and source.rows != route.batch:
        rows, size = source.rows or 0, route.batch
        if rows < size:
            raise SplitError(f"'{path}' holds {rows} rows, but '{model.name}' takes batches of {size}. Pass that many.")
        note(f"'{model.name}' takes batches of {size}: of the {rows} rows in '{path}', the first {size} are used.")
    with contextlib.closing(source.batches(0)) as batches:
        tensors = next(batches).tensors
    return keras.tree.map_structure(tensors.__getitem__, inputs)


def _from_arrays(given: dict[str, Any], route: Route, batch_size: int) -> Source:
    arrays = {name: value.tocsr() if issparse(value) else as_array(value) for name, value in given.items()}
    rows = number_of_rows(_shapes(arrays))
    check_shapes(arrays, route)

    def batches(row: int) -> Generator[Batch]:
        for first, count in spans(row, rows, batch_size):
            spanned = slice(first, first + count)
            part = {name: None if array is None else as_array(array[spanned]) for name, array in arrays.items()}
            yield _checked_batch(first // batch_size, first, count, part, route)

    reads = tuple(path for value in given.values() for path in _mapped_files(value))
    identify = lambda: {name: digest_of_array(array) for name, array in arrays.items()}  # noqa: E731
    return Source(rows, batches, identify, reads=reads)


def _from_path(path: Path, route: Route, batch_size: int, preprocess: str | None, exif: bool) -> Source:
    if status_of(path) is None:
        raise SplitError(f"There is no file or folder '{path}' to take input from.")
    if path.is_dir():
        found, others = photos_in(path)
        notes = [f"{others} files in '{path}' are not images and were left out."] if others else []
        return _from_images(path, found, route, batch_size, preprocess, exif, notes)
    check_regular(path)
    if not _is_arrays(path):
        return _from_images(path.parent, [path], route, batch_size, preprocess, exif, [])
    if preprocess not in (None, _NO_PREPROCESSING):
        raise SplitError(f"`preprocess` (--preprocess) is for images; the arrays in '{path}' are used as they are.")
    return _from_array_files(path, open_arrays(path, [tensor.name for tensor in route.takes]), route, batch_size)


def _is_arrays(path: Path) -> bool:
    return path.suffix.lower() in (".npy", ".npz")


def _from_array_files(path: Path, arrays: dict[str, ArrayFile], route: Route, batch_size: int) -> Source:
    shapes = {}
    for tensor in route.takes:
        array = arrays[tensor.name]
        single = len(array.shape) == len(tensor.shape) - 1 > 0
        shapes[tensor.name] = shape = (1, *array.shape) if single else array.shape
        _check_shape(shape, tensor, route, where=f"'{path}' holds")
        if array.dtype.kind not in ("US" if tensor.dtype == "string" else "biuf"):
            raise SplitError(f"'{path}' holds values of type {array.dtype}; '{tensor.name}' takes {tensor.dtype}.")
    rows = number_of_rows(shapes)
    for array in arrays.values():
        array.check()
    types = {tensor.name: tensor.dtype for tensor in route.takes}

    def value(name: str, part: np.ndarray, count: int) -> np.ndarray:
        try:
            return as_values(np.reshape(part, (count, *shapes[name][1:])), types[name], name)
        except SplitError as error:
            raise SplitError(f"'{path}' does not fit the model: {error}") from error

    def batches(row: int) -> Generator[Batch]:
        start = row // batch_size * batch_size
        readers = {
            name: array.parts(start, batch_size if shapes[name] == array.shape else array.shape[0])
            for name, array in arrays.items()
        }
        for first, count in spans(row, rows, batch_size):
            part = {name: value(name, next(reader), count) for name, reader in readers.items()}
            yield Batch(first // batch_size, first, count, part)

    status = path.stat()
    identity = {"file": str(path.resolve()), "bytes": status.st_size, "changed": status.st_mtime_ns}
    return Source(rows, lambda row: prefetch(batches(row), _READ_AHEAD), lambda: identity, reads=(path,))


def _from_images(
    folder: Path,
    paths: Sequence[Path],
    route: Route,
    batch_size: int,
    preprocess: str | None,
    exif: bool,
    notes: Sequence[str],
) -> Source:
    architecture, more = _architecture(preprocess, route.model)
    if len(route.takes) != 1 or len(route.takes[0].shape) != 4:
        takes = ", ".join(f"'{tensor.name}' {tensor.shape}" for tensor in route.takes)
        raise SplitError(f"'{route.model}' does not take a single image; it takes {takes}. Pass these as .npy or .npz.")
    name, shape = route.takes[0].name, route.takes[0].shape[1:]

    def batches(row: int) -> Generator[Batch]:
        for first, count in spans(row, len(paths), batch_size):
            there = paths[first : first + count]
            images = [read_photo(path, shape, architecture, route.model, exif=exif) for path in there]
            yield Batch(first // batch_size, first, count, {name: np.stack(images)})

    status = [path.stat() for path in paths]
    files = tuple(
        (path.relative_to(folder).as_posix(), one.st_size, one.st_mtime_ns)
        for path, one in zip(paths, status, strict=True)
    )
    identity = {"folder": str(folder.resolve()), "preprocess": architecture, "exif": exif}
    prefetched = lambda row: prefetch(batches(row), _READ_AHEAD)  # noqa: E731
    return Source(len(paths), prefetched, lambda: identity, files, (*notes, *more), tuple(paths))


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
            rows = number_of_rows(_shapes(arrays))
            check_shapes(arrays, route)
            if first + rows > row:
                yield _checked_batch(number, first, rows, arrays, route)
            number, first = number + 1, first + rows
        if first < row:
            raise EndedEarly(f"The input has {first} rows, but the run to resume has computed {row}.")

    return Source(None, batches, None)


def _gathered(
    elements: Iterator[dict[str, Any]], known: dict[str, CrossingTensor], batch_size: int
) -> Iterator[dict[str, Any]]:
    """Yields batches as they are, and single rows collected into batches."""
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


def digest_of_array(array: Any) -> str | None:
    """Identifies an array (dense or SciPy sparse) by a digest of its values, shape and dtype."""
    if array is None:
        return None
    digest = hashlib.sha256(f"{array.dtype} {array.shape}".encode())
    for first in range(0, array.shape[0], _READ_AT_ONCE):  # a memory map is read part by part
        part = np.asarray(as_array(array[first : first + _READ_AT_ONCE]))
        digest.update(repr(part.tolist()).encode() if part.dtype.hasobject else part.tobytes())
    return digest.hexdigest()


def is_stream(x: Any) -> bool:
    """True if `x` is an iterable of batches rather than arrays."""
    if isinstance(x, keras.utils.PyDataset):
        return True
    array = hasattr(x, "shape") or hasattr(x, "__array__")
    return hasattr(x, "__iter__") and not array and not isinstance(x, (list, tuple, dict))


def _mapped_files(value: Any) -> Iterator[Path]:
    """Yields the files that an array is a view of."""
    while isinstance(value, np.ndarray):
        if isinstance(value, np.memmap) and value.filename:
            yield Path(value.filename)
        value = value.base


def as_array(value: Any) -> np.ndarray | None:
    """Converts an array, backend tensor, SciPy sparse array or numbers to a NumPy array; `None` stays `None`."""
    if value is None:
        return None
    if issparse(value):
        return value.toarray()
    return np.asarray(keras.ops.convert_to_numpy(value) if keras.ops.is_tensor(value) else value)


def number_of_rows(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Returns the number of rows that all arrays share, from their shapes.

    Raises:
        SplitError: The numbers differ, or there are no rows or no values.
    """
    counts = {shape[0] for shape in shapes.values() if shape}
    given = ", ".join(f"'{name}' {shape}" for name, shape in shapes.items())
    if len(counts) != 1 or () in shapes.values() or counts == {0}:
        raise SplitError(
            f"All inputs need the same number of samples, at least one, along the first dimension; got {given}."
        )
    if all(0 in shape for shape in shapes.values()):
        raise SplitError(f"The samples hold no numbers: got {given}. Expected no dimension of 0.")
    return counts.pop()


def _shapes(arrays: dict[str, np.ndarray | None]) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in arrays.items() if array is not None}


def check_shapes(arrays: dict[str, np.ndarray | None], route: Route) -> None:
    """Checks that arrays have the shapes that a model takes."""
    for tensor in route.takes:
        array = arrays[tensor.name]
        if array is not None:
            _check_shape(array.shape, tensor, route)


def _checked_batch(number: int, first: int, rows: int, arrays: dict[str, np.ndarray | None], route: Route) -> Batch:
    """Builds a batch, once all values are known to be in the range of the dtypes that a model takes."""
    for tensor in route.takes:
        array = arrays[tensor.name]
        if array is not None:
            check_range(array, tensor.dtype, tensor.name)
    return Batch(number, first, rows, arrays)


def _check_shape(shape: Sequence[int], tensor: CrossingTensor, route: Route, where: str = "There is") -> None:
    if len(shape) != len(tensor.shape) or not fits(shape[1:], tensor.shape[1:]):
        raise SplitError(
            f"{where} an array of shape {tuple(shape)}; '{tensor.name}' of '{route.model}' takes "
            f"{format_shape(tensor.shape)} for each row, {tensor.shape} in all."
        )


def spans(row: int, rows: int, batch_size: int) -> Iterator[tuple[int, int]]:
    """Yields first row and number of rows of each batch, from the batch that holds `row`."""
    if row < rows:
        for first in range(row // batch_size * batch_size, rows, batch_size):
            yield first, min(batch_size, rows - first)


def _architecture(preprocess: str | None, model: str) -> tuple[str | None, list[str]]:
    """Returns the architecture whose preprocessing is applied to images, and notes for the user."""
    if preprocess == _NO_PREPROCESSING:
        return None, []
    found = find_architecture(model if preprocess is None else preprocess)
    if found is not None:
        return found, []
    if preprocess is not None:
        raise SplitError(
            f"The preprocessing of '{preprocess}' is not known. Name an architecture of keras.applications, such as "
            f"'ResNet50', or '{_NO_PREPROCESSING}' for pixels from 0 to 255."
        )
    note = (
        f"The preprocessing of '{model}' is not known; it gets pixels from 0 to 255. If it is an architecture of "
        "keras.applications, name it: preprocess='ResNet50' (--preprocess ResNet50)."
    )
    return None, [note]
