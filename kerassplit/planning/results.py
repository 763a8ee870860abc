"""Plans and sweeps as plain data, for tables, charts and sentences."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from kerassplit.display.units import parse_bandwidth
from kerassplit.graph.sizes import total
from kerassplit.text import with_short_repr

Objective = Literal["throughput", "latency", "energy"]
Unit = Literal["seconds", "FLOPs", "parameters", "bytes"]


@with_short_repr
@dataclass(frozen=True, slots=True)
class PlannedStage:
    """A stage of a plan. Work, transfers and load are in the plan's unit, for one batch.

    Attributes:
        device: Name of the device that it runs on; of identical devices, with their first and last number.
        calls: Names of its calls, in execution order.
        crossing: Names of the tensors that cross the cut after it; none after the last stage.
        crossing_bytes: Bytes of `crossing` and `also`, as they are sent.
        work: Cost of its calls, with the overhead of calling it on its device.
        receive: Cost of receiving the tensors that cross before it, or the model's inputs if they are elsewhere, and of
            unpacking or decoding them.
        send: Cost of packing and sending the tensors that cross after it.
        load: Load of each of its devices per batch: the sum of the three, or the largest of them if transfers overlap;
            divided by `replicas`.
        parameter_bytes: Bytes of its weights, each once.
        memory: Bytes that it needs: weights, peak live activations, and buffers for the tensors that cross at both
            ends. `None` if sizes are unknown.
        also: Names of tensors that cross in addition to `crossing`: inputs of the model that both sides use, and masks.
        energy: Joules for computing and sending; with those of sending the model's inputs to it, if they are elsewhere.
            `None` if the power of the device is unknown.
        replicas: Number of devices that take turns with batches.
        packing: Seconds to pack what it receives on the device that sends it: part of `send` there.
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
    energy: float | None = None
    replicas: int = 1
    packing: float = 0.0


@with_short_repr
@dataclass(frozen=True, slots=True)
class SentInput:
    """How an input of the model travels to devices that need it. All figures are for one batch.

    Attributes:
        name: Its name.
        bytes: Bytes that are sent: those given as `input_bytes`, or those of its tensor as it is sent.
        tensor_bytes: Bytes of its tensor in memory; `None` if unknown.
        dtype: Its dtype.
        seconds: Seconds of each move besides its bytes: `input_seconds`, or measured ones to pack and unpack it.
        given: Whether `input_bytes` says what is sent in place of the tensor.
        jpeg_bytes: For pictures of floats without `input_bytes`: about what they take as JPEG files of quality 90.
    """

    name: str
    bytes: float
    tensor_bytes: int | None
    dtype: str
    seconds: float = 0.0
    given: bool = False
    jpeg_bytes: float | None = None


@with_short_repr
@dataclass(frozen=True, slots=True)
class PossibleCut:
    """A candidate cut of a plan.

    Attributes:
        names: The tensors that cross.
        bytes: Bytes of all that crosses, including inputs and masks, as they would be sent; `None` if unknown.
        before: Share of the work before the cut, on the plan's first device: 0 to 1.
        chosen: Whether the plan makes this cut.
    """

    names: tuple[str, ...]
    bytes: float | None
    before: float
    chosen: bool


@dataclass(frozen=True, repr=False)
class PlanData:
    """Figures of a plan; `Plan` documents the attributes."""

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
    inputs: tuple[SentInput, ...] = ()
    compression: float | str | None = None

    @property
    def at(self) -> list[str | list[str]]:
        """The cuts in the form that `split` accepts: for each, a name, or all the names of one crossing."""
        crossings = [list(stage.crossing) for stage in self.stages[:-1]]
        return [names[0] if len(names) == 1 else names for names in crossings]

    @property
    def bottleneck(self) -> float:
        """The largest load of a stage, which is the time per batch once all devices are busy."""
        return max(stage.load for stage in self.stages)

    @property
    def latency(self) -> float:
        """The time of one batch through all stages, with each transfer counted once."""
        return sum(stage.packing + stage.receive + stage.work for stage in self.stages)

    @property
    def energy(self) -> float | None:
        """The joules that all devices spend on one batch; `None` if the power of one is unknown."""
        return total(stage.energy for stage in self.stages)

    @property
    def replicas(self) -> list[int]:
        """The number of devices of each stage."""
        return [stage.replicas for stage in self.stages]

    @property
    def gap(self) -> float:
        """Upper bound on how far the value is above the best, relative to the lower bound; 0 if the plan is optimal."""
        return 0.0 if self.optimal else self.value / self.lower_bound - 1 if self.lower_bound else float("inf")


@with_short_repr
@dataclass(frozen=True, slots=True)
class SweepRange:
    """Cuts and the range of bandwidths at which they are the best.

    Attributes:
        low: Lowest bandwidth of the range, in bytes per second.
        high: Highest bandwidth of the range, in bytes per second.
        at: The cuts in the form that `split` accepts; empty if everything runs on one device.
        devices: Names of the devices, one for each stage.
        seconds: Seconds that do not depend on the bandwidth, without what `at_least` counts.
        moved: Bytes that go over links, as they are sent.
        at_least: Lower limit in seconds at any bandwidth, if transfers overlap with computing.
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
        """Returns the seconds at a bandwidth: bytes per second, or a text such as `"20 Mbit/s"`."""
        return max(self.at_least, self.seconds + self.moved / parse_bandwidth(bandwidth, "bandwidth"))


@dataclass(frozen=True, repr=False)
class SweepData:
    """Figures of a sweep; `Sweep` documents the attributes."""

    model: str
    batch_size: int
    objective: Objective
    ranges: tuple[SweepRange, ...]
    front_bandwidth: float
    front: tuple[PlanData, ...]
    inputs: tuple[SentInput, ...] = ()
    compression: float | str | None = None
