"""Keras's records of calls, its `Node`s: those of a model, and those that lead to a tensor."""

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
    """Keras's records of a model's calls, each after those it depends on."""
    by_depth = functional._nodes_by_depth
    return [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]]


def node_of_call(operation: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Keras's record of one more call, taken out of the operation again; the model was built and warned of it."""
    with lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        operation(*args, **kwargs)
        return operation._inbound_nodes.pop()


@contextlib.contextmanager
def observed(functional: Functional, symbols: Iterable[keras.KerasTensor]) -> Iterator[dict[int, Any]]:
    """While it lasts, notes what a model makes for some of its symbolic tensors, by `id`, when this thread calls it.

    Keras fills in the arguments of each call as the model runs: there, those of one call that takes such a tensor are
    looked at. What no call takes is not seen, nor what two threads observe at once: ask whether it is there.
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
    """The Keras nodes that lead to the outputs, and when each operation was first met.

    Depth first and without recursion, arguments in their order. Each node comes after those it depends on. The walk
    stops at tensors whose `id` is among `known`, and goes on at those that are `received_by` each node.
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
