"""Calls of operations that several models share, and how they go when the model does.

Keras keeps each call of a layer, a `Node`, in a list of the layer for ever, and finds the maker of a tensor by its
place in that list. So places never move: the node of a dead sub-model leaves its place empty, and the next takes it.
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
    """What stands in an empty place of a list of nodes.

    Keras reads how many tensors an operation gives from the first node of its list, so that one tells it still.
    """

    def __init__(self, outputs: list[Any]) -> None:
        self.operation = None
        self.arguments = SymbolicArguments()
        self.outputs = outputs
        self.is_input = False

    def __repr__(self) -> str:
        return "<empty place>"


class _WeakArguments:
    """A call's arguments that refer only weakly to some of the tensors."""

    def __init__(self, arguments: SymbolicArguments, released: set[int]):
        self._args, self._kwargs = arguments.convert(lambda x: weakref.ref(x) if id(x) in released else x)

    def __getattr__(self, name: str) -> Any:
        args, kwargs = keras.tree.map_structure(
            lambda x: x() if isinstance(x, weakref.ref) else x, (self._args, self._kwargs)
        )
        return getattr(SymbolicArguments(*args, **kwargs), name)


class SharedNode(Node):
    """A call in a sub-model of an operation that other models share.

    Its layer holds the node as long as the sub-model lives, so the node must not hold the sub-model's outputs, or they
    would never die: it refers to them weakly.
    """

    alike: tuple[Any, ...] = ()  # tensors like its outputs, if it is the first in its list
    _weak: tuple[tuple[int, Any], ...] = ()

    def weaken_refs(self, symbols: set[int]) -> None:
        """From now on refers only weakly to the tensors whose `id` is among `symbols`."""
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

    Those of one operation stay in that order in its list, as Keras's saved configurations need it.
    """

    def __init__(self) -> None:
        self._makers: dict[SharedNode, list[keras.Operation]] = {}  # of what each node receives
        self._last: dict[int, int] = {}  # the place of the last node in the list of its operation, by its `id`

    @property
    def nodes(self) -> list[SharedNode]:
        return [*self._makers]

    def add(self, operation: keras.Operation, args: Sequence[Any], kwargs: dict[str, Any], outputs: list[Any]) -> None:
        """Notes a call: the outputs get their history by it."""
        with lock:
            node = SharedNode(operation, call_args=args, call_kwargs=kwargs, outputs=outputs)
            place = self._last[id(operation)] = _into_empty_place(node, self._last.get(id(operation), -1) + 1)
        if place == 0:
            node.alike = tuple(map(bare, outputs))
        self._makers |= makers_of([node])
        _release_waiting()

    def release(self) -> None:
        """Takes the nodes out of their operations."""
        release(self._makers)


_waiting: deque[Mapping[Any, Sequence[keras.Operation]]] = deque()
"""Nodes to be released as soon as no other thread changes lists of nodes."""


def release(makers: Mapping[AnyNode, Sequence[keras.Operation]]) -> None:
    """Takes nodes out of their operations, at once or when the thread that is changing their lists has done so.

    Garbage collection calls this in any thread at any time: waiting for that thread could last for ever.

    Args:
        makers: For each node the operations that make what it receives.
    """
    _waiting.append(makers)
    _release_waiting()


def _release_waiting() -> None:
    while _waiting and lock.acquire(blocking=False):
        try:
            with contextlib.suppress(IndexError):  # taken by a collection within this one
                _release(_waiting.popleft())
        finally:
            lock.release()


def _release(makers: Mapping[Any, Sequence[keras.Operation]]) -> None:
    """Between any two of these steps, another collection may release other nodes in this thread."""
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
    """Takes all nodes that the inputs lead to out of their operations, also those that lead to no output."""
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
    """The operations that make what each of these receives."""
    return {node: [symbol._keras_history.operation for symbol in node.input_tensors] for node in nodes}


def _into_empty_place(node: Node, first: int) -> int:
    """Moves a node from the end of its list into an empty place, from one on, if there is any; gives where it is."""
    inbound = node.operation._inbound_nodes
    place = next((place for place in range(first, len(inbound)) if isinstance(inbound[place], _Empty)), None)
    if place is None:
        return len(inbound) - 1
    inbound[place] = node
    inbound.pop()  # it is still the last: whoever releases nodes takes off empty places alone
    for symbol in node.outputs:
        symbol._keras_history = symbol._keras_history._replace(node_index=place)
    return place


def _alike(node: Node) -> list[keras.KerasTensor]:
    return [*node.alike] if isinstance(node, SharedNode) else [bare(symbol) for symbol in node.outputs]


def _place_of(node: Node, nodes: Sequence[Node]) -> int | None:
    """The place of a node, which is most likely near the end."""
    return next((place for place in range(len(nodes) - 1, -1, -1) if nodes[place] is node), None)
