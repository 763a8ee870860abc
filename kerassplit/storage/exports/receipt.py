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
        bytes: Of all its files.
        weights: Bytes of its weights in Keras.
        seconds: What exporting it took.
        peak_memory: The most memory that the process had which exported it, in bytes. `None` where that was the
            caller's own (a SavedModel, when Keras runs on TensorFlow), or where the system does not say.
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
    """One tensor, as the exported stages and as those in Keras compute it.

    Attributes:
        tensor: Its name.
        stage: The stage that makes it.
        is_output: Whether it is an output of the model.
        shape: The shape of the computed arrays.
        dtype: Such as `"float32"`.
        max_difference: The largest absolute difference of two numbers; infinite when one is not a number and the
            other is, or when the shapes differ.
        scale: The largest number in Keras's tensor, without its sign.
        allowed: The largest difference that was allowed: the tolerance times the scale; 0 where numbers are whole.
        numbers: How many numbers were compared. Those that are NaN on both sides do not count: they show nothing.
    """

    scale: float
    allowed: float
    numbers: int

    @property
    def ok(self) -> bool:
        """Whether the difference is allowed."""
        return self.max_difference <= self.allowed


@dataclass(frozen=True, repr=False)
class ExportReceipt(AnyReceipt):
    """What was exported, and how far what it computes is from what Keras computes. It is true where it is `ok`.

    Attributes:
        model: The model's name.
        format: `"savedmodel"`, `"onnx"`, `"litert"` or `"openvino"`.
        directory: The folder.
        stages: What was written.
        comparisons: Every tensor that a stage gives out, in the order in which they are made; each stage ran on what
            the exported stages before it made. Empty where nothing was verified.
        compared_on: `"a photograph"`, `"random input"`, `"given input"`, or `None` where nothing was verified.
        runtime: Name and version of what ran the exported stages, or `None`.
        tolerance: How large a difference may be, relative to the scale of its tensor.
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
        """Whether the exported stages were run."""
        return self.compared_on is not None

    @property
    def ok(self) -> bool:
        """Whether numbers were compared and no difference is larger than allowed; true where nothing was verified."""
        return not self.verified or (self.compared and all(one.ok for one in self.comparisons))

    @property
    def max_difference(self) -> float | None:
        """The largest difference in an output of the model; `None` where nothing was compared."""
        return max((one.max_difference for one in self.comparisons if one.is_output), default=None)

    @property
    def first_difference(self) -> str | None:
        """The first stage that gives out a tensor which differs by more than allowed."""
        return next((one.stage for one in self.comparisons if not one.ok), None)

    @property
    def bytes(self) -> int:
        """Of all the stages."""
        return sum(stage.bytes for stage in self.stages)

    def verdict(self) -> str:
        """Sums the receipt up in a sentence or two."""
        return printable(self._verdict())

    def _verdict(self) -> str:
        title = FORMATS[self.format].title
        if not self.verified:
            return f"Exported '{self.model}' as {title}. What the exported stages compute was not verified."
        worst = next((one for one in self.comparisons if not one.ok), None)
        if worst is not None:
            return (
                f"The stages exported as {title} do not compute what those of '{self.model}' compute: '{worst.tensor}' "
                f"of stage '{worst.stage}' is the first tensor that differs, by {worst.max_difference:.3g} "
                f"({worst.allowed:.3g} allowed)."
            )
        if not self.compared:
            return nothing_compared(self.model, self.comparisons)
        return (
            f"{self.runtime} computes on the exported stages what Keras computes on those of '{self.model}': the "
            f"largest difference in its outputs is {self.max_difference:.3g}, on {self.compared_on}."
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
                one.stage,
                one.label,
                f"{one.max_difference:.3g}",
                f"{one.allowed:.3g}",
                format_samples(one.shape),
            )
        verdict = Text(self.verdict(), style="green" if self.verified and self.ok else "" if self.ok else "bold red")
        return Group(stages, *([compared] if self.comparisons else []), verdict)
