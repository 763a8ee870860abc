"""Plans for the least latency on two devices, any number of tensors crossing: a minimum cut."""

import math

import numpy as np

from kerassplit.planning.answers import Answer, StageParts, crossing_behind
from kerassplit.planning.devices import Link
from kerassplit.planning.solver.minimum_cut import GraphTensor, TwoDevicePlan, plan_two_devices
from kerassplit.planning.task import Task
from kerassplit.planning.work import Array


def is_one_flow(task: Task) -> bool:
    """Whether a minimum cut answers: two devices, the least latency, one link, no limit."""
    limits = task.limits
    free = limits.max_crossing is None and limits.largest_crossing == math.inf
    rules = (limits.must_cut, limits.must_not_cut, limits.first_to, limits.last_from)
    return (
        task.objective == "latency"
        and len(task.devices) == 2
        and all(device.count == 1 and device.memory is None for device in task.devices)
        and isinstance(task.links, Link)
        and task.leave_out
        and not task.any_order
        and free
        and not any(rules)
        and len(_ends(task)) == 1
    )


def _ends(task: Task) -> list[int]:
    """Calls that nothing follows."""
    graph = task.graph
    return [call for call in task.calls if not any(graph.tensors[one].users for one in graph.calls[call].outputs)]


def solve_as_flow(task: Task) -> Answer:
    """The best plan for two devices, as a minimum cut."""
    edge, cloud = task.work.calls
    plan = minimum_cut_of(task, edge, cloud)
    on_edge = [place for place, here in enumerate(plan.on_edge) if here]
    in_cloud = [place for place, here in enumerate(plan.on_edge) if not here]
    found: list[StageParts] = []
    if on_edge:
        crossing, also = crossing_behind(task, on_edge) if in_cloud else ((), ())
        sent = plan.moving_seconds if in_cloud else 0.0
        work = float(np.sum(edge[on_edge]))
        found.append(StageParts(0, tuple(on_edge), crossing, also, work, 0.0, sent, work + sent, None))
    if in_cloud:
        work, received = float(np.sum(cloud[in_cloud])), plan.moving_seconds
        found.append(StageParts(1, tuple(in_cloud), (), (), work, received, 0.0, work + received, None))
    return Answer(plan.value, plan.lower_bound, plan.optimal, plan.method, found)


def minimum_cut_of(task: Task, edge: Array, cloud: Array) -> TwoDevicePlan:
    """The least latency on two devices with these times, the model's inputs on the first one."""
    assert isinstance(task.links, Link)
    place_of = {call: place for place, call in enumerate(task.calls)}
    tensors = [
        GraphTensor(
            place_of.get(tensor.call),  # `None` for an input of the model
            tuple(sorted({place_of[user] for user in tensor.users})),
            task.sent(index),
        )
        for index, tensor in enumerate(task.graph.tensors)
        if tensor.users
    ]
    link = (float(task.links.bandwidth), float(task.links.latency))
    return plan_two_devices(edge.tolist(), cloud.tolist(), tensors, *link)
