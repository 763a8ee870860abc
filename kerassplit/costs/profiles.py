"""`Profile`: what a model costs, in all and piece by piece."""

import json
import os
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, get_args

from rich.console import Console, Group

from kerassplit.costs.memory import peaks
from kerassplit.costs.reading import check_indices, read_record
from kerassplit.costs.records import BlockCost, CallCost, TensorCost, Timing, VariableCost, total
from kerassplit.errors import SplitError
from kerassplit.files import write_whole
from kerassplit.shown import Shown

if TYPE_CHECKING:
    import pandas

    from kerassplit.pictures.chart import Chart

FORMAT_VERSION = 1

Rows = Literal["blocks", "calls"]


@dataclass(frozen=True, repr=False)
class Profile(Shown):
    """What a model costs at one batch size, in inference.

    Attributes:
        model: The model's name.
        batch_size: The number of samples that all figures are for.
        backend: Keras's backend.
        calls: Its calls in execution order, inputs not counted.
        blocks: Its calls in groups that end at the split points: `blocks[i]` ends at `split_points(model)[i]`.
        tensors: Its tensors.
        variables: Its weights, each once.
        inputs: The model's inputs, as indices into `tensors`.
        outputs: The model's outputs, each once, likewise.
        device: What it was measured on; `None` where it was not measured.
        whole: How long the whole model took, compiled as one; `None` where it was not measured.
        whole_seconds: Its median without the overhead of its call, as that was right before and after it.
        overhead: How long the call of a compiled model takes that computes nothing, in all runs of it.
    """

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

    def to_dict(self) -> dict[str, Any]:
        """The profile as plain values, for JSON, with the totals."""
        totals = ("parameters", "parameter_bytes", "activation_bytes", "peak_live_bytes", "flops", "known_flops")
        totals += ("multiply_adds", "unknown", "seconds", "whole_seconds", "discrepancy")
        return {
            "format_version": FORMAT_VERSION,
            **asdict(self),
            "totals": {name: getattr(self, name) for name in totals},
        }

    def to_json(self, to_file: str | os.PathLike[str] | None = None) -> str:
        """The profile as JSON text, also written to a file where one is named; `Profile.from_json` reads it.

        Raises:
            SplitError: The file cannot be written; it is written whole or not at all.
        """
        text = json.dumps(self.to_dict(), indent=2)
        if to_file is not None:
            write_whole(to_file, (text + "\n").encode())
        return text

    @classmethod
    def from_json(cls, text: str) -> "Profile":
        """A profile out of the text that `to_json` gave, such as one that was measured on another machine.

        Raises:
            SplitError: It is no such text.
        """
        try:
            data = json.loads(text)
            if data["format_version"] != FORMAT_VERSION:
                raise SplitError(
                    f"The profile has format {data['format_version']}, and this kerassplit reads {FORMAT_VERSION}."
                )
            profile = read_record(cls, data)
            check_indices(profile)
            return profile
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, SplitError):
                raise
            raise SplitError("This is no profile. Expected the text that `Profile.to_json()` gave.") from error

    def to_pandas(self, of: Rows = "blocks") -> "pandas.DataFrame":
        """The blocks, or the calls, as a data frame with one row for each; names in place of indices.

        Raises:
            SplitError: `of` is something else, or pandas is not installed.
        """
        _check_rows(of)
        try:
            import pandas
        except ImportError as error:
            raise SplitError("A data frame needs pandas: `pip install pandas`.") from error
        items, kind = (self.blocks, BlockCost) if of == "blocks" else (self.calls, CallCost)
        columns = [field.name for field in fields(kind) if field.name not in ("variables", "time")]
        if of == "blocks" and self.whole is not None:
            columns += [f"time_{field.name}" for field in fields(Timing)]
        return pandas.DataFrame([self._row(item) for item in items], columns=columns).set_index("name")

    def _row(self, item: BlockCost | CallCost) -> dict[str, Any]:
        row = asdict(item)
        row |= {f"time_{name}": value for name, value in (row.pop("time", None) or {}).items()}
        for name in {"inputs", "outputs", "crossing"} & row.keys():
            row[name] = ", ".join(self.tensors[index].name for index in row[name])
        if isinstance(item, BlockCost):
            row["calls"] = len(item.calls)
        return row

    def plot(self, to_file: str | os.PathLike[str] | None = None) -> "Chart":
        """Draws, for every cut, how many bytes cross and how much of the work lies before it.

        The work is seconds, or FLOPs where nothing was measured. Cuts where less crosses than at every earlier one,
        the input counted, are red and bear their names.

        Args:
            to_file: Where to write it; the extension says how (`png`, `svg`, `pdf`). `None`: nowhere.

        Returns:
            A `Chart`: a notebook shows it; its `figure` is matplotlib's.

        Raises:
            SplitError: matplotlib is not installed, or the file cannot be written.
        """
        from kerassplit.pictures.profile_plot import plot_profile

        return plot_profile(self, to_file)

    def summary(self, of: Rows = "blocks") -> None:
        """Prints the blocks, or the calls, as a table.

        Raises:
            SplitError: `of` is something else.
        """
        from kerassplit.costs.tables import profile_tables

        _check_rows(of)
        Console(markup=False).print(profile_tables(self, of))

    def __rich__(self) -> Group:
        from kerassplit.costs.tables import profile_tables

        return profile_tables(self)

    def __repr__(self) -> str:
        calls, blocks = len(self.calls), len(self.blocks)
        return f"<Profile of {self.model}: {calls} calls in {blocks} blocks, batch size {self.batch_size}>"


def _check_rows(of: Any) -> None:
    if of not in get_args(Rows):
        raise SplitError(f"`of` is 'blocks' or 'calls'; got {of!r}.")
