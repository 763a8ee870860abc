"""Explains why a model has no plan: which limits prevent it, and what would be enough."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import reduce

import numpy as np

from kerassplit.errors import PlanError, SplitError
from kerassplit.files.sizes import format_bytes
from kerassplit.planning.graph_answers import InGraph
from kerassplit.planning.task import Task
from kerassplit.text import listed

MORE_DEVICES = 8
"""Number of devices that are added to check if more of them help."""
Lift = Callable[[Task], Task]


def explained(error: PlanError, task: Task) -> PlanError:
    """Rewrites a solver's error as one about the arguments of `plan`.

    Each limit is lifted on its own; if that makes a plan possible, the limit is in the way. If no single one suffices,
    all are lifted and restored one after another as long as there is a plan: the limits that stay lifted are in the way
    together, and all of them are necessary (the deletion filter of Chinneck and Dravnieks, "Locating Minimal Infeasible
    Constraint Sets in Linear Programs", 1991, reversed). If there are too many cuts to list, those of few tensors are
    tried.
    """
    if error.binding in (("time",), ("any_order",)):
        return error
    lifts, start = dict(_lifts(task)), f"No cuts of '{task.profile.model}' for these devices keep to all limits"
    mending = [name for name, lift in lifts.items() if _is_possible(lift(task))]
    if mending:
        enough = {name: number for name in mending if (number := _enough(name, task)) is not None}
        if "memory" in mending and "devices" not in mending and (many := _many_devices(task)) is not None:
            mending, enough = [*mending, "devices"], {**enough, "devices": many}
        first, *others = [_way_out(name, task, enough.get(name)) for name in mending]
        ways = "; or ".join([f"{first[0].upper()}{first[1:]}", *others])
        return PlanError(f"{start}. {ways}.", binding=mending, enough=enough)

    def is_enough(names: Iterable[str]) -> bool:
        return _is_possible(reduce(lambda lifted, name: lifts[name](lifted), names, task))

    together = list(lifts)
    if not is_enough(together):
        return PlanError(f"{start}. Loosen several of them.", binding=together)
    for name in lifts:
        others = [other for other in together if other != name]
        together = others if is_enough(others) else together
    names = [name.replace("_", " ") for name in together]
    said = f"{', '.join(names[:-1])} and {names[-1]}. Loosen all of them"
    return PlanError(f"{start}. These are in the way together: {said}.", binding=together)


def refuse_at_once(task: Task) -> None:
    """Refuses tasks that clearly have no plan.

    Raises:
        PlanError: No device can run a block, or there are more devices than possible stages.
        SplitError: A required cut has several tensors, but only one may cross.
    """
    devices, stages = _count(task), len(task.profile.blocks)
    too_many = task.is_chain and devices > stages and not (task.leave_out or task.replicas)
    if too_many and _is_possible(replace(task, leave_out=True)):
        alike = len(task.devices) == 1 and _would_do(task, stages)
        raise PlanError(
            f"'{task.profile.model}' has {stages - 1} split points, so {stages} stages at most, and there "
            f"are {devices} devices. Use fewer, let some stay without a stage (leave_out=True, --leave-out), or "
            "let more tensors cross (max_crossing=2, --max-crossing 2).",
            binding=("devices",),
            enough={"devices": stages} if alike else {},
        )
    for block in np.flatnonzero(np.isinf(task.work.blocks).all(axis=0)):
        raise PlanError(
            f"No device can run the block '{task.profile.blocks[block].name}': on each of them its seconds are "
            "infinite. Give it a finite number on one of them.",
            binding=("seconds",),
        )
    for cut in task.limits.must_cut if task.limits.max_crossing == 1 else ():
        if len(cut) > 1:
            raise SplitError(
                f"A cut at {', '.join(_names(task, cut))} lets more than one tensor cross. Allow it with "
                f"max_crossing={len(cut)} (--max-crossing {len(cut)}), or cut at a split point."
            )


def _names(task: Task, cut: Sequence[int]) -> list[str]:
    return [f"'{name}'" for name in task.graph.names(cut)]


def _is_possible(task: Task) -> bool:
    """Checks if there is a plan, among the cuts of few tensors that can all be tried."""
    try:
        known = InGraph(task).few_listed()
        return known is not None and known.best() is not None
    except SplitError:  # no plan; or the bytes of a tensor inside a branch are unknown
        return False


def _many_devices(task: Task) -> int | None:
    """Returns how many identical devices would be enough, if more than there are; `None` if not, or if unknown."""
    known = InGraph(task).few_listed() if len(task.devices) == 1 else None
    many = None if known is None else known.fewest_stages()
    return many if many is not None and many > _count(task) and _would_do(task, many) else None


def _lifts(task: Task) -> Iterator[tuple[str, Lift]]:
    """Yields a function to lift each limit of the task, with the limit's name."""
    limits = task.limits
    if task.limits_memory:
        yield "memory", lambda task: _with_memory(task, math.inf)
    if limits.largest_crossing < math.inf:
        yield "largest_crossing", lambda task: task.with_limits(largest_crossing=math.inf)
    for name in ("largest_latency", "largest_energy"):
        if getattr(limits, name) < math.inf:
            yield name, lambda task, name=name: task.with_limits(**{name: math.inf})
    yield "devices", lambda task: _with_devices(task, MORE_DEVICES)
    for name in ("must_cut", "must_not_cut", "first_to", "last_from"):
        if getattr(limits, name):
            yield name, lambda task, name=name: task.with_limits(**{name: ()})
    if limits.max_crossing is not None:
        yield "max_crossing", lambda task: task.with_limits(max_crossing=(task.limits.max_crossing or 0) + 2)
    if isinstance(task.links, dict):
        yield "links", lambda task: replace(task, links=None)
    if np.isinf(task.work.calls).any():
        yield "seconds", _all_able


def _with_memory(task: Task, least: float) -> Task:
    """Returns the task with at least this many bytes of memory on each device."""
    given = [math.inf if device.memory is None else float(device.memory) for device in task.devices]
    memories = [None if max(memory, least) == math.inf else max(memory, least) for memory in given]
    pairs = zip(task.devices, memories, strict=True)
    return replace(task, devices=tuple(replace(device, memory=memory) for device, memory in pairs))


def _with_devices(task: Task, more: int, *, leave_out: bool = True) -> Task:
    """Returns the task with more devices, like the one with the most memory."""
    kinds = range(len(task.devices))
    most = max(kinds, key=lambda kind: math.inf if (size := task.devices[kind].memory) is None else float(size))
    devices = list(task.devices)
    devices[most] = replace(devices[most], count=devices[most].count + more)
    links = None if isinstance(task.links, list) else task.links
    return replace(task, devices=tuple(devices), links=links, leave_out=leave_out)


def _count(task: Task) -> int:
    return sum(device.count for device in task.devices)


def _would_do(task: Task, count: int) -> bool:
    """Checks if this many devices would be enough, with all of them in use if the task requires that."""
    return _is_possible(_with_devices(task, count - _count(task), leave_out=task.leave_out))


def _all_able(task: Task) -> Task:
    """Returns the task with devices that can all run all calls."""
    blocks, calls = (np.where(np.isinf(table), 0.0, table) for table in (task.work.blocks, task.work.calls))
    return replace(task, work=replace(task.work, blocks=blocks, calls=calls))


def _enough(name: str, task: Task) -> float | None:
    """Returns the least value of a limit that makes a plan possible, other limits kept; `None` if not numeric."""
    if name == "memory":
        least = InGraph(_with_memory(task, math.inf)).least_memory()
        if least is None:
            return None
        top = math.ceil(least * (1 + 1e-9))  # if all have the same memory; if some have more already, less may do
        alike = len({device.memory for device in task.devices}) == 1
        return _least(
            math.floor(least * (1 - 1e-9)) if alike else 0, top, lambda size: _is_possible(_with_memory(task, size))
        )
    if name == "largest_crossing":
        sizes = InGraph(task.with_limits(largest_crossing=math.inf)).sizes_of_cuts()
        return sizes[
            _least(0, len(sizes) - 1, lambda place: _is_possible(task.with_limits(largest_crossing=sizes[place])))
        ]
    if name in ("largest_latency", "largest_energy"):
        least = replace(task.with_limits(**{name: math.inf}), objective=name.removeprefix("largest_"))
        known = InGraph(least).few_listed()
        best = None if known is None else known.best()
        return None if best is None else best.value * (1 + 1e-12)
    if name == "devices" and not _is_possible(_with_devices(task, 0)):
        for more in range(1, MORE_DEVICES + 1):  # if all of them have to be in use, more may be too many
            if _would_do(task, _count(task) + more):
                return _count(task) + more
        return _count(task) + _least(1, MORE_DEVICES, lambda more: _is_possible(_with_devices(task, more)))
    return None


def _least(low: int, high: int, possible: Callable[[int], bool]) -> int:
    """Finds the least integer for which `possible` is true, if it is for `high`, by bisection."""
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if possible(middle) else (middle + 1, high)
    return high


def _way_out(name: str, task: Task, enough: float | None) -> str:
    """Returns a clause that tells how to loosen a limit."""
    limits = task.limits
    if name == "memory":
        smallest = min(float(device.memory) for device in task.devices if device.memory is not None)
        size = "more memory" if enough is None else f"a memory of {_size(enough)} or more"
        return f"each device needs {size} (the smallest has {_size(smallest)})"
    if name == "largest_crossing":
        return f"the largest crossing has to be {_size(enough or 0)} or more (it is {_size(limits.largest_crossing)})"
    if name in ("largest_latency", "largest_energy"):
        unit, now = "s" if name == "largest_latency" else "J", getattr(limits, name)
        least = "more" if enough is None else f"{_rounded_up(enough):.4g} {unit} or more"
        return f"the {name.replace('_', ' ')} has to be {least} (it is {now:.4g} {unit})"
    if name in ("must_cut", "must_not_cut"):
        cuts = [" + ".join(_names(task, cut)) for cut in getattr(limits, name)]
        what = "require" if name == "must_cut" else "forbid"
        return f"do not {what} {'all of the cuts' if len(cuts) > 1 else 'the cut'} {', '.join(cuts)}"
    if name in ("first_to", "last_from"):
        where = listed(task.graph.names(getattr(limits, name)))
        if name == "first_to":
            return f"let the first stage end earlier than at {where} (first_to)"
        return f"let the last stage begin later than at {where} (last_from)"
    if name == "devices":
        leaving = "leave_out=True, --leave-out"
        if enough is None:
            ways = "use fewer devices"
            if not isinstance(task.links, list):
                ways += f", or let some stay without a stage ({leaving})"
            return f"{ways}: with these limits it cannot be cut into so many stages"
        some_left = "" if _would_do(task, round(enough)) else f", some of them without a stage ({leaving}),"
        return f"{enough} devices{some_left} would be enough (there are {_count(task)})"
    return {
        "max_crossing": "let more tensors cross (max_crossing, --max-crossing)",
        "links": "link more pairs of devices (links)",
        "seconds": "let more blocks run on more devices (some seconds are infinite)",
    }[name]


def _rounded_up(number: float) -> float:
    """Rounds up to four digits."""
    step = 10.0 ** (math.floor(math.log10(number)) - 3) if number else 1.0
    return math.ceil(number / step) * step


def _size(count: float) -> str:
    """Formats bytes exactly, and with a unit if there are many."""
    whole = math.ceil(count)
    return f"{whole} bytes ({format_bytes(whole)})" if whole >= 1024 else f"{whole} bytes"
