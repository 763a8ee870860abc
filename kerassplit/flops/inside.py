"""Counts the arithmetic of any call: by its formula, else as the sum of the calls inside it.

A layer without a formula (a composite layer, or one of another package) is traced: its `call` runs on symbolic tensors,
and the calls it makes are counted in turn. So the count is the same on every backend. Arithmetic on constants alone is
excluded: a compiler does it once. If a layer cannot be traced (it depends on values, or calls the backend directly) or
calls an operation without a formula, the total is unknown: a partial sum would be a guess.
"""

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import keras

from kerassplit.flops.count import NOTHING, Count, UnknownCountError
from kerassplit.flops.formulas import by_formula
from kerassplit.graph.declared import declares
from kerassplit.graph.internals.layers import all_layers
from kerassplit.graph.internals.process_state import lock
from kerassplit.graph.shapes import ConcreteCall
from kerassplit.graph.tracing.recording import Recorded, record
from kerassplit.graph.unsupported import has_own


def count_call(call: ConcreteCall) -> Count:
    """Counts a call.

    Raises:
        UnknownCountError: It has no formula and cannot be traced.
    """
    try:
        return by_formula(call, count_call)
    except UnknownCountError:
        if not call.is_known or not isinstance(call.operation, keras.Layer):
            raise
        return sum(map(count_call, _calls_inside(call)), NOTHING)


def _calls_inside(call: ConcreteCall) -> list[ConcreteCall]:
    """Returns the calls that a layer makes in inference."""
    layer = call.operation
    if has_own(layer, "__call__") or getattr(layer, "quantization_mode", None):  # then not only its `call` runs
        raise UnknownCountError
    with lock, _specs_by_calling(layer), _symbolic_weights(layer) as weights:
        inputs: list[keras.KerasTensor] = []

        def fresh(value: Any) -> Any:
            if not isinstance(value, keras.KerasTensor):
                return value
            inputs.append(_input(value))
            return inputs[-1]

        args, kwargs = keras.tree.map_structure(fresh, (call.args, call.kwargs))
        kwargs.pop("training", None)
        try:
            recording = record(layer, [*inputs, *weights], args, kwargs, training=False)
        except Exception as error:  # a user's `call` may raise anything
            raise UnknownCountError from error
        return [_concrete(one) for one in recording.calls if id(one.operation) not in recording.constants]


def _concrete(call: Recorded) -> ConcreteCall:
    symbols = [value for value in keras.tree.flatten((call.args, call.kwargs)) if isinstance(value, keras.KerasTensor)]
    given, made = (tuple(tuple(symbol.shape) for symbol in some) for some in (symbols, call.outputs))
    return ConcreteCall(call.operation, lambda: (call.args, call.kwargs), given, made)


@contextlib.contextmanager
def _specs_by_calling(layer: keras.Layer) -> Iterator[None]:
    """Context in which the shapes of layers inside come from calling them if their declared shapes may be wrong.

    These are the layers that are not Keras's own, and `EinsumDense`, which declares the dimensions it was built with.
    """
    inner = [one for one in all_layers(layer) if one is not layer]
    inner = [one for one in inner if declares(one) or isinstance(one, keras.layers.EinsumDense)]
    for one in inner:
        vars(one)["compute_output_spec"] = partial(keras.Operation.compute_output_spec, one)
    try:
        yield
    finally:
        for one in inner:
            del vars(one)["compute_output_spec"]


@contextlib.contextmanager
def _symbolic_weights(layer: keras.Layer) -> Iterator[list[keras.KerasTensor]]:
    """Replaces a layer's own variables by symbolic tensors, so that arithmetic on them is counted, too."""
    attributes = vars(layer)
    variables = {name: value for name, value in attributes.items() if isinstance(value, keras.Variable)}
    try:
        attributes.update({name: _input(variable) for name, variable in variables.items()})
        yield [attributes[name] for name in variables]
    finally:
        attributes.update(variables)


def _input(like: Any) -> keras.KerasTensor:
    return keras.Input(batch_shape=like.shape, dtype=like.dtype, name="concrete")
