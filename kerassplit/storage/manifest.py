"""Reads, checks and encodes `kerassplit.json`, which describes how saved stages connect."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from kerassplit._version import __version__
from kerassplit.cutting.stage_names import STAGE_NAME
from kerassplit.errors import StoreError
from kerassplit.files.atomic_folder import check_place
from kerassplit.files.untrusted import is_device_name, is_file_name, same_file_key, shortened
from kerassplit.files.untrusted_json import LARGEST, read_json
from kerassplit.storage.structure import DTYPE, Tensor, find_problem, leaves

if TYPE_CHECKING:
    from kerassplit.cutting.crossing import CrossingTensor

MANIFEST = "kerassplit.json"
FORMAT_VERSION = 2
"""1: the first version. 2: adds a checksum of the manifest itself, and the size of each stage's file."""
OWN_PREDICTION = "own_prediction"
"""Field with the names of methods that the model overrides for prediction."""
COMPANION = "companion"
"""Field with a file beside those of the stages: what a language model needs to generate, without weights."""
_MOST_DIMENSIONS = 254  # of a tensor in TensorFlow; other backends allow fewer
_SHA256 = re.compile(r"[0-9a-f]{64}")


class _Stage(TypedDict):
    name: str
    file: str
    bytes: NotRequired[int | None]
    sha256: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


class _Companion(TypedDict):
    file: str
    bytes: int
    sha256: str


class _Manifest(TypedDict):
    format_version: int
    checksum: NotRequired[str]
    model: str
    inputs: Any
    outputs: Any
    unused_inputs: NotRequired[tuple[Tensor, ...]]
    stages: tuple[_Stage, ...]
    shared: NotRequired[tuple[dict[str, str], ...]]
    versions: NotRequired[Any]
    preprocessor: NotRequired[str | None]
    own_prediction: NotRequired[tuple[str, ...]]
    companion: NotRequired[_Companion]


def read_manifest(folder: Path) -> dict[str, Any]:
    """Reads and checks the manifest of a folder.

    Raises:
        StoreError: It is missing, unreadable, damaged, of an unknown version, or inconsistent.
    """
    path = folder / MANIFEST
    writer = "`Split.save` or `kerassplit split -o`"
    manifest = read_json(folder, MANIFEST, FORMAT_VERSION, "split", writer, "Save the split again.")
    if not _is_whole(manifest):
        raise StoreError(
            f"{path} is damaged or was changed: its checksum differs. Copy the folder again from an intact one, or "
            "save the split again.",
            path=path,
        )
    wrong = find_manifest_problem(manifest)
    if wrong:
        raise StoreError(
            f"{path} is not a manifest that kerassplit {__version__} can read: {wrong}. Save the split again.",
            path=path,
        )
    return manifest


def check_target(target: Path, overwrite: bool) -> bool:
    """Returns True if a folder contains a split that will be replaced.

    Raises:
        StoreError: It is a file, contains something else, or `overwrite` is False.
    """
    return check_place(target, overwrite, MANIFEST, "a split", read_manifest)


def as_text(manifest: dict[str, Any]) -> bytes:
    """Encodes the manifest as the content of its file, with its checksum.

    Raises:
        StoreError: `read_manifest` would reject it.
    """
    manifest = json.loads(json.dumps(manifest))  # as it will be read: tuples become lists, and keys strings
    wrong = find_manifest_problem(manifest)
    text = json.dumps({**manifest, "checksum": checksum(manifest)}, indent=1, ensure_ascii=False) + "\n"
    encoded = text.encode("utf-8", "surrogatepass")
    if len(encoded) > LARGEST:
        wrong = f"its {MANIFEST} would have {len(encoded):,} bytes, and the limit is {LARGEST:,}. Cut in fewer places"
    if wrong:
        raise StoreError(f"The split of '{manifest['model']}' cannot be saved: {wrong}.", path="")
    return encoded


def checksum(manifest: dict[str, Any]) -> str:
    """Returns the SHA-256 of all other fields as canonical JSON, independent of the file's layout."""
    rest = {name: value for name, value in manifest.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def unknown_fields(manifest: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields of a manifest or of a stage's entry that this version of kerassplit does not know."""
    known = _Manifest if "stages" in manifest else _Stage
    return {name: value for name, value in manifest.items() if name not in known.__annotations__}


def _is_whole(manifest: dict[str, Any]) -> bool:
    """Verifies the checksum, if there is one: version 1 has none, but a flipped version digit must not disable it."""
    if "checksum" not in manifest:
        return manifest["format_version"] == 1
    return manifest["checksum"] == checksum(manifest)


def find_manifest_problem(manifest: dict[str, Any]) -> str | None:
    """Explains what is wrong with a manifest, or `None`: types, names, tensors used before they are computed."""
    problem = find_problem(_Manifest, manifest)
    if problem:
        return problem
    stages = manifest["stages"]
    if not manifest["model"] or "/" in manifest["model"]:
        return "'model' is not a name"
    if not all(name.isidentifier() for name in manifest.get(OWN_PREDICTION, [])):
        return f"'{OWN_PREDICTION}' does not name methods"
    names = {stage["name"] for stage in stages}
    if not all(layers.keys() <= names for layers in manifest.get("shared", [])):
        return "'shared' does not name layers by stage"
    files = [*stages, *([{"name": COMPANION, **manifest[COMPANION]}] if COMPANION in manifest else [])]
    return _wrong_files(files, manifest["format_version"]) or _wrong_tensors(stages, manifest.get("unused_inputs", []))


def _wrong_files(stages: list[dict[str, Any]], version: int) -> str | None:
    names: set[str] = set()
    files: set[str] = set()
    for stage in stages:
        name, file = stage["name"], stage["file"]
        if not STAGE_NAME.fullmatch(name) or name.lower() in names:
            return f"{shortened(name)} is not a valid stage name, or names two stages"
        names.add(name.lower())
        if not is_file_name(file) or not file.endswith(".keras") or (version > 1 and is_device_name(file)):
            return f"stage '{name}' names the file {shortened(file)}, which is not a `.keras` file in the folder itself"
        if same_file_key(file) in files:
            return f"two stages name the file {shortened(file)}"
        files.add(same_file_key(file))
        if not _SHA256.fullmatch(stage["sha256"]):
            return f"the SHA-256 of stage '{name}' is not valid"
        if version > 1 and "bytes" not in stage:
            return f"stage '{name}' does not say how many bytes its file has"
    return None


def _wrong_tensors(stages: list[dict[str, Any]], unused: list[dict[str, Any]]) -> str | None:
    known: dict[str, dict[str, Any]] = {}
    for spec in (*unused, *(spec for stage in stages for side in ("inputs", "outputs") for spec in stage[side])):
        if not _is_described(spec):
            return f"{shortened(spec['tensor'])} is not described"
        other = known.setdefault(spec["tensor"], spec)
        if (spec["shape"], spec["dtype"]) != (other["shape"], other["dtype"]):
            return f"{shortened(spec['tensor'])} has two shapes or dtypes"
    return None


def described(spec: dict[str, Any]) -> "CrossingTensor":
    """Returns the tensor that a manifest describes."""
    import keras  # only needed here

    from kerassplit.cutting.crossing import crossing_tensor

    return crossing_tensor(spec["tensor"], keras.KerasTensor(spec["shape"], spec["dtype"]))


def preprocessor_of(manifest: Mapping[str, Any], inputs: Iterable[str] | None = None) -> str | None:
    """Returns the preprocessor that the model's own `predict` applies; no stage contains it.

    Args:
        manifest: A checked manifest.
        inputs: Inputs of a subset of the stages, which may differ from the model's inputs.
    """
    whole = inputs is None or set(inputs) <= set(leaves(manifest["inputs"]))
    return manifest.get("preprocessor") if whole else None


def _is_described(spec: dict[str, Any]) -> bool:
    sides = [side for side in spec["shape"] if side is not None]
    bounded = len(spec["shape"]) <= _MOST_DIMENSIONS and max(sides, default=0) < 2**63
    return bounded and DTYPE.fullmatch(spec["dtype"]) is not None
