"""Runs exported stages one after another. Needs only NumPy and the runtime of their format, not Keras.

Runtimes read files by path, and some keep reading them. So they get copies, in a private folder, of exactly the files
that the manifest names: each is hashed while it is copied, and other files of the folder are out of reach.
"""

import hashlib
import importlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kerassplit.errors import SplitError, StoreError
from kerassplit.files.untrusted import opened, other_file
from kerassplit.storage.exports.formats import FORMATS, check_packages
from kerassplit.storage.exports.manifest import EXPORT_MANIFEST, read_export
from kerassplit.storage.exports.reasons import reason
from kerassplit.storage.structure import leaves

Run = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]


def run_exported(directory: str | os.PathLike[str], x: Any) -> Any:
    """Runs exported stages one after another in the runtime of their format.

    Exported stages are programs: a SavedModel may contain operations that read and write files with your permissions,
    and a runtime may have vulnerabilities. Before any file is opened in a runtime, all are compared with the manifest:
    this detects damage, but does not prove who wrote them. Run only stages from sources you trust.

    Args:
        directory: A folder that `Split.export` wrote.
        x: Arrays in the structure of the model's inputs (lists instead of tuples), or by tensor name.

    Returns:
        Arrays in the structure of the model's outputs.

    Raises:
        StoreError: The folder, its manifest or a file in it is missing, damaged, or of a later version.
        SplitError: The runtime is not installed, or `x` does not fit.

    Example:

    >>> run_exported("out", np.zeros((1, 224, 224, 3), "float32")).shape
    (1, 1000)
    """
    manifest = read_export(directory)
    tensors = dict(_matched(manifest["inputs"], x, manifest["model"]))
    made = made_by(open_stages(directory), tensors)
    specs = {spec["tensor"]: spec for stage in manifest["stages"] for spec in stage["inputs"]}
    given_back = {name: _as_expected(value, specs[name]) for name, value in tensors.items() if name in specs}
    outputs = _packed(manifest["outputs"], tensors | given_back | made)
    return outputs[0] if isinstance(outputs, list) and len(outputs) == 1 else outputs  # as `Split` returns it


def open_stages(directory: str | os.PathLike[str]) -> list[tuple[dict[str, Any], Run]]:
    """Returns the manifest entries of exported stages, and functions that run them: arrays by name in and out."""
    folder = Path(directory)
    manifest = read_export(folder)
    form = FORMATS[manifest["format"]]
    check_packages(form, write=False, run=True)
    module = importlib.import_module(f"kerassplit.storage.exports.formats.{form.name}")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as copies:  # Windows cannot remove files in use
        for stage in manifest["stages"]:
            for file in stage["files"]:
                _copy(folder, stage["name"], file, Path(copies, file["path"]))
        return [(stage, _opened(module, Path(copies, stage["path"]), stage["name"])) for stage in manifest["stages"]]


def _opened(module: Any, path: Path, stage: str) -> Run:
    try:
        return module.opened(path)
    except Exception as error:  # each runtime raises its own
        raise StoreError(
            f"Stage '{stage}' cannot be opened in its runtime: {reason(error)}. Export the split again.", path=path.name
        ) from error


def made_by(stages: Sequence[tuple[dict[str, Any], Run]], tensors: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Runs the stages on the model's inputs; returns all tensors they compute, by name."""
    known: dict[str, Any] = dict(tensors)
    made: dict[str, np.ndarray] = {}
    for stage, run in stages:
        try:
            results = run({spec["name"]: _as_expected(known[spec["tensor"]], spec) for spec in stage["inputs"]})
        except SplitError:
            raise
        except Exception as error:  # each runtime raises its own
            raise SplitError(f"Stage '{stage['name']}' fails in its runtime: {reason(error)}.") from error
        made |= {spec["tensor"]: results[spec["name"]] for spec in stage["outputs"]}
        known |= made
    return made


def _copy(folder: Path, stage: str, file: Mapping[str, Any], copy: Path) -> None:
    """Copies a file of an export, checking it against the manifest."""
    path = folder / file["path"]
    for around in path.parents[: file["path"].count("/")]:
        if around.is_symlink():
            raise StoreError(f"{around} is a link, and links are not followed. Put the folder itself there.", path=path)
    digest, left = hashlib.sha256(), file["bytes"]
    try:
        with opened(path.parent, path.name) as content:
            size = os.fstat(content.fileno()).st_size
            if size == left:
                copy.parent.mkdir(parents=True, exist_ok=True)
                with copy.open("xb") as written:
                    while left and (data := content.read(min(left, 2**20))):
                        digest.update(data)
                        written.write(data)
                        left -= len(data)
    except FileNotFoundError as error:
        raise StoreError(f"A file of stage '{stage}' is missing: {path}.", path=path) from error
    except OSError as error:
        raise StoreError(
            f"{path} cannot be copied to a private temporary folder: {error}. Set the "
            "environment variable TMPDIR to a folder with enough space.",
            path=path,
        ) from error
    if left or size != file["bytes"] or digest.hexdigest() != file["sha256"]:
        raise other_file(path, "exported", EXPORT_MANIFEST)


def _matched(structure: Any, x: Any, model: str) -> Iterator[tuple[str, Any]]:
    """Matches the caller's input to the model's inputs, by tensor name."""
    names = leaves(structure)
    if isinstance(x, dict) and not isinstance(structure, dict) and set(x) == set(names):
        yield from x.items()
        return
    if isinstance(structure, list) and len(structure) == 1 and not isinstance(x, (list, tuple, dict)):
        x = [x]
    wrong = SplitError(
        f"The input does not have the structure that '{model}' takes, {structure!r}. Expected arrays in the places of "
        "the names."
    )

    def pairs(inner: Any, given: Any) -> Iterator[tuple[str, Any]]:
        if isinstance(inner, str):
            if given is None or isinstance(given, (list, tuple, dict)):
                raise wrong
            yield inner, given
            return
        keys = list(inner) if isinstance(inner, dict) else range(len(inner))
        kind = dict if isinstance(inner, dict) else (list, tuple)
        if not isinstance(given, kind) or len(given) != len(keys) or (kind is dict and set(given) != set(keys)):
            raise wrong
        for key in keys:
            yield from pairs(inner[key], given[key])

    yield from pairs(structure, x)


def _packed(structure: Any, tensors: Mapping[str, Any]) -> Any:
    if isinstance(structure, dict):
        return {key: _packed(inner, tensors) for key, inner in structure.items()}
    if isinstance(structure, list):
        return [_packed(inner, tensors) for inner in structure]
    return tensors[structure]


def _as_expected(value: Any, spec: Mapping[str, Any]) -> np.ndarray:
    """Converts an array to the dtype that a stage expects, and checks its number of rows."""
    array = np.asarray(value)
    size, rows = (shape[0] if shape else None for shape in (spec["shape"], array.shape))
    if size not in (None, rows):
        raise SplitError(f"'{spec['tensor']}' takes batches of {size}; got {rows} rows.")
    if spec["dtype"] == "string" or array.dtype.name == spec["dtype"]:
        return array
    wanted = np.dtype(spec["dtype"])
    if array.dtype.kind in "OSU" or (array.dtype.kind in "fc" and wanted.kind in "iub"):
        raise SplitError(f"'{spec['tensor']}' takes {spec['dtype']}; got an array of {array.dtype}.")
    return array.astype(wanted)
