"""Reads names of tensors from the config in a `.keras` file, without Keras: reports typos within a moment.

A name is refused only if Keras would surely refuse it; anything uncertain is left to Keras, which explains more.
"""

import difflib
import fnmatch
import json
import re
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kerassplit.errors import SplitError, UnknownTensorError
from kerassplit.text import listed

_LARGEST = 64 * 2**20  # bytes of a config; a larger one is left to Keras
_NUMBER = re.compile(r"\+?-?\d+")
_CALL_OR_OUTPUT = re.compile(r"([@:]\d+)+$")


@dataclass(frozen=True)
class _Listing:
    """Names in a model's config.

    Attributes:
        model: The model's own name.
        top: Names of its layers and operations, without those in nested models.
        tensors: Names of its tensors, and of those in nested models, except Inputs; without the number of an output.
        calls: At least as many as the model makes, including its Inputs.
        ends: Layers that compute outputs of the model and nothing else.
        named: Every `name` in the config, including those inside wrappers such as `Bidirectional`.
        is_complete: The config lists everything that has a name. Layers from elsewhere than Keras can have others
            inside, and Keras computes masks in a Sequential model, without listing either.
    """

    model: str
    top: tuple[str, ...]
    tensors: tuple[str, ...]
    calls: int
    ends: frozenset[str]
    named: frozenset[str]
    is_complete: bool


def layer_names(file: str | Path) -> list[str]:
    """Returns the names of the tensors in a model file, in its own order; empty if its config does not contain them."""
    found = _listing(file)
    return list(found.tensors) if found else []


def check_names(file: str | Path, cuts: Iterable[str] = (), tensors: Iterable[str] = (), *, globs: bool = True) -> None:
    """Refuses names that are missing in the config of a `.keras` file; ignores other files.

    Args:
        file: The model file.
        cuts: Values of `--at`: names or globs, separated by commas if several, or the number of a split point.
        tensors: Names of single tensors, which may be outputs of the model.
        globs: Whether `tensors` may be globs.

    Raises:
        SplitError: There is no such split point, or nothing comes after it.
        UnknownTensorError: The model has no such tensor.
    """
    found = _listing(file)
    if found is None:
        return
    for cut in cuts:
        _check_cut(found, cut)
    for name in tensors:
        _check_tensor(found, name, globs)


def check_opened(file: str | Path, globs: Iterable[str]) -> None:
    """Refuses globs of `--open` that match no layer in the config of a `.keras` file; ignores other files.

    Raises:
        UnknownTensorError: The model has no such layer.
    """
    found = _listing(file)
    if found is None:
        return
    for glob in globs:
        first = glob.partition("/")[0]
        if first in found.top or _matching(found.top, first):
            continue
        close = difflib.get_close_matches(first, found.top, n=3, cutoff=0.6)
        hint = f" Did you mean {listed(close, 'or')}?" if close else ""
        raise UnknownTensorError(
            f"'{glob}' in `open` matches no composite layer that '{found.model}' calls.{hint}", name=glob, matches=close
        )


def _check_cut(found: _Listing, cut: str) -> None:
    if _NUMBER.fullmatch(cut):
        if cut not in found.top and not -found.calls <= int(cut.removeprefix("+")) < found.calls:
            raise SplitError(
                f"Model '{found.model}' makes {found.calls} calls, so it has no split point {cut}. "
                "`kerassplit.split_points(model)` lists them with their numbers."
            )
        return
    if "," in cut and ("[" in cut or any("," in name for name in found.top)):
        return  # the comma may be part of a name or glob
    parts = [part.strip() for part in cut.split(",")]
    for part in parts:
        _check_tensor(found, part, globs=True)
    if len(parts) == 1 and parts[0] in found.ends:
        raise SplitError(f"'{cut}' is an output of the model: nothing comes after it. Cut at an earlier tensor.")


def _check_tensor(found: _Listing, name: str, globs: bool) -> None:
    plain = _CALL_OR_OUTPUT.sub("", name)
    if name in found.top or plain in found.top or name in found.tensors:
        return
    if globs and set("*?[") & set(name):
        if not set("@:/") & set(name):
            _check_glob(found, name)
        return
    parts = re.sub(r"[@:]\d+", "", name).split("/")
    nests = {re.split("[@/]", one)[0] for one in found.tensors if "/" in one}
    if len(parts) > 1 and (found.named.issuperset(parts) or parts[0] in {*found.top} - nests):
        return
    last = {one: _CALL_OR_OUTPUT.sub("", one.rpartition("/")[2]) for one in found.tensors}
    matches = [one for one in found.tensors if last[one] == plain]
    if not matches and plain in found.named:
        return  # inside a wrapper
    hint = "Expected one name, not a glob. " if set("*?[") & set(name) else ""
    close = matches or difflib.get_close_matches(name, found.tensors, n=3, cutoff=0.75)
    if not close:
        similar = difflib.get_close_matches(plain, last.values(), n=3, cutoff=0.75)
        close = [one for one in found.tensors if last[one] in similar]
    if close or found.is_complete:
        raise _unknown(f"Model '{found.model}' has no tensor '{name}'. {hint}", name, close)


def _check_glob(found: _Listing, glob: str) -> None:
    """Refuses a glob without `/`, `@` and `:` that matches nothing."""
    numbered = [f"{name}{sign}{number}" for name in found.top for sign in "@:" for number in range(10)]
    if _matching([*found.top, *numbered], glob):
        return
    nested = [one.rpartition("/") for one in found.tensors if "/" in one]
    matches = list(dict.fromkeys(f"{nest}/{glob}" for nest, _, name in nested if _matching([name], glob)))
    if matches or (found.is_complete and not _matching(found.named, glob)):
        raise _unknown(f"No tensor of model '{found.model}' matches '{glob}'. ", glob, matches)


def _unknown(said: str, name: str, matches: Sequence[str]) -> UnknownTensorError:
    hint = f"Did you mean {listed(matches, 'or')}?" if matches else "`kerassplit.split_points(model)` lists the names."
    return UnknownTensorError(said + hint, name=name, matches=matches)


def _matching(names: Iterable[str], glob: str) -> list[str]:
    return [name for name in names if fnmatch.fnmatchcase(name, glob)]


def _listing(file: str | Path) -> _Listing | None:
    """Reads the names in a model file; `None` if there is no such file, or no graph in it, which Keras will report."""
    try:
        with zipfile.ZipFile(file) as archive, archive.open("config.json") as content:
            text = content.read(_LARGEST + 1)
        model = json.loads(text) if len(text) <= _LARGEST else {}
        layers = model["config"]["layers"]
        tensors, values = tuple(_tensors(model)), list(_values(model))
        modules = {str(one.get("module")).partition(".")[0] for one in values if "class_name" in one}
        masks = any(one.get("mask_zero") or one.get("class_name") == "Masking" for one in values)
        return _Listing(
            model["config"].get("name", str(file)),
            tuple(layer["config"]["name"] for layer in layers),
            tensors,
            len(tensors) + sum(one.get("class_name") == "InputLayer" for one in values),
            frozenset(_ends(model["config"])),
            frozenset(one["name"] for one in values if isinstance(one.get("name"), str)),
            not masks and modules <= {"keras", "None", "builtins"},
        )
    except Exception:
        return None


def _tensors(model: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for layer in model["config"]["layers"]:
        name, calls = layer["config"]["name"], len(layer.get("inbound_nodes") or [1])
        for call in range(calls):
            full = f"{prefix}{name}@{call}" if calls > 1 else f"{prefix}{name}"
            if "layers" in layer["config"]:
                yield from _tensors(layer, f"{full}/")
            elif layer["class_name"] != "InputLayer":
                yield full


def _ends(config: dict[str, Any]) -> set[str]:
    """Returns the layers that compute outputs of the model, are called once, and are used by no other layer."""
    layers = config["layers"] if "input_layers" in config else config["layers"][-1:]  # of a Sequential model, the last
    nodes = [layer.get("inbound_nodes") for layer in layers]
    used = {value["keras_history"][0] for value in _values(nodes) if "keras_history" in value}
    plain = [layer for layer in layers if layer["class_name"] != "InputLayer" and "layers" not in layer["config"]]
    return {layer["config"]["name"] for layer in plain if len(layer.get("inbound_nodes", [1])) == 1} - used


def _values(content: Any) -> Iterator[dict[str, Any]]:
    """Yields all dicts in parsed JSON."""
    waiting = [content]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield value
        if isinstance(value, (dict, list)):
            waiting += value.values() if isinstance(value, dict) else value
