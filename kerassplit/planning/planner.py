"""`plan`: the best cuts of a model for some devices."""

import math
from collections.abc import Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any, Literal

import keras

from kerassplit.costs.profile import Profile
from kerassplit.costs.profiling import profile as profile_model
from kerassplit.cutting.cuts import Cut, resolve_cuts
from kerassplit.cutting.frontiers import split_tensors
from kerassplit.cutting.largest_layer import closed_layer
from kerassplit.cutting.points import SplitPoint
from kerassplit.errors import PlanError, SplitError
from kerassplit.files.sizes import parse_bytes
from kerassplit.graph.model_graph import Graph
from kerassplit.graph.reading import read_graph
from kerassplit.graph.references import TensorRef, resolve_glob, several_of
from kerassplit.graph.shapes import OpenSides, batch_or_own
from kerassplit.graph.sides import read_sides
from kerassplit.planning.answers import describe
from kerassplit.planning.devices import Device, Links, read_devices, read_links
from kerassplit.planning.plan import Plan
from kerassplit.planning.results import Objective
from kerassplit.planning.task import Limits, Task
from kerassplit.planning.work import Balance, check_compression, needs_measuring, work_of

_REMEDY = (
    "A cut where several tensors cross is named by all of them, in a list of their own: [{crossing}] (--must-cut A,B), "
    "and allowed by max_crossing."
)


def plan(
    model: keras.Model,
    devices: int | Device | Sequence[Device],
    *,
    links: Links | None = None,
    objective: Objective = "throughput",
    balance: Balance = "flops",
    max_crossing: int | Literal["any"] = 1,
    batch_size: int | None = None,
    any_order: bool = False,
    leave_out: bool | None = None,
    overlap: bool = False,
    compression: float | str | None = None,
    largest_crossing: float | str | None = None,
    must_cut: Cut | Sequence[Cut] | None = None,
    must_not_cut: Cut | Sequence[Cut] | None = None,
    first_to: TensorRef | Sequence[TensorRef] | None = None,
    last_from: TensorRef | Sequence[TensorRef] | None = None,
    profile: Profile | None = None,
    open_sides: OpenSides = None,
    time_limit: float = 60.0,
    verbose: bool | None = None,
) -> Plan:
    """Finds the best cuts of a model for some devices, with proof, or a bound on how much better others could be.

    What is best: for `objective="throughput"` the stage that takes longest takes as little as possible, transfers
    counted; for `"latency"` one batch takes the least time through all stages and transfers. Of equally good plans one
    with few stages and even loads is taken, the same each time, but where a time limit ends the search.

    Over links, tensors go from each stage to the next: what a later stage needs passes through those between, and is
    moved once over each link, however many consumers wait for it. Without links, it goes straight there.

    The memory of a stage is its weights (those that its layers share once), the most bytes of activations that live at
    one time in a run of the whole model, the model's inputs among them, and buffers for what crosses at both its ends.

    Measured seconds are those of blocks, scaled so that together they take as long as the whole model; those of the
    calls within a block are in proportion to their FLOPs. What calling a stage takes by itself (`profile.overhead`) is
    left out.

    Methods: exact dynamic programming over all sets of calls that lie before a cut, while there are at most 50,000 of
    them (Tarnawski et al., "Efficient Algorithms for Device Placement of DNN Graph Operators", 2020); where there are
    more, local search, and branch and bound to prove how near it comes. With one tensor at each cut the time grows
    about linearly up to 3,000 cuts; Keras's longest architecture has 128. For the least latency on two devices with any
    number of tensors, a minimum cut (Hu et al., "Dynamic adaptive DNN surgery", 2019). `Plan.method` says which it was.

    Args:
        model: A functional or built Sequential model. It is left alone.
        devices: How many equal devices, or a `Device` for each, in the order in which stages use them.
        links: What connects them: a `Link` for all, one between each device and the next, or a mapping of pairs
            `("phone", "server")` to links: then only these are connected. `None`: moving takes no time.
        objective: `"throughput"` or `"latency"`.
        balance: What is shared out where devices do not say how fast they are: `"flops"`; what stages hold, their
            `"params"` or all their `"memory"` (see above), for throughput; or the `"time"` that calls take here,
            measured.
        max_crossing: How many tensors may cross a cut, or `"any"` number; inputs of the model and masks do not count.
            Where one leaves the largest load far from an even share, `Plan.hints` says what two would give.
        batch_size: Samples in the batch that all figures are for; by default as many as the model is built for, 1
            where it takes any number.
        any_order: Whether the planner may choose the order of the devices.
        leave_out: Whether devices may stay without a stage. By default only for latency.
        overlap: For throughput: transfers run in parallel with computing, so links are stages of the pipeline, too.
        compression: What is sent is so many times smaller than it is, or floats are sent as this dtype (`"float16"`).
        largest_crossing: The most that may cross a cut, as it is sent and without the model's inputs: bytes, or a text
            such as `"512 KiB"`.
        must_cut: Cuts that must be made, as `split` takes them.
        must_not_cut: Cuts that must not be made, likewise.
        first_to: The first stage makes at least this tensor, or these.
        last_from: All that uses this tensor, or these, is in the last stage.
        profile: What `profile(model)` gave, to save time: with `measure=True` for `balance="time"`.
        open_sides: What stands for the sides that the inputs leave open; see `profile`.
        time_limit: Seconds that local search and its proof may take together, about: listing cuts and what
            is exact before that comes on top.
        verbose: Whether to show a progress bar while it measures; by default on a terminal.

    Where there are links and the order is fixed, the model's inputs lie on the first device: another device that uses
    them has to receive them, and with `first_to` the first stage is the first device's. In any order, inputs are
    wherever they are needed.

    Returns:
        A `Plan`; its `at`, or the plan itself, goes into `split`.

    Raises:
        PlanError: No cuts keep to all limits; says which are in the way and what would be enough.
        SplitError: An argument makes no sense, or what calls take is not known.
        UnsupportedModelError: The model has no graph.

    Example:

    >>> four = ks.plan(resnet, 4)
    >>> four.optimal, round(four.value * 4 / ks.profile(resnet).flops, 2)
    (True, 1.07)
    >>> phone, server = ks.Device("phone", "20 GFLOPS"), ks.Device("server", "5 TFLOPS")
    >>> ks.plan(resnet, [phone, server], links=ks.Link("20 Mbit/s", "10 ms"), objective="latency").at
    []
    """
    graph = read_graph(model)
    task = task_of(
        graph,
        read_devices(devices),
        links=links,
        objective=objective,
        balance=balance,
        batch_size=batch_size,
        any_order=any_order,
        leave_out=leave_out,
        overlap=overlap,
        compression=compression,
        limits=limits_of(graph, max_crossing, largest_crossing, must_cut, must_not_cut, first_to, last_from),
        profile=profile,
        open_sides=open_sides,
        time_limit=time_limit,
        verbose=verbose,
    )
    closed = closed_layer(graph, dict(zip(task.calls, (call.flops for call in task.profile.calls), strict=True)))
    advice = () if closed is None or sum(device.count for device in task.devices) == 1 else (closed[1],)
    try:
        found = solve(task)
    except PlanError as error:
        raise PlanError("\n".join((str(error), *advice)), binding=error.binding, enough=error.enough) from error
    from kerassplit.planning.hints import hint_at_two_tensors  # SciPy takes a while

    return replace(found, hints=(*advice, *hint_at_two_tensors(task, found, solve)))


def solve(task: Task) -> Plan:
    """The best plan, by the method that fits."""
    from kerassplit.planning.flow_answers import is_one_flow, solve_as_flow  # SciPy takes a while
    from kerassplit.planning.graph_answers import InGraph
    from kerassplit.planning.refusals import explained, refuse_at_once

    refuse_at_once(task)
    if is_one_flow(task):
        return describe(task, solve_as_flow(task))
    try:
        answer = InGraph(task).solve() if task.holds is None else InGraph(task, task.holds).smallest()
    except PlanError as error:
        raise explained(error, task) from error
    return describe(task, answer)


def task_of(
    graph: Graph,
    devices: tuple[Device, ...],
    *,
    links: Links | None,
    objective: str,
    balance: Balance,
    batch_size: int | None,
    any_order: bool,
    leave_out: bool | None,
    overlap: bool,
    compression: float | str | None,
    limits: Limits,
    profile: Profile | None,
    open_sides: OpenSides,
    time_limit: float,
    verbose: bool | None,
) -> Task:
    """The arguments of `plan`, checked and put together."""
    if objective not in ("throughput", "latency"):
        raise SplitError(f"`objective` is 'throughput' or 'latency'; got {objective!r}.")
    check_compression(compression)
    if not isinstance(time_limit, (int, float)) or isinstance(time_limit, bool) or not time_limit > 0:
        raise SplitError(f"`time_limit` is {time_limit!r}. Expected seconds, more than 0.")
    links = read_links(links, devices)
    leave_out = objective == "latency" if leave_out is None else leave_out
    if isinstance(links, list) and (any_order or leave_out):
        if leave_out and objective == "latency" and not any_order:
            raise SplitError(
                "Links from each device to the next say nothing of plans that leave one out. Give a Link for all or a "
                "mapping of pairs of devices, or use all devices with leave_out=False (--use-all)."
            )
        raise SplitError(
            "Links from each device to the next say nothing of devices in another order, or with some left out. Give "
            "a Link for all, or a mapping of pairs of devices."
        )
    if not [call for call in graph.calls if call.inputs]:
        raise SplitError(f"'{graph.model.name}' computes nothing: there is nothing to plan.")
    measure = needs_measuring(devices, balance)
    costs = _costs(graph, profile, batch_size, open_sides, measure, verbose)
    work = work_of(costs, devices, balance)
    if objective == "latency" and work.unit in ("parameters", "bytes"):
        raise SplitError(
            f"Latency is a time, and balance='{balance}' shares out what stages hold. Take balance='flops' or "
            "'time', or tell how fast the devices are."
        )
    if work.unit == "parameters" and any(device.memory is not None for device in devices):
        raise SplitError("To keep to the memory of devices, balance bytes: balance='memory' (--balance memory).")
    if links is not None and work.unit != "seconds":
        raise SplitError(
            f"Links take seconds, and the work of devices is in {work.unit}: the two cannot be added. Give each Device "
            "`flops_per_second` or `seconds`, or measure here with balance='time' (--balance time)."
        )
    return Task(
        graph, costs, devices, work, links, objective, overlap, compression, any_order, leave_out, limits, time_limit
    )


def _costs(
    graph: Graph,
    given: Profile | None,
    batch_size: int | None,
    open_sides: OpenSides,
    measure: bool,
    verbose: bool | None,
) -> Profile:
    """The model's profile: the given one, if it fits."""
    if given is None:
        return profile_model(graph.model, batch_size, open_sides=open_sides, measure=measure, verbose=verbose)
    if not isinstance(given, Profile):
        raise SplitError(f"`profile` is what `kerassplit.profile(model)` gives; got a {type(given).__name__}.")
    _require_profile_of(graph, given)
    if open_sides is not None:
        raise SplitError("A profile has its sides already: leave out `open_sides`, or the profile.")
    samples = batch_or_own(graph, batch_size)
    if given.batch_size != samples:
        raise SplitError(
            f"The profile is for batches of {given.batch_size}, the plan for {samples}. Pass "
            f"batch_size={given.batch_size} (--batch-size {given.batch_size}), or make another profile."
        )
    if measure and given.seconds is None:
        raise SplitError(
            "balance='time' needs seconds, and the profile has none: make it by "
            "`kerassplit.profile(model, measure=True)`."
        )
    return given


def _require_profile_of(graph: Graph, given: Profile) -> None:
    """Refuses a profile of another model, or of this one with other sides."""
    # Inputs have names of their own in each process.
    theirs = [call.name for call in given.calls]
    if theirs != [call.name for call in graph.calls if call.inputs] or len(given.tensors) != len(graph.tensors):
        raise SplitError(f"The profile is of '{given.model}', not of this model: their layers differ.")
    for cost, tensor in zip(given.tensors, graph.tensors, strict=True):
        sides = list(zip(cost.shape, tensor.symbol.shape, strict=False))[1:]
        same = all(theirs is None or ours is None or theirs == ours for theirs, ours in sides)
        if not same or len(cost.shape) != len(tensor.symbol.shape) or cost.dtype != tensor.symbol.dtype:
            raise SplitError(
                f"The profile is of another '{given.model}': its '{cost.name}' has the shape {cost.shape}, and here it "
                f"is {tuple(tensor.symbol.shape)}. Profile this model, with the same input shape."
            )


def limits_of(
    graph: Graph,
    max_crossing: Any,
    largest_crossing: float | str | None,
    must_cut: Any,
    must_not_cut: Any,
    first_to: Any,
    last_from: Any,
) -> Limits:
    """The limits that were asked for, checked."""
    if max_crossing != "any":
        if not isinstance(max_crossing, Integral) or isinstance(max_crossing, bool) or max_crossing < 1:
            raise SplitError(
                f"`max_crossing` says how many tensors may cross a cut: 1 or more, or 'any'; got {max_crossing!r}."
            )
        max_crossing = int(max_crossing)
    most = math.inf if largest_crossing is None else parse_bytes(largest_crossing, "largest crossing")
    return Limits(
        max_crossing=None if max_crossing == "any" else max_crossing,
        largest_crossing=most,
        must_cut=_cuts(graph, must_cut),
        must_not_cut=_cuts_not_to_make(graph, must_not_cut),
        first_to=_tensors(graph, first_to),
        last_from=_tensors(graph, last_from),
    )


def _cuts(graph: Graph, at: Any) -> list[list[int]]:
    return [] if _is_none(at) else resolve_cuts(read_sides(graph), at, remedy=_REMEDY, beside=False)


def _is_none(references: Any) -> bool:
    return references is None or (isinstance(references, (list, tuple)) and not references)


def _cuts_not_to_make(graph: Graph, at: Any) -> list[list[int]]:
    """Of what a glob stands for, the split points."""
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
