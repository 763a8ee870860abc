"""Checks the arguments of `plan` and `plan_sweep`, and turns them into a task."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from numbers import Integral
from typing import Any, Literal

from kerassplit.costs.profile import Profile
from kerassplit.costs.profiling import profile as profile_model
from kerassplit.cutting.cuts import Cut, resolve_cuts
from kerassplit.cutting.frontiers import split_tensors
from kerassplit.cutting.points import SplitPoint
from kerassplit.display.units import parse_joules, parse_seconds
from kerassplit.errors import SplitError
from kerassplit.files.sizes import parse_bytes
from kerassplit.graph.model_graph import Graph
from kerassplit.graph.references import TensorRef, resolve_glob, several_of
from kerassplit.graph.shapes import OpenSides, batch_or_own
from kerassplit.graph.sides import read_sides
from kerassplit.planning.compression import check_compression, require_measured
from kerassplit.planning.devices import Device, Link, Links, read_devices, read_links
from kerassplit.planning.results import Objective, Unit
from kerassplit.planning.task import Limits, Task
from kerassplit.planning.transport import OfInputs, Transport, read_of_inputs
from kerassplit.planning.work import Balance, needs_measuring, work_of

_REMEDY = (
    "To cut where several tensors cross, name all of them in a list of their own: [{crossing}] (--must-cut A,B), and "
    "allow it with max_crossing."
)


@dataclass(frozen=True, kw_only=True, eq=False)
class PlanOptions:
    """Arguments of `plan` besides the model and its devices; documented there.

    Raises:
        SplitError: One of them is invalid for any model.
    """

    links: Links | None = None
    objective: Objective = "throughput"
    balance: Balance = "flops"
    max_crossing: int | Literal["any"] = 1
    batch_size: int | None = None
    any_order: bool = False
    leave_out: bool | None = None
    overlap: bool = False
    compression: float | str | None = None
    input_bytes: OfInputs | None = None
    input_seconds: OfInputs | None = None
    largest_crossing: float | str | None = None
    must_cut: Cut | Sequence[Cut] | None = None
    must_not_cut: Cut | Sequence[Cut] | None = None
    first_to: TensorRef | Sequence[TensorRef] | None = None
    last_from: TensorRef | Sequence[TensorRef] | None = None
    largest_latency: float | str | None = None
    largest_energy: float | str | None = None
    replicas: bool = False
    profile: Profile | None = None
    open_sides: OpenSides = None
    time_limit: float = 60.0
    verbose: bool | None = None

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> "PlanOptions":
        """Picks the options from the arguments of a function."""
        return cls(**{field.name: arguments[field.name] for field in fields(cls) if field.name in arguments})

    def __post_init__(self):
        if self.objective not in ("throughput", "latency", "energy"):
            raise SplitError(f"`objective` is 'throughput', 'latency' or 'energy'; got {self.objective!r}.")
        for limit, objective in (("largest_latency", "energy"), ("largest_energy", "latency")):
            if getattr(self, limit) is not None and self.objective != objective:
                raise SplitError(
                    f"`{limit}` limits plans that minimize the {objective}, but the objective is '{self.objective}'. "
                    f"Use objective='{objective}' (--objective {objective}), or leave the limit out."
                )
        if self.replicas and self.objective != "throughput":
            raise SplitError(
                f"Replicas take turns with batches, which helps throughput, but the objective is '{self.objective}'. "
                "Use objective='throughput' (--objective throughput), or leave out `replicas`."
            )
        check_compression(self.compression)
        if not isinstance(self.replicas, bool):
            raise SplitError(f"`replicas` is True or False: whether stages may have several; got {self.replicas!r}.")
        if self.profile is not None and not isinstance(self.profile, Profile):
            raise SplitError(
                "`profile` must be the result of `kerassplit.profile(model)`, or a file of it read by "
                f"`kerassplit.Profile.load`; got a {type(self.profile).__name__}."
            )
        require_measured(self.compression, self.profile)
        seconds = self.time_limit
        if not isinstance(seconds, (int, float)) or isinstance(seconds, bool) or not seconds > 0:
            raise SplitError(f"`time_limit` is {seconds!r}. Expected seconds, more than 0.")


def task_of(graph: Graph, devices: int | Device | Sequence[Device], options: PlanOptions) -> Task:
    """Builds the task of planning a model for devices with these options.

    Raises:
        SplitError: The options do not fit the model or the devices.
    """
    devices, limits = read_devices(devices), _limits_of(graph, options)
    objective, any_order = options.objective, options.any_order
    links = read_links(options.links, devices)
    leave_out = objective != "throughput" if options.leave_out is None else options.leave_out
    if isinstance(links, list) and (any_order or leave_out):
        if leave_out and objective != "throughput" and not any_order:
            raise SplitError(
                "A list of links only connects each device to the next, so no device can be left out. Give one Link "
                "for all or a mapping of pairs of devices, or use all devices with leave_out=False (--use-all)."
            )
        raise SplitError(
            "A list of links only connects each device to the next, so none can be left out or change places. Give one "
            "Link for all, or a mapping of pairs of devices."
        )
    if isinstance(links, Link) and links.down is not None and not any_order:
        raise SplitError(
            "The link has a bandwidth `down`, but nothing goes back to earlier devices: stages run on the devices in "
            "their order. Leave it out, or pass any_order=True (--any-order)."
        )
    if not [call for call in graph.calls if call.inputs]:
        raise SplitError(f"'{graph.model.name}' computes nothing: there is nothing to plan.")
    sizes, times = _read_inputs(graph, options)
    costs = _costs(graph, options, needs_measuring(devices, options.balance))
    work = work_of(costs, devices, options.balance)
    if objective == "latency" and work.unit in ("parameters", "bytes"):
        raise SplitError(
            f"Latency is a time, but balance='{options.balance}' balances what stages hold. Use balance='flops' or "
            "'time', or specify how fast the devices are."
        )
    _check_units(options, devices, work.unit)
    if work.unit == "parameters" and any(device.memory is not None for device in devices):
        raise SplitError("To respect the memory of devices, balance bytes: balance='memory' (--balance memory).")
    if links is not None and work.unit != "seconds":
        raise SplitError(
            f"Links take seconds, but the work of devices is in {work.unit}: the two cannot be added. Give each Device "
            "`flops_per_second` or `seconds`, or measure here with balance='time' (--balance time)."
        )
    task = Task(
        graph=graph,
        profile=costs,
        devices=devices,
        work=work,
        links=links,
        objective=objective,
        overlap=options.overlap,
        transport=Transport(graph, costs, options.compression, sizes, times),
        any_order=any_order,
        leave_out=leave_out,
        replicas=options.replicas,
        limits=limits,
        time_limit=options.time_limit,
    )
    for tensor in (tensor for cut in limits.must_cut for tensor in cut):
        if task.is_unsendable(tensor):
            raise SplitError(
                f"The cut at '{costs.tensors[tensor].name}' cannot be made: {options.compression} cannot hold its "
                "values in the sample. Cut elsewhere, or take another form for both `compression` and the profile."
            )
    return task


def _read_inputs(graph: Graph, options: PlanOptions) -> tuple[dict[int, float], dict[int, float]]:
    """Reads what is sent in place of inputs, and their seconds; refuses them where nothing is sent for inputs."""
    for argument in ("input_bytes", "input_seconds"):
        if getattr(options, argument) is None or (options.links is not None and not options.any_order):
            continue
        why = "there are no links"
        how = "Give `links` (--link)"
        if options.links is not None:
            why = "in any order, inputs are available wherever they are needed"
            how = "Give the devices in their order, without `any_order` (--any-order)"
        raise SplitError(
            f"`{argument}` is about sending inputs of the model over links, but {why}, so nothing is sent for them. "
            f"{how}, or leave `{argument}` (--{argument.replace('_', '-')}) out."
        )
    sizes = read_of_inputs(graph, options.input_bytes, "input_bytes")
    return sizes, read_of_inputs(graph, options.input_seconds, "input_seconds")


def _check_units(options: PlanOptions, devices: Sequence[Device], unit: Unit) -> None:
    """Refuses energy without power or time, and replicas of stages that are balanced by what they hold."""
    if options.objective == "energy" or options.largest_energy is not None:
        for device in devices:
            if device.watts is None or device.sending_watts is None:
                raise SplitError(
                    f"Energy is power × time, and the power of device '{device.name}' is unknown. Give it `watts` and "
                    "`sending_watts` (--device 'phone: 20 GFLOPS, 2 W, 1 W sending'); 0 if it does not matter there."
                )
        if unit != "seconds":
            raise SplitError(
                f"Energy is power × time, but the work of devices is in {unit}. Give each Device `flops_per_second` or "
                "`seconds`, or measure here with balance='time' (--balance time)."
            )
    if options.replicas and unit in ("parameters", "bytes"):
        raise SplitError(
            f"Replicas share the time of a stage, but balance='{options.balance}' balances what stages hold, and each "
            "replica holds all of it. Use balance='flops' or 'time', or specify how fast the devices are."
        )


def _costs(graph: Graph, options: PlanOptions, measure: bool) -> Profile:
    """Returns the model's profile: the one that was passed, if it fits, or a new one."""
    given = options.profile
    if given is None:
        sides, verbose = options.open_sides, options.verbose
        return profile_model(graph.model, options.batch_size, open_sides=sides, measure=measure, verbose=verbose)
    _require_profile_of(graph, given)
    if options.open_sides is not None:
        raise SplitError("A profile already has all its shapes: pass either `open_sides` or `profile`, not both.")
    samples = given.batch_size if options.batch_size is None else batch_or_own(graph, options.batch_size)
    if given.batch_size != samples:
        raise SplitError(
            f"The profile is for batches of {given.batch_size}, the plan for {samples}. Pass "
            f"batch_size={given.batch_size} (--batch-size {given.batch_size}), or make another profile."
        )
    if measure and given.seconds is None:
        raise SplitError(
            "balance='time' needs seconds, but the profile has none: create it with "
            "`kerassplit.profile(model, measure=True)`."
        )
    return given


def _require_profile_of(graph: Graph, given: Profile) -> None:
    """Refuses a profile of another model, or of this model with other shapes."""
    # Inputs have names of their own in each process.
    theirs = [call.name for call in given.calls]
    if theirs != [call.name for call in graph.calls if call.inputs] or len(given.tensors) != len(graph.tensors):
        raise SplitError(f"The profile is of '{given.model}', not of this model: their layers differ.")
    for cost, tensor in zip(given.tensors, graph.tensors, strict=True):
        shape = tensor.symbol.shape
        same = cost.shape[1:] == shape[1:] or (
            len(cost.shape) == len(shape)
            and all(None in pair or pair[0] == pair[1] for pair in zip(cost.shape[1:], shape[1:], strict=True))
        )
        if not same or cost.dtype != tensor.symbol.dtype:
            raise SplitError(
                f"The profile is of another '{given.model}': its '{cost.name}' has the shape {cost.shape}, and here it "
                f"is {tuple(tensor.symbol.shape)}. Profile this model, with the same input shape."
            )


def _limits_of(graph: Graph, options: PlanOptions) -> Limits:
    """Checks the requested limits and returns them."""
    max_crossing = options.max_crossing
    if max_crossing != "any":
        if not isinstance(max_crossing, Integral) or isinstance(max_crossing, bool) or max_crossing < 1:
            raise SplitError(
                f"`max_crossing` says how many tensors may cross a cut: 1 or more, or 'any'; got {max_crossing!r}."
            )
        max_crossing = int(max_crossing)
    return Limits(
        max_crossing=None if max_crossing == "any" else max_crossing,
        largest_crossing=_limit(options.largest_crossing, "largest crossing", parse_bytes),
        must_cut=_cuts(graph, options.must_cut),
        must_not_cut=_cuts_not_to_make(graph, options.must_not_cut),
        first_to=_tensors(graph, options.first_to),
        last_from=_tensors(graph, options.last_from),
        largest_latency=_limit(options.largest_latency, "largest latency", parse_seconds),
        largest_energy=_limit(options.largest_energy, "largest energy", parse_joules),
    )


def _limit(given: float | str | None, what: str, parse: Callable[[float | str, str], float]) -> float:
    return math.inf if given is None else parse(given, what)


def _cuts(graph: Graph, at: Any) -> list[list[int]]:
    return [] if _is_none(at) else resolve_cuts(read_sides(graph), at, remedy=_REMEDY, beside=False)


def _is_none(references: Any) -> bool:
    return references is None or (isinstance(references, (list, tuple)) and not references)


def _cuts_not_to_make(graph: Graph, at: Any) -> list[list[int]]:
    """Resolves forbidden cuts; of the tensors that a glob matches, only the split points count."""
    if _is_none(at):
        return []
    sides = read_sides(graph)
    points = set(split_tensors(sides))
    found = []
    for one in several_of(at):
        matching = resolve_glob(graph, one) if isinstance(one, str) else []
        some = [[tensor] for tensor in matching if tensor in points]
        found += some if some and len(matching) > 1 else resolve_cuts(sides, [one], remedy=_REMEDY, beside=False)
    return found


def _tensors(graph: Graph, references: Any) -> list[int]:
    several = [] if _is_none(references) else several_of(references)
    names = [one.name if isinstance(one, SplitPoint) else one for one in several]
    return sorted({tensor for one in names for tensor in resolve_glob(graph, one)})
