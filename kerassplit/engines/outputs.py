"""Where rows go: arrays in memory, or `.npy` files that grow, and go on where a killed run stopped."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from kerassplit.engines.array_files import storable
from kerassplit.engines.growing import GrowingArray
from kerassplit.engines.route import Batch
from kerassplit.errors import SplitError
from kerassplit.files import write_whole
from kerassplit.names import listed, safe_name, unique

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_STATE, _LOCK = "run.json", "lock"
_OF_EACH_ROW = ("files", "states of files")
_SHORT = 50  # characters of what is shown in a message
_OVERWRITE = "pass overwrite=True (--overwrite)"


class Output(Protocol):
    """What takes the results of batches, in order.

    Attributes:
        rows: How many are there; they need not be computed again.
    """

    rows: int

    def add(self, batch: Batch) -> None:
        """Takes the results of a batch. The first may begin before `rows` ends: it replaces what is there of it."""

    def finish(self) -> dict[str, np.ndarray]:
        """All rows of each output, by tensor name."""
        ...


class InMemory:
    """Results as arrays.

    Args:
        names: The outputs.
    """

    def __init__(self, names: Sequence[str]):
        self.rows = 0
        self._parts: dict[str, list[np.ndarray]] = {name: [] for name in names}

    def add(self, batch: Batch) -> None:
        for name, parts in self._parts.items():
            array = batch.tensors[name]
            if parts and array.shape[1:] != parts[0].shape[1:]:
                raise SplitError(
                    f"'{name}' has rows of shape {array.shape[1:]} in {batch.span} and of {parts[0].shape[1:]} before: "
                    "they make no array. Pad the input to one size."
                )
            parts.append(array)
        self.rows += batch.rows

    def finish(self) -> dict[str, np.ndarray]:
        return {name: np.concatenate(parts) for name, parts in self._parts.items()}


class InFiles:
    """Results in a `.npy` file for each output; see `in_files`.

    Args:
        places: Where the files are while they grow, and where they go.
    """

    def __init__(self, places: "Places"):
        self._places = places
        self._arrays = {name: GrowingArray(places.folder / path.name) for name, path in places.paths.items()}
        self.rows = min(array.rows for array in self._arrays.values())
        self._is_new = True

    def add(self, batch: Batch) -> None:
        try:
            if self._is_new:  # a batch of which a kill left a part, or some outputs only
                for array in self._arrays.values():
                    array.cut(batch.first)
                self._is_new = False
            for name, array in self._arrays.items():
                array.add(_storable(batch, name))
        except OSError as error:
            raise SplitError(f"Cannot write into '{self._places.folder}': {error.strerror or error}.") from error
        self.rows = batch.first + batch.rows

    def finish(self) -> dict[str, np.ndarray]:
        try:
            for array in self._arrays.values():
                array.cut(self.rows)
                array.finish()
            self.close()
            self._places.note(rows=self.rows)
            return self._places.move()
        except OSError as error:
            raise SplitError(f"Cannot write into '{self._places.folder}': {error.strerror or error}.") from error

    def close(self) -> None:
        """Closes the files. What they hold stays, for a run that goes on."""
        for array in self._arrays.values():
            array.close()


@dataclass(frozen=True)
class Places:
    """Where the results of a run are.

    Attributes:
        folder: `NAME.unfinished`, beside the result: all there is until all rows are.
        paths: The result of each output.
        record: `NAME.json`, beside the result: what the run was.
        job: What the run is, as plain values.
    """

    folder: Path
    paths: dict[str, Path]
    record: Path
    job: dict[str, Any]

    @property
    def state(self) -> dict[str, Any]:
        """What the unfinished run in the folder was; empty where there is none."""
        return _read(self.folder / _STATE)

    def note(self, **more: Any) -> None:
        """Writes down what the run is, with its number of rows once all are there."""
        content = json.dumps({**self.job, **more}, indent=1, ensure_ascii=False)
        write_whole(self.folder / _STATE, content.encode())

    def move(self) -> dict[str, np.ndarray]:
        """Puts the files of a run that has all its rows into their places, those that are not there yet."""
        for path in self.paths.values():
            if (self.folder / path.name).exists():
                os.replace(self.folder / path.name, path)
        if (self.folder / _STATE).exists():
            os.replace(self.folder / _STATE, self.record)
        shutil.rmtree(self.folder, ignore_errors=True)
        return self.results()

    def results(self) -> dict[str, np.ndarray]:
        """The finished arrays, as memory maps."""
        return {name: np.load(path, mmap_mode="r") for name, path in self.paths.items()}


def places_of(path: Path, names: Sequence[str], job: dict[str, Any]) -> Places:
    """Where the results of a run go: `path` itself, or `NAME.TENSOR.npy` for each of several outputs.

    Raises:
        SplitError: The path is not that of a `.npy` file.
    """
    if path.suffix != ".npy" or "\0" in str(path):
        raise SplitError(f"Results are written as NumPy arrays: expected a name that ends in .npy; got '{path}'.")
    taken: set[str] = set()
    paths = {name: path.with_name(f"{path.stem}.{unique(safe_name(name), taken)}.npy") for name in names}
    if len(names) == 1:
        paths = {names[0]: path}
    plain = json.loads(json.dumps({**job, "outputs": {name: one.name for name, one in paths.items()}}))
    return Places(path.with_name(f"{path.name}.unfinished"), paths, path.with_name(f"{path.name}.json"), plain)


def finished(places: Places) -> dict[str, np.ndarray] | None:
    """The results of this very run, where it was already finished; what a kill left undone at its end is done."""
    if places.job["input"] is None:  # what was iterated over cannot be recognised
        return None
    state = places.state
    if "rows" in state and not _differing(state, places.job):
        return places.move()
    there = all(path.exists() for path in places.paths.values())
    if state or not there or _differing(_read(places.record), places.job):
        return None
    return places.results()


def check_free(places: Places, *, resume: bool, overwrite: bool) -> None:
    """Sees that nothing is lost, before there is work.

    Raises:
        SplitError: There are results, or an unfinished run, or something else is in the way.
    """
    if resume and overwrite:
        raise SplitError(
            "Either resume=True (--resume) goes on with a run, or overwrite=True (--overwrite) begins anew."
        )
    try:
        there = [path for path in places.paths.values() if path.exists()]
        folders = [path for path in there if path.is_dir()]
        unfinished = bool(places.state)
        others = [path for path in places.folder.glob("*") if path.name != _LOCK]
    except (OSError, ValueError) as error:
        raise SplitError(f"Cannot write '{next(iter(places.paths.values()))}': {error}.") from error
    if folders:
        raise SplitError(f"{listed(map(str, folders))} is a folder. Name a file.")
    if there and not overwrite and not (resume and unfinished):
        raise SplitError(f"{listed(map(str, there))} exists already. Name another file, or {_OVERWRITE}.")
    if others and not unfinished:
        raise SplitError(f"'{places.folder}' is in the way, and no run left it. Move it, or name another file.")
    if unfinished and not resume and not overwrite:
        raise SplitError(
            f"'{places.folder}' holds an unfinished run. To go on with it, pass resume=True (--resume); to begin "
            f"again, {_OVERWRITE}."
        )


@contextlib.contextmanager
def in_files(places: Places, *, resume: bool) -> Iterator[InFiles]:
    """Files for results: new ones, or those of an unfinished run.

    Where the block ends early, what was written stays and can be gone on with.

    Args:
        places: Where.
        resume: Whether to go on with an unfinished run, if there is one.

    Raises:
        SplitError: An unfinished run was another one; it is still running; or the files cannot be written.
    """
    with contextlib.ExitStack() as stack:
        try:
            places.folder.mkdir(parents=True, exist_ok=True)
            _lock(stack.enter_context((places.folder / _LOCK).open("w")), places.folder)
            state = places.state if resume else {}
            if not state:
                for path in places.paths.values():
                    (places.folder / path.name).unlink(missing_ok=True)
            output = InFiles(places)
            stack.callback(output.close)
            differing = _differing(state, places.job, output.rows) if state else ""
            if differing:
                raise SplitError(
                    f"The unfinished run in '{places.folder}' was another one: {differing}. Go on as it began, or "
                    f"{_OVERWRITE} to begin again."
                )
            places.note()
        except OSError as error:
            raise SplitError(f"Cannot write '{error.filename or places.folder}': {error.strerror or error}.") from error
        try:
            yield output
        finally:
            if not output.rows:
                shutil.rmtree(places.folder, ignore_errors=True)


def _differing(state: dict[str, Any], job: dict[str, Any], rows: int | None = None) -> str:
    """In what a recorded run differs from a job, in words; empty if in nothing.

    Args:
        state: What was recorded.
        job: What is to be done.
        rows: How many rows of it are there: of files that are images, only theirs have to be the same.
    """
    keys = [key for key in job if _until(state.get(key), key, rows) != _until(job[key], key, rows)]
    short = [f"its {key} was {state.get(key)!r}, and is {job[key]!r}" for key in keys if len(repr(job[key])) < _SHORT]
    return "; ".join(short) or (f"it had another {listed(keys)}" if keys else "")


def _until(value: Any, key: str, rows: int | None) -> Any:
    return value[:rows] if key in _OF_EACH_ROW and isinstance(value, list) else value


def _storable(batch: Batch, name: str) -> np.ndarray:
    """Results as `.npy` files can hold them."""
    array = storable(batch.tensors[name])
    if array.dtype.hasobject:
        raise SplitError(f"'{name}' is of type {array.dtype}, which .npy files cannot hold. Leave `output` out.")
    if array.ndim == 0 or len(array) != batch.rows:
        raise SplitError(
            f"'{name}' has shape {array.shape} for a batch of {batch.rows} rows: it is not one result for each row, so "
            "it cannot be written row by row. Leave `output` out."
        )
    return array


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _lock(file: IO[str], folder: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise SplitError(f"Another process is writing into '{folder}'. Wait for it, or name another file.") from error
