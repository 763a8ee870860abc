"""Arithmetic of layers that run other layers or cells: recurrent layers, `TimeDistributed`, `Bidirectional`.

Sources: Hochreiter and Schmidhuber, "Long short-term memory" (1997); Cho et al. (2014) for the gated recurrent unit,
with `reset_after` as in cuDNN; Shi et al., "Convolutional LSTM network" (2015); Schuster and Paliwal,
"Bidirectional recurrent neural networks" (1997); Miyato et al., "Spectral normalization" (2018).
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import keras
from keras import layers

from kerassplit.flops.count import NOTHING, Count, UnknownCountError, activation, size
from kerassplit.graph.shapes import ConcreteCall, Shape, layer_call

Counter = Callable[[ConcreteCall], Count]
"""Counts a call of a layer; raises `UnknownCountError`."""


def recurrent(call: ConcreteCall, counter: Counter) -> Count:
    """Counts a layer that runs a cell once per step."""
    layer, (batch, steps, *sides) = call.operation, call.given[0]
    if isinstance(layer, (layers.ConvLSTM1D, layers.ConvLSTM2D, layers.ConvLSTM3D)):
        return _convolutional_step(layer, call).times(steps or 0)
    return _step(layer.cell, (batch, *sides), counter).times(steps or 0)


def bidirectional(call: ConcreteCall, counter: Counter) -> Count:
    """Counts both directions, and the merging of their outputs."""
    layer = call.operation
    operations = {"concat": 0, None: 0, "sum": 1, "mul": 1, "ave": 2}[layer.merge_mode]
    both = [counter(replace(call, operation=one)) for one in (layer.forward_layer, layer.backward_layer)]
    return both[0] + both[1] + Count(others=operations * size(call.made[0]))


def time_distributed(call: ConcreteCall, counter: Counter) -> Count:
    """Counts the layer inside, once per step."""
    batch, steps, *sides = call.given[0]
    return counter(layer_call(call.operation.layer, [(batch, *sides)])).times(steps or 0)


def wrapped(call: ConcreteCall, counter: Counter) -> Count:
    """Counts the layer inside, once: `SpectralNormalization` adds arithmetic only in training."""
    return counter(replace(call, operation=call.operation.layer))


def _step(cell: Any, shape: Shape, counter: Counter) -> Count:
    """Counts one step of a cell on an input of this shape."""
    if type(cell) is layers.StackedRNNCells:
        total = NOTHING
        for one in cell.cells:
            total += _step(one, shape, counter)
            shape = (shape[0], one.output_size)
        return total
    if None in shape:
        raise UnknownCountError
    if type(cell) in _CELLS and len(shape) == 2:
        batch, inputs = shape[0] or 0, shape[1] or 0
        return _CELLS[type(cell)](cell, inputs).times(batch)
    states = [(shape[0], side) for side in keras.tree.flatten(cell.state_size)]
    call = layer_call(cell, [shape, *states], states)
    return counter(replace(call, arguments=lambda: ((call.args[0], [*call.args[1:]]), {})))


def _simple_step(cell: Any, inputs: int) -> Count:
    units = cell.units
    product = Count(units * (inputs + units), units + (units if cell.use_bias else 0))
    return product + activation(cell.activation, units)


def _long_short_term_step(cell: Any, inputs: int) -> Count:
    units = cell.units
    product = Count(4 * units * (inputs + units), 4 * units + (4 * units if cell.use_bias else 0))
    return product + _carry(cell, units)


def _carry(cell: Any, elements: int) -> Count:
    """Counts three gates, candidate and output: the state is `f * c + i * g`, the output `o * activation(c)`."""
    gates = activation(cell.recurrent_activation, 3 * elements) + activation(cell.activation, 2 * elements)
    return gates + Count(others=4 * elements)


def _gated_step(cell: Any, inputs: int) -> Count:
    """Counts two gates and a candidate: the state is `z * h + (1 - z) * candidate`, and gate `r` adds one product."""
    units = cell.units
    biases = (6 if cell.reset_after else 3) if cell.use_bias else 0
    product = Count(3 * units * (inputs + units), (3 + biases) * units)
    gates = activation(cell.recurrent_activation, 2 * units) + activation(cell.activation, units)
    return product + gates + Count(others=(1 + 4) * units)


def _convolutional_step(layer: Any, call: ConcreteCall) -> Count:
    cell = layer.cell
    channels_last = cell.data_format == "channels_last"
    shape = call.made[0]
    sides = shape[2:] if layer.return_sequences else shape[1:]
    positions = (shape[0] or 0) * size(sides[:-1] if channels_last else sides[1:])
    inputs = (call.given[0][-1] if channels_last else call.given[0][2]) or 0
    taps = math.prod(cell.kernel_size)
    elements = positions * cell.filters
    product = Count(4 * elements * taps * (inputs + cell.filters), (8 if cell.use_bias else 4) * elements)
    return product + _carry(cell, elements)


_CELLS: dict[type, Callable[[Any, int], Count]] = {
    layers.SimpleRNNCell: _simple_step,
    layers.LSTMCell: _long_short_term_step,
    layers.GRUCell: _gated_step,
}
"""From a cell's class to a function of the cell and its input width that counts one step for one sample."""

WRAPPERS: dict[type, Callable[[ConcreteCall, Counter], Count]] = {
    **dict.fromkeys((layers.RNN, layers.SimpleRNN, layers.LSTM, layers.GRU), recurrent),
    **dict.fromkeys((layers.ConvLSTM1D, layers.ConvLSTM2D, layers.ConvLSTM3D), recurrent),
    layers.Bidirectional: bidirectional,
    layers.TimeDistributed: time_distributed,
    layers.SpectralNormalization: wrapped,
}
"""From a layer's class to its formula, which may count the layer or cell inside."""
