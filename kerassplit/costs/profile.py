"""`Profile`: the costs of a model, to print, save and draw."""

import json
import os
import reprlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, get_args

from rich.console import Group

from kerassplit.costs.figures import Figures
from kerassplit.costs.records import PACKED_FIELDS, BlockCost, CallCost, Timing
from kerassplit.costs.tables import Rows, profile_tables
from kerassplit.display.rich_table import SafeConsole, Shown
from kerassplit.errors import SplitError
from kerassplit.files.saved import Saved
from kerassplit.graph.sizes import total
from kerassplit.text import printable, warn
from kerassplit.wire import FORMS, MESSAGE_BYTES

if TYPE_CHECKING:
    import pandas

    from kerassplit.display.chart import Chart


@dataclass(frozen=True, repr=False)
class Profile(Figures, Shown, Saved):
    """Costs of a model in inference, at one batch size.

    Attributes:
        model: The model's name.
        batch_size: Number of samples that all figures refer to.
        backend: Keras's backend.
        calls: The model's calls in execution order, without its inputs.
        blocks: The calls in groups that end at the split points: `blocks[i]` ends at `split_points(model)[i]`.
        tensors: The model's tensors.
        variables: The model's weights, each once.
        inputs: The model's inputs, as indices into `tensors`.
        outputs: The model's outputs, each once, as indices into `tensors`.
        device: The device that it was measured on; `None` if it was not measured.
        whole: Time of the whole model, compiled as one; `None` if it was not measured.
        whole_seconds: Median of `whole` without the overhead of a call, which is measured right before and after it.
        overhead: Time of calling a compiled model that computes nothing, over all its runs.
        wire: Form in which the tensors of a sample were packed, such as `"int8+zlib"`; `None` if none were.
    """

    _unbounded = ("difference",)

    def to_dict(self) -> dict[str, Any]:
        """Returns the profile as plain values for JSON, including the totals."""
        totals = ("parameters", "parameter_bytes", "activation_bytes", "peak_live_bytes", "flops", "known_flops")
        totals += ("multiply_adds", "unknown", "seconds", "whole_seconds", "discrepancy")
        return {
            "format_version": self._format_version,
            **asdict(self),
            "totals": {name: getattr(self, name) for name in totals},
        }

    def to_json(self, to_file: str | os.PathLike[str] | None = None) -> str | None:
        """Deprecated: returns `json.dumps(profile.to_dict())`, or writes a file as `save` does and returns `None`."""
        instead = "`json.dumps(profile.to_dict())`" if to_file is None else "`profile.save(path)`"
        warn(f"`Profile.to_json` is deprecated: use {instead}.", DeprecationWarning)
        return json.dumps(self.to_dict(), indent=2) if to_file is None else self.save(to_file)

    @classmethod
    def from_json(cls, text: str) -> "Profile":
        """Deprecated: reads a profile from the text of a file; `load` reads the file."""
        warn("`Profile.from_json` is deprecated: use `kerassplit.Profile.load(path)`.", DeprecationWarning)
        try:
            return cls._read(text, "The profile has format")
        except SplitError:
            raise
        except ValueError as error:
            raise SplitError(
                f"This is not a profile. Expected the text that `Profile.to_json()` returned; here, {error}."
            ) from error

    def _check(self) -> None:
        _check_indices(self)
        if self.wire not in (None, *FORMS):
            raise ValueError(f"wire is {reprlib.repr(self.wire)}")
        _check_packed(self)

    def to_pandas(self, of: Rows = "blocks") -> "pandas.DataFrame":
        """Returns a data frame with one row per block, or per call; with names in place of indices.

        Raises:
            SplitError: `of` is neither `"blocks"` nor `"calls"`, or pandas is not installed.
        """
        _check_rows(of)
        try:
            import pandas
        except ImportError as error:
            raise SplitError("A data frame needs pandas: `pip install pandas`.") from error
        items, kind = (self.blocks, BlockCost) if of == "blocks" else (self.calls, CallCost)
        without = ("variables", "time", *(() if self.wire else PACKED_FIELDS))
        columns = [field.name for field in fields(kind) if field.name not in without]
        if of == "blocks" and self.whole is not None:
            columns += [f"time_{field.name}" for field in fields(Timing)]
        return pandas.DataFrame([self._row(item) for item in items], columns=columns).set_index("name")

    def _row(self, item: BlockCost | CallCost) -> dict[str, Any]:
        row = asdict(item)
        row |= {f"time_{name}": value for name, value in (row.pop("time", None) or {}).items()}
        for name in {"inputs", "outputs", "crossing", "also"} & row.keys():
            row[name] = ", ".join(self.tensors[index].name for index in row[name])
        if isinstance(item, BlockCost):
            row["calls"] = len(item.calls)
        return row

    def plot(self, to_file: str | os.PathLike[str] | None = None) -> "Chart":
        """Draws, for every cut, how many bytes cross it and how much of the work lies before it.

        The work is in seconds, or in FLOPs if nothing was measured. Cuts where less crosses than at every earlier one,
        counting the input, are red and labeled.

        Args:
            to_file: File to write; its extension selects the format (`png`, `svg`, `pdf`). `None`: writes no file.

        Returns:
            `Chart`: displayed by notebooks; its `figure` is matplotlib's.

        Raises:
            SplitError: matplotlib is not installed, or the file cannot be written.
        """
        from kerassplit.costs.chart import plot_profile

        return plot_profile(self, to_file)

    def summary(self, of: Rows = "blocks") -> None:
        """Prints the blocks, or the calls, as a table.

        Raises:
            SplitError: `of` is neither `"blocks"` nor `"calls"`.
        """
        _check_rows(of)
        SafeConsole().print(profile_tables(self, of))

    def __rich__(self) -> Group:
        return profile_tables(self)

    def __repr__(self) -> str:
        calls, blocks = len(self.calls), len(self.blocks)
        return printable(f"<Profile of {self.model}: {calls} calls in {blocks} blocks, batch size {self.batch_size}>")


def _check_rows(of: Any) -> None:
    if of not in get_args(Rows):
        raise SplitError(f"`of` must be 'blocks' or 'calls'; got {of!r}.")


def _check_indices(profile: Profile) -> None:
    """Raises a `ValueError` if a profile has indices that refer to nothing."""
    if profile.batch_size < 1:
        raise ValueError("batch_size is 0")

    def check(indices: Iterable[int], things: tuple[Any, ...]) -> None:
        if not all(0 <= index < len(things) for index in indices):
            raise ValueError("an index refers to something that does not exist")

    check((*profile.inputs, *profile.outputs), profile.tensors)
    for call in profile.calls:
        check((*call.inputs, *call.outputs), profile.tensors)
        check(call.variables, profile.variables)
        check((call.block,), profile.blocks)
    for block in profile.blocks:
        check(block.calls, profile.calls)
        check(block.variables, profile.variables)
        check((*block.crossing, *block.also), profile.tensors)


def _check_packed(profile: Profile) -> None:
    """Raises a `ValueError` if packed figures of a profile contradict each other."""
    for block in profile.blocks:
        if not 0 <= (block.agreement or 0) <= 1:
            raise ValueError(f"the agreement of '{block.name}' is {block.agreement}")
        crossing = [profile.tensors[index].wire_bytes for index in (*block.crossing, *block.also)]
        size = total([MESSAGE_BYTES, *crossing]) if crossing else None
        if block.wire_bytes != size:
            raise ValueError(f"wire_bytes of '{block.name}' are {block.wire_bytes}; its tensors make them {size}")
