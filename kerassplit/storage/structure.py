"""Structure that the manifests of saved and of exported stages share, checked without Keras."""

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
    """A tensor that a stage takes or makes."""

    tensor: str
    shape: tuple[int | None, ...]
    dtype: str


def leaves(structure: Any) -> list[Any]:
    """Leaves of nested lists and dicts."""
    if isinstance(structure, (list, dict)):
        inner = structure.values() if isinstance(structure, dict) else structure
        return [leaf for one in inner for leaf in leaves(one)]
    return [structure]


def find_problem(kind: Any, manifest: Mapping[str, Any]) -> str | None:
    """Explains why a manifest is not of a kind, or `None`: wrong fields, or tensors used before they are made."""
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
            return f"stage {shortened(stage['name'])} takes {shortened(unmade[0])}, and no stage before it makes that"
        made.update(spec["tensor"] for spec in stage["outputs"])
    missing = [name for name in ends["outputs"] if name not in made]
    return f"no stage makes the output {shortened(missing[0])}" if missing else None


def described_ends(tensors: Sequence[str], symbols: Sequence[Any]) -> list[dict[str, Any]]:
    """The inputs or outputs of a stage for its manifest, out of Keras's own symbols."""
    return [
        {"tensor": name, "shape": list(symbol.shape), "dtype": symbol.dtype}
        for name, symbol in zip(tensors, symbols, strict=True)
    ]


def free_name(stem: str, suffix: str, folder: Path, taken: Collection[str]) -> str:
    """A name for a stage that nothing in the folder bears; to some file systems, capitals are small letters."""
    name, number = f"{stem}{suffix}", 1
    while name.lower() in taken or os.path.lexists(folder / name):
        number += 1
        name = f"{stem}-{number}{suffix}"
    return name
