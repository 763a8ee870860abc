"""`Receipt`: the result of verifying a split; and `AnyReceipt`, the base of all receipts."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from rich.console import Group
from rich.text import Text

from kerassplit.cutting.comparison import TensorComparison
from kerassplit.display.rich_table import Shown, right
from kerassplit.display.table import FittedTable
from kerassplit.display.units import format_samples
from kerassplit.errors import VerificationError
from kerassplit.files.saved import Saved
from kerassplit.text import listed, printable, shortened

_SHOWN_PROBLEMS = 5  # in the verdict; all are in `Receipt.problems`


class AnyReceipt(Shown, Saved):
    """Result of comparing numbers. It is truthy if `ok`.

    Attributes:
        comparisons: The comparisons made.
        ok: True if everything is as it should be.
    """

    comparisons: tuple[Any, ...]
    ok: Any
    _totals: ClassVar[tuple[str, ...]]  # properties that `to_dict` includes
    _unbounded: ClassVar = ("max_difference", "scale", "allowed", "tolerance")

    def __bool__(self) -> bool:
        return self.ok

    def __repr__(self) -> str:
        return shortened(f"<{type(self).__name__}: {self.verdict()}>")

    @property
    def compared(self) -> bool:
        """True if any number of the model's outputs was compared (none is with 0 rows, or if all are NaN)."""
        return any(one.numbers for one in self.comparisons if one.is_output)

    def check(self) -> Self:
        """Returns the receipt itself, or raises `VerificationError` if it is not ok."""
        if not self.ok:
            raise VerificationError(self.verdict(), receipt=self)
        return self

    def verdict(self) -> str:
        """Returns the result in a sentence or two."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """Returns the receipt as plain values, for JSON."""
        return super().to_dict() | {name: getattr(self, name) for name in self._totals}


@dataclass(frozen=True, repr=False)
class Receipt(AnyReceipt):
    """Result of verifying a split against a model. It is truthy if `ok`: `assert split.verify(x)`.

    Attributes:
        model: The model's name.
        comparisons: One comparison for each input that is also an output of the model, and for each output of a stage,
            in execution order.
        num_calls: Number of calls in the model's graph, without inputs.
        weights_shared: Number of variables that the stages share with the model (the same objects).
        weights_equal: Number of variables of which a stage has its own copy, with the model's values.
        shared_variables: Variables that several stages use: variable path -> names of these stages.
        problems: Problems with the structure: calls that are missing or in two stages, weights that differ, or a
            model that, when called, computes something other than its graph.
        tolerance: Largest difference allowed.
    """

    model: str
    comparisons: tuple[TensorComparison, ...]
    num_calls: int
    weights_shared: int
    weights_equal: int
    shared_variables: dict[str, tuple[str, ...]]
    problems: tuple[str, ...]
    tolerance: float
    _totals: ClassVar = ("ok", "compared", "identical", "max_difference", "first_difference")

    @property
    def ok(self) -> bool:
        """True if the structure is right, numbers were compared, and no difference exceeds the tolerance."""
        return not self.problems and self.compared and self.first_difference is None

    @property
    def identical(self) -> bool:
        """True if numbers were compared and all are equal bit for bit."""
        return self.compared and all(comparison.identical for comparison in self.comparisons)

    @property
    def max_difference(self) -> float:
        """Largest absolute difference of all comparisons."""
        return max((comparison.max_difference for comparison in self.comparisons), default=0.0)

    @property
    def first_difference(self) -> str | None:
        """Name of the first stage whose numbers differ by more than the tolerance, or `None`."""
        return next((one.stage for one in self.comparisons if not one.max_difference <= self.tolerance), None)

    def verdict(self) -> str:
        """Returns the result in a sentence or two."""
        if self.first_difference is not None:
            numbers = (
                f"The stages do not compute what '{self.model}' computes: '{self.first_difference}' is the first stage "
                f"that differs, and the largest difference is {self.max_difference:.3g} ({self.tolerance:g} allowed)."
            )
        elif not self.compared:
            numbers = nothing_compared(self.model, self.comparisons)
        elif self.identical:
            numbers = f"The stages compute what '{self.model}' computes, bit for bit."
        else:
            numbers = (
                f"The stages compute what '{self.model}' computes; the largest difference is {self.max_difference:.3g} "
                f"({self.tolerance:g} allowed)."
            )
        further = len(self.problems) - _SHOWN_PROBLEMS
        more = [f"(And {further} more problems.)"] if further > 0 else []
        empty = [one.tensor for one in self.comparisons if one.is_output and not one.numbers]
        if self.compared and empty:
            more.append(f"Nothing was compared of {listed(empty)}: no numbers, or NaN only.")
        return printable(" ".join([numbers, *self.problems[:_SHOWN_PROBLEMS], *more]))

    def __rich__(self) -> Group:
        table = FittedTable(
            f"Receipt for {self.model}", *("stage", "tensor"), right("largest difference"), right("shape"), whole=2
        )
        for one in self.comparisons:
            same = "0 (identical)" if one.identical and one.numbers else f"{one.max_difference:.3g}"
            same = "nothing compared" if one.identical and not one.numbers else same
            table.add_row(one.stage, one.label, same, format_samples(one.shape))
        weights = (
            f"{self.num_calls} calls; weights: {self.weights_shared} shared, {self.weights_equal} copied and equal."
        )
        if self.shared_variables:
            weights += f" Several stages share {listed(self.shared_variables)}."
        verdict = Text(self.verdict(), style="green" if self.ok else "bold red")
        return Group(table, Text(weights), verdict)


def nothing_compared(model: str, comparisons: Iterable[Any]) -> str:
    """Returns the verdict for the case that no number of the model's outputs was compared."""
    empty = any(0 in one.shape for one in comparisons)
    why = "hold no numbers (0 rows?)" if empty else "are all NaN"
    return f"Nothing was compared: on this input, the outputs of '{model}' {why}. Give another input as `x` (--input)."
