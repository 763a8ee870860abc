"""Small saved splits, and ways to change manifests and make the checksums match again."""

import hashlib
import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

import kerassplit as ks

MANIFEST = "kerassplit.json"


def chain_split(names: str = "abcd", at: tuple[str, ...] = ("a", "c"), size: int = 4, name: str = "chain") -> ks.Split:
    """A chain of Dense layers, cut."""
    x = inputs = keras.Input((size,), name="x")
    for layer in names:
        x = keras.layers.Dense(size, name=layer)(x)
    return ks.split(keras.Model(inputs, x, name=name), list(at))


def content(folder: Path) -> dict[str, bytes]:
    """Returns the files of the folder, including subfolders."""
    paths = sorted(folder.rglob("*"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths if stat.S_ISREG(path.lstat().st_mode)}


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / MANIFEST).read_text(encoding="utf-8"))


def seal(folder: Path, manifest: dict[str, Any]) -> None:
    """Writes a manifest with the correct checksum."""
    rest = {name: value for name, value in manifest.items() if name != "checksum"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    rest["checksum"] = hashlib.sha256(text.encode()).hexdigest()
    (folder / MANIFEST).write_text(json.dumps(rest), encoding="utf-8")


def change(folder: Path, how: Callable[[dict[str, Any]], object]) -> None:
    """Changes a manifest and seals it."""
    manifest = read(folder)
    how(manifest)
    seal(folder, manifest)


def accept(folder: Path) -> None:
    """Updates the manifest to the current files of the stages."""
    manifest = read(folder)
    for entry in manifest["stages"]:
        data = (folder / entry["file"]).read_bytes()
        entry.update(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    seal(folder, manifest)


def accept_companion(folder: Path) -> None:
    """Updates the manifest to the current file beside the stages."""
    manifest = read(folder)
    data = (folder / manifest["companion"]["file"]).read_bytes()
    manifest["companion"].update(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    seal(folder, manifest)


def as_version_1(folder: Path) -> None:
    """Converts the folder to the format of the first version of kerassplit."""
    manifest = read(folder)
    del manifest["checksum"]
    manifest["format_version"] = 1
    for entry in manifest["stages"]:
        del entry["bytes"]
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
