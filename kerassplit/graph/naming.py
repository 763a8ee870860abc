"""Names of calls and tensors that survive saving."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import keras

from kerassplit.errors import UnsupportedModelError
from kerassplit.graph.internals.nodes import walk
from kerassplit.graph.model_graph import Graph


def call_names(nodes: Sequence[Any], outputs: Sequence[keras.KerasTensor]) -> list[str]:
    """Returns one name per node: the operation's, with `@0`, `@1`, ... if it is called several times.

    The numbers follow a depth-first walk from the outputs, arguments in order. The graph alone determines this order,
    so it survives saving and joining.
    """
    of_operation = defaultdict(list)
    for index, node in enumerate(nodes):
        of_operation[id(node.operation)].append(index)
    names = [node.operation.name for node in nodes]
    several = [indices for indices in of_operation.values() if len(indices) > 1]
    if several:
        met = {node: place for place, node in enumerate(walk(outputs)[0])}
        for indices in several:
            for number, index in enumerate(sorted(indices, key=lambda index: met[nodes[index]])):
                names[index] += f"@{number}"
    return names


def check_names(graph: Graph) -> None:
    """Checks that no two tensors have the same name: names of the user's own with `@` or `:` can clash."""
    seen: set[str] = set()
    for tensor in graph.tensors:
        if tensor.name in seen:
            raise UnsupportedModelError(
                f"Two tensors of model '{graph.model.name}' are called '{tensor.name}'. kerassplit numbers the calls "
                "of a layer with '@' and its outputs with ':'; rename the layer whose own name contains one of these."
            )
        seen.add(tensor.name)
