"""`Profile`: what a model costs, to read, to keep and to draw."""

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, get_args

from rich.console import Group

from kerassplit.costs.figures import Figures
from kerassplit.costs.records import BlockCost, CallCost, Timing
from kerassplit.costs.tables import Rows, profile_tables
from kerassplit.display.rich_table import SafeConsole, Shown
from kerassplit.errors import SplitError
from kerassplit.files.saved import Saved
from kerassplit.text import printable, warn

if TYPE_CHECKING:
    import pandas

    from kerassplit.display.chart import Chart


@dataclass(frozen=True, repr=False)
class Profile(Figures, Shown, Saved):
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

    def to_dict(self) -> dict[str, Any]:
        """The profile as plain values, for JSON, with the totals."""
        totals = ("parameters", "parameter_bytes", "activation_bytes", "peak_live_bytes", "flops", "known_flops")
        totals += ("multiply_adds", "unknown", "seconds", "whole_seconds", "discrepancy")
        return {
            "format_version": self._format_version,
            **asdict(self),
            "totals": {name: getattr(self, name) for name in totals},
        }

    def to_json(self, to_file: str | os.PathLike[str] | None = None) -> str | None:
        """Deprecated: `save` writes a file, and `json.dumps(profile.to_dict())` is the text, which this returns.

        Where it writes a file, it returns nothing.
        """
        instead = "`json.dumps(profile.to_dict())`" if to_file is None else "`profile.save(path)`"
        warn(f"`Profile.to_json` is deprecated: use {instead}.", DeprecationWarning)
        return json.dumps(self.to_dict(), indent=2) if to_file is None else self.save(to_file)

    @classmethod
    def from_json(cls, text: str) -> "Profile":
        """Deprecated: `load` reads a file; this reads the text of one."""
        warn("`Profile.from_json` is deprecated: use `kerassplit.Profile.load(path)`.", DeprecationWarning)
        try:
            return cls._read(text, "The profile has format")
        except SplitError:
            raise
        except ValueError as error:
            raise SplitError(
                f"This is no profile. Expected the text that `Profile.to_json()` gave; here, {error}."
            ) from error

    def _check(self) -> None:
        _check_indices(self)

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
        for name in {"inputs", "outputs", "crossing", "also"} & row.keys():
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
            `Chart`: a notebook shows it; its `figure` is matplotlib's.

        Raises:
            SplitError: matplotlib is not installed, or the file cannot be written.
        """
        from kerassplit.costs.chart import plot_profile

        return plot_profile(self, to_file)

    def summary(self, of: Rows = "blocks") -> None:
        """Prints the blocks, or the calls, as a table.

        Raises:
            SplitError: `of` is something else.
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
        raise SplitError(f"`of` is 'blocks' or 'calls'; got {of!r}.")


def _check_indices(profile: Profile) -> None:
    """Raises a `ValueError` where a profile speaks of what it does not have."""
    if profile.batch_size < 1:
        raise ValueError("batch_size is 0")

    def check(indices: Iterable[int], things: tuple[Any, ...]) -> None:
        if not all(0 <= index < len(things) for index in indices):
            raise ValueError("something is spoken of by its number that is not there")

    check((*profile.inputs, *profile.outputs), profile.tensors)
    for call in profile.calls:
        check((*call.inputs, *call.outputs), profile.tensors)
        check(call.variables, profile.variables)
        check((call.block,), profile.blocks)
    for block in profile.blocks:
        check(block.calls, profile.calls)
        check(block.variables, profile.variables)
        check((*block.crossing, *block.also), profile.tensors)
