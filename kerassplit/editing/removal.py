"""`remove`: layers that the model can do without."""

from __future__ import annotations

from typing import Any

import keras

from kerassplit.editing.edited import edited, own_copy
from kerassplit.editing.steps import Edits, Replacement
from kerassplit.errors import UnsupportedModelError
from kerassplit.graph.model_graph import Call, Graph, Nest
from kerassplit.graph.reading import read_graph
from kerassplit.graph.references import resolve_calls


def remove(model: keras.Model, names: Any, *, copy_weights: bool = False, name: str | None = None) -> keras.Model:
    """Removes layers: what a layer received goes to all that used its output.

    The rest of the model stays as it is; see `insert`.

    Args:
        model: A functional or built Sequential model.
        names: The layers: names, globs such as `"dropout*"`, layers, or classes of layers, which stand for those at any
            depth. A name may also be that of a nested model, or of one call of a shared layer (`"relu@1"`). Each takes
            one tensor and returns one of the same shape and dtype.
        copy_weights: Give the result its own layers and variables, with equal values.
        name: Name of the result; by default the model's.

    Returns:
        A `keras.Model` with the inputs and outputs of the model, in the same structure.

    Raises:
        UnsupportedModelError: A layer cannot be bypassed: it takes or returns several tensors, or changes the shape.
        UnknownTensorError: Nothing has that name, or matches the glob.

    Example:

    >>> plain = ks.remove(model, keras.layers.Dropout)
    """
    graph = read_graph(model)
    replacements = [Replacement(item, _taken(graph, item)) for item in resolve_calls(graph, names)]
    result = edited(graph, Edits(replacements=replacements), name)
    return own_copy(result) if copy_weights else result


def _taken(graph: Graph, item: Call | Nest) -> int:
    """Returns the tensor that goes on in place of what a call produces; refuses a call that cannot be bypassed."""
    others = [value for name, value in item.arguments.kwargs.items() if not name.endswith("mask")]
    leaves = keras.tree.flatten((item.arguments.args, others))
    given = [one for one in leaves if isinstance(one, keras.KerasTensor)]
    made = [symbol for _, symbol in graph.results(item)]
    if len(given) == len(made) == 1 and (given[0].shape, given[0].dtype) == (made[0].shape, made[0].dtype):
        return item.scope[id(given[0])]
    raise UnsupportedModelError(
        f"'{item.name}' ({type(item.operation).__name__}) takes {_described(given)} and returns {_described(made)}, so "
        "it cannot be removed: only a layer that returns what it takes, one tensor of the same shape and dtype, can "
        "be bypassed. `kerassplit.replace` puts another layer in its place."
    )


def _described(symbols: list[Any]) -> str:
    return ", ".join(f"{tuple(one.shape)} {one.dtype}" for one in symbols) or "nothing"
