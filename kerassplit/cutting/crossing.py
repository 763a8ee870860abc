"""What crosses a cut."""

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
    """A tensor that goes from one stage to a later one.

    Attributes:
        name: Its name in the whole model.
        shape: With the batch dimension first; `None` for open dimensions.
        dtype: Such as `"float32"`.
        bytes: Bytes of one sample; `None` where a dimension other than the batch is open.
    """

    name: str
    shape: Shape
    dtype: str
    bytes: int | None

    def __str__(self) -> str:
        return printable(f"{self.name} {format_shape(self.shape)} {self.dtype}")


@dataclass(frozen=True, repr=False)
class Crossing:
    """All that goes over one cut.

    Attributes:
        tensors: What the stages before the cut receive or make and a stage behind it uses.
        also: Of a crossing that `crossings` has found: what comes along without being counted. Those of a `Split` have
            all among their `tensors`.
    """

    tensors: tuple[CrossingTensor, ...]
    also: tuple[CrossingTensor, ...] = ()
    _columns: ClassVar = ("tensors", "also", "bytes")

    @property
    def bytes(self) -> int | None:
        """Bytes of one sample of all that crosses; `None` where a tensor has an open dimension."""
        return total(tensor.bytes for tensor in (*self.tensors, *self.also))

    def __str__(self) -> str:
        counted, along = (", ".join(map(str, tensors)) for tensors in (self.tensors, self.also))
        return printable(f"{counted}, and along with it {along}" if along else counted)

    def __repr__(self) -> str:
        return shortened(f"<Crossing of {format_bytes(self.bytes)} a sample: {self}>")


def crossing_tensor(name: str, symbol: keras.KerasTensor) -> CrossingTensor:
    """What crosses, described."""
    return CrossingTensor(name, tuple(symbol.shape), symbol.dtype, bytes_per_sample(symbol.shape, symbol.dtype))
