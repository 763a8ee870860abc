"""Records that make up a profile: costs of calls, blocks, tensors and variables."""

from dataclasses import dataclass
from typing import Literal

from kerassplit.graph.sizes import Shape
from kerassplit.text import with_short_repr

CountedBy = Literal["formula", "tensorflow", "jax", "torch", "unknown"]
"""How FLOPs were counted; only profiles of version 0.1.0 name a backend."""

PACKED_FIELDS = ("wire_bytes", "pack_seconds", "unpack_seconds", "agreement", "difference")
"""Fields of blocks that only packing a sample fills in."""


@with_short_repr
@dataclass(frozen=True, slots=True)
class VariableCost:
    """A variable of the model.

    Attributes:
        path: Its Keras path, such as `conv1_conv/kernel`.
        parameters: Number of its parameters.
        bytes: Bytes of these parameters.
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
        shape: Its shape with the batch; `None` for a dimension that is only known once the model runs.
        dtype: Its dtype, such as `"float32"`.
        bytes: Bytes of the whole batch; `None` if a dimension is unknown, or for strings.
        wire_bytes: Bytes that it adds to a message in the form `Profile.wire`: those of the sample, to the byte. `None`
            if nothing was packed, if it never crosses (no call uses it), or if this form cannot hold it (infinities as
            `"int8"`).
        pack_seconds: Median seconds to pack it; `None` likewise.
        unpack_seconds: Median seconds to unpack it; `None` likewise.
    """

    name: str
    shape: Shape
    dtype: str
    bytes: int | None
    wire_bytes: int | None = None
    pack_seconds: float | None = None
    unpack_seconds: float | None = None


@with_short_repr
@dataclass(frozen=True, slots=True)
class CallCost:
    """Costs of one call.

    Attributes:
        name: Its name; `relu@1` for the second call of a layer that is called several times.
        kind: The class of its layer or operation.
        block: Index of its block.
        inputs: The tensors that it receives, each once, as indices into `Profile.tensors`.
        outputs: The tensors that it produces, each once, as indices into `Profile.tensors`.
        variables: Its weights, as indices into `Profile.variables`: both calls of a layer that is called twice list
            them.
        parameters: Number of parameters in these weights.
        parameter_bytes: Bytes of these parameters.
        activation_bytes: Bytes of the tensors that it produces; `None` if unknown.
        flops: FLOPs (a multiply-add is two); `None` if they cannot be counted.
        multiply_adds: Multiply-adds of its matrix products and convolutions; `None` if unknown.
        counted_by: `"formula"`: by its own formula, or those of the calls inside it; or `"unknown"`. In profiles of
            version 0.1.0 also the backend whose counter was used.
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
    """Seconds of repeated runs.

    Attributes:
        median: The median.
        low: The first quartile.
        high: The third quartile.
        repeats: Number of runs, without warm-up.
    """

    median: float
    low: float
    high: float
    repeats: int


@with_short_repr
@dataclass(frozen=True, slots=True)
class BlockCost:
    """Costs of the calls between one split point and the next.

    Attributes:
        name: The tensor that the block ends at: a split point, or for the last block an output of the model.
        calls: Its calls, as indices into `Profile.calls`.
        variables: The weights of its layers, each once, as indices into `Profile.variables`.
        parameters: Number of parameters in these weights.
        parameter_bytes: Bytes of these parameters.
        activation_bytes: Bytes of all the tensors that it produces; `None` if unknown.
        peak_live_bytes: Peak bytes of live tensors while it runs: those that it receives or produces, and those that
            bypass it in a run of the whole model. Buffers that a backend reuses are not considered, and memory that a
            call uses internally (attention scores, the workspace of a convolution) is not counted: a device needs
            more. `None` if unknown.
        flops: FLOPs; `None` if those of a call are unknown.
        known_flops: FLOPs of the calls that could be counted.
        multiply_adds: Multiply-adds of matrix products and convolutions; `None` if unknown.
        crossing: The tensors that cross the cut after it, as indices into `Profile.tensors`; none after the last
            block.
        crossing_bytes: Bytes of `crossing` and `also`; `None` if unknown.
        time: Its measured time, with the overhead of a call; `None` if it was not measured.
        seconds: The median without that overhead, which is measured right before and after it: the time that the block
            adds to a stage; 0 if it is too short to measure. `None` if it was not measured.
        also: Tensors that cross in addition to `crossing`: inputs of the model that both sides use, and masks.
        wire_bytes: Bytes of the message that carries `crossing` and `also` in the form `Profile.wire`; `None` if
            nothing was packed, or if the form cannot hold one of them; and after the last block.
        pack_seconds: Seconds to pack these tensors; `None` likewise.
        unpack_seconds: Seconds to unpack them; `None` likewise.
        agreement: Share of the sample's rows whose largest score is of the same class as without packing, in every
            output of shape (batch, classes); `None` also if there is no such output.
        difference: Largest absolute difference that packing makes in an output.
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
    wire_bytes: int | None = None
    pack_seconds: float | None = None
    unpack_seconds: float | None = None
    agreement: float | None = None
    difference: float | None = None
