"""`kerassplit-export.json`, which says how exported stages belong together: read and checked."""

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kerassplit.errors import StoreError
from kerassplit.folder import is_file_name
from kerassplit.formats import FORMATS
from kerassplit.names import listed
from kerassplit.plain_json import read_json

EXPORT_MANIFEST = "kerassplit-export.json"
FORMAT_VERSION = 1
_DTYPE = re.compile(r"bool|string|bfloat16|float(16|32|64)|u?int(8|16|32|64)|complex(64|128)")
LARGEST = 8 * 1024**2  # bytes: 10,000 files


def read_export(directory: str | os.PathLike[str]) -> dict[str, Any]:
    """The manifest of a folder of exported stages, checked.

    Raises:
        StoreError: There is none, it cannot be read, is of a later version, or makes no sense.
    """
    path = Path(directory) / EXPORT_MANIFEST
    remedy = "Export the split again."
    manifest = read_json(Path(directory), EXPORT_MANIFEST, LARGEST, "exported stages", "Split.export", remedy)
    version = manifest.get("format_version") if isinstance(manifest, dict) else None
    if type(version) is int and version > FORMAT_VERSION:
        raise StoreError(
            f"{path} has format version {version}; this kerassplit reads versions up to {FORMAT_VERSION}. Install a "
            "newer kerassplit.",
            path=path,
        )
    wrong = "it has no format_version" if type(version) is not int or version < 1 else _what_is_wrong(manifest)
    if wrong:
        raise StoreError(f"{path} is no manifest of exported stages: {wrong}. Export the split again.", path=path)
    return manifest


def top_names(directory: str | os.PathLike[str]) -> list[str]:
    """The files and folders of an export, these with a `/` behind them, without its manifest."""
    files = [file["path"] for stage in read_export(directory)["stages"] for file in stage["files"]]
    return list(dict.fromkeys("".join(path.partition("/")[:2]) for path in files))


def leaves(structure: Any) -> Iterator[Any]:
    """What is at the ends of nested lists and dicts."""
    if isinstance(structure, (list, dict)):
        for one in structure.values() if isinstance(structure, dict) else structure:
            yield from leaves(one)
    else:
        yield structure


def sha256(path: Path) -> str:
    """The digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _what_is_wrong(manifest: dict[str, Any]) -> str | None:
    """Why a manifest makes no sense, or `None`: types, files inside the folder, tensors made before they are used."""
    if manifest.get("format") not in FORMATS:
        return f"its format is {manifest.get('format')!r}, expected {listed(FORMATS, 'or')}"
    if not isinstance(manifest.get("model"), str):
        return "'model' is no name"
    ends = {side: list(leaves(manifest.get(side))) for side in ("inputs", "outputs")}
    for side, names in ends.items():
        if not names or not all(isinstance(name, str) for name in names):
            return f"'{side}' does not name tensors"
    stages = manifest.get("stages")
    if not isinstance(stages, list) or not stages or not all(isinstance(stage, dict) for stage in stages):
        return "'stages' is no list of stages"
    known = set(ends["inputs"])
    for stage in stages:
        files = stage.get("files")
        if not isinstance(files, list) or not files or not all(_is_file(file) for file in files):
            return "the files of a stage are not described"
        if not isinstance(stage.get("name"), str) or not _is_inside(stage.get("path")) or "/" in stage["path"]:
            return "a stage has no name or no path in the folder"
        if not any(file["path"].split("/")[0] == stage["path"] for file in files):
            return f"the files of stage '{stage['name']}' are not those at its path"
        for side in ("inputs", "outputs"):
            if not isinstance(stage.get(side), list) or not all(_is_spec(spec) for spec in stage[side]):
                return f"the {side} of stage '{stage['name']}' are not described"
        unmade = [spec["tensor"] for spec in stage["inputs"] if spec["tensor"] not in known]
        if unmade:
            return f"stage '{stage['name']}' takes '{unmade[0]}', and no stage before it makes that"
        known.update(spec["tensor"] for spec in stage["outputs"])
    missing = [name for name in ends["outputs"] if name not in known]
    return f"no stage makes the output '{missing[0]}'" if missing else None


def _is_inside(path: object) -> bool:
    """Whether a path cannot lead out of its folder."""
    return isinstance(path, str) and all(map(is_file_name, path.split("/")))


def _is_file(file: object) -> bool:
    return (
        isinstance(file, dict)
        and _is_inside(file.get("path"))
        and isinstance(file.get("sha256"), str)
        and type(file.get("bytes")) is int
    )


def _is_spec(spec: object) -> bool:
    return (
        isinstance(spec, dict)
        and all(isinstance(spec.get(key), str) for key in ("tensor", "name"))
        and isinstance(spec.get("dtype"), str)
        and _DTYPE.fullmatch(spec["dtype"]) is not None
        and isinstance(spec.get("shape"), list)
        and all(side is None or type(side) is int for side in spec["shape"])
    )
