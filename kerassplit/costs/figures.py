"""`Figures`: what a model costs, in all and piece by piece, as plain data."""

from dataclasses import dataclass

from kerassplit.costs.memory import peaks
from kerassplit.costs.records import BlockCost, CallCost, TensorCost, Timing, VariableCost
from kerassplit.errors import SplitError
from kerassplit.graph.sizes import total


@dataclass(frozen=True, repr=False)
class Figures:
    """The figures of a `Profile`, which says what they are."""

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

    @property
    def parameters(self) -> int:
        """Numbers in the weights of the calls; shared ones count once.

        A weight of a subclassed model's own that no call uses is not among them.
        """
        return sum(variable.parameters for variable in self.variables)

    @property
    def parameter_bytes(self) -> int:
        """Their bytes."""
        return sum(variable.bytes for variable in self.variables)

    @property
    def activation_bytes(self) -> int | None:
        """Bytes of all the tensors that the calls make; `None` where not known."""
        return total(call.activation_bytes for call in self.calls)

    @property
    def peak_live_bytes(self) -> int | None:
        """The most bytes of tensors that live at one time between the calls; `None` where not known.

        What a call holds inside while it runs (the scores of an attention, the workspace of a convolution) is not
        counted: a device needs more.
        """
        sizes = [block.peak_live_bytes for block in self.blocks]
        return None if None in sizes else max((size for size in sizes if size is not None), default=0)

    @property
    def flops(self) -> int | None:
        """FLOPs of the model; `None` where those of a call are not known: these are in `unknown`."""
        return total(call.flops for call in self.calls)

    @property
    def known_flops(self) -> int:
        """FLOPs of all the calls that could be counted."""
        return sum(call.flops or 0 for call in self.calls)

    @property
    def multiply_adds(self) -> int | None:
        """Multiply-adds of matrix products and convolutions; `None` where those of a call are not known."""
        return total(call.multiply_adds for call in self.calls)

    @property
    def unknown(self) -> tuple[str, ...]:
        """Names of the calls whose FLOPs nobody could count."""
        return tuple(call.name for call in self.calls if call.flops is None)

    @property
    def seconds(self) -> float | None:
        """The blocks' seconds added up; `None` where they were not measured."""
        return total(block.seconds for block in self.blocks)

    @property
    def discrepancy(self) -> float | None:
        """How much longer the blocks take than the whole model, relative to that.

        What the compiler gains by seeing several blocks at a time makes it positive. `None` where it was not measured,
        or where the whole model took no longer than a call that computes nothing.
        """
        whole, seconds = self.whole_seconds, self.seconds
        return None if not whole or seconds is None else seconds / whole - 1

    def parameter_bytes_of(self, first: int, last: int) -> int:
        """Bytes of the weights of a stage made of the blocks `first` to `last`, both counted; shared ones once.

        Raises:
            SplitError: There are no such blocks.
        """
        variables = {variable for block in self._stage(first, last) for variable in block.variables}
        return sum(self.variables[variable].bytes for variable in variables)

    def peak_live_bytes_of(self, first: int, last: int) -> int | None:
        """The most bytes that live at one time in a stage made of the blocks `first` to `last`, both counted.

        All that the stage receives is there from the beginning, and what it gives out lives to its end. Tensors that
        only pass over it do not count, nor does what a call holds inside. Never more than the largest
        `peak_live_bytes` of the blocks, but for outputs.

        Raises:
            SplitError: There are no such blocks.
        """
        blocks = self._stage(first, last)
        steps = [[(self.calls[call].inputs, self.calls[call].outputs) for call in block.calls] for block in blocks]
        behind = {
            tensor for block in self.blocks[last + 1 :] for call in block.calls for tensor in self.calls[call].inputs
        }
        made = {tensor for block in steps for _, outputs in block for tensor in outputs}
        found = peaks(steps, [tensor.bytes for tensor in self.tensors], made & {*behind, *self.outputs})
        return None if None in found else max(size for size in found if size is not None)

    def _stage(self, first: int, last: int) -> tuple[BlockCost, ...]:
        if not 0 <= first <= last < len(self.blocks):
            raise SplitError(
                f"Blocks {first} to {last} are no stage of '{self.model}'. Expected two of its blocks, which are "
                f"numbered 0 to {len(self.blocks) - 1}, the first one first."
            )
        return self.blocks[first : last + 1]
