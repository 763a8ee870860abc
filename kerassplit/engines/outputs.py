"""Outputs of a run: arrays in memory, or growing `.npy` files that resume where a killed run stopped."""

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence

import numpy as np

from kerassplit.engines.output_paths import DIGESTS, LOCK, OVERWRITE, OutputPaths, differing, writing
from kerassplit.engines.route import Batch
from kerassplit.errors import SplitError
from kerassplit.files.arrays import storable
from kerassplit.files.atomic_file import Folder, status_of
from kerassplit.files.growing_array import GrowingArrays
from kerassplit.files.locks import lock


class InMemory:
    """Results as arrays.

    Args:
        names: Names of the outputs.

    Attributes:
        rows: Number of rows so far.
    """

    def __init__(self, names: Sequence[str]):
        self.rows = 0
        self._parts: dict[str, list[np.ndarray]] = {name: [] for name in names}

    def add(self, batch: Batch) -> None:
        """Appends the results of the next batch."""
        for name, parts in self._parts.items():
            array = batch.tensors[name]
            if array.ndim == 0:
                raise SplitError(
                    f"'{name}' is one value for all {batch.rows} rows of a batch, so batches cannot be joined. Call "
                    "`split(x)`, which computes it for all rows at once."
                )
            if parts and array.shape[1:] != parts[0].shape[1:]:
                raise SplitError(
                    f"'{name}' has rows of shape {array.shape[1:]} in {batch.span}, but {parts[0].shape[1:]} before, "
                    "so they do not form one array. Pad the input to one size."
                )
            parts.append(array)
        self.rows += batch.rows

    def finish(self) -> dict[str, np.ndarray]:
        """Returns all rows of each output, by tensor name."""
        return {name: np.concatenate(parts) for name, parts in self._parts.items()}


class InFiles:
    """Results in one `.npy` file per output; see `in_files`.

    Args:
        places: Where the files are while they grow, and where they go in the end.
        folder: The folder in which they grow, open.
        most: Total number of rows, if known: no more rows of an unfinished run are kept.

    Attributes:
        rows: Number of rows so far; these need not be computed again.
    """

    def __init__(self, places: OutputPaths, folder: Folder, most: int | None):
        self._places, self._folder = places, folder
        files = {name: path.name for name, path in places.paths.items()}
        self._arrays = GrowingArrays(folder, DIGESTS, files, most)
        self.rows = self._arrays.rows
        self._is_new = True

    def add(self, batch: Batch) -> None:
        """Appends the results of a batch. The first one may start before `rows`: it replaces the rows from there."""
        with writing(f"into '{self._places.folder}'"):
            if self._is_new:  # a killed run may have left part of a batch, or only some of its outputs
                self._arrays.cut(batch.first)
                self._is_new = False
            self._arrays.add({name: _storable(batch, name) for name in self._places.paths})
        self.rows = self._arrays.rows

    def finish(self) -> dict[str, np.ndarray]:
        """Moves the files to their final places and returns all rows of each output, as memory maps by tensor name."""
        with writing(f"into '{self._places.folder}'"):
            self._arrays.finish()
            self._places.note(self._folder, rows=self.rows)
            return self._places.move()

    def keep(self) -> None:
        """Flushes all rows to disk, so that the run can be resumed."""
        with contextlib.suppress(OSError, ValueError):  # the disk is full, or the files are finished and closed
            self._arrays.sync()

    def close(self) -> None:
        """Closes the files and keeps their content."""
        self._arrays.close()


@contextlib.contextmanager
def in_files(places: OutputPaths, *, resume: bool, most: int | None = None) -> Iterator[InFiles]:
    """Opens files for results: new ones, or those of an unfinished run.

    If the block ends early, what was written stays and the run can be resumed.

    Args:
        places: Paths of the files.
        resume: Resume an unfinished run, if there is one.
        most: Total number of rows, if known.

    Raises:
        SplitError: The unfinished run is a different one or still running, or the files cannot be written.
    """
    is_new = status_of(places.folder) is None
    try:
        with contextlib.ExitStack() as stack:
            output = None
            with writing(f"'{places.folder}'"):
                folder = stack.enter_context(Folder(places.folder, make=True))
                file = stack.enter_context(folder.open(LOCK, os.O_RDWR | os.O_CREAT))
                try:
                    lock(file)
                except BlockingIOError as error:
                    raise SplitError(
                        f"Another process is writing into '{places.folder}'. Wait for it, or name another file."
                    ) from error
            try:
                with writing(f"'{places.folder}'"):
                    output = stack.enter_context(contextlib.closing(_opened(places, folder, resume=resume, most=most)))
                yield output
            except BaseException:
                if output is not None and output.rows:
                    output.keep()
                elif output is not None or is_new:
                    shutil.rmtree(places.folder, ignore_errors=True)
                raise
    finally:
        with contextlib.suppress(OSError):  # not empty, or already removed
            places.folder.rmdir()


def _opened(places: OutputPaths, folder: Folder, *, resume: bool, most: int | None) -> InFiles:
    """Opens the files in the folder: new ones, unless the run is to be resumed and its record can be read."""
    state = places.state if resume else {}
    if not state:
        for name in (DIGESTS, *(path.name for path in places.paths.values())):
            if folder.has(name):
                folder.remove(name)
    elif "rows" in state and not differing(state, places.job):
        places.take_back(folder)
    output = InFiles(places, folder, most)
    another = differing(state, places.job, output.rows) if state else ""
    if another:
        output.close()
        raise SplitError(
            f"The unfinished run in '{places.folder}' was a different one: {another}. Resume it as it began, or "
            f"{OVERWRITE} to start over."
        )
    places.note(folder)  # the images of the rows still to come may have changed
    return output


def _storable(batch: Batch, name: str) -> np.ndarray:
    """Returns results in a form that `.npy` files can hold."""
    array = storable(batch.tensors[name])
    if array.dtype.hasobject:
        kind = "strings" if all(isinstance(one, (str, bytes)) for one in array.flat) else f"of type {array.dtype}"
        raise SplitError(f"'{name}' gives {kind}, which .npy files cannot hold row by row. Leave `output` out.")
    if array.ndim == 0 or len(array) != batch.rows:
        way_out = "Leave `output` out." if array.ndim else "Call `split(x)`, which computes it for all rows at once."
        raise SplitError(
            f"'{name}' has shape {array.shape} for a batch of {batch.rows} rows, which is not one result per row, so "
            f"it cannot be written row by row. {way_out}"
        )
    return array
