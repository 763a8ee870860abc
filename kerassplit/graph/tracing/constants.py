"""Layers called on constants, and constants whose length is that of a tensor, inside a traced `call`.

`self.position(keras.ops.arange(6))` involves no symbolic tensor: Keras would compute values there and freeze the
layer's variables into the graph. So the layer receives a symbolic tensor that always equals the constant. Every tensor
of a Keras graph depends on an input, so this one selects, by the value of an input, between the constant and itself.
`keras.ops.arange` of an unknown dimension becomes operations on the tensor with that dimension.

All of it is plain Keras, so files with such graphs load without kerassplit.
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
    """Refusal: `call` computes with an unknown dimension."""

    def __init__(self, remedy: str = "write -1 in a new shape"):
        super().__init__(OPEN_SIDE, f"State that dimension in `inputs` (the first is the batch), {remedy}, {OWN_LAYER}")


class OpenSide:
    """Stand-in for an unknown dimension of a tensor, plus an offset.

    Attributes:
        symbol: The tensor.
        axis: The axis of the dimension.
        offset: The number added to it.
    """

    def __init__(self, symbol: keras.KerasTensor, axis: int, offset: int = 0):
        self.symbol, self.axis, self.offset = symbol, axis, offset

    def __add__(self, number: Any) -> "OpenSide":
        return OpenSide(self.symbol, self.axis, self.offset + number) if type(number) is int else NotImplemented

    __radd__ = __add__

    def __sub__(self, number: Any) -> "OpenSide":
        return self + -number if type(number) is int else NotImplemented

    def refuse(self, *_: Any) -> Any:
        """Refuses any other operation on the unknown number."""
        raise SideUnknown

    __mul__ = __rmul__ = __truediv__ = __floordiv__ = __rfloordiv__ = __mod__ = __rsub__ = __neg__ = refuse
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __bool__ = __int__ = __float__ = __index__ = refuse
    __hash__ = object.__hash__

    def positions(self) -> keras.KerasTensor:
        """Returns the numbers from 0 up to the dimension (exclusive), without the offset."""
        others = [axis for axis in range(len(self.symbol.shape)) if axis != self.axis]
        ones = ops.sum(ops.zeros_like(self.symbol, dtype="int32"), axis=others) + 1
        return ops.cumsum(ones) - 1


@contextlib.contextmanager
def made_symbolic(inputs: Sequence[keras.KerasTensor], scope: Any, *, open_sides: bool) -> Iterator[set[int]]:
    """Context in which layers with variables that are called only on constants receive symbolic tensors instead.

    Args:
        inputs: The symbolic inputs of the traced layer.
        scope: The stateless scope that the trace runs in; calls elsewhere, in other threads or in Keras's shape
            inference, are not affected.
        open_sides: If true, `keras.ops.shape` returns `OpenSide`s for unknown dimensions other than the batch.

    Yields:
        The `id`s of the operations that make constants symbolic; the set grows during the trace.
    """
    call, shape, arange = keras.Layer.__call__, ops.shape, ops.arange
    made: set[int] = set()
    chooser: list[keras.KerasTensor] = []

    def symbolic(value: Any) -> Any:
        if not hasattr(value, "shape") or not hasattr(value, "dtype") or isinstance(value, keras.Variable):
            return value
        if 0 in value.shape:  # Keras's own `arange(0, None)` is empty
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
    """Computes `keras.ops.arange` up to an `OpenSide`; `None` if all arguments are numbers."""
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
        numbers = numbers + first if stop.offset else numbers[first:,]  # Keras accepts slices only in tuples
    dtype = given.get("dtype") or numbers.dtype
    return numbers if dtype == numbers.dtype else ops.cast(numbers, dtype)


def open_sides_in(structure: Any) -> bool:
    """True if a structure, or a slice in it, contains an `OpenSide`."""
    for value in keras.tree.flatten(structure):
        parts = (value.start, value.stop, value.step) if isinstance(value, slice) else (value,)
        if any(isinstance(part, OpenSide) for part in parts):
            return True
    return False


def _choosing(inputs: Sequence[keras.KerasTensor]) -> keras.KerasTensor:
    """Returns a boolean computed from an input; its value does not matter."""
    dense = [symbol for symbol in inputs if not symbol.sparse] or inputs
    symbol = next((symbol for symbol in dense if symbol.dtype != "string"), dense[0])
    return ops.any(ops.equal(symbol, symbol) if symbol.dtype == "string" else symbol)
