"""A Keras model as a graph of calls and tensors.

`model.layers` is no graph: a layer may be called twice, `x + y` is a call without a layer, and a mask is an edge that
no layer shows. Keras keeps the calls themselves as `Node`s. This module reads them, gives every tensor a name that
survives saving, and finds the tensor that a user means. Only this file and `rebuild.py` know Keras's internals.
"""

import difflib
import fnmatch
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
from keras.src.models.functional import Functional

from kerassplit.errors import AmbiguousTensorError, SplitError, UnknownTensorError, UnsupportedModelError

TensorRef = str | keras.Layer | keras.KerasTensor
"""How a user names a tensor: by its name, by the layer that makes it, or by the symbolic tensor itself."""


@dataclass(slots=True)
class Tensor:
    """An output of a call.

    Attributes:
        name: Its name in this model.
        symbol: The `KerasTensor`, with shape and dtype.
        call: Index of the call that makes it.
        users: Indices of the calls that receive it, each once, in execution order.
    """

    name: str
    symbol: keras.KerasTensor
    call: int
    users: list[int]


@dataclass(slots=True)
class Call:
    """One call of a layer or operation.

    Attributes:
        name: The operation's name; `relu@1` for the second call of one that is called several times.
        operation: The layer or operation.
        node: Keras's own record of the call.
        inputs: The tensors it receives, each once; empty for an input of the model.
        outputs: The tensors it makes.
    """

    name: str
    operation: keras.Operation
    node: Any
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(slots=True)
class Graph:
    """The calls of a model in execution order, and the tensors between them; both are referred to by index.

    Attributes:
        model: The model that was read.
        calls: Every call after those it depends on. The model's inputs count as calls that receive nothing.
        tensors: In the order in which they are made.
        inputs: The model's inputs, in its own structure (tensor, list, dict, ...) with indices for tensors.
        outputs: The model's outputs, likewise.
        by_symbol: From the `id` of a `KerasTensor` to the tensor's index.
    """

    model: keras.Model
    calls: list[Call]
    tensors: list[Tensor]
    inputs: Any
    outputs: Any
    by_symbol: dict[int, int]

    def names(self, tensors: Iterable[int]) -> list[str]:
        """The names of these tensors."""
        return [self.tensors[tensor].name for tensor in tensors]

    def flat_inputs(self) -> list[int]:
        """The model's inputs in the order in which Keras takes them."""
        return keras.tree.flatten(self.inputs)

    def flat_outputs(self) -> list[int]:
        """The model's outputs in the order in which Keras gives them; a tensor given out twice is there twice."""
        return keras.tree.flatten(self.outputs)


def read_graph(model: keras.Model) -> Graph:
    """Reads the graph of a functional or built Sequential model. Leaves the model alone; takes linear time.

    Raises:
        UnsupportedModelError: The model has no graph: it is subclassed, not built, or no Keras model.
    """
    functional = _functional(model)
    by_depth = functional._nodes_by_depth
    nodes = [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]]
    calls: list[Call] = []
    tensors: list[Tensor] = []
    by_symbol: dict[int, int] = {}
    for index, (node, name) in enumerate(zip(nodes, _call_names(nodes, functional.outputs), strict=True)):
        inputs = tuple(dict.fromkeys(by_symbol[id(symbol)] for symbol in node.input_tensors))
        for tensor in inputs:
            tensors[tensor].users.append(index)
        first, several = len(tensors), len(node.outputs) > 1
        for position, symbol in enumerate(node.outputs):
            by_symbol[id(symbol)] = len(tensors)
            tensors.append(Tensor(f"{name}:{position}" if several else name, symbol, index, []))
        calls.append(Call(name, node.operation, node, inputs, tuple(range(first, len(tensors)))))
    _check_names(model, tensors)
    return Graph(
        model,
        calls,
        tensors,
        keras.tree.map_structure(lambda symbol: by_symbol[id(symbol)], functional.input),
        keras.tree.map_structure(lambda symbol: by_symbol[id(symbol)], functional.output),
        by_symbol,
    )


def resolve(graph: Graph, reference: TensorRef) -> int:
    """The tensor that a name, a layer or a `KerasTensor` stands for.

    Raises:
        UnknownTensorError: The model has no such tensor.
        AmbiguousTensorError: The name or layer stands for several.
    """
    if isinstance(reference, str):
        return _by_name(graph, reference)
    if isinstance(reference, keras.KerasTensor):
        found = graph.by_symbol.get(id(reference))
        if found is not None:
            return found
        # A sub-model shares its layers, so `tail.get_layer("x").output`, which is the output of the layer's first call
        # ever, is a tensor of the model it was cut from.
        operation, place, position = getattr(reference, "_keras_history", (None, 0, 0))
        candidates = [call.outputs[position] for call in graph.calls if place == 0 and call.operation is operation]
        return _only(graph, candidates, getattr(operation, "name", reference.name))
    if isinstance(reference, keras.Operation):
        candidates = [tensor for call in graph.calls if call.operation is reference for tensor in call.outputs]
        return _only(graph, candidates, reference.name)
    raise SplitError(
        f"A tensor is named by a string, a keras.Layer or a KerasTensor of the model; got {reference!r} "
        f"of type {type(reference).__name__}."
    )


def resolve_glob(graph: Graph, reference: TensorRef) -> list[int]:
    """All the tensors whose names match a glob such as `conv3_*_out`; for anything else the one it stands for.

    Raises:
        UnknownTensorError: Nothing matches.
        AmbiguousTensorError: It is no glob and stands for several.
    """
    if not isinstance(reference, str) or not set("*?[") & set(reference):
        return [resolve(graph, reference)]
    if any(tensor.name == reference for tensor in graph.tensors):
        return [resolve(graph, reference)]
    found = [index for index, tensor in enumerate(graph.tensors) if fnmatch.fnmatchcase(tensor.name, reference)]
    if not found:
        raise UnknownTensorError(
            f"No tensor of model '{graph.model.name}' matches '{reference}'. "
            "`kerassplit.split_points(model)` lists the names.",
            name=reference,
        )
    return found


def several_of(references: Any) -> list[Any]:
    """What a user gave as one or several: any iterable but a string or a tensor is several."""
    one = isinstance(references, (str, keras.KerasTensor)) or not isinstance(references, Iterable)
    return [references] if one else list(references)


def _by_name(graph: Graph, name: str) -> int:
    for index, tensor in enumerate(graph.tensors):
        if tensor.name == name:
            return index
    candidates = [tensor for call in graph.calls if name in (call.operation.name, call.name) for tensor in call.outputs]
    return _only(graph, candidates, name)


def _only(graph: Graph, candidates: Sequence[int], name: str) -> int:
    if len(candidates) == 1:
        return candidates[0]
    if not candidates:
        raise unknown_tensor(graph, name)
    names = graph.names(candidates)
    raise AmbiguousTensorError(
        f"'{name}' stands for {len(names)} tensors of model '{graph.model.name}': {listed(names)}. Name one of them.",
        name=name,
        matches=names,
    )


def unknown_tensor(graph: Graph, name: str) -> UnknownTensorError:
    """The error for a name that the model does not have, with close matches."""
    names = [tensor.name for tensor in graph.tensors]
    matches = difflib.get_close_matches(name, names, n=3, cutoff=0.75)
    hint = f"Did you mean {listed(matches, 'or')}?" if matches else "`kerassplit.split_points(model)` lists the names."
    return UnknownTensorError(f"Model '{graph.model.name}' has no tensor '{name}'. {hint}", name=name, matches=matches)


def listed(names: Iterable[str], conjunction: str = "and") -> str:
    """Names as a list in a sentence, at most eight of them: `'a', 'b' and 'c'`."""
    quoted = [f"'{name}'" for name in names]
    if len(quoted) > 8:
        quoted = [*quoted[:7], f"{len(quoted) - 7} more"]
    if len(quoted) < 2:
        return "".join(quoted)
    return f"{', '.join(quoted[:-1])} {conjunction} {quoted[-1]}"


def bytes_per_sample(shape: tuple[int | None, ...], dtype: str) -> int | None:
    """Bytes of one sample of a tensor (the first dimension is the batch); `None` where another dimension is open.

    >>> bytes_per_sample((None, 28, 28, 512), "float32")
    1605632
    """
    bits = 8 if dtype == "bool" else next(iter(map(int, re.findall(r"\d+", dtype))), None)
    sides = [side for side in shape[1:] if side is not None]
    if bits is None or len(sides) < len(shape) - 1:
        return None
    return math.ceil(math.prod(sides) * bits / 8)


def _functional(model: keras.Model) -> Functional:
    """The functional model whose graph says what `model` computes."""
    if isinstance(model, keras.Sequential):
        if not model.built or model._functional is None:
            raise UnsupportedModelError(
                f"Sequential model '{model.name}' is not built, so it has no graph yet. Give it a `keras.Input` as its "
                "first layer, or call it on data once."
            )
        return model._functional
    if not isinstance(model, keras.Model):
        raise UnsupportedModelError(f"Expected a keras.Model, got {type(model).__module__}.{type(model).__qualname__}.")
    if not isinstance(model, Functional) or type(model).call is not Functional.call:
        raise UnsupportedModelError(
            f"Model '{model.name}' ({type(model).__name__}) computes in its own `call`, so it has no graph that can be "
            "cut. Build it with the functional API: `keras.Model(inputs, outputs)`."
        )
    return model


def _call_names(nodes: Sequence[Any], outputs: Sequence[keras.KerasTensor]) -> list[str]:
    """One name per node: the operation's, with `@0`, `@1`, ... where it is called several times.

    The numbers follow a walk from the outputs, first arguments first: an order that the graph alone decides, so it
    survives saving and joining.
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


def _check_names(model: keras.Model, tensors: Sequence[Tensor]) -> None:
    """Names with `@` or `:` of the user's own can be those of other tensors."""
    seen: set[str] = set()
    for tensor in tensors:
        if tensor.name in seen:
            raise UnsupportedModelError(
                f"Two tensors of model '{model.name}' are called '{tensor.name}'. kerassplit numbers the calls of a "
                "layer with '@' and its outputs with ':'; rename the layer whose own name has such a sign."
            )
        seen.add(tensor.name)


def walk(outputs: Sequence[keras.KerasTensor]) -> tuple[list[Any], dict[Any, int]]:
    """The Keras nodes that lead to the outputs, and when each operation was first met.

    Depth first and without recursion, arguments in their order. Each node comes after those it depends on.
    """
    nodes: list[Any] = []
    first_met: dict[Any, int] = {}
    seen: set[Any] = set()
    path: list[tuple[Any, Iterator[keras.KerasTensor]]] = [(None, iter(outputs))]
    while path:
        node, waiting = path[-1]
        symbol = next(waiting, None)
        if symbol is not None:
            maker = maker_of(symbol)
            if maker not in seen:
                seen.add(maker)
                first_met.setdefault(maker.operation, len(first_met))
                path.append((maker, iter(maker.input_tensors)))
        else:
            path.pop()
            if node is not None:
                nodes.append(node)
    return nodes, first_met


def maker_of(symbol: keras.KerasTensor) -> Any:
    """The Keras node that makes a symbolic tensor."""
    operation, place, _ = symbol._keras_history
    return operation._inbound_nodes[place]
