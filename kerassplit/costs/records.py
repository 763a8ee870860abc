"""What a profile is made of: the costs of calls, blocks, tensors and variables."""

from dataclasses import dataclass
from typing import Literal

from kerassplit.graph.sizes import Shape
from kerassplit.text import with_short_repr

CountedBy = Literal["formula", "tensorflow", "jax", "torch", "unknown"]
"""Backends counted in profiles of version 0.1.0."""


@with_short_repr
@dataclass(frozen=True, slots=True)
class VariableCost:
    """A variable of the model.

    Attributes:
        path: Keras's path of it, such as `conv1_conv/kernel`.
        parameters: How many numbers it holds.
        bytes: Their bytes.
    """

    path: str
    parameters: int
    bytes: int


@with_short_repr
@dataclass(frozen=True, slots=True)
class TensorCost:
    """A tensor at the profile's batch size.

    Attributes:
        name: Its name in the model.
        shape: With the batch; `None` for a side that only running the model decides.
        dtype: Such as `"float32"`.
        bytes: Bytes of the whole batch; `None` where a side is open, or of strings.
    """

    name: str
    shape: Shape
    dtype: str
    bytes: int | None


@with_short_repr
@dataclass(frozen=True, slots=True)
class CallCost:
    """What one call costs.

    Attributes:
        name: Its name; `relu@1` for the second call of a layer that is called several times.
        kind: The class of its layer or operation.
        block: Index of its block.
        inputs: The tensors that it receives, each once, as indices into `Profile.tensors`.
        outputs: The tensors that it makes, likewise.
        variables: Its weights, as indices into `Profile.variables`: a layer that is called twice has them in both.
        parameters: How many numbers these hold.
        parameter_bytes: Their bytes.
        activation_bytes: Bytes of the tensors that it makes; `None` where not known.
        flops: FLOPs (a multiply-add is two); `None` where nobody can count them.
        multiply_adds: Multiply-adds of its matrix products and convolutions; `None` where not known.
        counted_by: `"formula"`: its own, or those of the calls inside it; `"unknown"`. In profiles of version 0.1.0
            also the backend whose counter it was.
    """

    name: str
    kind: str
    block: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    variables: tuple[int, ...]
    parameters: int
    parameter_bytes: int
    activation_bytes: int | None
    flops: int | None
    multiply_adds: int | None
    counted_by: CountedBy


@with_short_repr
@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of something that was run several times.

    Attributes:
        median: The median.
        low: The first quartile.
        high: The third quartile.
        repeats: How many times it ran, warm-up not counted.
    """

    median: float
    low: float
    high: float
    repeats: int


@with_short_repr
@dataclass(frozen=True, slots=True)
class BlockCost:
    """What the calls between one split point and the next cost.

    Attributes:
        name: The tensor that the block ends at: a split point, or for the last block an output of the model.
        calls: Its calls, as indices into `Profile.calls`.
        variables: The weights of its layers, each once, as indices into `Profile.variables`.
        parameters: How many numbers these hold.
        parameter_bytes: Their bytes.
        activation_bytes: Bytes of all the tensors that it makes; `None` where not known.
        peak_live_bytes: The most bytes of tensors that live at one time while it runs: those that it receives, makes,
            or that pass over it in a run of the whole model. Buffers that a backend uses twice are not thought of, and
            what a call holds inside (the scores of an attention, the workspace of a convolution) is not counted: a
            device needs more. `None` where not known.
        flops: FLOPs; `None` where those of a call are not known.
        known_flops: Those of the calls that could be counted.
        multiply_adds: Multiply-adds of matrix products and convolutions; `None` where not known.
        crossing: What crosses the cut behind it, as indices into `Profile.tensors`; none behind the last block.
        crossing_bytes: Bytes of these and of `also`; `None` where not known.
        time: How long it ran, with the overhead of a call; `None` where it was not measured.
        seconds: The median without that overhead, as that was right before and after it: what the block adds to a
            stage; 0 where it is too short to tell. `None` where it was not measured.
        also: What comes along with `crossing`: inputs of the model that both sides use, and masks.
    """

    name: str
    calls: tuple[int, ...]
    variables: tuple[int, ...]
    parameters: int
    parameter_bytes: int
    activation_bytes: int | None
    peak_live_bytes: int | None
    flops: int | None
    known_flops: int
    multiply_adds: int | None
    crossing: tuple[int, ...]
    crossing_bytes: int | None
    time: Timing | None = None
    seconds: float | None = None
    also: tuple[int, ...] = ()
