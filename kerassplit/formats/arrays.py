"""Named arrays in a file, on their way to another process and back."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def write_arrays(path: str | Path, arrays: Mapping[str, Any]) -> list[str]:
    """Writes arrays and returns their names, in the order in which `read_arrays` wants them."""
    np.savez(path, *[_plain(np.asarray(array)) for array in arrays.values()])
    return list(arrays)


def read_arrays(path: str | Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The arrays by name."""
    with np.load(path, allow_pickle=False) as content:
        return {name: content[f"arr_{number}"] for number, name in enumerate(names)}


def _plain(array: np.ndarray) -> np.ndarray:
    """What a file can hold: strings as bytes, and wider floats instead of those that are not NumPy's own."""
    if array.dtype.kind in "OU":
        texts = [one if isinstance(one, bytes) else str(one).encode() for one in array.ravel()]
        return np.array(texts, "S").reshape(array.shape)
    return array.astype("float32") if array.dtype.name.startswith(("bfloat16", "float8")) else array
