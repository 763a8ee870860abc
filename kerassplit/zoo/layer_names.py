"""Reads names of tensors from the config in a `.keras` file, without Keras: reports typos within a moment."""

import difflib
import json
import re
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from kerassplit.errors import UnknownTensorError
from kerassplit.text import listed

_LARGEST = 64 * 2**20  # bytes of a config; a larger one is left to Keras
_NO_NAME = re.compile(r"\+?-?\d+|.*[*?\[\]].*", re.DOTALL)  # number of a split point, or glob


def layer_names(file: str | Path) -> list[str]:
    """Returns the names of the tensors in a model file, in its own order; empty if its config does not contain them."""
    try:
        return list(_names(json.loads(_config(file))))
    except Exception:  # no such file, or not a graph: Keras will report it
        return []


def check_names(file: str | Path, names: Iterable[str]) -> None:
    """Refuses names with parts that are missing in the config of a `.keras` file; ignores other files.

    Args:
        file: The model file.
        names: Values of `--at`: names, separated by commas if several; numbers and globs are ignored.

    Raises:
        UnknownTensorError: The model has no such tensor.
    """
    known = layer_names(file)
    text = _config(file) if known else ""
    for name in names if known else ():
        parts = re.split(r"[/,]", re.sub(r"[@:]\d+", "", name))
        if _NO_NAME.fullmatch(name) or all(json.dumps(part.strip()) in text for part in parts) or name in known:
            continue
        close = difflib.get_close_matches(name, known, n=3, cutoff=0.75)
        hint = f"Did you mean {listed(close, 'or')}?" if close else "`kerassplit.split_points(model)` lists the names."
        model = json.loads(text)["config"].get("name", file)
        raise UnknownTensorError(f"Model '{model}' has no tensor '{name}'. {hint}", name=name, matches=close)


def _config(file: str | Path) -> str:
    with zipfile.ZipFile(file) as archive, archive.open("config.json") as config:
        content = config.read(_LARGEST + 1)
    return content.decode() if len(content) <= _LARGEST else "{}"


def _names(model: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for layer in model["config"]["layers"]:
        name, calls = layer["config"]["name"], len(layer.get("inbound_nodes") or [1])
        for call in range(calls):
            full = f"{prefix}{name}@{call}" if calls > 1 else f"{prefix}{name}"
            if "layers" in layer["config"]:
                yield from _names(layer, f"{full}/")
            elif layer["class_name"] != "InputLayer":
                yield full
