"""Exported stages, run one after another. Only NumPy and the runtime of their format are needed here, no Keras."""

import importlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kerassplit.errors import SplitError, StoreError
from kerassplit.exporting.manifest import EXPORT_MANIFEST, leaves, read_export, sha256
from kerassplit.formats import FORMATS, check_packages

Run = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]


def run_exported(directory: str | os.PathLike[str], x: Any) -> Any:
    """Runs exported stages one after another, each in the runtime of their format.

    Args:
        directory: A folder that `Split.export` wrote.
        x: Arrays in the structure of the model's inputs (lists for tuples), or by tensor name.

    Returns:
        Arrays in the structure of the model's outputs.

    Raises:
        StoreError: The folder, its manifest or a file in it is missing, damaged or of a later version.
        SplitError: The runtime is not installed, or `x` does not fit.

    Example:

    >>> run_exported("out", np.zeros((1, 224, 224, 3), "float32")).shape
    (1, 1000)
    """
    manifest = read_export(directory)
    tensors = dict(_matched(manifest["inputs"], x, manifest["model"]))
    outputs = _packed(manifest["outputs"], tensors | made_by(open_stages(directory), tensors))
    return outputs[0] if isinstance(outputs, list) and len(outputs) == 1 else outputs  # as `Split` gives it


def open_stages(directory: str | os.PathLike[str]) -> list[tuple[dict[str, Any], Run]]:
    """The entries of exported stages in the manifest, and functions that run them: arrays by name in, by name out."""
    folder = Path(directory)
    manifest = read_export(folder)
    form = FORMATS[manifest["format"]]
    check_packages(form, write=False, run=True)
    for stage in manifest["stages"]:
        _check_files(folder, stage)
    module = importlib.import_module(f"kerassplit.formats.{form.name}")
    return [(stage, module.opened(folder / stage["path"])) for stage in manifest["stages"]]


def made_by(stages: Sequence[tuple[dict[str, Any], Run]], tensors: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """All that the stages make, by tensor name, on these inputs of the model."""
    known: dict[str, Any] = dict(tensors)
    made: dict[str, np.ndarray] = {}
    for stage, run in stages:
        try:
            results = run({spec["name"]: _as_wanted(known[spec["tensor"]], spec) for spec in stage["inputs"]})
        except SplitError:
            raise
        except Exception as error:  # every runtime has its own
            words = " ".join(str(error).split())[:500]
            raise SplitError(
                f"Stage '{stage['name']}' fails in its runtime: {type(error).__name__}: {words}."
            ) from error
        made |= {spec["tensor"]: results[spec["name"]] for spec in stage["outputs"]}
        known |= made
    return made


def _check_files(folder: Path, stage: dict[str, Any]) -> None:
    for file in stage["files"]:
        path = folder / file["path"]
        if os.path.realpath(path) != str(Path(os.path.realpath(folder), file["path"])):
            raise StoreError(f"{path} is a link, and links are not followed. Put the file itself there.", path=path)
        if not path.is_file():
            raise StoreError(f"A file of stage '{stage['name']}' is missing: {path}.", path=path)
        if path.stat().st_size != file["bytes"] or sha256(path) != file["sha256"]:
            raise StoreError(
                f"{path} is damaged or not the file that was exported: its SHA-256 differs from the one in "
                f"{EXPORT_MANIFEST}.",
                path=path,
            )


def _matched(structure: Any, x: Any, model: str) -> Iterator[tuple[str, Any]]:
    """What a caller gives as the model's input, by tensor name."""
    names = list(leaves(structure))
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


def _as_wanted(value: Any, spec: Mapping[str, Any]) -> np.ndarray:
    """An array of the dtype that a stage takes."""
    array = np.asarray(value)
    if spec["dtype"] == "string" or array.dtype.name == spec["dtype"]:
        return array
    wanted = np.dtype(spec["dtype"])
    if array.dtype.kind in "OSU" or (array.dtype.kind in "fc" and wanted.kind in "iub"):
        raise SplitError(f"'{spec['tensor']}' takes {spec['dtype']}; got an array of {array.dtype}.")
    return array.astype(wanted)
