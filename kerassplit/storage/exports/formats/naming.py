"""Names of inputs and outputs in exported files, from those of the tensors."""

import keyword
import re
from collections.abc import Iterable, Sequence

from kerassplit.text import safe_name, unique

_RESERVED = {*keyword.kwlist, "self"}


def exported_names(inputs: Sequence[str], outputs: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of a stage's inputs and outputs in every format.

    They are the names of the tensors with `/`, `@` and `:` as `.`, `_` and `_`. What not every format can write (a
    space, a letter that is not ASCII) becomes `_`, and a number makes names unique: two names may not become one
    where TensorFlow makes a Python parameter of each and writes it in small letters, and in ONNX an output cannot bear
    an input's name.

    >>> exported_names(["backbone/relu@1"], ["scores:0", "a/b", "a_b", "backbone/relu@1"])
    (('backbone.relu_1',), ('scores_0', 'a.b', 'a_b_1', 'backbone.relu_1_1'))
    """
    taken: set[str] = set()
    names = [unique(_plain(tensor), taken, _parameter) for tensor in (*inputs, *outputs)]
    return tuple(names[: len(inputs)]), tuple(names[len(inputs) :])


def _plain(tensor: str) -> str:
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", safe_name(tensor))
    if not re.match(r"[A-Za-z0-9]", name):  # TensorFlow takes no other first character
        name = f"tensor{name}"
    return f"{name}_" if name in _RESERVED else name


def _parameter(name: str) -> str:
    """TensorFlow's own name for an input: as a Python parameter, in small letters as an argument."""
    plain = re.sub(r"[^a-z0-9]", "_", name.lower())
    return plain if plain[0].isalpha() else f"arg_{plain}"
