"""Tensors that cross a cut: `CrossingTensor`, `Crossing`."""

from dataclasses import dataclass
from typing import ClassVar

import keras

from kerassplit.display.units import format_shape
from kerassplit.files.sizes import format_bytes
from kerassplit.graph.sizes import Shape, bytes_per_sample, total
from kerassplit.text import printable, shortened, with_short_repr


@with_short_repr
@dataclass(frozen=True)
class CrossingTensor:
    """A tensor passed from one stage to a later one.

    Attributes:
        name: Its name in the whole model.
        shape: Shape with the batch dimension first; `None` for open dimensions.
        dtype: Dtype, such as `"float32"`.
        bytes: Bytes per sample; `None` if a dimension other than the batch is open.
    """

    name: str
    shape: Shape
    dtype: str
    bytes: int | None

    def __str__(self) -> str:
        return printable(f"{self.name} {format_shape(self.shape)} {self.dtype}")


@dataclass(frozen=True, repr=False)
class Crossing:
    """All tensors that cross one cut.

    Attributes:
        tensors: Tensors that a stage before the cut receives or computes and a stage after it uses.
        also: For the result of `crossings`: tensors sent along without being counted (inputs of the model and masks).
            Empty for the crossings of a `Split`, whose `tensors` include them.
    """

    tensors: tuple[CrossingTensor, ...]
    also: tuple[CrossingTensor, ...] = ()
    _columns: ClassVar = ("tensors", "also", "bytes")

    @property
    def bytes(self) -> int | None:
        """Bytes per sample of everything that crosses; `None` if a dimension other than the batch is open."""
        return total(tensor.bytes for tensor in (*self.tensors, *self.also))

    def __str__(self) -> str:
        counted, along = (", ".join(map(str, tensors)) for tensors in (self.tensors, self.also))
        return printable(f"{counted}, and along with it {along}" if along else counted)

    def __repr__(self) -> str:
        return shortened(f"<Crossing of {format_bytes(self.bytes)} a sample: {self}>")


def crossing_tensor(name: str, symbol: keras.KerasTensor) -> CrossingTensor:
    """Describes a symbolic tensor as a `CrossingTensor`."""
    return CrossingTensor(name, tuple(symbol.shape), symbol.dtype, bytes_per_sample(symbol.shape, symbol.dtype))
