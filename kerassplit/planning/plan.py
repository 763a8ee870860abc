"""`Plan`: where to cut a model for some devices, and the expected costs."""

import math
import os
import weakref
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from rich.console import Group

from kerassplit.display.rich_table import Shown
from kerassplit.errors import SplitError
from kerassplit.files.saved import Saved
from kerassplit.planning.results import PlanData
from kerassplit.text import listed, printable

if TYPE_CHECKING:
    import keras

    from kerassplit.pictures.page.data import Cuts

_FIGURES = ("device", "replicas", "work", "receive", "send", "load", "energy")


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

    _made_for: ClassVar[Any] = None  # a weak reference to its model
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

    def plot(
        self,
        to_file: str | os.PathLike[str] | None = None,
        *,
        model: "keras.Model | None" = None,
        **options: Any,
    ) -> Any:
        """Draws the plan: at the top, the load of each device; at the bottom, the bytes that cross every possible cut.

        Args:
            to_file: File to write; its extension selects the format: `png`, `svg`, `pdf`, or `html` for a page to
                explore the model, with these cuts chosen. `None`: writes no file.
            model: For pages: the model; needed if the plan was loaded, copied or changed, or the model it was made for
                is no longer in use.
            **options: For pages: options of `kerassplit.plot`.

        Returns:
            `Chart`: displayed by notebooks; its `figure` is matplotlib's. For pages, a `Drawing`.

        Raises:
            SplitError: matplotlib is not installed, or the file cannot be written; or a page is to be drawn and `model`
                is missing or another one.
        """
        if to_file is not None and Path(to_file).suffix.lower() == ".html":
            from kerassplit.pictures import plot

            return plot(self._cuts_for_page(model), to_file, **options)
        if options or model is not None:
            raise SplitError(f"{listed(options or ['model'])} applies only to pages (.html); got {to_file!r}.")
        from kerassplit.planning.charts import plot_plan

        return plot_plan(self, to_file)

    def _cuts_for_page(self, model: "keras.Model | None" = None) -> "Cuts":
        """Returns the model and the cuts that a page shows.

        Args:
            model: The model; by default the one that the plan was made for.

        Raises:
            SplitError: There is no such model, or it is another one.
        """
        from kerassplit.pictures.page.data import Cuts  # plans are read without Keras

        model = model or (self._made_for and self._made_for())
        if model is None:
            raise SplitError(
                f"The plan does not hold its model, '{self.model}'. Pass it: plan.plot('plan.html', model=model)."
            )
        check_model(self, model)
        stages = [{name: getattr(stage, name) for name in _FIGURES} for stage in self.stages]
        about = {"objective": self.objective, "unit": self.unit, "value": self.value, "stages": stages}
        at = tuple(tuple(stage.crossing) for stage in self.stages[:-1])
        return Cuts(model, at, tuple(stage.device for stage in self.stages), about, self.batch_size)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_made_for"}

    def __rich__(self) -> Group:
        from kerassplit.planning.tables import plan_tables

        return plan_tables(self)

    def __repr__(self) -> str:
        devices = ", ".join(stage.device for stage in self.stages)
        what = "bottleneck" if self.objective == "throughput" else self.objective
        unit = "joules" if self.objective == "energy" else self.unit
        return printable(f"<Plan for {self.model} on {devices}: {what} {self.value:.6g} {unit}>")


def check_model(plan: Plan, model: "keras.Model") -> None:
    """Checks that a plan is for this model.

    Raises:
        SplitError: The model has other layers.
    """
    from kerassplit.graph.reading import read_graph

    theirs = sorted(name for stage in plan.stages for name in stage.calls)
    if theirs != sorted(call.name for call in read_graph(model).calls if call.inputs):
        raise SplitError(
            f"The plan was made for '{plan.model}', but '{model.name}' has other layers. Plan for this model, "
            "or pass at=plan.at to cut it at the same tensors."
        )


def made_for(plan: Plan, model: "keras.Model") -> Plan:
    """Makes a plan remember its model for as long as others use it, and returns the plan."""
    object.__setattr__(plan, "_made_for", weakref.ref(model))
    return plan
