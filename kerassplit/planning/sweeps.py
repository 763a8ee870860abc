"""`Sweep`: the best cuts at every bandwidth, and what latency costs in throughput."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Group

from kerassplit.errors import SplitError
from kerassplit.plans import Objective, Plan
from kerassplit.shown import Shown
from kerassplit.units import parse_bandwidth

if TYPE_CHECKING:
    import os

    from kerassplit.pictures.chart import Chart


@dataclass(frozen=True, slots=True)
class SweepRange:
    """Cuts and the bandwidths at which none are better.

    Attributes:
        low: Bytes per second: from here on, ...
        high: ... to here.
        at: Where to cut, as `split` takes it; empty where all runs on one device.
        devices: Names of the devices, one for each stage.
        seconds: What does not depend on the bandwidth, without what `at_least` counts.
        moved: Bytes that go over links, as they are sent.
        at_least: Seconds below which no bandwidth brings it: where transfers overlap with computing.
        optimal: Whether it is proved that no cuts are better at these bandwidths.
    """

    low: float
    high: float
    at: tuple[str | tuple[str, ...], ...]
    devices: tuple[str, ...]
    seconds: float
    moved: float
    at_least: float
    optimal: bool

    def value(self, bandwidth: float | str) -> float:
        """Seconds at a bandwidth: bytes per second, or a text such as `"20 Mbit/s"`."""
        return max(self.at_least, self.seconds + self.moved / parse_bandwidth(bandwidth, "bandwidth"))


@dataclass(frozen=True, repr=False)
class Sweep(Shown):
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

    model: str
    batch_size: int
    objective: Objective
    ranges: tuple[SweepRange, ...]
    front_bandwidth: float
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

    def plot(self, to_file: "str | os.PathLike[str] | None" = None) -> "Chart":
        """Draws the seconds of the best cuts over the bandwidth, and latency against bottleneck.

        Args:
            to_file: Where to write it; the extension says how (`png`, `svg`, `pdf`). `None`: nowhere.

        Returns:
            A `Chart`: a notebook shows it; its `figure` is matplotlib's.

        Raises:
            SplitError: matplotlib is not installed, or the file cannot be written.
        """
        from kerassplit.pictures.sweep_plot import plot_sweep

        return plot_sweep(self, to_file)

    def __rich__(self) -> Group:
        from kerassplit.planning.tables import sweep_tables

        return sweep_tables(self)

    def __repr__(self) -> str:
        return f"<Sweep of {self.model}: {len(self.ranges)} ranges of bandwidth, {len(self.front)} plans on the front>"


def format_bandwidth(count: float) -> str:
    """Bytes per second as bits per second, as links are sold.

    >>> format_bandwidth(2_500_000)
    '20 Mbit/s'
    """
    bits = 8 * count
    if bits == float("inf"):
        return "any"
    for unit, factor in (("Gbit/s", 1e9), ("Mbit/s", 1e6), ("kbit/s", 1e3)):
        if bits >= factor:
            return f"{bits / factor:.3g} {unit}" if bits / factor < 1000 else f"{bits / factor:,.0f} {unit}"
    return f"{bits:.3g} bit/s"


def place_of(one: SweepRange) -> str:
    """Where the stages of a range run, in words.

    >>> place_of(SweepRange(0.0, 1.0, (), ("phone",), 1.0, 0.0, 0.0, True))
    "keep all on 'phone'"
    """
    if not one.at:
        return f"keep all on '{one.devices[0]}'"
    return "cut at " + ", ".join(_cut(cut) for cut in one.at)


def _cut(cut: str | Sequence[str]) -> str:
    return f"'{cut}'" if isinstance(cut, str) else " + ".join(f"'{name}'" for name in cut)
