"""`Plan`: where to cut a model for some devices, and what that is expected to take."""

import math
import os
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from rich.console import Group

from kerassplit.display.chart import Chart
from kerassplit.display.rich_table import Shown
from kerassplit.files.saved import Saved
from kerassplit.planning.results import PlanData
from kerassplit.text import printable


@dataclass(frozen=True, repr=False)
class Plan(PlanData, Shown, Saved):
    """Where to cut a model, and what each stage is expected to take.

    Attributes:
        model: The model's name.
        batch_size: Samples in the batch that all figures are for.
        objective: `"throughput"`: the largest load is least. `"latency"`: the time of one batch through all is least.
        unit: Of all loads: `"seconds"`, or what stands for them.
        overlap: Whether transfers overlap with computing.
        stages: In the order in which they run.
        value: What was made least: the largest load, or the latency.
        lower_bound: No plan within the limits has a lower value.
        optimal: Whether this is proved to be the best value.
        method: The algorithm that found the plan.
        cuts: The cuts of one tensor that there were to choose from, and those that were chosen.
        hints: What could be changed about the model or the limits for a better plan, as sentences.
    """

    _columns: ClassVar = ("at", "latency", "bottleneck", "unit", "optimal")

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain values, for JSON."""
        totals = {"at": self.at, "bottleneck": self.bottleneck, "latency": self.latency}
        return {"format_version": self._format_version, **asdict(self), **totals}

    def _check(self) -> None:
        """Raises a `ValueError` where the values make no plan."""
        if not self.stages or self.batch_size < 1:
            raise ValueError("there are no stages, or no samples")
        if not all(math.isfinite(number) for number in (self.value, self.lower_bound, self.bottleneck, self.latency)):
            raise ValueError("numbers are too large")

    def plot(self, to_file: str | os.PathLike[str] | None = None) -> Chart:
        """Draws the plan: above, what each device computes and moves; below, what crosses at every possible cut.

        Args:
            to_file: Where to write it; the extension says how (`png`, `svg`, `pdf`). `None`: nowhere.

        Returns:
            `Chart`: a notebook shows it; its `figure` is matplotlib's.

        Raises:
            SplitError: matplotlib is not installed, or the file cannot be written.
        """
        from kerassplit.planning.chart_plan import plot_plan

        return plot_plan(self, to_file)

    def __rich__(self) -> Group:
        from kerassplit.planning.tables import plan_tables

        return plan_tables(self)

    def __repr__(self) -> str:
        devices = ", ".join(stage.device for stage in self.stages)
        what = "bottleneck" if self.objective == "throughput" else "latency"
        return printable(f"<Plan for {self.model} on {devices}: {what} {self.value:.6g} {self.unit}>")
