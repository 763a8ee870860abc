"""`insert`: a layer after any tensor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras

from kerassplit.cutting.submodel import resolve_several
from kerassplit.editing.edited import edited, own_copy
from kerassplit.editing.layers import Names, calling, made_by
from kerassplit.editing.steps import Edits, Insertion
from kerassplit.errors import SplitError, UnsupportedModelError
from kerassplit.graph.internals.layers import functional_of, is_new
from kerassplit.graph.masks import mask_calls
from kerassplit.graph.model_graph import Graph, Nest
from kerassplit.graph.reading import read_graph
from kerassplit.graph.recording import new_layers
from kerassplit.graph.references import TensorRef, resolve_calls
from kerassplit.text import listed


def insert(
    model: keras.Model,
    at: TensorRef | Sequence[TensorRef],
    layer: keras.Layer | Callable[[keras.KerasTensor], Any],
    *,
    into: Any = None,
    copy_weights: bool = False,
    name: str | None = None,
) -> keras.Model:
    """Inserts a layer after a tensor, or one after each of several tensors.

    The rest of the model stays as it is: the same layer and variable objects, the same calls with the same arguments.
    Where the new layer changes a shape, Keras infers the shapes after it again. A nested model with an insertion inside
    is opened: its layers appear individually. The model itself is not changed.

    Args:
        model: A functional or built Sequential model.
        at: The tensor or tensors: names, globs, layers or `KerasTensor`s; also inputs, tensors inside branches or
            nested models, and single calls of a shared layer (`"relu@1"`).
        layer: What is inserted: a layer or model, or a function that gets the tensor (a `KerasTensor` with its name)
            and returns a layer, a model or another tensor, or `None` to leave this one alone. A layer or model is
            called once: with several tensors, on the list of them, and returns as many. A function is called for each
            tensor. A layer that belongs to no model yet gets a number if its name is taken.
        into: The calls that receive the result: names, globs, layers or classes of layers. `None`: all that use the
            tensor, and the model's outputs.
        copy_weights: Give the result its own layers and variables, with equal values.
        name: Name of the result; by default the model's.

    Returns:
        A `keras.Model` with the inputs and outputs of the model, in the same structure.

    Raises:
        UnsupportedModelError: The layer cannot be called on the tensor, or a layer after it on the result, or it has
            the name of another layer; or nothing would receive the result.
        SplitError: `layer` is no layer or function, or `into` names no call that uses the tensor.
        UnknownTensorError, AmbiguousTensorError: A name does not stand for exactly one tensor of the model.

    Example:

    >>> dropped = ks.insert(resnet, "conv*_block*_out", lambda tensor: keras.layers.SpatialDropout2D(0.1))
    """
    graph = read_graph(model)
    tensors = resolve_several(graph, at, "at")
    calls = None if into is None else _calls(graph, tensors, into)
    names = Names(graph)
    groups = [tuple(tensors)] if isinstance(layer, keras.Operation) else [(tensor,) for tensor in tensors]
    insertions = [Insertion(group, _function(graph, group, layer, names), calls) for group in groups]
    result = edited(graph, Edits(insertions=insertions), name)
    return own_copy(result) if copy_weights else result


def _calls(graph: Graph, tensors: Sequence[int], into: Any) -> frozenset[int]:
    """Returns the calls that are to receive the result; all of them use one of the tensors."""
    index = {id(call): place for place, call in enumerate(graph.calls)}
    users = {user for tensor in tensors for user in graph.tensors[tensor].users}
    found: set[int] = set()
    for item in resolve_calls(graph, into):
        inside = users.intersection(item.calls if isinstance(item, Nest) else [index[id(item)]])
        if not inside:
            there = [graph.calls[user].name for user in sorted(users)]
            raise SplitError(
                f"`into` names '{item.name}', which does not use {listed(graph.names(tensors), 'or')}; "
                f"{listed(there) if there else 'no call'} does."
            )
        found |= inside
    return frozenset(found)


def _function(graph: Graph, tensors: Sequence[int], layer: Any, names: Names) -> Callable[..., Sequence[Any]]:
    """Returns the function that an insertion calls."""
    after = listed(graph.names(tensors))

    def called(*symbols: keras.KerasTensor) -> Sequence[Any]:
        for tensor, symbol in zip(tensors, symbols, strict=True):
            symbol.name = graph.tensors[tensor].name
        one = made_by(layer, symbols[0], "`layer`")
        if one is None:
            return symbols
        _refuse_idle(graph, tensors)
        if isinstance(one, keras.KerasTensor):
            for new in new_layers(symbols, one):
                names.give(new)
            return [one]
        if not isinstance(one, keras.Operation):
            raise SplitError(
                f"The function for {after} returned a {type(one).__name__}. Expected a layer, a model, a tensor or "
                "None."
            )
        if is_new(one):
            names.give(one)
        with calling(f"'{one.name}', inserted after {after},", symbols):
            made = keras.tree.flatten(one(_packed(one, symbols)))
        if len(made) != len(symbols) or not all(isinstance(symbol, keras.KerasTensor) for symbol in made):
            hint = " To insert a layer after each of them, pass a function that makes one." if len(symbols) > 1 else ""
            raise UnsupportedModelError(
                f"'{one.name}', inserted after {after}, takes {len(symbols)} and returns {len(made)} tensors. Insert "
                f"something that returns as many as it takes.{hint}"
            )
        return made

    return called


def _refuse_idle(graph: Graph, tensors: Sequence[int]) -> None:
    """Refuses tensors whose users would not receive what is inserted, or that have none."""
    masks = mask_calls(graph)
    outputs = graph.flat_outputs()
    for tensor in tensors:
        found = graph.tensors[tensor]
        if tensor not in outputs and found.call in masks:
            raise UnsupportedModelError(
                f"'{found.name}' is, or is only used for, a mask that Keras attaches to a tensor by itself. To change "
                "it, insert a layer after that tensor that computes another mask (`compute_mask`); to leave it alone, "
                "let the function return None."
            )
        if tensor not in outputs and not found.users:
            raise UnsupportedModelError(
                f"'{found.name}' is not used and no output of the model, so nothing would receive what is inserted. "
                "Name another tensor; to leave it alone, let the function return None."
            )


def _packed(layer: Any, symbols: Sequence[keras.KerasTensor]) -> Any:
    """Returns tensors in the structure that a layer or model takes."""
    functional = functional_of(layer)
    if functional is not None and len(functional.inputs) == len(symbols):
        return keras.tree.pack_sequence_as(functional.input, list(symbols))
    return symbols[0] if len(symbols) == 1 else list(symbols)
