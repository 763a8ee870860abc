"""Structures of arrays as plain values, which JSON can hold and from which they can be made again."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from scipy.sparse import issparse

from kerassplit.errors import SplitError


def taken_apart(structure: Any, leaves: list[Any]) -> Any:
    """A structure as plain values, with the place of each leaf among `leaves`, which grow.

    The leaves of a dict come in the order of its sorted keys: its own order may be another in the next batch.

    Raises:
        SplitError: A key of a dict is no text.

    >>> taken_apart(("a", {"x": "b"}), leaves := []), leaves
    ({'tuple': [0, {'dict': {'x': 1}}]}, ['a', 'b'])
    """
    if structure is None:
        return None
    if isinstance(structure, Mapping) and not issparse(structure):  # SciPy's DOK arrays are dicts
        wrong = [key for key in structure if not isinstance(key, str)]
        if wrong:
            raise SplitError(f"A dict of arrays needs text for its keys; got {wrong[0]!r}.")
        apart = {key: taken_apart(structure[key], leaves) for key in sorted(structure)}
        return {"dict": {key: apart[key] for key in structure}}
    if isinstance(structure, (list, tuple)):
        kind = "list" if isinstance(structure, list) else "tuple"
        return {kind: [taken_apart(inner, leaves) for inner in structure]}
    leaves.append(structure)
    return len(leaves) - 1


def leaves_of(structure: Any) -> list[Any]:
    """The leaves of a structure, in order.

    >>> leaves_of(("a", {"x": "b"}))
    ['a', 'b']
    """
    leaves: list[Any] = []
    taken_apart(structure, leaves)
    return leaves


def put_together(plain: Any, leaves: Sequence[Any]) -> Any:
    """The structure that was taken apart, with these leaves.

    >>> put_together({"tuple": [0, {"dict": {"x": 1}}]}, ["a", "b"])
    ('a', {'x': 'b'})
    """
    if plain is None:
        return None
    if isinstance(plain, int):
        return leaves[plain]
    ((kind, inner),) = plain.items()
    if kind == "dict":
        return {key: put_together(one, leaves) for key, one in inner.items()}
    made: Iterable[Any] = (put_together(one, leaves) for one in inner)
    return tuple(made) if kind == "tuple" else list(made)
