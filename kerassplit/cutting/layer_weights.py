"""Matches the weights of two layers."""

import re
from collections import Counter
from typing import Any


def weight_names(layer: Any) -> list[str]:
    """Returns the names of a layer's weights in it: `kernel`, `query/kernel`; `w`, `w@1` if two have the same name."""
    start = f"{getattr(layer, 'path', None) or getattr(layer, 'name', '')}/"
    met: Counter[str] = Counter()
    names = []
    for weight in getattr(layer, "weights", ()):
        name = weight.path.removeprefix(start)
        names.append(f"{name}@{met[name]}" if met[name] else name)
        met[name] += 1
    return names


def match_weights(layer: Any, other: Any) -> dict[int, int]:
    """Matches the weights of two layers: from the place of one in `layer.weights` to its place in `other.weights`.

    They are matched by name. Layers inside may have automatic names, or lack the name of the layer around them once
    Keras has loaded them; so, if not all names agree and the layers are of one class, by order, if that fits.
    """
    ours, theirs = weight_names(layer), weight_names(other)
    if {*ours} != {*theirs} and type(layer) is type(other) and _ends(ours) == _ends(theirs):
        return {place: place for place in range(len(ours))}
    there = {name: place for place, name in enumerate(theirs)}
    return {place: there[name] for place, name in enumerate(ours) if name in there}


def _ends(names: list[str]) -> list[str]:
    """Returns the last parts of names, without numbers: `variable_1` is an automatic name, too."""
    return [re.sub(r"(_\d+)?(@\d+)?$", "", name.rpartition("/")[2]) for name in names]
