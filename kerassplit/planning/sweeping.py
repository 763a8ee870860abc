"""`plan_sweep`: the best cuts at every bandwidth."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import keras

from kerassplit.costs.concrete import OpenSides
from kerassplit.costs.profiles import Profile
from kerassplit.cutting import Cut
from kerassplit.errors import SplitError
from kerassplit.graph import read_graph
from kerassplit.planner.chain import ChainPlan
from kerassplit.planner.chain_front import latency_throughput_front
from kerassplit.planner.sweep import BandwidthRange, sweep_latency, sweep_lines, sweep_two_devices
from kerassplit.planning.choosing import limits_of, solve, task_of
from kerassplit.planning.devices import Device, Link, read_devices
from kerassplit.planning.in_chain import Chain, at_bandwidth, is_chain
from kerassplit.planning.stages import Answer, describe, names_of
from kerassplit.planning.sweeps import Sweep, SweepRange
from kerassplit.planning.task import Task
from kerassplit.planning.work import Balance
from kerassplit.plans import Objective, Plan
from kerassplit.references import TensorRef
from kerassplit.units import parse_bandwidth


def plan_sweep(
    model: keras.Model,
    devices: int | Device | Sequence[Device],
    *,
    bandwidths: tuple[float | str, float | str] = ("100 kbit/s", "10 Gbit/s"),
    latency: float | str = 0.0,
    objective: Objective = "latency",
    balance: Balance = "flops",
    max_crossing: int | Literal["any"] = 1,
    batch_size: int = 1,
    any_order: bool = False,
    leave_out: bool | None = None,
    overlap: bool = False,
    compression: float | str | None = None,
    largest_crossing: float | str | None = None,
    must_cut: Cut | Sequence[Cut] | None = None,
    must_not_cut: Cut | Sequence[Cut] | None = None,
    first_to: TensorRef | Sequence[TensorRef] | None = None,
    last_from: TensorRef | Sequence[TensorRef] | None = None,
    front_bandwidth: float | str | None = None,
    profile: Profile | None = None,
    open_sides: OpenSides = None,
    time_limit: float = 10.0,
    verbose: bool | None = None,
) -> Sweep:
    """Finds the best cuts at every bandwidth of the links, with exact breakpoints, and the latency/throughput front.

    What a plan takes is a line in seconds per byte; the best at every bandwidth is the lower envelope of the plans'
    lines. It is found by searching where two lines meet (Eisner and Severance, "Mathematical techniques for efficient
    record segmentation", 1976), or for two devices in closed form. The front is found by bounding the bottleneck ever
    more tightly (the epsilon-constraint method: Haimes, Lasdon and Wismer, 1971).

    Args:
        model: A functional or built Sequential model. It is left alone.
        devices: A `Device` for each, in the order in which stages use them, or how many equal ones.
        bandwidths: The lowest and the highest: bytes per second, or texts such as `"20 Mbit/s"`.
        latency: Seconds that every transfer takes on top, or a text such as `"10 ms"`.
        objective: `"latency"`; or `"throughput"`, for two devices.
        front_bandwidth: The bandwidth that the front is for; by default the geometric middle of `bandwidths`. There is
            a front where one tensor may cross a cut, and the model's split points follow one another.
        time_limit: Seconds for each of the plans that a sweep compares, where one cannot be found exactly. Breakpoints
            between plans that are not proved to be the best are where these two meet.

    The other arguments are those of `plan`.

    Returns:
        A `Sweep`: a table where it is printed; `best(bandwidth)`, `plot`.

    Raises:
        PlanError: No cuts keep to all limits.
        SplitError: An argument makes no sense, or what calls take is not known in seconds.
        UnsupportedModelError: The model has no graph.

    Example:

    >>> phone, server = ks.Device("phone", "20 GFLOPS"), ks.Device("server", "5 TFLOPS")
    >>> print(ks.plan_sweep(resnet, [phone, server], latency="10 ms"))  # doctest: +SKIP
    """
    graph = read_graph(model)
    if not isinstance(bandwidths, (tuple, list)) or len(bandwidths) != 2:
        raise SplitError(f"`bandwidths` are two, the lowest and the highest; got {bandwidths!r}.")
    low, high = (parse_bandwidth(one, "bandwidth of a sweep") for one in bandwidths)
    if not low < high:
        raise SplitError(f"The bandwidths of a sweep go from the lowest to the highest; got {bandwidths!r}.")
    middle = math.sqrt(low * high)
    if front_bandwidth is not None:
        middle = parse_bandwidth(front_bandwidth, "bandwidth of the front")
    task = task_of(
        graph,
        read_devices(devices),
        links=Link(middle, latency),
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
    if is_chain(task):
        chain = Chain(task)
        front = latency_throughput_front(at_bandwidth(chain.problem, middle))
        plans = _front_plans(chain, front)
        ranges = _ranges_of_chain(chain, low, high)
    else:
        plans, ranges = [], _ranges_of_plans(task, low, high)
    return Sweep(task.profile.model, task.profile.batch_size, task.objective, ranges, middle, tuple(plans))


def _front_plans(chain: Chain, front: Sequence[ChainPlan]) -> list[Plan]:
    """Of the plans on the front only the one at an end of it has the best value there is."""
    of_latency = chain.task.objective == "latency"
    values = [one.latency if of_latency else one.bottleneck for one in front]
    return [
        describe(chain.task, Answer(value, min(values), value == min(values), one.method, chain.stages_of(one)))
        for one, value in zip(front, values, strict=True)
    ]


def _ranges_of_chain(chain: Chain, low: float, high: float) -> tuple[SweepRange, ...]:
    task = chain.task
    if task.objective == "latency":
        found = sweep_latency(chain.problem, low, high)
    elif chain.problem.number_of_devices == 2 and not task.any_order:
        pair = tuple(replace(device, count=1) for device in chain.problem.devices for _ in range(device.count))
        found = _within(sweep_two_devices(replace(chain.problem, devices=pair)), low, high)
    else:
        raise SplitError(
            "A sweep for throughput takes two devices in a given order. Sweep the latency (objective='latency'), or "
            "call `plan` at the bandwidths that matter."
        )
    names = [chain.task.graph.tensors[end].name for end in chain.ends]
    return tuple(
        SweepRange(
            one.low,
            one.high,
            tuple(names[cut - 1] for cut in one.cuts),
            tuple(names_of(task, [min(device, len(task.devices) - 1) for device in one.devices])),
            one.seconds,
            one.moved,
            one.at_least,
            optimal=True,
        )
        for one in found
    )


def _within(ranges: Sequence[BandwidthRange], low: float, high: float) -> list[BandwidthRange]:
    """The parts of ranges between two bandwidths."""
    parts = [replace(one, low=max(one.low, low), high=min(one.high, high)) for one in ranges]
    return [one for one in parts if one.low < one.high]


def _ranges_of_plans(task: Task, low: float, high: float) -> tuple[SweepRange, ...]:
    """Where the cuts make no chain: by planning where two plans' lines meet."""
    if task.objective != "latency":
        raise SplitError(
            "A sweep for throughput takes a model whose split points follow one another, and max_crossing=1. Sweep the "
            "latency (objective='latency'), or call `plan` at the bandwidths that matter."
        )
    assert isinstance(task.links, Link)
    latency = float(task.links.latency)
    plans: list[Plan] = []

    def best(bandwidth: float) -> BandwidthRange:
        plan = solve(replace(task, links=Link(bandwidth, latency)))
        plans.append(plan)
        transfers = sum(stage.receive > 0 for stage in plan.stages)
        seconds = sum(stage.work for stage in plan.stages) + transfers * latency
        return BandwidthRange(low, high, (len(plans) - 1,), (), seconds, _moved(task, plan))

    made = []
    for one in sweep_lines(best, low, high):
        plan = plans[one.cuts[0]]
        devices = tuple(stage.device for stage in plan.stages)
        at = tuple(cut if isinstance(cut, str) else tuple(cut) for cut in plan.at)
        made.append(SweepRange(one.low, one.high, at, devices, one.seconds, one.moved, 0.0, plan.optimal))
    return tuple(made)


def _moved(task: Task, plan: Plan) -> float:
    """Bytes that a plan sends: what crosses, and the model's inputs on their way to where they are used."""
    tensors = task.graph.tensors
    place_of = {name: place for place, stage in enumerate(plan.stages) for name in stage.calls}
    moved = sum(stage.crossing_bytes or 0.0 for stage in plan.stages)
    fetched = plan.stages[0].receive > 0
    for one in task.used_inputs if task.inputs_move else ():
        users = [place_of[task.graph.calls[user].name] for user in tensors[one].users]
        if users:
            moved += task.sent(one) * (min(users) + fetched)
    return moved
