"""Nodes of operations that several models share, and their release when a model is garbage-collected.

Keras keeps each call of a layer, a `Node`, in a list of the layer forever, and finds the node that produced a tensor by
its position in that list. So positions never change: the node of a dead sub-model leaves an empty place, which the next
node fills.
"""

import contextlib
import weakref
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import keras

from kerassplit.graph.internals.keras_src import Node, SymbolicArguments
from kerassplit.graph.internals.process_state import lock
from kerassplit.graph.internals.symbols import bare

AnyNode = TypeVar("AnyNode", bound=Node)


class _Empty(Node):
    """Placeholder for an empty place in a list of nodes.

    Keras reads the number of an operation's outputs from the first node of its list, so a placeholder there keeps them.
    """

    def __init__(self, outputs: list[Any]) -> None:
        self.operation = None
        self.arguments = SymbolicArguments()
        self.outputs = outputs
        self.is_input = False

    def __repr__(self) -> str:
        return "<empty place>"


class _WeakArguments:
    """A call's arguments, with only weak references to some of the tensors."""

    def __init__(self, arguments: SymbolicArguments, released: set[int]):
        self._args, self._kwargs = arguments.convert(lambda x: weakref.ref(x) if id(x) in released else x)
        self._tensors = [weakref.ref(x) if id(x) in released else x for x in arguments.keras_tensors]

    @property
    def keras_tensors(self) -> list[Any]:
        return [x() if isinstance(x, weakref.ref) else x for x in self._tensors]

    def __getattr__(self, name: str) -> Any:
        args, kwargs = keras.tree.map_structure(
            lambda x: x() if isinstance(x, weakref.ref) else x, (self._args, self._kwargs)
        )
        return getattr(SymbolicArguments(*args, **kwargs), name)


class SharedNode(Node):
    """A call in a sub-model of an operation that other models share.

    Its layer keeps the node alive as long as the sub-model lives, so the node references the sub-model's outputs only
    weakly: otherwise they would never be collected.
    """

    alike: tuple[Any, ...] = ()  # tensors like its outputs, if it is the first in its list
    _weak: tuple[tuple[int, Any], ...] = ()

    def weaken_refs(self, symbols: set[int]) -> None:
        """Makes the references to the tensors whose `id` is in `symbols` weak."""
        kept = self._outputs
        self._weak = tuple((i, weakref.ref(symbol)) for i, symbol in enumerate(kept) if id(symbol) in symbols)
        for place, _ in self._weak:
            kept[place] = None
        if any(id(symbol) in symbols for symbol in self.arguments.keras_tensors):
            self.arguments = _WeakArguments(self.arguments, symbols)

    @property
    def outputs(self) -> list[Any]:
        if not self._weak:
            return self._outputs
        outputs = list(self._outputs)
        for place, reference in self._weak:
            outputs[place] = reference()
        return outputs

    @outputs.setter
    def outputs(self, outputs: list[Any]) -> None:
        self._outputs = outputs


class SharedNodes:
    """The nodes of one sub-model, in the order of its calls.

    Nodes of the same operation keep that order in its list, as Keras's saved configurations require.
    """

    def __init__(self) -> None:
        self._makers: dict[SharedNode, list[keras.Operation]] = {}  # of the tensors that each node receives
        self._last: dict[int, int] = {}  # the place of the last node in the list of its operation, by its `id`

    @property
    def nodes(self) -> list[SharedNode]:
        return [*self._makers]

    def add(self, operation: keras.Operation, args: Sequence[Any], kwargs: dict[str, Any], outputs: list[Any]) -> None:
        """Adds a call, which sets the history of the outputs."""
        with lock:
            node = SharedNode(operation, call_args=args, call_kwargs=kwargs, outputs=outputs)
            place = self._last[id(operation)] = _into_empty_place(node, self._last.get(id(operation), -1) + 1)
        if place == 0:
            node.alike = tuple(map(bare, outputs))
        self._makers |= makers_of([node])
        _release_waiting()

    def release(self) -> None:
        """Removes the nodes from their operations."""
        release(self._makers)


_waiting: deque[Mapping[Any, Sequence[keras.Operation]]] = deque()
"""Nodes to release as soon as no other thread is changing lists of nodes."""


def release(makers: Mapping[AnyNode, Sequence[keras.Operation]]) -> None:
    """Removes nodes from their operations, now or when the thread that is changing their lists is done.

    Garbage collection calls this in any thread at any time, so waiting for that thread could deadlock.

    Args:
        makers: For each node, the operations that produce the tensors it receives.
    """
    _waiting.append(makers)
    _release_waiting()


def _release_waiting() -> None:
    while _waiting and lock.acquire(blocking=False):
        try:
            with contextlib.suppress(IndexError):  # taken by a nested garbage collection
                _release(_waiting.popleft())
        finally:
            lock.release()


def _release(makers: Mapping[Any, Sequence[keras.Operation]]) -> None:
    """Removes nodes; between any two steps, another garbage collection may release other nodes in this thread."""
    for node in reversed([*makers]):
        for maker in makers[node]:
            with contextlib.suppress(ValueError):
                maker._outbound_nodes.remove(node)
    for node in reversed([*makers]):
        inbound = node.operation._inbound_nodes
        place = _place_of(node, inbound)
        if place is not None:
            inbound[place] = _Empty(_alike(node) if place == 0 else [])
        seen = [*inbound]
        while seen and isinstance(seen[-1], _Empty):
            seen.pop()
        del inbound[len(seen) :]


def forget_calls_on(inputs: Sequence[keras.KerasTensor]) -> None:
    """Removes all nodes reachable from the inputs from their operations, including those that lead to no output."""
    found: dict[Any, None] = {}
    waiting = list(inputs)
    while waiting:
        symbol = waiting.pop()
        for node in symbol._keras_history.operation._outbound_nodes:
            if node not in found and any(taken is symbol for taken in node.input_tensors):
                found[node] = None
                waiting += node.outputs
    release(makers_of(found))


def makers_of(nodes: Iterable[AnyNode]) -> dict[AnyNode, list[keras.Operation]]:
    """Returns the operations that produce the tensors each of these nodes receives."""
    return {node: [symbol._keras_history.operation for symbol in node.input_tensors] for node in nodes}


def _into_empty_place(node: Node, first: int) -> int:
    """Moves a node from the end of its list to the first empty place from `first` on, if any; returns its place."""
    inbound = node.operation._inbound_nodes
    place = next((place for place in range(first, len(inbound)) if isinstance(inbound[place], _Empty)), None)
    if place is None:
        return len(inbound) - 1
    inbound[place] = node
    inbound.pop()  # still the last: releasing nodes only drops empty places
    for symbol in node.outputs:
        symbol._keras_history = symbol._keras_history._replace(node_index=place)
    return place


def _alike(node: Node) -> list[keras.KerasTensor]:
    return [*node.alike] if isinstance(node, SharedNode) else [bare(symbol) for symbol in node.outputs]


def _place_of(node: Node, nodes: Sequence[Node]) -> int | None:
    """Returns the place of a node, searching from the end, where it most likely is."""
    return next((place for place in range(len(nodes) - 1, -1, -1) if nodes[place] is node), None)
