"""`Comparison`: the result of `compare`: where two models part, and why."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from rich.console import Group
from rich.text import Text

from kerassplit.cutting.comparison import ComparedTensor
from kerassplit.cutting.receipt import AnyReceipt, nothing_compared
from kerassplit.display.rich_table import right
from kerassplit.display.table import FittedTable
from kerassplit.display.units import format_samples
from kerassplit.text import enumerated, listed, printable, with_short_repr

STRUCTURE = "structure"
"""Key in `Comparison.outputs` of two structures."""
_ROWS = 12  # of a table on a terminal; all are in `comparisons` and `weights`


@with_short_repr
@dataclass(frozen=True)
class TensorInBoth(ComparedTensor):
    """A tensor that both models compute.

    Attributes:
        tensor: Its name in the first model.
        stage: Name of the layer or operation that computes it, in the first model.
        is_output: True if the two are compared as outputs of their models.
        shape: Shape of the computed array, in the first model.
        dtype: Its dtype, in the first model.
        max_difference: Largest absolute difference of two numbers: 0 if all are equal, infinite if the shapes differ or
            a number is NaN on one side only.
        identical: True if all bits are equal, and shape and dtype.
        numbers: Number of numbers compared. Those that are NaN on both sides do not count.
        other: Its name in the other model.
        other_shape: Shape of the computed array, in the other model.
    """

    identical: bool
    numbers: int
    other: str
    other_shape: tuple[int, ...]


@with_short_repr
@dataclass(frozen=True)
class DifferingWeight:
    """A weight with other values, or another shape, in the other model.

    Attributes:
        layer: Name of the layer in the first model.
        weight: Name of the weight in the layer, such as `"kernel"`.
        shape: Its shape in the first model.
        other_shape: Its shape in the other model.
        max_difference: Largest absolute difference; infinite if the shapes differ.
    """

    layer: str
    weight: str
    shape: tuple[int, ...]
    other_shape: tuple[int, ...]
    max_difference: float


@dataclass(frozen=True, repr=False)
class Comparison(AnyReceipt):
    """Where two models part. It is truthy if their numbers agree: `assert ks.compare(model, other)`.

    Attributes:
        model: The first model's name.
        other: The other model's name.
        comparisons: The tensors that both have, in the first model's execution order.
        only_in_model: Names of the tensors that only the first model has.
        only_in_other: Names of the tensors that only the other model has.
        weights: The weights that differ, in the order of the layers.
        settings: Differences in the configuration of layers that both have: layer -> setting -> both values, as text.
        outputs: Outputs that are other tensors: key or position -> names of the tensors in both models, `"-"` where a
            model has no such output; and `"structure"` if only one model returns a dict.
        tolerance: Largest difference allowed.
    """

    model: str
    other: str
    comparisons: tuple[TensorInBoth, ...]
    only_in_model: tuple[str, ...]
    only_in_other: tuple[str, ...]
    weights: tuple[DifferingWeight, ...]
    settings: dict[str, dict[str, tuple[str, str]]]
    outputs: dict[str, tuple[str, str]]
    tolerance: float
    _totals: ClassVar = ("ok", "compared", "identical", "max_difference", "first_difference")

    @property
    def ok(self) -> bool:
        """True if the outputs were compared, and nothing that both have differs by more than the tolerance."""
        return self.compared and not self.outputs and self.first is None

    @property
    def identical(self) -> bool:
        """True if the outputs were compared, and all tensors that both have are equal bit for bit."""
        return self.compared and not self.outputs and all(one.identical for one in self.comparisons)

    @property
    def max_difference(self) -> float:
        """Largest absolute difference of all tensors."""
        return max((one.max_difference for one in self.comparisons), default=0.0)

    @property
    def first(self) -> TensorInBoth | None:
        """The first tensor, in execution order, that differs by more than the tolerance."""
        return next((one for one in self.comparisons if self._differs(one)), None)

    @property
    def first_difference(self) -> str | None:
        """Name of the first tensor that differs by more than the tolerance, or `None`."""
        return None if self.first is None else self.first.tensor

    def verdict(self) -> str:
        """Returns the result in a few sentences."""
        both = f"The two models '{self.model}'" if self.model == self.other else f"'{self.model}' and '{self.other}'"
        shared = [one for one in self.comparisons if (one.tensor, one.other) not in self.outputs.values()]
        first = next(filter(self._differs, shared), None)
        if self.outputs:
            said = [f"{both} give other outputs: {enumerated([*map(self._other_output, self.outputs)])}."]
            if first is not None:
                said.append(f"They part {self._where(first)}")
            elif shared:
                said.append("All else that both compute agrees.")
        elif first is not None:
            said = [f"{both} {self._although_outputs_agree()}part {self._where(first)}"]
        elif not self.compared:
            said = [nothing_compared(self.model, self.comparisons)]
        elif self.identical:
            said = [f"{both} compute the same numbers, bit for bit, in {len(self.comparisons)} tensors."]
        else:
            most = f"the largest difference is {self.max_difference:.3g} ({self.tolerance:g} allowed)"
            said = [f"{both} agree in {len(self.comparisons)} tensors; {most}."]
        same = self.model == self.other
        for place, name, only in (
            ("first", self.model, self.only_in_model),
            ("second", self.other, self.only_in_other),
        ):
            if only:
                said.append(f"Only in {f'the {place}' if same else repr(name)}: {listed(only)}.")
        return printable(" ".join(said))

    def _differs(self, tensor: TensorInBoth) -> bool:
        return not tensor.max_difference <= self.tolerance

    def _other_output(self, label: str) -> str:
        one, other = self.outputs[label]
        if label == STRUCTURE:
            return f"their structure ({one} and {other})"
        if "-" in (one, other):
            return f"'{label}' (only in the {'second' if one == '-' else 'first'})"
        return f"'{label}' ('{one}' and '{other}')"

    def _although_outputs_agree(self) -> str:
        outputs = [one for one in self.comparisons if one.is_output]
        if not self.compared or any(map(self._differs, outputs)):
            return ""
        equal = (
            "give the same outputs, bit for bit" if all(one.identical for one in outputs) else "agree in their outputs"
        )
        return f"{equal}, but inside they "

    def _where(self, tensor: TensorInBoth) -> str:
        there = "" if tensor.tensor == tensor.other else f" ('{tensor.other}' there)"
        return " ".join([f"at '{tensor.tensor}'{there}: {self._how_far(tensor)}.", *self._why(tensor)])

    def _how_far(self, tensor: TensorInBoth) -> str:
        if tensor.shape != tensor.other_shape:
            return f"its shape is {tensor.shape} in the one and {tensor.other_shape} in the other"
        return f"the largest difference is {tensor.max_difference:.3g} ({self.tolerance:g} allowed)"

    def _why(self, tensor: TensorInBoth) -> list[str]:
        """Says what differs in the layer that computes a tensor."""
        weights = [one for one in self.weights if one.layer == tensor.stage]
        said = []
        if weights:
            what = [
                f"'{one.weight}' "
                + (
                    f"by {one.max_difference:.3g}"
                    if one.shape == one.other_shape
                    else f"in shape ({one.shape} and {one.other_shape})"
                )
                for one in weights
            ]
            said.append(f"Weights of '{tensor.stage}' differ: {enumerated(what)}.")
        settings = self.settings.get(tensor.stage, {})
        if settings:
            what = [f"{name} ({one} and {other})" for name, (one, other) in settings.items()]
            said.append(f"Its configuration differs: {enumerated(what)}.")
        return said or ["Weights and configuration of its layer are equal: what it receives, or its code, differs."]

    def __rich__(self) -> Group:
        rows = [one for one in self.comparisons if one.is_output]
        if self.first is not None:
            rows = self.comparisons[max(0, self.comparisons.index(self.first) - 2) :]
        rows = rows[:_ROWS]
        notes = () if len(rows) == len(self.comparisons) else (f"{len(rows)} of {len(self.comparisons)} tensors.",)
        table = FittedTable(
            f"'{self.model}' and '{self.other}'",
            *("tensor", right("largest difference"), right("shape")),
            whole=1,
            notes=tuple(map(printable, notes)),
        )
        for one in rows:
            name = one.label if one.tensor == one.other else f"{one.label} = {one.other}"
            table.add_row(
                printable(name),
                "0 (identical)" if one.identical else f"{one.max_difference:.3g}",
                format_samples(one.shape),
            )
        parts: list[Any] = [table]
        if self.weights:
            parts.append(_table_of(self.weights))
        return Group(*parts, Text(self.verdict(), style="green" if self.ok else "bold red"))


def _table_of(weights: Sequence[DifferingWeight]) -> FittedTable:
    notes = () if len(weights) <= _ROWS else (f"{_ROWS} of {len(weights)} weights.",)
    table = FittedTable("Weights that differ", "layer", "weight", right("largest difference"), whole=2, notes=notes)
    for one in weights[:_ROWS]:
        table.add_row(printable(one.layer), printable(one.weight), f"{one.max_difference:.3g}")
    return table
