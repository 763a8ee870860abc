"""`plan`: the best cuts of a model for some devices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import keras

from kerassplit.costs.profile import Profile
from kerassplit.cutting.cuts import Cut
from kerassplit.cutting.largest_layer import closed_layer
from kerassplit.errors import PlanError
from kerassplit.graph.reading import read_graph
from kerassplit.graph.references import TensorRef
from kerassplit.graph.shapes import OpenSides
from kerassplit.planning.answers import plan_of
from kerassplit.planning.devices import Device, Links
from kerassplit.planning.options import PlanOptions, task_of
from kerassplit.planning.plan import Plan
from kerassplit.planning.reporting import Report, reporting, silent
from kerassplit.planning.results import Objective
from kerassplit.planning.task import Task
from kerassplit.planning.work import Balance


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
    counted; for `"latency"` one batch takes the least time through all stages and transfers. Of equally good plans, one
    with the fewest tensors over its cuts, together, is taken; of these, for throughput, one with the most even loads;
    of these, one with the fewest bytes over its cuts. That is exact with dynamic programming; a minimum cut looks at
    values and tensors; local search looks only among the cuts that it came upon. Plans are the same each time, but
    where a time limit ends the search.

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
        time_limit: Seconds that local search and its proof may take together, about; 60 by default. Listing cuts and
            what is exact before that comes on top. Where cuts are few enough to try them all, it does not count.
        verbose: Whether to show progress on standard error; by default on a terminal, once it takes 2 seconds: blocks
            measured, then the time limit, and what part of the value found is proved that no plan has less.

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
    options = PlanOptions.of(locals())
    graph = read_graph(model)
    task = task_of(graph, devices, options)
    closed = closed_layer(graph, dict(zip(task.calls, (call.flops for call in task.profile.calls), strict=True)))
    advice = () if closed is None or sum(device.count for device in task.devices) == 1 else (closed[1],)
    try:
        with reporting(f"Planning {task.profile.model}", time_limit, verbose) as report:
            found = solve(task, report)
    except PlanError as error:
        raise PlanError("\n".join((str(error), *advice)), binding=error.binding, enough=error.enough) from error
    from kerassplit.planning.hints import hint_at_two_tensors  # SciPy takes a while

    return replace(found, hints=(*advice, *hint_at_two_tensors(task, found)))


def solve(task: Task, report: Report = silent) -> Plan:
    """The best plan, by the method that fits; `report` is told how far the search has come."""
    from kerassplit.planning.graph_answers import InGraph  # SciPy takes a while
    from kerassplit.planning.refusals import explained, refuse_at_once

    refuse_at_once(task)
    graph = InGraph(task, task.holds or "bytes")
    try:
        return plan_of(graph, graph.solve(report))
    except PlanError as error:
        raise explained(error, task) from error
