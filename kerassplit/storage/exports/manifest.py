"""Reads and checks `kerassplit-export.json`, which describes how exported stages connect."""

import os
from pathlib import Path
from typing import Any, TypedDict

from kerassplit.errors import SplitError, StoreError
from kerassplit.files.atomic_folder import check_place, resolved
from kerassplit.files.untrusted import is_file_name, same_file_key, shortened
from kerassplit.files.untrusted_json import read_json
from kerassplit.storage.exports.formats import FORMATS, check_packages, find_format
from kerassplit.storage.structure import DTYPE, Tensor, find_problem
from kerassplit.text import listed

EXPORT_MANIFEST = "kerassplit-export.json"
FORMAT_VERSION = 1


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


def check_export(
    directory: str | os.PathLike[str],
    format: str,  # noqa: A002
    *,
    verify: bool,
    overwrite: bool,
    x: Any,
) -> bool:
    """Checks that an export can succeed before any work is done; returns True if a folder will be replaced.

    Raises:
        SplitError: It cannot; a package is missing, for example.
    """
    check_packages(find_format(format), write=True, run=verify)
    if not verify and x is not None:
        raise SplitError("An input to compare on cannot be combined with verify=False, which compares nothing.")
    return check_place(resolved(directory), overwrite, EXPORT_MANIFEST, "exported stages", read_export)


def read_export(directory: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads and checks the manifest of a folder of exported stages.

    Raises:
        StoreError: It is missing, unreadable, of a later version, or inconsistent.
    """
    folder, remedy = Path(directory), "Export the split again."
    manifest = read_json(folder, EXPORT_MANIFEST, FORMAT_VERSION, "exported stages", "`Split.export`", remedy)
    problem = _find_problem(manifest)
    if problem:
        path = folder / EXPORT_MANIFEST
        raise StoreError(f"{path} is not a valid export manifest: {problem}. {remedy}", path=path)
    return manifest


def files_of(directory: str | os.PathLike[str]) -> list[str]:
    """Returns the files of an export except its manifest: paths relative to the folder, with `/` as separator."""
    return [file["path"] for stage in read_export(directory)["stages"] for file in stage["files"]]


def _find_problem(manifest: dict[str, Any]) -> str | None:
    """Explains what is wrong with a manifest: types, files outside the folder, tensors used too early."""
    problem = find_problem(_Export, manifest)
    if problem:
        return problem
    if manifest["format"] not in FORMATS:
        return f"its format is {shortened(manifest['format'])}, expected {listed(FORMATS, 'or')}"
    paths: set[str] = set()
    for stage in manifest["stages"]:
        name, path, there = stage["name"], stage["path"], [file["path"] for file in stage["files"]]
        if not is_file_name(path):
            return f"stage {shortened(name)} has no path inside the folder"
        if not there or not all(map(_is_inside, there)):
            return f"the files of stage {shortened(name)} are not described"
        for one in there:
            if same_file_key(one) in paths:
                return f"it names the file {shortened(one)} twice"
            paths.add(same_file_key(one))
        if path not in [one.split("/")[0] for one in there]:
            return f"the files of stage {shortened(name)} are not at its path"
        if not all(DTYPE.fullmatch(spec["dtype"]) for spec in (*stage["inputs"], *stage["outputs"])):
            return f"the inputs and outputs of stage {shortened(name)} are not described"
    return None


def _is_inside(path: str) -> bool:
    """Returns True if a path stays inside its folder."""
    return all(map(is_file_name, path.split("/")))
