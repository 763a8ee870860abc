"""Arithmetic of any call: by its formula, else as the sum of the calls inside it.

A layer without a formula (a composite one, one of another package) is traced: its `call` runs on symbolic tensors, and
what it calls is counted in turn. So the count is the same on every backend. Arithmetic on constants alone is not in it:
a compiler does that once. Where a layer cannot be traced (it decides by numbers, or calls the backend by itself), or
calls an operation without a formula, the whole is unknown: a part would be a guess.
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
        UnknownCountError: Nobody can count it.
    """
    try:
        return by_formula(call, count_call)
    except UnknownCountError:
        if not call.is_known or not isinstance(call.operation, keras.Layer):
            raise
        return sum(map(count_call, _calls_inside(call)), NOTHING)


def _calls_inside(call: ConcreteCall) -> list[ConcreteCall]:
    """What a layer calls in inference."""
    layer = call.operation
    if has_own(layer, "__call__") or getattr(layer, "quantization_mode", None):  # then more runs than its `call`
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
        except Exception as error:  # a user's `call` raises what it likes
            raise UnknownCountError from error
        return [_concrete(one) for one in recording.calls if id(one.operation) not in recording.constants]


def _concrete(call: Recorded) -> ConcreteCall:
    symbols = [value for value in keras.tree.flatten((call.args, call.kwargs)) if isinstance(value, keras.KerasTensor)]
    given, made = (tuple(tuple(symbol.shape) for symbol in some) for some in (symbols, call.outputs))
    return ConcreteCall(call.operation, lambda: (call.args, call.kwargs), given, made)


@contextlib.contextmanager
def _specs_by_calling(layer: keras.Layer) -> Iterator[None]:
    """Has layers inside called for their shapes where what they declare may not hold.

    That is the word of code that is not Keras's, and of `EinsumDense`, which gives the sides of its build.
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
    """Puts symbolic tensors in the place of a layer's own variables: what is done to these is counted, too."""
    attributes = vars(layer)
    variables = {name: value for name, value in attributes.items() if isinstance(value, keras.Variable)}
    try:
        attributes.update({name: _input(variable) for name, variable in variables.items()})
        yield [attributes[name] for name in variables]
    finally:
        attributes.update(variables)


def _input(like: Any) -> keras.KerasTensor:
    return keras.Input(batch_shape=like.shape, dtype=like.dtype, name="concrete")
