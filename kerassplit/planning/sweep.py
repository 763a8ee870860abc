"""`Sweep`: the best cuts at every bandwidth, and the tradeoff between latency and throughput."""

import math
import os
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Group

from kerassplit.display.chart import Chart
from kerassplit.display.rich_table import Shown
from kerassplit.display.units import format_bandwidth, parse_bandwidth
from kerassplit.errors import SplitError
from kerassplit.files.saved import Saved
from kerassplit.planning.plan import Plan
from kerassplit.planning.results import SweepData, SweepRange
from kerassplit.text import printable


@dataclass(frozen=True, repr=False)
class Sweep(SweepData, Shown, Saved):
    """The best cuts of a model at every bandwidth of its links.

    Attributes:
        model: The model's name.
        batch_size: Samples in the batch that all figures refer to.
        objective: The minimized value: `"latency"`, or the bottleneck for `"throughput"`.
        ranges: Ranges from the lowest bandwidth to the highest; each begins where the previous one ends, and at that
            breakpoint both are equally good.
        front_bandwidth: Bandwidth of `front`, in bytes per second.
        front: Plans that no other beats in both latency and bottleneck, from the least latency to the least bottleneck.
        inputs: How inputs of the model are sent, if they are on the first of several devices and others may need them.
        compression: How tensors are sent, as in `plan`.
    """

    front: tuple[Plan, ...]

    def best(self, bandwidth: float | str) -> SweepRange:
        """Returns the range that contains a bandwidth: bytes per second, or a text such as `"20 Mbit/s"`.

        Raises:
            SplitError: The bandwidth is outside the sweep.
        """
        count = parse_bandwidth(bandwidth, "bandwidth")
        for one in self.ranges:
            if one.low <= count <= one.high:
                return one
        raise SplitError(
            f"The sweep goes from {format_bandwidth(self.ranges[0].low)} to {format_bandwidth(self.ranges[-1].high)}; "
            f"got {bandwidth!r}."
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns the sweep as plain values for JSON."""
        return {**asdict(self), "front": [plan.to_dict() for plan in self.front]}

    def _check(self) -> None:
        if not self.ranges or not all(0 < one.low <= one.high for one in self.ranges):
            raise ValueError("there are no ranges, or one has no bandwidths")
        if self.batch_size < 1:
            raise ValueError("there are no samples")
        if not all(math.isfinite(one.value(one.low)) for one in self.ranges):
            raise ValueError("numbers are too large")
        for plan in self.front:
            plan._check()

    def plot(self, to_file: str | os.PathLike[str] | None = None) -> Chart:
        """Draws the seconds of the best cuts over the bandwidth, and latency against bottleneck.

        Args:
            to_file: File to write; its extension selects the format (`png`, `svg`, `pdf`). `None`: writes no file.

        Returns:
            `Chart`: displayed by notebooks; its `figure` is matplotlib's.

        Raises:
            SplitError: matplotlib is not installed, or the file cannot be written.
        """
        from kerassplit.planning.charts import plot_sweep

        return plot_sweep(self, to_file)

    def __rich__(self) -> Group:
        from kerassplit.planning.tables import sweep_tables

        return sweep_tables(self)

    def __repr__(self) -> str:
        ranges, plans = len(self.ranges), len(self.front)
        counts = f"{ranges} range{'s' * (ranges != 1)} of bandwidth, {plans} plan{'s' * (plans != 1)} on the front"
        return printable(f"<Sweep of {self.model}: {counts}>")
