"""`Figures`: the costs of a model, total and piece by piece, as plain data."""

from dataclasses import dataclass

from kerassplit.costs.memory import largest, peaks
from kerassplit.costs.records import BlockCost, CallCost, TensorCost, Timing, VariableCost
from kerassplit.errors import SplitError
from kerassplit.graph.sizes import total


@dataclass(frozen=True, repr=False)
class Figures:
    """Figures of a `Profile`; documented there."""

    model: str
    batch_size: int
    backend: str
    calls: tuple[CallCost, ...]
    blocks: tuple[BlockCost, ...]
    tensors: tuple[TensorCost, ...]
    variables: tuple[VariableCost, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    device: str | None = None
    whole: Timing | None = None
    whole_seconds: float | None = None
    overhead: Timing | None = None
    wire: str | None = None

    @property
    def parameters(self) -> int:
        """Number of parameters in the weights of the calls; shared weights count once.

        Weights that a subclassed model owns and no call uses are not counted.
        """
        return sum(variable.parameters for variable in self.variables)

    @property
    def parameter_bytes(self) -> int:
        """Bytes of these parameters."""
        return sum(variable.bytes for variable in self.variables)

    @property
    def activation_bytes(self) -> int | None:
        """Bytes of all the tensors that the calls produce; `None` if unknown."""
        return total(call.activation_bytes for call in self.calls)

    @property
    def peak_live_bytes(self) -> int | None:
        """Peak bytes of tensors that are live at the same time between the calls; `None` if unknown.

        Memory that a call uses internally while it runs (attention scores, the workspace of a convolution) is not
        counted: a device needs more.
        """
        return largest(block.peak_live_bytes for block in self.blocks)

    @property
    def flops(self) -> int | None:
        """FLOPs of the model; `None` if those of a call are unknown: `unknown` lists these calls."""
        return total(call.flops for call in self.calls)

    @property
    def known_flops(self) -> int:
        """Total FLOPs of the calls that could be counted."""
        return sum(call.flops or 0 for call in self.calls)

    @property
    def multiply_adds(self) -> int | None:
        """Multiply-adds of matrix products and convolutions; `None` if those of a call are unknown."""
        return total(call.multiply_adds for call in self.calls)

    @property
    def unknown(self) -> tuple[str, ...]:
        """Names of the calls whose FLOPs could not be counted."""
        return tuple(call.name for call in self.calls if call.flops is None)

    @property
    def seconds(self) -> float | None:
        """Sum of the blocks' seconds; `None` if they were not measured."""
        return total(block.seconds for block in self.blocks)

    @property
    def discrepancy(self) -> float | None:
        """Extra time that the separate blocks take, as a fraction of the whole model's time.

        Positive if the compiler gains from seeing several blocks at a time. `None` if nothing was measured, or if the
        whole model took no longer than a call that computes nothing.
        """
        whole, seconds = self.whole_seconds, self.seconds
        return None if not whole or seconds is None else seconds / whole - 1

    def parameter_bytes_of(self, first: int, last: int) -> int:
        """Bytes of the weights of a stage made of the blocks `first` to `last`, both included; shared ones count once.

        Raises:
            SplitError: The model has no such blocks.
        """
        variables = {variable for block in self._stage(first, last) for variable in block.variables}
        return sum(self.variables[variable].bytes for variable in variables)

    def peak_live_bytes_of(self, first: int, last: int) -> int | None:
        """Peak live bytes in a stage made of the blocks `first` to `last`, both included.

        Everything that the stage receives is live from its beginning, and its outputs are live to its end. Tensors
        that only bypass the stage do not count, nor does memory that a call uses internally. Except for outputs, never
        more than the largest `peak_live_bytes` of the blocks.

        Raises:
            SplitError: The model has no such blocks.
        """
        blocks = self._stage(first, last)
        steps = [[(self.calls[call].inputs, self.calls[call].outputs) for call in block.calls] for block in blocks]
        used_later = {
            tensor for block in self.blocks[last + 1 :] for call in block.calls for tensor in self.calls[call].inputs
        }
        made = {tensor for block in steps for _, outputs in block for tensor in outputs}
        return largest(peaks(steps, [tensor.bytes for tensor in self.tensors], made & {*used_later, *self.outputs}))

    def _stage(self, first: int, last: int) -> tuple[BlockCost, ...]:
        if not 0 <= first <= last < len(self.blocks):
            raise SplitError(
                f"Blocks {first} to {last} are not a stage of '{self.model}'. Expected the numbers of its first and "
                f"last block: the blocks are numbered 0 to {len(self.blocks) - 1}."
            )
        return self.blocks[first : last + 1]
