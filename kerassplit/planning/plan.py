"""`Plan`: where to cut a model for some devices, and the expected costs."""

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
    """Cuts of a model into stages, with the expected costs of each stage.

    Attributes:
        model: The model's name.
        batch_size: Samples in the batch that all figures refer to.
        objective: `"throughput"` minimizes the largest load, `"latency"` the time of one batch through all stages,
            `"energy"` the joules that all devices spend on it.
        unit: Unit of all loads: `"seconds"`, `"FLOPs"`, `"parameters"` or `"bytes"`.
        overlap: Whether transfers overlap with computing.
        stages: The stages, in the order in which they run.
        value: The minimized value: the largest load, the latency, or the energy in joules.
        lower_bound: No plan within the limits has a lower value.
        optimal: Whether the value is proved to be the best.
        method: The algorithm that found the plan.
        cuts: The candidate cuts of one tensor, and the chosen cuts.
        hints: Suggestions for changing the model or the limits to get a better plan, as sentences.
        inputs: How inputs of the model are sent, if they are on the first of several devices and others may need them.
        compression: How tensors are sent, as in `plan`.
    """

    _columns: ClassVar = ("at", "latency", "bottleneck", "unit", "optimal")

    def to_dict(self) -> dict[str, Any]:
        """Returns the plan as plain values for JSON."""
        totals = {"at": self.at, "bottleneck": self.bottleneck, "latency": self.latency, "energy": self.energy}
        return {"format_version": self._format_version, **asdict(self), **totals}

    def _check(self) -> None:
        """Raises a `ValueError` if the values are not a valid plan."""
        if not self.stages or self.batch_size < 1 or not all(stage.replicas for stage in self.stages):
            raise ValueError("there are no stages, no samples, or no devices of a stage")
        if not all(math.isfinite(number) for number in (self.value, self.lower_bound, self.bottleneck, self.latency)):
            raise ValueError("numbers are too large")

    def plot(self, to_file: str | os.PathLike[str] | None = None) -> Chart:
        """Draws the plan: at the top, the load of each device; at the bottom, the bytes that cross every possible cut.

        Args:
            to_file: File to write; its extension selects the format (`png`, `svg`, `pdf`). `None`: writes no file.

        Returns:
            `Chart`: displayed by notebooks; its `figure` is matplotlib's.

        Raises:
            SplitError: matplotlib is not installed, or the file cannot be written.
        """
        from kerassplit.planning.charts import plot_plan

        return plot_plan(self, to_file)

    def __rich__(self) -> Group:
        from kerassplit.planning.tables import plan_tables

        return plan_tables(self)

    def __repr__(self) -> str:
        devices = ", ".join(stage.device for stage in self.stages)
        what = "bottleneck" if self.objective == "throughput" else self.objective
        unit = "joules" if self.objective == "energy" else self.unit
        return printable(f"<Plan for {self.model} on {devices}: {what} {self.value:.6g} {unit}>")
