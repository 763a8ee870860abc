"""Derives the names of inputs and outputs in exported files from tensor names."""

import keyword
import re
from collections.abc import Iterable, Sequence

from kerassplit.text import safe_name, unique

_RESERVED = {*keyword.kwlist, "self"}


def exported_names(inputs: Sequence[str], outputs: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns the names of a stage's inputs and outputs, the same in every format.

    They are the tensor names with `/`, `@` and `:` replaced by `.`, `_` and `_`. Characters that some format cannot
    write (spaces, non-ASCII letters) become `_`, and a number makes names unique: they must stay distinct when
    TensorFlow turns each into a lowercase Python parameter, and in ONNX an output cannot have the name of an input.

    >>> exported_names(["backbone/relu@1"], ["scores:0", "a/b", "a_b", "backbone/relu@1"])
    (('backbone.relu_1',), ('scores_0', 'a.b', 'a_b_1', 'backbone.relu_1_1'))
    """
    taken: set[str] = set()
    names = [unique(_plain(tensor), taken, _parameter) for tensor in (*inputs, *outputs)]
    return tuple(names[: len(inputs)]), tuple(names[len(inputs) :])


def _plain(tensor: str) -> str:
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", safe_name(tensor))
    if not re.match(r"[A-Za-z0-9]", name):  # TensorFlow accepts no other first character
        name = f"tensor{name}"
    return f"{name}_" if name in _RESERVED else name


def _parameter(name: str) -> str:
    """Returns the name TensorFlow itself gives an input: a Python parameter, in lowercase."""
    plain = re.sub(r"[^a-z0-9]", "_", name.lower())
    return plain if plain[0].isalpha() else f"arg_{plain}"
