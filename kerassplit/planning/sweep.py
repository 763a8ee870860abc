"""`Sweep`: the best cuts at every bandwidth, and what latency costs in throughput."""

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
        batch_size: Samples in the batch that all figures are for.
        objective: What is least: `"latency"`, or the bottleneck for `"throughput"`.
        ranges: From the lowest bandwidth to the highest; each begins where the one before ends, and at that breakpoint
            both are equally good.
        front_bandwidth: Bytes per second that `front` is for.
        front: Plans that no other beats in both latency and bottleneck, from the least latency to the least bottleneck.
    """

    front: tuple[Plan, ...]

    def best(self, bandwidth: float | str) -> SweepRange:
        """The range with this bandwidth: bytes per second, or a text such as `"20 Mbit/s"`.

        Raises:
            SplitError: It is outside of the sweep.
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
        """The sweep as plain values, for JSON."""
        return {**asdict(self), "front": [plan.to_dict() for plan in self.front]}

    def _check(self) -> None:
        if not self.ranges or not all(0 < one.low <= one.high for one in self.ranges):
            raise ValueError("there are no ranges, or one has no bandwidths")
        if not all(math.isfinite(one.value(one.low)) for one in self.ranges):
            raise ValueError("numbers are too large")
        for plan in self.front:
            plan._check()

    def plot(self, to_file: str | os.PathLike[str] | None = None) -> Chart:
        """Draws the seconds of the best cuts over the bandwidth, and latency against bottleneck.

        Args:
            to_file: Where to write it; the extension says how (`png`, `svg`, `pdf`). `None`: nowhere.

        Returns:
            `Chart`: a notebook shows it; its `figure` is matplotlib's.

        Raises:
            SplitError: matplotlib is not installed, or the file cannot be written.
        """
        from kerassplit.planning.chart_sweep import plot_sweep

        return plot_sweep(self, to_file)

    def __rich__(self) -> Group:
        from kerassplit.planning.tables import sweep_tables

        return sweep_tables(self)

    def __repr__(self) -> str:
        counts = f"{len(self.ranges)} ranges of bandwidth, {len(self.front)} plans on the front"
        return printable(f"<Sweep of {self.model}: {counts}>")
