"""Finds the formula of any call, and computes the FLOPs of a whole graph by formulas alone: no layer runs.

Like the formulas themselves, this imports only the graph package, so that split points can report their FLOPs.
"""

from typing import Any

import keras

from kerassplit.errors import SplitError
from kerassplit.flops.count import Count, UnknownCountError
from kerassplit.flops.layers import LAYERS
from kerassplit.flops.operations import OPERATIONS
from kerassplit.flops.recurrent import WRAPPERS, Counter
from kerassplit.graph.internals.layers import keras_operation_name
from kerassplit.graph.model_graph import Graph
from kerassplit.graph.shapes import ConcreteCall, batch_or_own, concrete_call, concrete_shapes

_HARMLESS = frozenset({"__init__", "build", "get_config", "from_config"})


def by_formula(call: ConcreteCall, inside: Counter | None = None) -> Count:
    """Counts a call by its formula.

    Args:
        call: The call.
        inside: Counts calls inside it; by default, formulas.

    Raises:
        UnknownCountError: There is no formula, it does not cover an option of the call, or a dimension is unknown.
    """
    if not call.is_known:
        raise UnknownCountError
    kind = _kind(call.operation)
    try:
        if kind in WRAPPERS:
            return WRAPPERS[kind](call, inside or by_formula)
        formula = LAYERS.get(kind) or OPERATIONS[keras_operation_name(call.operation) or ""]
        return formula(call)
    except Exception as error:  # user-supplied values may raise anything: an activation without a hash, say
        raise UnknownCountError from error


def flops_per_sample(graph: Graph) -> list[int | None]:
    """Returns the FLOPs of each call for one sample; `None` if no formula covers it or a dimension is unknown.

    Linear in the calls. Shapes after a layer without a formula are those that Keras recorded: asking such a layer could
    run user code.
    """
    samples = batch_or_own(graph, None)  # a model with a fixed batch size accepts no single sample
    recorded = {tensor: graph.tensors[tensor].symbol.shape for tensor in graph.flat_inputs()}
    inputs = {tensor: (shape[0] or samples, *shape[1:]) if shape else () for tensor, shape in recorded.items()}
    try:
        shapes = concrete_shapes(graph, inputs, may_ask=_has_formula)
    except SplitError:  # it accepts no batch of one
        return [None if call.inputs else 0 for call in graph.calls]
    flops: list[int | None] = []
    for call in graph.calls:
        try:
            flops.append(by_formula(concrete_call(call, shapes)).flops // samples if call.inputs else 0)
        except UnknownCountError:
            flops.append(None)
    return flops


def _has_formula(operation: Any) -> bool:
    kind = _kind(operation)
    if kind in WRAPPERS:
        return not hasattr(operation, "layer") or _has_formula(operation.layer)
    return kind in LAYERS or (not isinstance(operation, keras.Layer) and keras_operation_name(operation) is not None)


def _kind(operation: Any) -> type:
    """Returns the class whose formula applies: the operation's own, or one that it inherits all its code from."""
    for kind in type(operation).__mro__:
        if kind in LAYERS or kind in WRAPPERS:
            return kind
        own = {
            name for name, value in vars(kind).items() if callable(value) or isinstance(value, (property, classmethod))
        }
        if not own <= _HARMLESS:
            break
    return type(operation)
