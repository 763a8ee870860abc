"""Keras's records of calls, its `Node`s: those of a model, and those that a tensor depends on."""

import contextlib
import threading
import warnings
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras

from kerassplit.graph.internals.keras_src import Functional
from kerassplit.graph.internals.process_state import lock
from kerassplit.graph.internals.symbols import maker_of


def nodes_of(functional: Functional) -> list[Any]:
    """Returns the nodes of a model's calls in topological order."""
    by_depth = functional._nodes_by_depth
    return [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]]


def node_of_call(operation: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Calls an operation and returns the new node, removed from it; warnings were already shown when it was built."""
    with lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        operation(*args, **kwargs)
        return operation._inbound_nodes.pop()


@contextlib.contextmanager
def observed(functional: Functional, symbols: Iterable[keras.KerasTensor]) -> Iterator[dict[int, Any]]:
    """Context that records the values of some symbolic tensors, by `id`, when this thread calls the model.

    Keras fills in the arguments of each call as the model runs; the values are read there, at one call that uses each
    tensor. A tensor that no call uses, or that two threads observe at once, may be missing: check that it is there.
    """
    left = {id(symbol) for symbol in symbols}
    seen: dict[int, Any] = {}
    thread = threading.get_ident()

    def observing(fill_in: Callable[[dict[int, Any]], Any], ours: set[int]) -> Callable[[dict[int, Any]], Any]:
        def fill_in_and_note(tensors: dict[int, Any]) -> Any:
            if threading.get_ident() == thread:
                seen.update({one: tensors[one] for one in ours})
            return fill_in(tensors)

        return fill_in_and_note

    watched = []
    try:
        for node in nodes_of(functional):
            ours = left.intersection(map(id, node.input_tensors))
            if ours:
                left -= ours
                watched.append(vars(node.arguments))
                watched[-1]["fill_in"] = observing(node.arguments.fill_in, ours)
        yield seen
    finally:
        for one in watched:
            one.pop("fill_in", None)


def walk(
    outputs: Sequence[keras.KerasTensor],
    known: Container[int] = (),
    received_by: Callable[[Any], Iterable[keras.KerasTensor]] = lambda node: node.input_tensors,
) -> tuple[list[Any], dict[Any, int]]:
    """Returns the Keras nodes that the outputs depend on, and the order in which operations were first met.

    The walk is depth-first, without recursion, arguments in order; the nodes are in topological order. It stops at
    tensors whose `id` is in `known`, and continues with those that `received_by` returns for each node.
    """
    nodes: list[Any] = []
    first_met: dict[Any, int] = {}
    seen: set[Any] = set()
    path: list[tuple[Any, Iterator[keras.KerasTensor]]] = [(None, iter(outputs))]
    while path:
        node, waiting = path[-1]
        symbol = next(waiting, None)
        if symbol is not None:
            maker = None if id(symbol) in known else maker_of(symbol)
            if maker is not None and maker not in seen:
                seen.add(maker)
                first_met.setdefault(maker.operation, len(first_met))
                path.append((maker, iter(received_by(maker))))
        else:
            path.pop()
            if node is not None:
                nodes.append(node)
    return nodes, first_met
