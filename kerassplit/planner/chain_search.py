"""The best cuts of a chain, exactly: `plan_chain`.

Throughput: the least bottleneck that `reach` says yes to is found by bisection over whole numbers of ticks; what it
says no to at one tick less is the proof. Latency: `shortest` finds it in one pass.
"""

import heapq
import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from kerassplit.planner.chain import ChainPlan, ChainProblem
from kerassplit.planner.chain_blame import refusal, too_many_orders
from kerassplit.planner.chain_even import Way, evenest
from kerassplit.planner.chain_reach import Ground, prepare, reach, shortest
from kerassplit.planner.chain_slots import number_of_states
from kerassplit.planner.chain_ticks import NEVER, crossing_bytes

_MOST_STATES = 200_000_000


def plan_chain(problem: ChainProblem) -> ChainPlan:
    """The best cuts of a chain of blocks, with proof.

    Takes time linear in cuts × devices (times the 60 steps of a bisection, for throughput) unless memory is scarce and
    the buffers at cuts differ much; then more, but the result is exact all the same. Devices in any order take time in
    proportion to the sets of devices (counts for each kind).

    Of the plans with the best value it gives that with the fewest stages, then that with the smallest sum of squares of
    loads (compared to about eight digits), then that with lower device numbers and earlier cuts.

    Args:
        problem: The chain, the devices, the links and the limits.

    Returns:
        The best `ChainPlan`; no stage is empty.

    Raises:
        PlanError: There is none. The message says which limits are in the way and what would be enough.

    Example:

    >>> import numpy as np
    >>> from kerassplit.planner.chain import ChainDevice, ChainLink, ChainProblem
    >>> device = ChainDevice("cpu", np.array([3.0, 1.0, 1.0, 3.0]), count=2)
    >>> problem = ChainProblem((device,), crossing=np.array([10.0, 20.0, 10.0]), links=ChainLink(bandwidth=100.0))
    >>> plan = plan_chain(problem)
    >>> plan.cuts, plan.value
    ((2,), 4.2)
    """
    if number_of_states(problem) * (problem.number_of_blocks + 1) > _MOST_STATES:
        raise too_many_orders(problem)
    ground = prepare(problem)
    way = find(ground)
    if way is None:
        raise refusal(problem)
    return _best(ground, way)


def find(ground: Ground) -> Way | None:
    """The best way through the slots; `None` if there is none."""
    if ground.problem.objective == "latency":
        least = shortest(ground)
        totals = [
            int(ticks[-1] + moving[-1])
            for ticks, moving, border in zip(least, ground.ticks.moving, ground.slots.borders, strict=True)
            if border.place == "end" and ticks[-1] < -NEVER
        ]
        return evenest(ground, min(totals), least) if totals else None
    value = _least_bottleneck(ground)
    return None if value is None else evenest(ground, value, reach(ground, value))


def feasible(ground: Ground) -> bool:
    """Whether there is any plan, however slow."""
    return _ends(ground, reach(ground, 2**60))


def _ends(ground: Ground, reached: list[NDArray[np.bool_]]) -> bool:
    return any(reached[number][-1] for number, border in enumerate(ground.slots.borders) if border.place == "end")


def _least_bottleneck(ground: Ground) -> int | None:
    """In ticks; `None` if no bottleneck is enough."""
    if not feasible(ground):
        return None
    low = _surely_needed(ground)
    step = max(1, low >> 10)
    high = low
    # The best is mostly close to what is surely needed.
    while not _ends(ground, reach(ground, high)):
        low, high, step = high + 1, high + step, step * 8
    while low < high:
        middle = (low + high) // 2
        if _ends(ground, reach(ground, middle)):
            high = middle
        else:
            low = middle + 1
    return high


def _surely_needed(ground: Ground) -> int:
    """No bottleneck is less: every block runs somewhere, and the blocks' least times are shared by all devices."""
    blocks = np.stack(
        [
            np.where(np.isinf(device.seconds), -NEVER, np.diff(running))
            for device, running in zip(ground.problem.devices, ground.ticks.compute, strict=True)
        ]
    ).min(axis=0)
    return max(int(blocks.max()), -(-int(blocks.sum()) // ground.problem.number_of_devices))


def best_plans(problem: ChainProblem) -> Iterator[ChainPlan]:
    """All plans from the best on, each with other cuts; each has the best devices for its cuts.

    After each plan the others are shared out among problems with one more cut forbidden or required (Lawler, "A
    procedure for computing the K best solutions to discrete optimization problems", 1972).

    Args:
        problem: As for `plan_chain`.

    Yields:
        Plans whose values do not fall. Nothing if there is none.

    Example:

    >>> import numpy as np
    >>> from kerassplit.planner.chain import ChainDevice, ChainProblem
    >>> problem = ChainProblem((ChainDevice("cpu", np.array([3.0, 1.0, 3.0]), count=2),), crossing=np.zeros(2))
    >>> [(plan.cuts, plan.value) for plan in best_plans(problem)]
    [((1,), 4.0), ((2,), 4.0)]
    """
    number = 0
    waiting: list[tuple[float, tuple[int, ...], int, ChainProblem, ChainPlan]] = []

    def add(part: ChainProblem) -> None:
        nonlocal number
        ground = prepare(part)
        way = find(ground)
        if way is not None:
            number += 1
            plan = _best(ground, way)
            heapq.heappush(waiting, (plan.value, plan.cuts, number, part, plan))

    add(problem)
    while waiting:
        _, _, _, part, plan = heapq.heappop(waiting)
        yield plan
        limits = part.limits
        free = [cut for cut in plan.cuts if cut not in limits.must_cut]
        for place, cut in enumerate(free):
            must_cut = (*limits.must_cut, *free[:place])
            add(replace(part, limits=replace(limits, must_cut=must_cut, must_not_cut=(*limits.must_not_cut, cut))))
        if problem.leave_out:
            more = replace(limits, must_cut=plan.cuts, fewest_stages=max(limits.fewest_stages, len(plan.cuts) + 2))
            add(replace(part, limits=more))


def _best(ground: Ground, way: Way) -> ChainPlan:
    latency = ground.problem.objective == "latency"
    return described(ground, way, "shortest path over cuts" if latency else "bisection with exact reachability")


def described(ground: Ground, way: Way, method: str) -> ChainPlan:
    """The plan for a way, with the times in seconds again."""
    problem = ground.problem
    crossing = crossing_bytes(problem)
    links = [ground.slots.borders[border].link for border in way.borders]
    transfers = [
        0.0 if link is None else float(link.seconds(crossing[cut])) for link, cut in zip(links, way.cuts, strict=True)
    ]
    stages = list(zip(way.devices, way.cuts, way.cuts[1:], strict=False))
    compute = [math.fsum(problem.devices[device].seconds[first:behind]) for device, first, behind in stages]
    parts = list(zip(compute, transfers, transfers[1:], strict=False))
    loads = [max(part) if problem.overlap else math.fsum(part) for part in parts]
    value = max(loads) if problem.objective == "throughput" else math.fsum([*compute, *transfers])
    first, behind = np.array(way.cuts[:-1]), np.array(way.cuts[1:])
    moved = [crossing[cut] for link, cut in zip(links, way.cuts, strict=True) if link is not None]
    return ChainPlan(
        cuts=way.cuts[1:-1],
        devices=way.devices,
        compute=tuple(compute),
        transfers=tuple(transfers),
        loads=tuple(loads),
        memory=tuple(ground.memory.needed(first, behind).tolist()),
        moved=float(sum(moved)),
        value=value,
        lower_bound=value,
        optimal=True,
        even=way.even,
        method=method,
    )
