"""`plan`: the best cuts of a model for some devices; and even stages, for `split(model, stages=3)`."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import keras

from kerassplit.costs.profile import Profile
from kerassplit.cutting.cuts import Cut
from kerassplit.cutting.largest_layer import closed_layer
from kerassplit.errors import PlanError, SplitError
from kerassplit.graph.reading import read_graph
from kerassplit.graph.references import TensorRef
from kerassplit.graph.shapes import OpenSides
from kerassplit.planning.answers import plan_of
from kerassplit.planning.devices import Device, Links
from kerassplit.planning.options import PlanOptions, task_of
from kerassplit.planning.plan import Plan, made_for
from kerassplit.planning.reporting import Report, reporting, silent
from kerassplit.planning.results import Objective
from kerassplit.planning.task import Task
from kerassplit.planning.transport import OfInputs
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
    input_bytes: OfInputs | None = None,
    input_seconds: OfInputs | None = None,
    largest_crossing: float | str | None = None,
    must_cut: Cut | Sequence[Cut] | None = None,
    must_not_cut: Cut | Sequence[Cut] | None = None,
    first_to: TensorRef | Sequence[TensorRef] | None = None,
    last_from: TensorRef | Sequence[TensorRef] | None = None,
    largest_latency: float | str | None = None,
    largest_energy: float | str | None = None,
    replicas: bool = False,
    profile: Profile | None = None,
    open_sides: OpenSides = None,
    time_limit: float = 60.0,
    verbose: bool | None = None,
) -> Plan:
    """Finds the best cuts of a model for some devices, with a proof or a bound on how much better a plan could be.

    `objective="throughput"` minimizes the time of the slowest stage, including transfers; `"latency"` minimizes the
    time of one batch through all stages and transfers; `"energy"` minimizes the joules that the devices spend on it:
    the seconds of each stage × `Device.watts`, and those of each transfer × the sender's `Device.sending_watts`.
    Packing is computed by the device that sends, unpacking and decoding by the one that receives.

    Ties are broken by the fewest tensors over all cuts; then, for throughput, by the most even loads; then by the
    fewest bytes over all cuts. Dynamic programming breaks ties exactly; a minimum cut considers value and tensors only;
    local search considers only the cuts that it visited. Plans are deterministic, unless a time limit ends the search.

    Over links, tensors go from each stage to the next: a tensor that a later stage needs passes through the stages in
    between, and is moved once over each link, however many consumers it has. Without links, it goes there directly.

    The memory of a stage consists of its weights (shared ones count once), the peak bytes of live activations in a run
    of the whole model, including the model's inputs, and buffers for the tensors that cross at both its ends.

    Measured seconds are those of blocks, scaled so that their sum is the time of the whole model; the seconds of a
    block are divided among its calls in proportion to their FLOPs. Each stage also takes the overhead of its device
    once per batch (`Device.overhead`): where the seconds were measured, so was the overhead (`profile.overhead`).

    With `largest_latency` or `largest_energy`, the ways through the cuts that no other beats in both latency and energy
    are compared (Hansen, "Bicriterion path problems", 1980); ties are not broken further.

    Methods: exact dynamic programming over all sets of calls that can lie before a cut, if there are at most 50,000 of
    them (Tarnawski et al., "Efficient Algorithms for Device Placement of DNN Graph Operators", 2020); otherwise local
    search, with branch and bound to prove how close to optimal it is. With one tensor per cut, time grows about
    linearly up to 3,000 cuts; Keras's longest architecture has 128. For latency on two devices with any number of
    crossing tensors, a minimum cut (Hu et al., "Dynamic adaptive DNN surgery", 2019). `Plan.method` names the method.

    Args:
        model: A functional or built Sequential model. It is not changed.
        devices: The number of identical devices, or a `Device` for each, in the order in which stages use them.
        links: Links between devices: one `Link` for all, a list with one from each device to the next, or a mapping of
            pairs `("phone", "server")` to links, which connects only these pairs. `None`: moving takes no time.
        objective: `"throughput"`, `"latency"` or `"energy"`.
        balance: The quantity to balance if devices have no speed: `"flops"`; what stages hold, their `"params"` or all
            their `"memory"` (see above), for throughput; or the `"time"` of calls, measured on this machine.
        max_crossing: How many tensors may cross a cut, or `"any"` number; inputs of the model and masks do not count.
            If one per cut leaves the largest load far from even, `Plan.hints` says what two would achieve.
        batch_size: Samples in the batch that all figures refer to; by default that of `profile`, or the batch size that
            the model is built for, or 1 if it accepts any.
        any_order: Whether the planner may choose the order of the devices.
        leave_out: Whether devices may stay without a stage. By default not for throughput.
        overlap: For throughput: transfers run in parallel with computing, so links are stages of the pipeline, too.
        compression: How tensors are sent: a form of `kerassplit.wire` such as `"int8"`, counted to the byte with the
            message around the tensors; the factor by which a codec of your own shrinks them; or `"float8_e4m3fn"` or
            `"float8_e5m2"`, dtypes without a message. `None`: the bytes of the tensors alone.
        input_bytes: Bytes per sample that are sent in place of a model input's tensor, such as those of a JPEG file: a
            number, a text such as `"30 KB"`, or a mapping of inputs to these. `encoded_bytes` measures pictures.
            `compression` does not apply to these inputs.
        input_seconds: Seconds per batch to decode an input, on each device that receives it over a link: a number, a
            text such as `"5 ms"`, or a mapping of inputs to these.
        largest_crossing: The most bytes that may cross a cut, as they are sent and without the model's inputs; a number
            or a text such as `"512 KiB"`.
        must_cut: Cuts to make in any case, in the form that `split` accepts.
        must_not_cut: Cuts that must not be made, in the same form.
        first_to: Tensor or tensors that the first stage must produce.
        last_from: Tensor or tensors whose consumers must all be in the last stage.
        largest_latency: For energy: the most seconds of one batch, or a text such as `"50 ms"`.
        largest_energy: For latency: the most joules for one batch, or a text such as `"0.5 J"`.
        replicas: For throughput: whether a stage may have several of the identical devices of a `Device`. They take
            turns with batches, so its load is divided by their number (Narayanan et al., "PipeDream", SOSP 2019), and
            each needs the memory of the whole stage. Without limits of memory, that is often the whole model on each.
            `split.predict(x, engine="ray", replicas=plan.replicas)` runs them.
        profile: The result of `profile(model)`, to save time; with `measure=True` for `balance="time"`.
        open_sides: Sizes to assume for unknown (`None`) input dimensions; see `profile`.
        time_limit: Approximate seconds for local search and its proof together; 60 by default. Listing cuts and exact
            methods before that take additional time. Has no effect if there are few enough cuts to try them all.
        verbose: Whether to show progress on standard error; by default on a terminal, once planning takes 2 seconds:
            blocks measured, then the time limit, and the proved lower bound as a percentage of the value found.

    With links and a fixed order, the model's inputs are on the first device: other devices that use them have to
    receive them, and with `first_to` the first stage runs on the first device. In any order, inputs are available
    wherever they are needed, and `input_bytes` and `input_seconds` are refused.

    Returns:
        A `Plan`; pass its `at`, or the plan itself, to `split`.

    Raises:
        PlanError: No cuts satisfy all limits; names the limits that prevent a plan and what would be enough.
        SplitError: An argument is invalid, the costs of calls or the power of devices are unknown, or there are too
            many cuts for a limit of latency or energy.
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

    return made_for(replace(found, hints=(*advice, *hint_at_two_tensors(task, found))), model)


def solve(task: Task, report: Report = silent) -> Plan:
    """Finds the best plan with the method that fits; `report` receives the progress of the search."""
    from kerassplit.planning.graph_answers import InGraph  # SciPy takes a while
    from kerassplit.planning.refusals import explained, refuse_at_once

    refuse_at_once(task)
    graph = InGraph(task, task.holds or "bytes")
    try:
        return plan_of(graph, graph.solve(report))
    except PlanError as error:
        raise explained(error, task) from error


def even_stages(model: keras.Model, stages: int, **options: Any) -> Plan:
    """Plans for this many identical devices.

    Args:
        model: A functional or built Sequential model.
        stages: Number of stages; at least 2.
        **options: Options of `plan`.

    Raises:
        SplitError: `stages` is not such a number, or there is no such plan. The message refers to `plan`, which has
            more options.
    """
    try:
        count = 0 if isinstance(stages, bool) else operator.index(stages)
    except TypeError:
        count = 0
    if count < 2:
        raise SplitError(f"`stages` must be a whole number, 2 or more; got {stages!r}.")
    try:
        return plan(model, count, **options)
    except SplitError as error:
        raise SplitError(
            f"{error}\nArguments that `split` does not take are those of `kerassplit.plan`: pass the plan as `at`."
        ) from error
