"""`kerassplit.json`, which says how saved stages belong together: read, checked and put as text."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import keras

from kerassplit import __version__
from kerassplit.errors import StoreError
from kerassplit.folder import is_device_name, is_file_name, same_file_key
from kerassplit.plain_json import read_json
from kerassplit.stages import STAGE_NAME, CrossingTensor, crossing_tensor

MANIFEST = "kerassplit.json"
FORMAT_VERSION = 2
"""1: at first. 2: with a checksum of the manifest itself and the size of each stage's file."""
LARGEST = 8 * 1024**2
"""Bytes of a manifest. It is about 500 a stage and 100 a tensor that crosses: enough for 10,000 stages. At worst, JSON
takes 24 times its size in memory."""
_MOST_DIMENSIONS = 254  # of a tensor, in TensorFlow; the other backends allow fewer
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FIELDS = frozenset(
    ("format_version", "checksum", "model", "inputs", "outputs", "unused_inputs", "stages", "shared", "versions")
)
_STAGE_FIELDS = frozenset(("name", "file", "bytes", "sha256", "inputs", "outputs"))


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder, checked.

    Raises:
        StoreError: There is none, it cannot be read, is damaged, of a version that is not known, or makes no sense.
    """
    path = folder / MANIFEST
    manifest = read_json(folder, MANIFEST, LARGEST, "split", "Split.save", "Save the split again.")
    _check_version(manifest, path)
    if not _is_whole(manifest):
        raise StoreError(
            f"{path} is damaged or was changed: its checksum differs. Copy the folder again from where it is whole, or "
            "save the split again.",
            path=path,
        )
    wrong = what_is_wrong(manifest)
    if wrong:
        raise StoreError(
            f"{path} is not a manifest that kerassplit {__version__} can read: {wrong}. Save the split again.",
            path=path,
        )
    return manifest


def as_text(manifest: dict[str, Any]) -> bytes:
    """The manifest as the text of its file, with its checksum.

    Raises:
        StoreError: `read_manifest` would refuse it.
    """
    manifest = json.loads(json.dumps(manifest))  # as it will be read: tuples are lists, keys are text
    wrong = what_is_wrong(manifest)
    text = json.dumps({**manifest, "checksum": checksum(manifest)}, indent=1, ensure_ascii=False) + "\n"
    encoded = text.encode("utf-8", "surrogatepass")
    if len(encoded) > LARGEST:
        wrong = f"its {MANIFEST} would have {len(encoded):,} bytes, and {LARGEST:,} is the most. Cut in fewer places"
    if wrong:
        raise StoreError(f"The split of '{manifest['model']}' cannot be saved: {wrong}.", path="")
    return encoded


def checksum(manifest: dict[str, Any]) -> str:
    """The SHA-256 of all other fields as JSON that is the same however the file is laid out."""
    rest = {name: value for name, value in manifest.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def unknown_fields(manifest: dict[str, Any]) -> dict[str, Any]:
    """What a manifest, or the entry of a stage, says that this kerassplit does not know."""
    known = _FIELDS if "stages" in manifest else _STAGE_FIELDS
    return {name: value for name, value in manifest.items() if name not in known}


def _check_version(manifest: Any, path: Path) -> None:
    if not isinstance(manifest, dict) or "format_version" not in manifest:
        raise StoreError(f"{path} is not a kerassplit manifest: it has no format_version.", path=path)
    version = manifest["format_version"]
    if type(version) is not int or version < 1:
        raise StoreError(
            f"{path} has format version {shortened(version)}, and there is none before 1: it is damaged, or no "
            "kerassplit wrote it. Save the split again.",
            path=path,
        )
    if version > FORMAT_VERSION:
        raise StoreError(
            f"{path} has format version {shortened(version)}; kerassplit {__version__} reads versions up to "
            f"{FORMAT_VERSION}. Install a newer kerassplit.",
            path=path,
        )


def _is_whole(manifest: dict[str, Any]) -> bool:
    """Version 1 has no checksum; where there is one it counts, lest a flipped digit of the version turn it off."""
    if "checksum" not in manifest:
        return manifest["format_version"] == 1
    return manifest["checksum"] == checksum(manifest)


def shortened(value: object) -> str:
    """For a message: whatever it is, on one line and not long."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def what_is_wrong(manifest: dict[str, Any]) -> str | None:
    """Why a manifest makes no sense, or `None`: types, names, and that each tensor is made before it is used."""
    stages = manifest.get("stages")
    if not isinstance(stages, list) or not stages or not all(isinstance(stage, dict) for stage in stages):
        return "'stages' is no list of stages"
    if not isinstance(manifest.get("model"), str) or not manifest["model"] or "/" in manifest["model"]:
        return "'model' is no name"
    ends = {side: leaves(manifest.get(side)) for side in ("inputs", "outputs")}
    for side, names_of_tensors in ends.items():
        if not names_of_tensors or not all(isinstance(name, str) for name in names_of_tensors):
            return f"'{side}' does not name tensors"
    unused = manifest.get("unused_inputs", [])
    if not isinstance(unused, list) or not all(_is_spec(spec) for spec in unused):
        return "'unused_inputs' are not described"
    return (
        _wrong_files(stages, manifest["format_version"])
        or _wrong_tensors(stages, ends["inputs"], ends["outputs"], unused)
        or _wrong_shared(manifest.get("shared", []), {stage["name"] for stage in stages})
    )


def _wrong_files(stages: list[dict[str, Any]], version: int) -> str | None:
    names: set[str] = set()
    files: set[str] = set()
    for stage in stages:
        name, file = stage.get("name"), stage.get("file")
        if not isinstance(name, str) or not STAGE_NAME.fullmatch(name) or name.lower() in names:
            return f"{shortened(name)} cannot name a stage, or names two"
        names.add(name.lower())
        if not isinstance(file, str) or not isinstance(stage.get("sha256"), str):
            return f"stage '{name}' names no file and SHA-256"
        if not is_file_name(file) or not file.endswith(".keras") or (version > 1 and is_device_name(file)):
            return f"stage '{name}' names the file {shortened(file)}, which is no `.keras` file in the folder itself"
        if same_file_key(file) in files:
            return f"two stages name the file {shortened(file)}"
        files.add(same_file_key(file))
        if not _SHA256.fullmatch(stage["sha256"]):
            return f"the SHA-256 of stage '{name}' is none"
        size = stage.get("bytes", None if version == 1 else -1)
        if size is not None and not _is_size(size):
            return f"stage '{name}' does not say how many bytes its file has"
    return None


def _wrong_tensors(
    stages: list[dict[str, Any]], inputs: list[str], outputs: list[str], unused: list[dict[str, Any]]
) -> str | None:
    made = set(inputs)
    known = {spec["tensor"]: spec for spec in unused}
    for stage in stages:
        for side in ("inputs", "outputs"):
            specs = stage.get(side)
            if not isinstance(specs, list) or not specs or not all(_is_spec(spec) for spec in specs):
                return f"the {side} of stage '{stage['name']}' are not described"
        for spec in stage["inputs"]:
            if spec["tensor"] not in made:
                return f"stage '{stage['name']}' takes {shortened(spec['tensor'])}, and no stage before it makes that"
        for spec in (*stage["inputs"], *stage["outputs"]):
            other = known.setdefault(spec["tensor"], spec)
            if (spec["shape"], spec["dtype"]) != (other["shape"], other["dtype"]):
                return f"{shortened(spec['tensor'])} has two shapes or dtypes"
        made.update(spec["tensor"] for spec in stage["outputs"])
    missing = [name for name in outputs if name not in made]
    return f"no stage makes the output {shortened(missing[0])}" if missing else None


def _wrong_shared(shared: Any, stages: set[str]) -> str | None:
    if not isinstance(shared, list) or not all(
        isinstance(layers, dict)
        and layers.keys() <= stages
        and all(isinstance(layer, str) for layer in layers.values())
        for layers in shared
    ):
        return "'shared' does not name layers by stage"
    return None


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
        and _is_dtype(spec.get("dtype"))
        and isinstance(spec.get("shape"), list)
        and len(spec["shape"]) <= _MOST_DIMENSIONS
        and all(side is None or _is_size(side) for side in spec["shape"])
    )


def _is_size(size: Any) -> bool:
    return type(size) is int and 0 <= size < 2**63


def _is_dtype(dtype: Any) -> bool:
    try:
        return isinstance(dtype, str) and keras.backend.standardize_dtype(dtype) == dtype
    except ValueError:
        return False
