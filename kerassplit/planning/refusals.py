"""Why a model has no plan where several tensors may cross: which limits are in the way, and what would be enough."""

import math
from collections.abc import Callable
from dataclasses import replace

from kerassplit.errors import PlanError
from kerassplit.planning.in_graph import InGraph
from kerassplit.planning.task import Task
from kerassplit.units import format_bytes


def explained(error: PlanError, task: Task) -> PlanError:
    """The error in the words of `plan`.

    Each limit is lifted on its own; where that makes a plan possible, it is in the way. Cuts of few tensors are tried.
    """
    if error.binding == ("time",):
        return error
    if "memory" in error.binding:
        return _too_little_memory(error, task)
    ways = {name: lifted for name, lifted in _lifts(task).items() if InGraph(lifted).is_possible()}
    model = task.profile.model
    if not ways:
        return PlanError(
            f"No cuts of '{model}' for these devices keep to all limits, and to loosen one is not enough. Loosen "
            "several of them.",
            binding=error.binding,
        )
    enough = {}
    clauses = []
    for name in ways:
        if name == "largest_crossing":
            enough[name] = _least_crossing(task)
            size = f"{int(enough[name])} bytes ({format_bytes(int(enough[name]))})"
            clauses.append(f"let the largest crossing be {size} or more")
        elif name == "devices":
            clauses.append(
                "take fewer devices, or let some stay without a stage (leave_out=True, --leave-out): it cannot be cut "
                "into so many stages"
            )
        else:
            clauses.append(_CLAUSES[name])
    return PlanError(
        f"No cuts of '{model}' for these devices keep to all limits. {clauses[0][0].upper()}{clauses[0][1:]}"
        + "".join(f"; or {clause}" for clause in clauses[1:])
        + ".",
        binding=tuple(ways),
        enough=enough,
    )


_CLAUSES = {
    "max_crossing": "let more tensors cross (max_crossing)",
    "must_cut": "require other cuts (must_cut)",
    "must_not_cut": "forbid fewer cuts (must_not_cut)",
    "first_to": "let the first stage end earlier (first_to)",
    "last_from": "let the last stage begin later (last_from)",
    "links": "link more pairs of devices (links)",
}


def _lifts(task: Task) -> dict[str, Task]:
    """For each limit that the task has, the task without it."""
    limits = task.limits
    most = limits.max_crossing
    lifted: dict[str, tuple[bool, Callable[[], Task]]] = {
        "largest_crossing": (limits.largest_crossing < math.inf, lambda: _with(task, largest_crossing=math.inf)),
        "must_cut": (bool(limits.must_cut), lambda: _with(task, must_cut=())),
        "must_not_cut": (bool(limits.must_not_cut), lambda: _with(task, must_not_cut=())),
        "first_to": (bool(limits.first_to), lambda: _with(task, first_to=())),
        "last_from": (bool(limits.last_from), lambda: _with(task, last_from=())),
        "max_crossing": (most is not None, lambda: _with(task, max_crossing=(most or 0) + 2)),
        "devices": (not task.leave_out and not isinstance(task.links, list), lambda: replace(task, leave_out=True)),
        "links": (isinstance(task.links, dict), lambda: replace(task, links=None)),
    }
    return {name: make() for name, (here, make) in lifted.items() if here}


def _with(task: Task, **limits: object) -> Task:
    return replace(task, limits=replace(task.limits, **limits))


def _least_crossing(task: Task) -> float:
    """The least bytes to let cross, the other limits as they are; by bisection over the sizes that there are."""
    sizes = InGraph(_with(task, largest_crossing=math.inf)).sizes_of_cuts()
    low, high = 0, len(sizes) - 1
    while low < high:
        middle = (low + high) // 2
        if InGraph(_with(task, largest_crossing=sizes[middle])).is_possible():
            high = middle
        else:
            low = middle + 1
    return sizes[low]


def _too_little_memory(error: PlanError, task: Task) -> PlanError:
    """With bytes, where all devices have the same."""
    factor, given = error.enough.get("memory_factor"), {device.memory for device in task.devices}
    if factor is None or len(given) > 1 or None in given:
        return error
    memory = float(next(iter(given)) or 0)
    least = math.ceil(memory * factor)
    message = (
        f"The devices have too little memory. Each needs {least} bytes ({format_bytes(least)}) or more, and has "
        f"{format_bytes(round(memory))}."
    )
    enough = {**error.enough, "memory": least}
    if "devices" in enough:
        message += f" {int(enough['devices'])} devices like these would be enough, too."
    return PlanError(message, binding=("memory",), enough=enough)
