"""Records what a function, such as a layer, calls, so that a `Builder` can repeat it on other tensors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from kerassplit.graph.internals.layers import functional_of
from kerassplit.graph.internals.nodes import walk
from kerassplit.graph.internals.process_state import deep_recursion, lock
from kerassplit.graph.internals.shared_nodes import forget_calls_on
from kerassplit.graph.internals.symbols import has_mask, maker_of, mask_of, set_mask, stand_in


@dataclass(frozen=True)
class Recording:
    """What a function calls.

    Attributes:
        given: The symbolic tensors that it got.
        made: What it returned.
        nodes: Keras's nodes of the calls between them, in topological order.
    """

    given: Sequence[keras.KerasTensor]
    made: Any
    nodes: Sequence[Any]

    @property
    def operations(self) -> list[keras.Operation]:
        return [node.operation for node in self.nodes]


def record(function: Callable[..., Any], like: Sequence[keras.KerasTensor]) -> Recording:
    """Calls a function on new symbolic tensors like these; Keras infers shapes and masks.

    The nodes are removed from the operations that are called.
    """
    source = keras.Operation(name="given")
    given = [_like(symbol, source) for symbol in like]
    masks = [mask_of(symbol) for symbol in given if has_mask(symbol)]
    with lock, deep_recursion():
        try:
            made = function(*given)
            ends = [one for one in keras.tree.flatten(made) if isinstance(one, keras.KerasTensor)]
            ends += [mask_of(one) for one in ends if has_mask(one)]
            nodes, _ = walk(ends, {id(symbol) for symbol in (*given, *masks)})
        finally:
            forget_calls_on([*given, *masks])
    return Recording(given, made, nodes)


def new_layers(given: Sequence[keras.KerasTensor], made: keras.KerasTensor) -> list[keras.Layer]:
    """Returns the layers that only the calls between these tensors use; none if `made` depends on other tensors."""
    nodes, _ = walk([made], {id(symbol) for symbol in given})
    if any(node.is_input for node in nodes):
        return []
    layers = [node.operation for node in nodes if isinstance(node.operation, keras.Layer)]
    return [one for one in layers if not isinstance(one, keras.Model) and set(nodes).issuperset(one._inbound_nodes)]


def _like(symbol: keras.KerasTensor, source: keras.Operation) -> keras.KerasTensor:
    plain = keras.KerasTensor(symbol.shape, dtype=symbol.dtype)
    twin = stand_in(plain if symbol.sparse and not _is_sparse(symbol) else symbol, source)
    if has_mask(symbol):
        set_mask(twin, stand_in(mask_of(symbol), source))
    return twin


def _is_sparse(symbol: keras.KerasTensor) -> bool:
    """True if a tensor can be sparse: Keras marks `x * 2` as sparse even if `x` is dense, and layers that run fail."""
    waiting = [symbol]
    while waiting:
        symbol = waiting.pop()
        if symbol.sparse:
            operation, _, position = symbol._keras_history
            sources = maker_of(symbol).input_tensors
            inner = functional_of(operation)
            if inner is not None:
                sources = [inner.outputs[position]]
            elif isinstance(operation, keras.Layer) and not any(source.sparse for source in sources):
                return True
            waiting += sources
    return False
