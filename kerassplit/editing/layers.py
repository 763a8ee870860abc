"""Layers and functions that a user gives to an edit."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras

from kerassplit.errors import SplitError, UnsupportedModelError
from kerassplit.graph.model_graph import Call, Graph, Nest
from kerassplit.text import snake_case, unique


class Names:
    """Names of layers in an edited model: one that is taken gets a number.

    Args:
        graph: The graph of the model.
        gone: Its calls that are replaced.
    """

    def __init__(self, graph: Graph, gone: Sequence[Call | Nest] = ()):
        without = {id(item) for item in gone}
        self._taken = {item.operation.name for item in [*graph.calls, *graph.nests] if id(item) not in without}
        self._seen: dict[int, Any] = {}

    def give(self, layer: keras.Layer, name: str | None = None) -> None:
        """Gives a new layer this name, or its own; if it is taken, with a number."""
        if id(layer) not in self._seen:
            self._seen[id(layer)] = layer
            layer.name = unique(name or layer.name, self._taken)


def has_automatic_name(layer: keras.Layer) -> bool:
    """True if a layer's name looks like one that Keras made from its class."""
    return re.fullmatch(rf"{snake_case(type(layer).__name__)}(_\d+)?", layer.name) is not None


@contextmanager
def calling(what: str, given: Sequence[keras.KerasTensor]) -> Iterator[None]:
    """Context in which a user's layer or function is called; errors say what is called on what.

    Raises:
        UnsupportedModelError: The call fails.
    """
    try:
        yield
    except SplitError:
        raise
    except Exception as error:
        shapes = ", ".join(f"{tuple(symbol.shape)} {symbol.dtype}" for symbol in given)
        raise UnsupportedModelError(f"{what} cannot be called on {shapes}: {error}") from error


def made_by(layer: Any, argument: Any, what: str) -> Any:
    """Returns `layer`, or if it is a function, what it returns for `argument`."""
    if isinstance(layer, keras.Operation):
        return layer
    if isinstance(layer, type) or not callable(layer):
        kind = (
            f"the class {layer.__name__}"
            if isinstance(layer, type)
            else f"{layer!r:.60} of type {type(layer).__name__}"
        )
        raise SplitError(f"{what} must be a layer, a model or a function that returns one; got {kind}.")
    return layer(argument)
