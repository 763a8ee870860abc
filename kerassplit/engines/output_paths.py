"""Paths of the results of a run, and the record beside them that says which run computed them."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kerassplit.errors import SplitError
from kerassplit.files.arrays import mapped
from kerassplit.files.atomic_file import TEMPORARY, Folder, open_regular, reason, status_of
from kerassplit.files.untrusted import check_path
from kerassplit.text import listed, safe_name, unique

LOCK, DIGESTS = "lock", "rows"
"""Files next to the results in the folder of an unfinished run."""
OVERWRITE = "pass overwrite=True (--overwrite)"
_STATE = "run.json"
_OF_EACH_ROW = ("files", "states of files")
_SHORT = 50  # longest value, in characters, that is shown in a message


@dataclass(frozen=True)
class OutputPaths:
    """Paths of the results of a run.

    Attributes:
        folder: `NAME.unfinished`, next to the result: holds everything until all rows are computed.
        paths: Result file of each output, by name.
        record: `NAME.json`, next to the result: describes the finished run.
        job: Description of the run, as plain values.
    """

    folder: Path
    paths: dict[str, Path]
    record: Path
    job: dict[str, Any]

    @property
    def state(self) -> dict[str, Any]:
        """Record of the unfinished run in the folder; empty if there is none."""
        try:
            with Folder(self.folder) as folder, folder.open(_STATE, os.O_RDONLY) as file:
                return _parsed(file.readall())
        except OSError:
            return {}

    def note(self, folder: Folder, **more: Any) -> None:
        """Records the run in the folder, with its number of rows once all are computed."""
        content = json.dumps({**self.job, **more}, indent=1, ensure_ascii=False)
        # Lone surrogates, which stand for bytes of names that are not UTF-8, become JSON escapes.
        folder.write(_STATE, content.encode("utf-8", "backslashreplace"), flush=True)

    def take_back(self, folder: Folder) -> None:
        """Moves files of a completely computed run, which was killed while moving them out, back into the folder."""
        with Folder(_parent(self.record)) as beside:
            for path in self.paths.values():
                if beside.has(path.name) and not folder.has(path.name):
                    beside.move(path.name, folder, path.name)

    def move(self) -> dict[str, np.ndarray]:
        """Moves the files of a completely computed run to their final places, and returns the results."""
        with Folder(self.folder) as folder, Folder(_parent(self.record)) as beside:
            for path in self.paths.values():
                if folder.has(path.name):
                    folder.move(path.name, beside, path.name)
            beside.flush()
            if folder.has(_STATE):
                folder.move(_STATE, beside, self.record.name)
            beside.flush()
        shutil.rmtree(self.folder, ignore_errors=True)
        return self.results()

    def results(self) -> dict[str, np.ndarray]:
        """Returns the finished arrays, as memory maps."""
        return {name: mapped(path) for name, path in self.paths.items()}


def output_paths(path: Path, names: Sequence[str], job: dict[str, Any]) -> OutputPaths:
    """Returns paths for the results of a run: `path` itself, or `NAME.TENSOR.npy` for each of several outputs.

    Raises:
        SplitError: The path is not that of a `.npy` file, or is not a valid file name.
    """
    if path.suffix != ".npy" or "\0" in str(path):
        raise SplitError(f"Results are written as NumPy arrays: expected a name that ends in .npy; got '{path}'.")
    taken: set[str] = set()
    paths = {name: path.with_name(f"{path.stem}.{unique(safe_name(name), taken)}.npy") for name in names}
    if len(names) == 1:
        paths = {names[0]: path}
    plain = json.loads(json.dumps({**job, "outputs": {name: one.name for name, one in paths.items()}}))
    places = OutputPaths(path.with_name(f"{path.name}.unfinished"), paths, path.with_name(f"{path.name}.json"), plain)
    there = path.parent
    while there != there.parent and status_of(there) is None:
        there = there.parent
    for one in (*paths.values(), places.folder, places.record):
        check_path(there / one.name)
    return places


def finished(places: OutputPaths) -> dict[str, np.ndarray] | None:
    """Returns the results of this very run if it is already finished, else `None`."""
    if places.job["input"] is None:  # an iterable cannot be recognized
        return None
    with writing(f"'{places.record.with_suffix('')}'"):
        state = places.state
        there = all(status_of(path) is not None for path in places.paths.values())
        record = _read(places.record)
        if state or not there or differing(record, places.job):
            return None
        try:
            results = places.results()
        except SplitError:  # replaced by other files in the meantime
            return None
    return results if all(len(array) == record.get("rows") for array in results.values()) else None


def check_free(places: OutputPaths, *, resume: bool, overwrite: bool) -> None:
    """Checks, before anything is computed, that no earlier results would be lost.

    Raises:
        SplitError: Results, an unfinished run or other files are in the way.
    """
    if resume and overwrite:
        raise SplitError(
            "resume=True (--resume) and overwrite=True (--overwrite) exclude each other. Pass one: the first continues "
            "a run, the second starts over."
        )
    with writing(f"'{next(iter(places.paths.values()))}'"):
        state = places.state
        there = [path for path in places.paths.values() if status_of(path) is not None]
        folders = [path for path in there if path.is_dir()]
        inside = {path.name for path in places.folder.glob("*")} - {LOCK}
    ours = {_STATE, DIGESTS, *(path.name for path in places.paths.values())}
    others = {name for name in inside - ours if not name.startswith(TEMPORARY)}
    unfinished = bool(state) or bool(inside and not others)
    if folders:
        raise SplitError(f"{listed(map(str, folders))} is a folder. Name a file.")
    if there and not overwrite and not (resume and unfinished):
        raise SplitError(f"{listed(map(str, there))} exists already. Name another file, or {OVERWRITE}.")
    if inside and not unfinished:
        raise SplitError(f"'{places.folder}' is in the way, and is not from a run. Move it, or name another file.")
    if unfinished and not resume and not overwrite:
        raise SplitError(
            f"'{places.folder}' holds an unfinished run. To continue it, pass resume=True (--resume); to start over, "
            f"{OVERWRITE}."
        )


@contextlib.contextmanager
def writing(what: str) -> Iterator[None]:
    """Turns `OSError`s into `SplitError`s.

    Args:
        what: The file or folder that is written to, for the message, unless the error itself names a file.
    """
    try:
        yield
    except OSError as error:
        target = what if error.filename is None else f"'{error.filename}'"
        raise SplitError(f"Cannot write {target}: {reason(error)}.") from error


def differing(state: dict[str, Any], job: dict[str, Any], rows: int | None = None) -> str:
    """Describes how a recorded run differs from a job; empty if it does not.

    Args:
        state: Record of the run.
        job: Description of the job.
        rows: Number of rows already computed: of image files, only those of these rows have to be the same.
    """
    keys = [key for key in job if _until(state.get(key), key, rows) != _until(job[key], key, rows)]
    short = [
        f"its {key} was {state.get(key)!r} and is now {job[key]!r}"
        for key in keys
        if _is_short(state.get(key)) and _is_short(job[key])
    ]
    return "; ".join(short) or (f"it had a different {listed(keys)}" if keys else "")


def _is_short(value: Any) -> bool:
    """True if a value is fit to be shown in a message; one read from a file may be anything."""
    plain = value is None or isinstance(value, (str, bool, int, float))
    flat = isinstance(value, list) and all(isinstance(one, str) for one in value)
    return (plain or flat) and len(repr(value)) < _SHORT


def _until(value: Any, key: str, rows: int | None) -> Any:
    return value[:rows] if key in _OF_EACH_ROW and isinstance(value, list) else value


def _read(path: Path) -> dict[str, Any]:
    try:
        with open_regular(path) as file:
            return _parsed(file.read())
    except OSError:
        return {}


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _parent(path: Path) -> Path:
    """Returns the folder of a file, with links resolved."""
    return Path(os.path.realpath(path.parent))
