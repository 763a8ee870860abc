"""`kerassplit.json`, which says how saved stages belong together: read and checked."""

import json
import os
from pathlib import Path
from typing import Any

import keras

from kerassplit import __version__
from kerassplit.errors import StoreError
from kerassplit.stages import STAGE_NAME, CrossingTensor, crossing_tensor

MANIFEST = "kerassplit.json"
FORMAT_VERSION = 1


def read_manifest(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The manifest of a folder, checked.

    Raises:
        StoreError: There is none, it cannot be read, is of a later version, or makes no sense.
    """
    path = Path(folder) / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StoreError(
            f"'{folder}' holds no split: there is no {MANIFEST} in it. Expected a folder written by Split.save.",
            path=path,
        ) from error
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read: {error}. Save the split again.", path=path) from error
    version = manifest.get("format_version") if isinstance(manifest, dict) else None
    if type(version) is not int or version < 1:
        raise StoreError(f"{path} is not a kerassplit manifest: it has no format_version.", path=path)
    if version > FORMAT_VERSION:
        raise StoreError(
            f"{path} has format version {version}; kerassplit {__version__} reads versions up to {FORMAT_VERSION}. "
            "Install a newer kerassplit.",
            path=path,
        )
    wrong = _what_is_wrong(manifest)
    if wrong:
        raise StoreError(
            f"{path} is not a manifest that kerassplit {__version__} can read: {wrong}. Save the split again.",
            path=path,
        )
    return manifest


def _what_is_wrong(manifest: dict[str, Any]) -> str | None:
    """Why a manifest makes no sense, or `None`: types, names, and that each tensor is made before it is used."""
    stages = manifest.get("stages")
    if not isinstance(stages, list) or not stages or not all(isinstance(stage, dict) for stage in stages):
        return "'stages' is no list of stages"
    if not isinstance(manifest.get("model"), str):
        return "'model' is no name"
    ends = {side: leaves(manifest.get(side)) for side in ("inputs", "outputs")}
    for side, names_of_tensors in ends.items():
        if not names_of_tensors or not all(isinstance(name, str) for name in names_of_tensors):
            return f"'{side}' does not name tensors"
    names: set[str] = set()
    made = set(ends["inputs"])
    for stage in stages:
        name = stage.get("name")
        if not isinstance(name, str) or not STAGE_NAME.fullmatch(name) or name.lower() in names:
            return f"{name!r} cannot name a stage, or names two"
        names.add(name.lower())
        if not isinstance(stage.get("file"), str) or not isinstance(stage.get("sha256"), str):
            return f"stage '{name}' names no file and SHA-256"
        for side in ("inputs", "outputs"):
            specs = stage.get(side)
            if not isinstance(specs, list) or not specs or not all(_is_spec(spec) for spec in specs):
                return f"the {side} of stage '{name}' are not described"
        unmade = [spec["tensor"] for spec in stage["inputs"] if spec["tensor"] not in made]
        if unmade:
            return f"stage '{name}' takes '{unmade[0]}', and no stage before it makes that"
        made.update(spec["tensor"] for spec in stage["outputs"])
    unused = manifest.get("unused_inputs", [])
    if not isinstance(unused, list) or not all(_is_spec(spec) for spec in unused):
        return "'unused_inputs' are not described"
    shared = manifest.get("shared", [])
    if not isinstance(shared, list) or not all(
        isinstance(layers, dict) and all(isinstance(layer, str) for layer in layers.values()) for layers in shared
    ):
        return "'shared' does not name layers by stage"
    missing = [name for name in ends["outputs"] if name not in made]
    return f"no stage makes the output '{missing[0]}'" if missing else None


def described(spec: dict[str, Any]) -> CrossingTensor:
    """The tensor that a manifest describes."""
    return crossing_tensor(spec["tensor"], keras.KerasTensor(spec["shape"], spec["dtype"]))


def leaves(structure: Any) -> list[Any]:
    """What is at the ends of nested lists and dicts."""
    if isinstance(structure, (list, dict)):
        inner = structure.values() if isinstance(structure, dict) else structure
        return [leaf for one in inner for leaf in leaves(one)]
    return [structure]


def _is_spec(spec: Any) -> bool:
    return (
        isinstance(spec, dict)
        and isinstance(spec.get("tensor"), str)
        and isinstance(spec.get("dtype"), str)
        and isinstance(spec.get("shape"), list)
        and all(side is None or type(side) is int for side in spec["shape"])
    )
