"""`Plan`: where to cut a model for some devices, and what that is expected to take."""

import json
import math
import os
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Group

from kerassplit.display.chart import Chart
from kerassplit.display.rich_table import Shown
from kerassplit.errors import SplitError
from kerassplit.files.atomic_file import write_whole
from kerassplit.files.untrusted_json import read_record, read_regular, versioned
from kerassplit.planning.results import PlanData
from kerassplit.text import printable

FORMAT_VERSION = 1
_LARGEST = 64 * 2**20  # bytes of a plan: a call takes about 50


@dataclass(frozen=True, repr=False)
class Plan(PlanData, Shown):
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

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain values, for JSON."""
        totals = {"at": self.at, "bottleneck": self.bottleneck, "latency": self.latency}
        return {"format_version": FORMAT_VERSION, **asdict(self), **totals}

    def save(self, to_file: str | os.PathLike[str]) -> None:
        """Writes the plan as JSON, whole or not at all; `Plan.load` reads it.

        Raises:
            SplitError: The file cannot be written.
        """
        write_whole(to_file, (json.dumps(self.to_dict(), indent=2) + "\n").encode(), flush=True)

    @classmethod
    def load(cls, file: str | os.PathLike[str]) -> "Plan":
        """A plan out of a file that `save` wrote.

        Raises:
            SplitError: There is no such file, or it holds no plan.
        """
        try:
            content = read_regular(file, _LARGEST)
            plan = read_record(cls, versioned(content, FORMAT_VERSION, f"'{file}' holds a plan of format"))
            plan._check()
            return plan
        except SplitError:
            raise
        except OSError as error:
            raise SplitError(f"'{file}' cannot be read: {error.strerror or error}.") from error
        except ValueError as error:
            raise SplitError(
                f"'{file}' holds no plan. Expected a file that `Plan.save` wrote; here, {error}."
            ) from error

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
