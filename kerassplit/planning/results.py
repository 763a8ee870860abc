"""Plans and sweeps as plain data: what tables, charts and sentences are made of."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from kerassplit.display.units import parse_bandwidth
from kerassplit.text import with_short_repr

Objective = Literal["throughput", "latency"]
Unit = Literal["seconds", "FLOPs", "parameters", "bytes"]


@with_short_repr
@dataclass(frozen=True, slots=True)
class PlannedStage:
    """A stage of a plan. Work, transfers and load are in the plan's unit, for one batch.

    Attributes:
        device: Name of the device that it runs on.
        calls: Names of its calls, in execution order.
        crossing: Names of the tensors that cross the cut behind it; none behind the last one.
        crossing_bytes: Bytes of these and of `also`, as they are sent.
        work: What its calls take.
        receive: What it takes to receive what crosses before it, or the model's inputs where they lie elsewhere.
        send: What it takes to send what crosses behind it.
        load: What keeps the device busy: the sum of the three, or the largest where transfers overlap.
        parameter_bytes: Bytes of its weights, each once.
        memory: Bytes that it needs: weights, the most live activations, and buffers for what crosses at both ends.
            `None` where sizes are not known.
        also: Names of what comes along with `crossing`: inputs of the model that both sides use, and masks.
    """

    device: str
    calls: tuple[str, ...]
    crossing: tuple[str, ...]
    crossing_bytes: float | None
    work: float
    receive: float
    send: float
    load: float
    parameter_bytes: int
    memory: float | None
    also: tuple[str, ...] = ()


@with_short_repr
@dataclass(frozen=True, slots=True)
class PossibleCut:
    """A cut that the plan could have made, or made.

    Attributes:
        names: The tensors that cross.
        bytes: Their bytes and those of what comes along, as they would be sent; `None` where not known.
        before: The part of the work that lies before it, on the plan's first device: 0 to 1.
        chosen: Whether the plan makes it.
    """

    names: tuple[str, ...]
    bytes: float | None
    before: float
    chosen: bool


@dataclass(frozen=True, repr=False)
class PlanData:
    """The figures of a plan; `Plan` describes its attributes."""

    model: str
    batch_size: int
    objective: Objective
    unit: Unit
    overlap: bool
    stages: tuple[PlannedStage, ...]
    value: float
    lower_bound: float
    optimal: bool
    method: str
    cuts: tuple[PossibleCut, ...]
    hints: tuple[str, ...] = ()

    @property
    def at(self) -> list[str | list[str]]:
        """Where to cut, as `split` takes it: a name, or all the names of one crossing, for each cut."""
        crossings = [list(stage.crossing) for stage in self.stages[:-1]]
        return [names[0] if len(names) == 1 else names for names in crossings]

    @property
    def bottleneck(self) -> float:
        """The largest load of a stage; with all devices busy, one batch ends each time so much has passed."""
        return max(stage.load for stage in self.stages)

    @property
    def latency(self) -> float:
        """What one batch takes through all stages, each transfer counted once."""
        return sum(stage.work + stage.receive for stage in self.stages)

    @property
    def gap(self) -> float:
        """How much better another plan could be at most, relative to the lower bound; 0 where this one is optimal."""
        return 0.0 if self.optimal else self.value / self.lower_bound - 1 if self.lower_bound else float("inf")


@with_short_repr
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
    _columns: ClassVar = ("devices", "at", "low", "high", "seconds", "moved", "at_least", "optimal")

    def value(self, bandwidth: float | str) -> float:
        """Seconds at a bandwidth: bytes per second, or a text such as `"20 Mbit/s"`."""
        return max(self.at_least, self.seconds + self.moved / parse_bandwidth(bandwidth, "bandwidth"))


@dataclass(frozen=True, repr=False)
class SweepData:
    """The figures of a sweep; `Sweep` describes its attributes."""

    model: str
    batch_size: int
    objective: Objective
    ranges: tuple[SweepRange, ...]
    front_bandwidth: float
    front: tuple[PlanData, ...]
