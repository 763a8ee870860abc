"""`kerassplit-export.json`, which says how exported stages belong together: read and checked."""

import os
import re
from pathlib import Path
from typing import Any, TypedDict

from kerassplit.errors import StoreError
from kerassplit.files.untrusted import is_file_name, same_file_key, shortened
from kerassplit.files.untrusted_json import read_json
from kerassplit.storage.exports.formats import FORMATS
from kerassplit.storage.structure import Tensor, find_problem
from kerassplit.text import listed

EXPORT_MANIFEST = "kerassplit-export.json"
FORMAT_VERSION = 1
_DTYPE = re.compile(r"bool|string|bfloat16|float(16|32|64)|u?int(8|16|32|64)|complex(64|128)")


class _File(TypedDict):
    path: str
    bytes: int
    sha256: str


class _Tensor(Tensor):
    name: str


class _Stage(TypedDict):
    name: str
    path: str
    files: tuple[_File, ...]
    inputs: tuple[_Tensor, ...]
    outputs: tuple[_Tensor, ...]


class _Export(TypedDict):
    format: str
    model: str
    inputs: Any
    outputs: Any
    stages: tuple[_Stage, ...]


def read_export(directory: str | os.PathLike[str]) -> dict[str, Any]:
    """The manifest of a folder of exported stages, checked.

    Raises:
        StoreError: There is none, it cannot be read, is of a later version, or makes no sense.
    """
    folder, remedy = Path(directory), "Export the split again."
    manifest = read_json(folder, EXPORT_MANIFEST, FORMAT_VERSION, "exported stages", "Split.export", remedy)
    problem = _find_problem(manifest)
    if problem:
        path = folder / EXPORT_MANIFEST
        raise StoreError(f"{path} is no manifest of exported stages: {problem}. {remedy}", path=path)
    return manifest


def files_of(directory: str | os.PathLike[str]) -> list[str]:
    """The files of an export without its manifest: paths in the folder, with `/` between names."""
    return [file["path"] for stage in read_export(directory)["stages"] for file in stage["files"]]


def _find_problem(manifest: dict[str, Any]) -> str | None:
    """Explains why a manifest makes no sense: types, files outside of the folder, tensors used before they are made."""
    problem = find_problem(_Export, manifest)
    if problem:
        return problem
    if manifest["format"] not in FORMATS:
        return f"its format is {shortened(manifest['format'])}, expected {listed(FORMATS, 'or')}"
    paths: set[str] = set()
    for stage in manifest["stages"]:
        name, path, there = stage["name"], stage["path"], [file["path"] for file in stage["files"]]
        if not is_file_name(path):
            return f"stage {shortened(name)} has no path in the folder"
        if not there or not all(map(_is_inside, there)):
            return f"the files of stage {shortened(name)} are not described"
        for one in there:
            if same_file_key(one) in paths:
                return f"it names the file {shortened(one)} twice"
            paths.add(same_file_key(one))
        if path not in [one.split("/")[0] for one in there]:
            return f"the files of stage {shortened(name)} are not those at its path"
        if not all(_DTYPE.fullmatch(spec["dtype"]) for spec in (*stage["inputs"], *stage["outputs"])):
            return f"the inputs and outputs of stage {shortened(name)} are not described"
    return None


def _is_inside(path: str) -> bool:
    """Whether a path cannot lead out of its folder."""
    return all(map(is_file_name, path.split("/")))
