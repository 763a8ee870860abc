"""`plan_sweep`: the best cuts at every bandwidth."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import keras

from kerassplit.costs.profile import Profile
from kerassplit.cutting.cuts import Cut
from kerassplit.display.units import parse_bandwidth
from kerassplit.errors import SplitError
from kerassplit.graph.reading import read_graph
from kerassplit.graph.references import TensorRef
from kerassplit.graph.shapes import OpenSides
from kerassplit.planning.answers import plan_of
from kerassplit.planning.devices import Device, Link
from kerassplit.planning.graph_answers import InGraph
from kerassplit.planning.options import PlanOptions, task_of
from kerassplit.planning.plan import Plan
from kerassplit.planning.planner import solve
from kerassplit.planning.reporting import Report, reporting
from kerassplit.planning.results import Objective, SweepRange
from kerassplit.planning.solver.listed import MOST_CUTS, listed
from kerassplit.planning.solver.place import required
from kerassplit.planning.solver.problem import Link as TypeLink
from kerassplit.planning.solver.stages import Placement, value_of
from kerassplit.planning.solver.sweep import BandwidthRange, lower_envelope, sweep_lines
from kerassplit.planning.sweep import Sweep
from kerassplit.planning.task import Task
from kerassplit.planning.transport import OfInputs
from kerassplit.planning.work import Balance

_INSTEAD = "Sweep the latency (objective='latency'), or call `plan` at the bandwidths that matter."


def plan_sweep(
    model: keras.Model,
    devices: int | Device | Sequence[Device],
    *,
    bandwidths: tuple[float | str, float | str] = ("100 kbit/s", "10 Gbit/s"),
    latency: float | str = 0.0,
    objective: Objective = "latency",
    balance: Balance = "flops",
    max_crossing: int | Literal["any"] = 1,
    batch_size: int | None = None,
    any_order: bool = False,
    leave_out: bool | None = None,
    overlap: bool = False,
    front_bandwidth: float | str | None = None,
    compression: float | str | None = None,
    input_bytes: OfInputs | None = None,
    input_seconds: OfInputs | None = None,
    largest_crossing: float | str | None = None,
    must_cut: Cut | Sequence[Cut] | None = None,
    must_not_cut: Cut | Sequence[Cut] | None = None,
    first_to: TensorRef | Sequence[TensorRef] | None = None,
    last_from: TensorRef | Sequence[TensorRef] | None = None,
    profile: Profile | None = None,
    open_sides: OpenSides = None,
    time_limit: float = 10.0,
    verbose: bool | None = None,
) -> Sweep:
    """Finds the best cuts at every bandwidth of the links, with exact breakpoints, and the latency/throughput front.

    The time of a plan is a linear function of seconds per byte; the best time at every bandwidth is the lower envelope
    of these lines. It is found by planning where two lines intersect (Eisner and Severance, "Mathematical techniques
    for efficient record segmentation", 1976), or for two devices in closed form. The front is found by tightening a
    bound on the bottleneck (the epsilon-constraint method: Haimes, Lasdon and Wismer, 1971).

    Args:
        model: A functional or built Sequential model. It is not changed.
        devices: A `Device` for each, in the order in which stages use them, or the number of identical devices.
        bandwidths: The lowest and the highest bandwidth: bytes per second, or texts such as `"20 Mbit/s"`; the same in
            both directions.
        latency: Additional seconds for every transfer, or a text such as `"10 ms"`.
        objective: `"latency"`; or `"throughput"`, for two devices.
        front_bandwidth: Bandwidth of the front; by default the geometric mean of `bandwidths`. A front requires that
            one tensor may cross a cut, and that the model's split points follow one another, at most 50,000 of them.
        time_limit: Seconds for each plan that the sweep compares, if it cannot be found exactly; 10 by default.
            Breakpoints between plans that are not proved to be the best are where their two lines intersect.

    The other arguments are those of `plan`.

    Returns:
        `Sweep`: prints as a table; has `best(bandwidth)` and `plot`.

    Raises:
        PlanError: No cuts satisfy all limits.
        SplitError: An argument is invalid, or the seconds of calls are unknown.
        UnsupportedModelError: The model has no graph.

    Example:

    >>> phone, server = ks.Device("phone", "20 GFLOPS"), ks.Device("server", "5 TFLOPS")
    >>> print(ks.plan_sweep(resnet, [phone, server], latency="10 ms"))  # doctest: +SKIP
    """
    arguments = locals()
    if objective == "energy":
        raise SplitError(
            "A sweep minimizes the latency or the slowest stage. For least energy, call `plan` with objective='energy' "
            "(--objective energy) at the bandwidths that matter."
        )
    if not isinstance(bandwidths, (tuple, list)) or len(bandwidths) != 2:
        raise SplitError(f"`bandwidths` must be two values, the lowest and the highest; got {bandwidths!r}.")
    low, high = (parse_bandwidth(one, "bandwidth of a sweep") for one in bandwidths)
    if not low < high:
        raise SplitError(f"The first of `bandwidths` must be lower than the second; got {bandwidths!r}.")
    middle = math.sqrt(low * high)
    if front_bandwidth is not None:
        middle = parse_bandwidth(front_bandwidth, "bandwidth of the front")
    options = PlanOptions.of({**arguments, "links": Link(middle, latency)})
    graph = read_graph(model)
    task = task_of(graph, devices, options)
    with reporting(f"Sweeping {task.profile.model}", time_limit, verbose) as report:
        front = _front(task) if task.is_chain else []
        ranges_of = _latency_ranges if task.objective == "latency" else _throughput_ranges
        ranges = ranges_of(task, low, high, report)
    model_name, samples = task.profile.model, task.profile.batch_size
    sent = task.sent_inputs, task.transport.compression
    return Sweep(model_name, samples, task.objective, ranges, middle, tuple(front), *sent)


def _throughput_ranges(task: Task, low: float, high: float, report: Report) -> tuple[SweepRange, ...]:
    """Finds the best of all cuts at every bandwidth, for throughput on two devices in a given order."""
    if not task.is_chain:
        raise SplitError(
            "A sweep for throughput needs a model whose split points follow one another, and max_crossing=1. "
            f"{_INSTEAD}"
        )
    if sum(device.count for device in task.devices) != 2 or task.any_order:
        raise SplitError(f"A sweep for throughput needs two devices in a given order. {_INSTEAD}")
    solve(task, report)  # says why where there is no plan
    graph = InGraph(task)
    known = graph.listed()
    if known is None:
        raise SplitError(
            f"'{task.profile.model}' has too many cuts for a sweep of throughput, which tries them all: more "
            f"than {MOST_CUTS}. {_INSTEAD}"
        )
    assert isinstance(task.links, Link)
    latency, message = float(task.links.latency), task.transport.message_bytes
    flat, fixed, moved = known.over(TypeLink(latency, 1.0)).on_two_devices()
    ranges = lower_envelope(flat, fixed, moved + message * known.family.crosses)
    made = []
    for one in ranges:
        if max(one.low, low) < min(one.high, high):
            stages = known.divided(one.plan)
            part = replace(one, low=max(one.low, low), high=min(one.high, high))
            made.append(_range(part, plan_of(graph, Placement(0.0, 0.0, True, "closed sets", stages))))
    return tuple(made)


def _latency_ranges(task: Task, low: float, high: float, report: Report) -> tuple[SweepRange, ...]:
    """Finds the ranges for latency by planning where the lines of two plans intersect."""
    plans: list[Plan] = []
    plan_at = _planner(task, report)

    def best(bandwidth: float) -> BandwidthRange:
        plan = plan_at(bandwidth)
        plans.append(plan)
        return BandwidthRange(low, high, len(plans) - 1, *_line(task, plan))

    return tuple(_range(one, plans[one.plan]) for one in sweep_lines(best, low, high))


def _planner(task: Task, report: Report) -> Callable[[float], Plan]:
    """Returns a function from a bandwidth to the best plan; cuts that can be listed are listed only once."""
    assert isinstance(task.links, Link)
    latency = float(task.links.latency)
    solve(task, report)  # says why where there is no plan
    graph = InGraph(task)
    known = graph.listed()
    if known is None:
        return lambda bandwidth: solve(replace(task, links=Link(bandwidth, latency)), report)
    return lambda bandwidth: plan_of(graph, required(known.over(graph.type_link(Link(bandwidth, latency))).best()))


def _range(one: BandwidthRange, plan: Plan) -> SweepRange:
    devices = tuple(stage.device for stage in plan.stages)
    at = tuple(cut if isinstance(cut, str) else tuple(cut) for cut in plan.at)
    return SweepRange(one.low, one.high, at, devices, one.seconds, one.moved, one.at_least, plan.optimal)


def _front(task: Task) -> list[Plan]:
    """Finds the plans on the front; only the one at the end that `objective` minimizes has the optimal value."""
    graph = InGraph(task)
    cuts = graph.cuts(1)
    known = None if cuts is None else listed(replace(graph.problem(), objective="latency"), cuts)
    if known is None:
        return []
    found = known.front()
    in_turn = task.objective == "latency"
    values = [value_of(known.problem, one) if in_turn else max(stage.load for stage in one) for one in found]
    return [
        plan_of(graph, Placement(value, min(values), value == min(values), "bounded path", one))
        for one, value in zip(found, values, strict=True)
    ]


def _line(task: Task, plan: Plan) -> tuple[float, float]:
    """Returns the seconds of a plan that do not depend on the bandwidth, and the bytes that it sends.

    What it sends are crossing tensors, and the model's inputs on their way to their consumers.
    """
    assert isinstance(task.links, Link)
    tensors, transport = task.graph.tensors, task.transport
    place_of = {name: place for place, stage in enumerate(plan.stages) for name in stage.calls}
    index = {tensor.name: place for place, tensor in enumerate(tensors)}
    crossing = [index[name] for stage in plan.stages for name in (*stage.crossing, *stage.also)]
    sent = [one for one in crossing if task.inputs_move or one not in task.profile.inputs]
    fetched = plan.stages[0].receive > 0
    for one in task.used_inputs if task.inputs_move else ():
        users = [place_of[task.graph.calls[user].name] for user in tensors[one].users]
        sent += [one] * (min(users) + fetched if users else 0)
    messages = sum(stage.receive > 0 for stage in plan.stages)
    seconds = sum(stage.work for stage in plan.stages) + messages * float(task.links.latency)
    seconds += sum(map(transport.seconds, sent))
    return seconds, sum(map(task.sent, sent)) + messages * transport.message_bytes
