"""How tensors travel over links: their bytes and seconds, and what is sent in place of the model's inputs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import keras

from kerassplit.costs.profile import Profile
from kerassplit.display.units import parse_seconds
from kerassplit.errors import SplitError
from kerassplit.files.sizes import parse_bytes
from kerassplit.graph.model_graph import Graph
from kerassplit.graph.references import TensorRef, resolve
from kerassplit.planning.results import SentInput
from kerassplit.text import listed
from kerassplit.wire import FORMS, MESSAGE_BYTES, packed_bytes

Quantity = float | str
OfInputs = Quantity | Mapping[TensorRef, Quantity]
"""A number or a text for the model's input, or one for each of some inputs."""

_JPEG = {1: (380, 2.22), 3: (680, 2.467), 4: (680, 2.467)}
"""Bytes of a JPEG file of quality 90 besides its pixels, and bits per pixel, by channels: see `jpeg_bytes`."""
_SMALLEST_PICTURE = 16


def jpeg_bytes(shape: Sequence[int | None], dtype: str) -> float | None:
    """Estimates what pictures take as JPEG files of quality 90, in bytes; `None` if the tensor holds no pictures.

    Floats of four dimensions with 1, 3 or 4 channels and sides from 16 on count as pictures. The estimate is a line
    through the sizes of the photograph that is shipped with kerassplit (`zoo/data/chelsea.jpg`), cropped and resized to
    16×16 and to 224×224.
    """
    known = [side for side in shape if side is not None]
    if "float" not in dtype or len(shape) != 4 or len(known) < 4:
        return None
    samples, *sides = known
    if keras.config.image_data_format() == "channels_first":
        channels, height, width = sides
    else:
        height, width, channels = sides
    if channels not in _JPEG or min(height, width) < _SMALLEST_PICTURE:
        return None
    header, bits = _JPEG[channels]
    return samples * (header + height * width * bits / 8)


@dataclass(frozen=True, eq=False)
class Transport:
    """How the tensors of a model travel over links. Tensors are indices into the graph; all figures are for one batch.

    Attributes:
        graph: The model's graph.
        profile: Its costs.
        compression: A factor by which tensors shrink, or the form in which they are sent; `None`: as they are.
        input_bytes: Bytes per sample that are sent in place of the tensors of some inputs.
        input_seconds: Seconds to decode some inputs.
    """

    graph: Graph
    profile: Profile
    compression: float | str | None
    input_bytes: Mapping[int, float]
    input_seconds: Mapping[int, float]

    @property
    def message_bytes(self) -> int:
        """Bytes of a message besides its tensors, if tensors are packed by `kerassplit.wire`."""
        return MESSAGE_BYTES if self.compression in FORMS else 0

    @property
    def is_measured(self) -> bool:
        """True if the profile holds measured bytes and seconds of the form in which tensors are sent."""
        return self.compression is not None and self.profile.wire == self.compression

    def bytes(self, tensor: int) -> float | None:
        """Returns the bytes of a tensor as it is sent; `None` if they are unknown."""
        cost, compression = self.profile.tensors[tensor], self.compression
        if tensor in self.input_bytes:
            return self.input_bytes[tensor] * self.profile.batch_size
        if self.is_measured:
            return cost.wire_bytes
        if cost.bytes is None or compression is None:
            return cost.bytes
        if not isinstance(compression, str):
            return cost.bytes / compression
        if compression in FORMS:
            name = self.graph.tensors[tensor].name  # the profile may be from a process where inputs have other names
            return packed_bytes(name, [side or 0 for side in cost.shape], cost.dtype, compression)
        return min(cost.bytes, math.prod(side or 0 for side in cost.shape)) if "float" in cost.dtype else cost.bytes

    def ends(self, tensor: int) -> tuple[float, float]:
        """Returns the seconds of a move at its ends: to pack a tensor, and to unpack or decode it where it arrives."""
        decoding, cost = self.input_seconds.get(tensor, 0.0), self.profile.tensors[tensor]
        if self.is_measured and tensor not in self.input_bytes:
            return cost.pack_seconds or 0.0, decoding + (cost.unpack_seconds or 0.0)
        return 0.0, decoding

    def seconds(self, tensor: int) -> float:
        """Returns the seconds that a move of a tensor takes besides its bytes."""
        return sum(self.ends(tensor))

    def inputs(self, used: Sequence[int]) -> tuple[SentInput, ...]:
        """Describes how these inputs of the model are sent."""
        return tuple(map(self._input, used))

    def _input(self, index: int) -> SentInput:
        cost, given = self.profile.tensors[index], index in self.input_bytes
        return SentInput(
            name=self.graph.tensors[index].name,
            bytes=self.bytes(index) or 0.0,
            tensor_bytes=cost.bytes,
            dtype=cost.dtype,
            seconds=self.seconds(index),
            given=given,
            jpeg_bytes=None if given else jpeg_bytes(cost.shape, cost.dtype),
        )


def read_of_inputs(
    graph: Graph, given: OfInputs | None, argument: Literal["input_bytes", "input_seconds"]
) -> dict[int, float]:
    """Reads an argument about inputs: bytes per sample, or seconds per batch, of some of them.

    Raises:
        SplitError: It does not fit the model.
    """
    if given is None:
        return {}
    inputs = graph.flat_inputs()
    sized = argument == "input_bytes"
    parse, what = (parse_bytes, "size of an input") if sized else (parse_seconds, "time of an input")
    if isinstance(given, Mapping):
        return {_input(graph, name, argument): parse(value, what) for name, value in given.items()}
    if len(inputs) > 1:
        names = graph.names(inputs)
        option = f"--{argument.replace('_', '-')}"
        raise SplitError(
            f"`{argument}` is {given!r}, but '{graph.model.name}' has {len(inputs)} inputs: {listed(names)}. Say which "
            f"it is about: {argument}={{{names[0]!r}: {given!r}}} ({option} '{names[0]}: {given}')."
        )
    return {inputs[0]: parse(given, what)}


def _input(graph: Graph, reference: TensorRef, argument: str) -> int:
    """Returns the index of an input by its name or another reference."""
    inputs = graph.flat_inputs()
    named = dict(zip(graph.names(inputs), inputs, strict=True))
    found = named.get(reference) if isinstance(reference, str) else resolve(graph, reference)
    if found not in inputs:
        raise SplitError(
            f"`{argument}` names {reference!r}, which is no input of '{graph.model.name}'. Its inputs are "
            f"{listed(named)}."
        )
    return found
