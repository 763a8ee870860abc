"""Names of tensors as the config in a `.keras` file tells them, without Keras: for the mistakes of a moment."""

import difflib
import json
import re
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from kerassplit.errors import UnknownTensorError
from kerassplit.text import listed

_LARGEST = 64 * 2**20  # bytes of a config: more is left to Keras
_NO_NAME = re.compile(r"\+?-?\d+|.*[*?\[\]].*", re.DOTALL)  # the number of a split point, or a glob


def layer_names(file: str | Path) -> list[str]:
    """Names of the tensors that a model file makes, in its own order; none where its config does not tell them."""
    try:
        return list(_names(json.loads(_config(file))))
    except Exception:  # no such file, or not a graph: Keras will say so
        return []


def check_names(file: str | Path, names: Iterable[str]) -> None:
    """Refuses names of which the config of a `.keras` file holds not even the parts; other files are left to Keras.

    Args:
        file: The model.
        names: As `--at` takes them: names with commas between them, numbers and globs are left to Keras, too.

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
