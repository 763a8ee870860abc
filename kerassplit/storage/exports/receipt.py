"""The result of an export: `ExportReceipt`."""

from dataclasses import dataclass
from typing import ClassVar

from rich.console import Group
from rich.text import Text

from kerassplit.cutting.comparison import ComparedTensor
from kerassplit.cutting.receipt import AnyReceipt, nothing_compared
from kerassplit.display.rich_table import right
from kerassplit.display.table import FittedTable
from kerassplit.display.units import format_samples
from kerassplit.files.sizes import format_bytes
from kerassplit.storage.exports.formats import FORMATS, find_format
from kerassplit.text import printable, with_short_repr


@with_short_repr
@dataclass(frozen=True)
class ExportedStage:
    """One exported stage.

    Attributes:
        name: The stage's name.
        path: Its file or folder, in the folder of the export.
        bytes: Total size of its files.
        weights: Bytes of its weights in Keras.
        seconds: Time taken to export it.
        peak_memory: Peak memory of the process that exported it, in bytes. `None` if that was the caller's own
            process (a SavedModel, when Keras runs on TensorFlow), or if the system does not report it.
    """

    name: str
    path: str
    bytes: int
    weights: int
    seconds: float
    peak_memory: int | None


@with_short_repr
@dataclass(frozen=True)
class ExportComparison(ComparedTensor):
    """Compares a tensor as computed by the exported stages with the same tensor in Keras.

    Attributes:
        tensor: Its name.
        stage: The stage that computes it.
        is_output: True if it is an output of the model.
        shape: The shape of the computed arrays.
        dtype: Such as `"float32"`.
        max_difference: The largest absolute difference between two numbers; infinite if only one of them is NaN, or if
            the shapes differ.
        scale: The largest absolute value in Keras's tensor.
        allowed: The largest difference allowed: the tolerance times the scale; 0 for integers and booleans.
        numbers: How many numbers were compared. Pairs that are both NaN do not count, since they prove nothing.
    """

    scale: float
    allowed: float
    numbers: int

    @property
    def ok(self) -> bool:
        """True if the difference is allowed."""
        return self.max_difference <= self.allowed


@dataclass(frozen=True, repr=False)
class ExportReceipt(AnyReceipt):
    """Result of an export: files written, and differences from the results of Keras. Truthy if `ok`.

    Attributes:
        model: The model's name.
        format: `"savedmodel"`, `"onnx"`, `"litert"` or `"openvino"`.
        directory: The folder.
        stages: The exported stages.
        comparisons: Every output tensor of every stage, in the order of computation; each stage ran on the outputs of
            the exported stages before it. Empty if nothing was verified.
        compared_on: `"a photograph"`, `"random input"`, `"given input"`, or `None` if nothing was verified.
        runtime: Name and version of the runtime that ran the exported stages, or `None`.
        tolerance: The largest difference allowed, relative to the scale of its tensor.
    """

    model: str
    format: str
    directory: str
    stages: tuple[ExportedStage, ...]
    comparisons: tuple[ExportComparison, ...]
    compared_on: str | None
    runtime: str | None
    tolerance: float
    _totals: ClassVar = ("bytes", "verified", "compared", "ok", "max_difference", "first_difference")

    @property
    def verified(self) -> bool:
        """True if the exported stages were run and compared."""
        return self.compared_on is not None

    @property
    def ok(self) -> bool:
        """True if numbers were compared and every difference is allowed; also true if nothing was verified."""
        return not self.verified or (self.compared and all(one.ok for one in self.comparisons))

    @property
    def max_difference(self) -> float | None:
        """The largest difference in an output of the model; `None` if nothing was compared."""
        return max((one.max_difference for one in self.comparisons if one.is_output), default=None)

    @property
    def first_difference(self) -> str | None:
        """The first stage with an output that differs by more than allowed."""
        return next((one.stage for one in self.comparisons if not one.ok), None)

    @property
    def bytes(self) -> int:
        """Total size of all stages, in bytes."""
        return sum(stage.bytes for stage in self.stages)

    def verdict(self) -> str:
        """Summarizes the receipt in a sentence or two."""
        return printable(self._verdict())

    def _verdict(self) -> str:
        title = FORMATS[self.format].title
        if not self.verified:
            return f"Exported '{self.model}' as {title}. The exported stages were not verified."
        worst = next((one for one in self.comparisons if not one.ok), None)
        if worst is not None:
            return (
                f"The stages exported as {title} do not compute the same results as those of '{self.model}': "
                f"'{worst.tensor}' of stage '{worst.stage}' is the first tensor that differs, by "
                f"{worst.max_difference:.3g} ({worst.allowed:.3g} allowed)."
            )
        if not self.compared:
            return nothing_compared(self.model, self.comparisons)
        return (
            f"{self.runtime} computes the same results with the exported stages as Keras with those of '{self.model}': "
            f"the largest difference in its outputs is {self.max_difference:.3g}, on {self.compared_on}."
        )

    def _check(self) -> None:
        find_format(self.format)

    def __rich__(self) -> Group:
        figures = map(right, ("bytes", "weights", "seconds", "peak memory"))
        stages = FittedTable(f"{self.model} as {FORMATS[self.format].title}", "stage", "written", *figures, whole=2)
        for stage in self.stages:
            stages.add_row(
                stage.name,
                stage.path,
                format_bytes(stage.bytes),
                format_bytes(stage.weights),
                f"{stage.seconds:.1f}",
                "" if stage.peak_memory is None else format_bytes(stage.peak_memory),
            )
        columns = (*("stage", "tensor"), *map(right, ("largest difference", "allowed", "shape")))
        compared = FittedTable(f"Compared on {self.compared_on}", *columns, whole=2)
        for one in self.comparisons:
            compared.add_row(
                one.stage, one.label, f"{one.max_difference:.3g}", f"{one.allowed:.3g}", format_samples(one.shape)
            )
        verdict = Text(self.verdict(), style="green" if self.verified and self.ok else "" if self.ok else "bold red")
        return Group(stages, *([compared] if self.comparisons else []), verdict)
