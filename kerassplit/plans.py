"""`Plan`: where to cut a model for some devices, and what that is expected to take."""

import json
import math
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from rich.console import Group

from kerassplit.errors import SplitError
from kerassplit.files import write_whole
from kerassplit.shown import Shown

if TYPE_CHECKING:
    from kerassplit.pictures.chart import Chart

FORMAT_VERSION = 1

Objective = Literal["throughput", "latency"]
Unit = Literal["seconds", "FLOPs", "parameters", "bytes"]


@dataclass(frozen=True, slots=True)
class PlannedStage:
    """A stage of a plan. Work, transfers and load are in the plan's unit, for one batch.

    Attributes:
        device: Name of the device that it runs on.
        calls: Names of its calls, in execution order.
        crossing: Names of the tensors that cross the cut behind it; none behind the last one.
        crossing_bytes: Bytes of these, as they are sent.
        work: What its calls take.
        receive: What it takes to receive what crosses before it, or the model's inputs where they lie elsewhere.
        send: What it takes to send what crosses behind it.
        load: What keeps the device busy: the sum of the three, or the largest where transfers overlap.
        parameter_bytes: Bytes of its weights, each once.
        memory: Bytes that it needs: weights, the most live activations, and buffers for what crosses at both ends.
            `None` where sizes are not known.
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


@dataclass(frozen=True, slots=True)
class PossibleCut:
    """A cut that the plan could have made, or made.

    Attributes:
        names: The tensors that cross.
        bytes: Their bytes, as they would be sent; `None` where not known.
        before: The part of the work that lies before it, on the plan's first device: 0 to 1.
        chosen: Whether the plan makes it.
    """

    names: tuple[str, ...]
    bytes: float | None
    before: float
    chosen: bool


@dataclass(frozen=True, repr=False)
class Plan(Shown):
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
    """

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

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain values, for JSON."""
        totals = {"at": self.at, "bottleneck": self.bottleneck, "latency": self.latency}
        return {"format_version": FORMAT_VERSION, **asdict(self), **totals}

    def save(self, to_file: str | os.PathLike[str]) -> None:
        """Writes the plan as JSON, whole or not at all; `Plan.load` reads it.

        Raises:
            SplitError: The file cannot be written.
        """
        write_whole(to_file, (json.dumps(self.to_dict(), indent=2) + "\n").encode())

    @classmethod
    def load(cls, file: str | os.PathLike[str]) -> "Plan":
        """A plan out of a file that `save` wrote.

        Raises:
            SplitError: There is no such file, or it holds no plan.
        """
        try:
            data = json.loads(Path(file).read_text(encoding="utf-8"))
            if data["format_version"] != FORMAT_VERSION:
                raise SplitError(
                    f"'{file}' holds a plan of format {data['format_version']}, and this kerassplit reads "
                    f"{FORMAT_VERSION}."
                )
            values = {field.name: data[field.name] for field in fields(cls)}
            values["stages"] = tuple(_record(PlannedStage, stage) for stage in values["stages"])
            values["cuts"] = tuple(_record(PossibleCut, cut) for cut in values["cuts"])
            plan = cls(**values)
            plan._check()
            return plan
        except OSError as error:
            raise SplitError(f"'{file}' cannot be read: {error.strerror or error}.") from error
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            if isinstance(error, SplitError):
                raise
            raise SplitError(f"'{file}' holds no plan. Expected a file that `Plan.save` wrote.") from error

    def _check(self) -> None:
        """Raises what goes wrong where values are not of their types."""
        if not self.stages or self.unit not in get_args(Unit) or self.objective not in get_args(Objective):
            raise ValueError("no plan")
        numbers = [self.value, self.lower_bound, *(cut.before for cut in self.cuts)]
        for stage in self.stages:
            numbers += [stage.work, stage.receive, stage.send, stage.load, stage.parameter_bytes]
            "".join((stage.device, *stage.calls, *stage.crossing))
        if not all(math.isfinite(number) and number >= 0 for number in numbers):
            raise ValueError("no plan")

    def plot(self, to_file: str | os.PathLike[str] | None = None) -> "Chart":
        """Draws the plan: above, what each device computes and moves; below, what crosses at every possible cut.

        Args:
            to_file: Where to write it; the extension says how (`png`, `svg`, `pdf`). `None`: nowhere.

        Returns:
            A `Chart`: a notebook shows it; its `figure` is matplotlib's.

        Raises:
            SplitError: matplotlib is not installed, or the file cannot be written.
        """
        from kerassplit.pictures.plan_plot import plot_plan

        return plot_plan(self, to_file)

    def __rich__(self) -> Group:
        from kerassplit.planning.tables import plan_tables

        return plan_tables(self)

    def __repr__(self) -> str:
        devices = ", ".join(stage.device for stage in self.stages)
        return f"<Plan for {self.model} on {devices}: {self.objective} {self.value:.6g} {self.unit}>"


def _record(kind: type, data: dict[str, Any]) -> Any:
    """A record out of plain values: lists were tuples."""
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in data.items()})
