"""A replacement for Keras's `map_graph`, which finds the calls of a new model: linear time, no recursion."""

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import keras

from kerassplit.graph.internals.keras_src import Node, keras_function, make_node_key
from kerassplit.graph.internals.nodes import walk
from kerassplit.graph.internals.process_state import lock
from kerassplit.graph.internals.symbols import maker_of

_keras_map_graph = keras_function.map_graph


@contextlib.contextmanager
def fast_map_graph(outputs: Any) -> Iterator[None]:
    """Context in which Keras maps the graph that ends in `outputs` with `map_graph` below.

    Models that other threads build at the same time use Keras's own function.
    """
    ours = [id(symbol) for symbol in keras.tree.flatten(outputs)]

    def dispatch(inputs: Any, outputs: Any) -> Any:
        mine = [id(symbol) for symbol in outputs] == ours
        return map_graph(inputs, outputs) if mine else _keras_map_graph(inputs, outputs)

    with lock:
        keras_function.map_graph = dispatch
        try:
            yield
        finally:
            keras_function.map_graph = _keras_map_graph


def map_graph(
    inputs: Sequence[keras.KerasTensor], outputs: Sequence[keras.KerasTensor]
) -> tuple[set[str], dict[int, Any], list[Any], dict[int, Any]]:
    """Returns the same as Keras's own `map_graph`, in the same order, for a graph that a `Builder` has built.

    Keras finds the nodes by recursion, with one Python frame per call, and compares the names of all pairs of
    operations, in quadratic time. This takes linear time and no recursion. The order matters: Keras stores weights by
    the position of a layer among those of its depth.

    Returns:
        The keys of the nodes; the nodes by depth (the longest path to an output); the operations, deepest first and
        within a depth in the order of a walk from the outputs; the operations by depth.
    """
    nodes, first_met = walk(outputs)
    node_depth: dict[Node, int] = {}
    operation_depth: dict[Any, int] = {}
    for node in reversed(nodes):
        # All calls of a shared operation lie at least as deep as the deepest one met so far.
        depth = max(node_depth.setdefault(node, 0), operation_depth.get(node.operation, 0))
        node_depth[node] = operation_depth[node.operation] = depth
        for symbol in node.input_tensors:
            maker = maker_of(symbol)
            node_depth[maker] = max(depth + 1, node_depth.get(maker, 0))
    unused = [maker_of(symbol) for symbol in inputs if maker_of(symbol) not in node_depth]
    for node in unused:
        node_depth[node] = operation_depth[node.operation] = 0
        first_met[node.operation] = -1
    # `defaultdict`s, as in Keras: TensorFlow wraps and tracks everything in a plain dict.
    nodes_by_depth: dict[int, list[Node]] = defaultdict(list)
    for node, depth in node_depth.items():
        nodes_by_depth[depth].append(node)
    operations_by_depth: dict[int, list[Any]] = defaultdict(list)
    for operation in sorted(operation_depth, key=first_met.__getitem__):
        operations_by_depth[operation_depth[operation]].append(operation)
    deepest_first = sorted(operations_by_depth, reverse=True)
    operations = [operation for depth in deepest_first for operation in operations_by_depth[depth]]
    keys = {make_node_key(node.operation, node.outputs[0]._keras_history.node_index) for node in [*nodes, *unused]}
    return keys, nodes_by_depth, operations, operations_by_depth


def keep_order(model: keras.Model, nodes: Sequence[Node]) -> None:
    """Makes the calls of a model run in the order of these nodes.

    Keras orders them by their distance from the outputs, which a cut changes: calls of one layer would draw random
    numbers and update statistics in a different order.
    """
    by_depth = model._nodes_by_depth
    present = {node for some in by_depth.values() for node in some}
    added = [node for node in nodes if node in present]
    first = [node for node in present if node.is_input]
    by_depth.clear()
    by_depth.update({len(added) - place: [node] for place, node in enumerate(added)})
    by_depth[len(added) + 1] = first
