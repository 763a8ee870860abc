"""Outputs of a run: arrays in memory, or growing `.npy` files that go on where a killed run stopped."""

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
        names: The outputs.

    Attributes:
        rows: How many are there.
    """

    def __init__(self, names: Sequence[str]):
        self.rows = 0
        self._parts: dict[str, list[np.ndarray]] = {name: [] for name in names}

    def add(self, batch: Batch) -> None:
        """Takes the results of the batch that follows."""
        for name, parts in self._parts.items():
            array = batch.tensors[name]
            if array.ndim == 0:
                raise SplitError(
                    f"'{name}' is one value for all {batch.rows} rows of a batch, so that batches cannot be put "
                    "together. Call `split(x)`, which gives it for all rows at once."
                )
            if parts and array.shape[1:] != parts[0].shape[1:]:
                raise SplitError(
                    f"'{name}' has rows of shape {array.shape[1:]} in {batch.span} and of {parts[0].shape[1:]} before: "
                    "they make no array. Pad the input to one size."
                )
            parts.append(array)
        self.rows += batch.rows

    def finish(self) -> dict[str, np.ndarray]:
        """Returns all rows of each output, by tensor name."""
        return {name: np.concatenate(parts) for name, parts in self._parts.items()}


class InFiles:
    """Results in a `.npy` file for each output; see `in_files`.

    Args:
        places: Where the files are while they grow, and where they go.
        folder: The first of these, open.
        most: How many rows there will be, where that is known: no more of them are gone on with.

    Attributes:
        rows: How many are there; they need not be computed again.
    """

    def __init__(self, places: OutputPaths, folder: Folder, most: int | None):
        self._places, self._folder = places, folder
        files = {name: path.name for name, path in places.paths.items()}
        self._arrays = GrowingArrays(folder, DIGESTS, files, most)
        self.rows = self._arrays.rows
        self._is_new = True

    def add(self, batch: Batch) -> None:
        """Takes the results of a batch. The first may begin before `rows` ends: it replaces what is there of it."""
        with writing(f"into '{self._places.folder}'"):
            if self._is_new:  # a batch of which a kill left a part, or some outputs only
                self._arrays.cut(batch.first)
                self._is_new = False
            self._arrays.add({name: _storable(batch, name) for name in self._places.paths})
        self.rows = self._arrays.rows

    def finish(self) -> dict[str, np.ndarray]:
        """Returns all rows of each output, by tensor name: memory maps of the files, in their places now."""
        with writing(f"into '{self._places.folder}'"):
            self._arrays.finish()
            self._places.note(self._folder, rows=self.rows)
            return self._places.move()

    def keep(self) -> None:
        """Puts all there is on the disk, for a run that goes on."""
        with contextlib.suppress(OSError, ValueError):  # a full disk; or closed, as it was finished
            self._arrays.sync()

    def close(self) -> None:
        """Closes the files. What they hold stays."""
        self._arrays.close()


@contextlib.contextmanager
def in_files(places: OutputPaths, *, resume: bool, most: int | None = None) -> Iterator[InFiles]:
    """Files for results: new ones, or those of an unfinished run.

    Where the block ends early, what was written stays and can be gone on with.

    Args:
        places: Where.
        resume: Whether to go on with an unfinished run, if there is one.
        most: How many rows there will be, where that is known.

    Raises:
        SplitError: An unfinished run was another one; it is still running; or the files cannot be written.
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
        with contextlib.suppress(OSError):  # nothing came of it
            places.folder.rmdir()


def _opened(places: OutputPaths, folder: Folder, *, resume: bool, most: int | None) -> InFiles:
    """The files in the folder: new, unless they are to be gone on with and it is known what they are of."""
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
            f"The unfinished run in '{places.folder}' was another one: {another}. Go on as it began, or "
            f"{OVERWRITE} to begin again."
        )
    places.note(folder)  # the images of the rows that are there may be others now
    return output


def _storable(batch: Batch, name: str) -> np.ndarray:
    """Results as `.npy` files can hold them."""
    array = storable(batch.tensors[name])
    if array.dtype.hasobject:
        kind = "strings" if all(isinstance(one, (str, bytes)) for one in array.flat) else f"of type {array.dtype}"
        raise SplitError(f"'{name}' gives {kind}, which .npy files cannot hold row by row. Leave `output` out.")
    if array.ndim == 0 or len(array) != batch.rows:
        way_out = "Leave `output` out." if array.ndim else "Call `split(x)`, which gives it for all rows at once."
        raise SplitError(
            f"'{name}' has shape {array.shape} for a batch of {batch.rows} rows: it is not one result for each row, so "
            f"it cannot be written row by row. {way_out}"
        )
    return array
