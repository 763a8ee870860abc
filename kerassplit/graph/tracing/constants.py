"""Layers that are called on constants, and constants as long as a tensor is, inside a traced `call`.

`self.position(keras.ops.arange(6))` makes no symbolic tensor: Keras would compute numbers there, and the layer's
variables would be frozen into the graph. So the layer is given a symbolic tensor that always holds the constant. A
Keras graph has none that depends on no input: it chooses, by what an input holds, between the constant and itself.
`keras.ops.arange` of an open side of a shape becomes operations on the tensor that the side is of.

All of it is plain Keras, so that files with such graphs load without kerassplit.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import keras
from keras import ops

from kerassplit.graph.internals.process_state import is_directly_in
from kerassplit.graph.internals.symbols import maker_of
from kerassplit.graph.tracing.blame import OPEN_SIDE, OWN_LAYER, Refusal


class SideUnknown(Refusal):
    """The refusal of an open side that `call` computes with."""

    def __init__(self, remedy: str = "write -1 where it is a new shape"):
        super().__init__(OPEN_SIDE, f"State that side in `inputs` (the first is the batch), {remedy}, {OWN_LAYER}")


class OpenSide:
    """Stands for an open side of a tensor's shape, with a number added to it.

    Attributes:
        symbol: The tensor.
        axis: The side.
        offset: The number.
    """

    def __init__(self, symbol: keras.KerasTensor, axis: int, offset: int = 0):
        self.symbol, self.axis, self.offset = symbol, axis, offset

    def __add__(self, number: Any) -> "OpenSide":
        return OpenSide(self.symbol, self.axis, self.offset + number) if type(number) is int else NotImplemented

    __radd__ = __add__

    def __sub__(self, number: Any) -> "OpenSide":
        return self + -number if type(number) is int else NotImplemented

    def refuse(self, *_: Any) -> Any:
        """Any other operation on a number that is not known."""
        raise SideUnknown

    __mul__ = __rmul__ = __truediv__ = __floordiv__ = __rfloordiv__ = __mod__ = __rsub__ = __neg__ = refuse
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __bool__ = __int__ = __float__ = __index__ = refuse
    __hash__ = object.__hash__

    def positions(self) -> keras.KerasTensor:
        """The numbers from 0 to below the side, the added number left out."""
        others = [axis for axis in range(len(self.symbol.shape)) if axis != self.axis]
        ones = ops.sum(ops.zeros_like(self.symbol, dtype="int32"), axis=others) + 1
        return ops.cumsum(ones) - 1


@contextlib.contextmanager
def made_symbolic(inputs: Sequence[keras.KerasTensor], scope: Any, *, open_sides: bool) -> Iterator[set[int]]:
    """While it lasts, layers with variables that are called on constants alone are called on symbolic tensors.

    Args:
        inputs: The symbolic tensors that the traced layer is given.
        scope: The stateless scope that the trace runs in: what happens elsewhere, in other threads and where Keras
            infers shapes, goes its own way.
        open_sides: Whether `keras.ops.shape` gives `OpenSide`s for sides that are not known, but for the batch.

    Yields:
        The `id`s of the operations that make constants symbolic; they grow.
    """
    call, shape, arange = keras.Layer.__call__, ops.shape, ops.arange
    made: set[int] = set()
    chooser: list[keras.KerasTensor] = []

    def symbolic(value: Any) -> Any:
        if not hasattr(value, "shape") or not hasattr(value, "dtype") or isinstance(value, keras.Variable):
            return value
        if 0 in value.shape:  # `arange(0, None)` is empty where it is not ours
            raise SideUnknown("take it from `keras.ops.shape`")
        if not chooser:
            chooser.append(_choosing(inputs))
        constant = ops.where(chooser[0], value, value)
        made.update((id(maker_of(chooser[0]).operation), id(maker_of(constant).operation)))
        return constant

    def calling(layer: keras.Layer, /, *args: Any, **kwargs: Any) -> Any:
        given = (args, kwargs)
        on_symbols = any(isinstance(value, keras.KerasTensor) for value in keras.tree.flatten(given))
        if is_directly_in(scope) and not on_symbols and layer.variables:
            args, kwargs = keras.tree.map_structure(symbolic, given)
        return call(layer, *args, **kwargs)

    def shape_with_sides(x: Any) -> Any:
        sides = shape(x)
        if not (open_sides and is_directly_in(scope) and isinstance(x, keras.KerasTensor)):
            return sides
        return tuple(OpenSide(x, axis) if axis and side is None else side for axis, side in enumerate(sides))

    def arange_of_sides(*args: Any, **kwargs: Any) -> Any:
        numbers = _arange(*args, **kwargs) if is_directly_in(scope) else None
        return arange(*args, **kwargs) if numbers is None else numbers

    keras.Layer.__call__, ops.shape, ops.arange = calling, shape_with_sides, arange_of_sides
    try:
        yield made
    finally:
        keras.Layer.__call__, ops.shape, ops.arange = call, shape, arange


def _arange(start: Any, *more: Any, **named: Any) -> keras.KerasTensor | None:
    """`keras.ops.arange` up to an `OpenSide`; `None` where it is given only numbers."""
    given = dict(zip(("stop", "step", "dtype"), more, strict=False)) | named
    first, stop = (start, given["stop"]) if "stop" in given else (0, start)
    if stop is None or first is None:
        raise SideUnknown("take it from `keras.ops.shape`")
    if not isinstance(stop, OpenSide):
        return None
    if type(first) is not int or first < 0 or stop.offset not in (0, first) or given.get("step") not in (None, 1):
        raise SideUnknown("count from 0 in steps of 1")
    numbers = stop.positions()
    if first:
        numbers = numbers + first if stop.offset else numbers[first:,]  # Keras takes slices in tuples only
    dtype = given.get("dtype") or numbers.dtype
    return numbers if dtype == numbers.dtype else ops.cast(numbers, dtype)


def open_sides_in(structure: Any) -> bool:
    """Whether there is an `OpenSide` in a structure or in a slice in it."""
    for value in keras.tree.flatten(structure):
        parts = (value.start, value.stop, value.step) if isinstance(value, slice) else (value,)
        if any(isinstance(part, OpenSide) for part in parts):
            return True
    return False


def _choosing(inputs: Sequence[keras.KerasTensor]) -> keras.KerasTensor:
    """A boolean made of an input: it does not matter what it is."""
    dense = [symbol for symbol in inputs if not symbol.sparse] or inputs
    symbol = next((symbol for symbol in dense if symbol.dtype != "string"), dense[0])
    return ops.any(ops.equal(symbol, symbol) if symbol.dtype == "string" else symbol)
