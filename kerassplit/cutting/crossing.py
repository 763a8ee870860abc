"""What crosses a cut."""

from dataclasses import dataclass

import keras

from kerassplit.display.units import format_shape
from kerassplit.graph.sizes import Shape, bytes_per_sample, total
from kerassplit.text import printable


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


@dataclass(frozen=True)
class Crossing:
    """All that goes over one cut.

    Attributes:
        tensors: What the stages before the cut receive or make and a stage behind it uses.
        also: Of a crossing that `crossings` has found: what comes along without being counted. Those of a `Split` have
            all among their `tensors`.
    """

    tensors: tuple[CrossingTensor, ...]
    also: tuple[CrossingTensor, ...] = ()

    @property
    def bytes(self) -> int | None:
        """Bytes of one sample of all that crosses; `None` where a tensor has an open dimension."""
        return total(tensor.bytes for tensor in (*self.tensors, *self.also))

    def __str__(self) -> str:
        counted, along = (
            ", ".join(f"{tensor.name} {format_shape(tensor.shape)} {tensor.dtype}" for tensor in tensors)
            for tensors in (self.tensors, self.also)
        )
        return printable(f"{counted}, and along with it {along}" if along else counted)


def crossing_tensor(name: str, symbol: keras.KerasTensor) -> CrossingTensor:
    """What crosses, described."""
    return CrossingTensor(name, tuple(symbol.shape), symbol.dtype, bytes_per_sample(symbol.shape, symbol.dtype))
