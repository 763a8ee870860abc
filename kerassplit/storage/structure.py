"""Checks, without Keras, the structure shared by the manifests of saved and of exported stages."""

import os
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from kerassplit.files.untrusted import shortened
from kerassplit.files.untrusted_json import read_record

DTYPE = re.compile(
    r"bool|string|bfloat16|float(16|32|64)|float8_(e4m3fn|e5m2)|u?int(8|16|32|64)|complex(64|128)"  # all of Keras's
)


class Tensor(TypedDict):
    """An input or output tensor of a stage."""

    tensor: str
    shape: tuple[int | None, ...]
    dtype: str


def leaves(structure: Any) -> list[Any]:
    """Returns the leaves of nested lists and dicts."""
    if isinstance(structure, (list, dict)):
        inner = structure.values() if isinstance(structure, dict) else structure
        return [leaf for one in inner for leaf in leaves(one)]
    return [structure]


def find_problem(kind: Any, manifest: Mapping[str, Any]) -> str | None:
    """Explains what is wrong with a manifest, or `None`: invalid fields, or tensors used before they are computed."""
    try:
        read_record(kind, manifest)
    except ValueError as error:
        return str(error)
    if not manifest["stages"]:
        return "it has no stages"
    ends = {side: leaves(manifest[side]) for side in ("inputs", "outputs")}
    for side, names in ends.items():
        if not names or not all(isinstance(name, str) for name in names):
            return f"'{side}' does not name tensors"
    made = set(ends["inputs"])
    for stage in manifest["stages"]:
        unmade = [spec["tensor"] for spec in stage["inputs"] if spec["tensor"] not in made]
        if unmade:
            return f"stage {shortened(stage['name'])} needs {shortened(unmade[0])}, which no stage before it computes"
        made.update(spec["tensor"] for spec in stage["outputs"])
    missing = [name for name in ends["outputs"] if name not in made]
    return f"no stage computes the output {shortened(missing[0])}" if missing else None


def described_ends(tensors: Sequence[str], symbols: Sequence[Any]) -> list[dict[str, Any]]:
    """Describes the inputs or outputs of a stage for its manifest, from their symbolic tensors in Keras."""
    return [
        {"tensor": name, "shape": list(symbol.shape), "dtype": symbol.dtype}
        for name, symbol in zip(tensors, symbols, strict=True)
    ]


def free_name(stem: str, suffix: str, folder: Path, taken: Collection[str]) -> str:
    """Returns a file name that is unused in the folder; some file systems ignore case."""
    name, number = f"{stem}{suffix}", 1
    while name.lower() in taken or os.path.lexists(folder / name):
        number += 1
        name = f"{stem}-{number}{suffix}"
    return name
