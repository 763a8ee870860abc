"""Which cut is best at which bandwidth, with exact breakpoints.

What a plan takes is a line in seconds per byte, the inverse of the bandwidth: the seconds of computing and of latency,
plus the bytes moved times the seconds per byte. (With transfers that overlap it is the larger of a constant and a
line.) The best at every bandwidth is the lower envelope of all the plans' lines.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from kerassplit.planner.chain import ChainLink, ChainProblem
from kerassplit.planner.chain_blame import refusal
from kerassplit.planner.chain_memory import Memory
from kerassplit.planner.chain_reach import allowed_cuts
from kerassplit.planner.chain_search import plan_chain


@dataclass(frozen=True)
class BandwidthRange:
    """A plan and the bandwidths at which it is the best one.

    Attributes:
        low: Bytes per second: from here on, ...
        high: ... to here.
        cuts: Of the plan.
        devices: Indices of the devices, one for each stage.
        seconds: What does not depend on the bandwidth; without what `at_least` counts.
        moved: Bytes that go over the link.
        at_least: Seconds below which no bandwidth brings it: the slowest stage's computing, where transfers overlap.
    """

    low: float
    high: float
    cuts: tuple[int, ...]
    devices: tuple[int, ...]
    seconds: float
    moved: float
    at_least: float = 0.0

    def value(self, bandwidth: float) -> float:
        """Seconds at a bandwidth in bytes per second.

        >>> BandwidthRange(1e3, 1e6, (1,), (0, 1), seconds=0.5, moved=1e4).value(1e5)
        0.6
        """
        return max(self.at_least, self.seconds + self.moved / bandwidth)


def sweep_two_devices(problem: ChainProblem) -> tuple[BandwidthRange, ...]:
    """The best cut of a chain on two devices at every bandwidth of the link, in closed form.

    With `leave_out`, all on the first device and all on the second one are among the plans; the second one then
    receives the input where `source` is the first device.

    Args:
        problem: Two devices in the given order and one link, whose latency counts and whose bandwidth does not.

    Returns:
        Ranges from bandwidth 0 to infinity, each beginning where the one before ends. At a breakpoint both are equally
        good.

    Raises:
        PlanError: There is no plan.
        ValueError: There are not two devices in a given order and one link, or the output has to be moved.

    Example:

    >>> from kerassplit.planner.chain import ChainDevice
    >>> devices = ChainDevice("edge", np.array([1.0, 4.0])), ChainDevice("cloud", np.array([0.5, 1.0]))
    >>> problem = ChainProblem(devices, crossing=np.array([3e6]), links=ChainLink(latency=0.5), leave_out=True,
    ...                        input_bytes=6e6, source=0, objective="latency")
    >>> [(range.low, range.high, range.cuts, range.devices) for range in sweep_two_devices(problem)]
    [(0.0, 1200000.0, (), (0,)), (1200000.0, 6000000.0, (1,), (0, 1)), (6000000.0, inf, (), (1,))]
    """
    link = problem.links
    if not isinstance(link, ChainLink) or len(problem.devices) != 2 or problem.number_of_devices != 2:
        raise ValueError("A sweep in closed form takes two devices and one link. For others, use `sweep_latency`.")
    if problem.any_order or problem.sink is not None or problem.source == 1:
        raise ValueError(
            "A sweep in closed form takes devices in a given order, an input at the first one or at both, "
            "and an output wherever it is made."
        )
    plans = _two_device_plans(problem, link)
    if not len(plans.cuts):
        raise refusal(problem)
    return tuple(_ranges(problem, plans))


@dataclass(frozen=True, eq=False)
class _Plans:
    """All plans with two devices, by cut: cut 0 is all on the second one, cut n all on the first one.

    What a plan takes is the larger of `flat` and `fixed` + `moved` × seconds per byte.
    """

    cuts: NDArray[np.int64]
    flat: NDArray[np.float64]
    fixed: NDArray[np.float64]
    moved: NDArray[np.float64]


def _two_device_plans(problem: ChainProblem, link: ChainLink) -> _Plans:
    blocks = problem.number_of_blocks
    cuts = np.arange(blocks + 1)
    here = np.concatenate([[0.0], np.cumsum(problem.devices[0].seconds)])
    there = np.concatenate([np.cumsum(problem.devices[1].seconds[::-1])[::-1], [0.0]])
    fetched = problem.source is not None
    moved = np.concatenate([[problem.input_bytes if fetched else 0.0], problem.crossing, [0.0]])
    latency = np.where((cuts < blocks) & ((cuts > 0) | fetched), link.latency, 0.0)
    slower = np.maximum(here, there)
    possible = _possible(problem) & np.isfinite(slower)
    cuts, here, there, slower = cuts[possible], here[possible], there[possible], slower[possible]
    latency, moved = latency[possible], moved[possible]
    if problem.objective == "latency":
        return _Plans(cuts, np.zeros(len(cuts)), here + there + latency, moved)
    if problem.overlap:
        return _Plans(cuts, slower, latency, moved)
    return _Plans(cuts, np.zeros(len(cuts)), slower + latency, moved)


def _possible(problem: ChainProblem) -> NDArray[np.bool_]:
    """Whether the plan with each cut keeps to the limits, shape (n+1,)."""
    blocks, limits, memory = problem.number_of_blocks, problem.limits, Memory(problem)
    cuts = np.arange(blocks + 1)
    middle = (cuts > 0) & (cuts < blocks)
    most = 2 if limits.most_stages is None else limits.most_stages
    possible = np.where(middle, allowed_cuts(problem) & (most >= 2), problem.leave_out & (limits.fewest_stages <= 1))
    possible &= limits.fewest_stages <= 2
    for cut in limits.must_cut:
        possible &= cuts == cut
    start, stop = np.zeros_like(cuts), np.full_like(cuts, blocks)
    for device, first, behind in ((problem.devices[0], start, cuts), (problem.devices[1], cuts, stop)):
        filled = np.flatnonzero(first < behind)
        possible[filled] &= memory.needed(first[filled], behind[filled]) <= device.memory
    return possible


def _ranges(problem: ChainProblem, plans: _Plans) -> list[BandwidthRange]:
    """Walk the lower envelope from infinite bandwidth to none."""
    made: list[BandwidthRange] = []
    inverse, slope = 0.0, np.where(plans.fixed >= plans.flat, plans.moved, 0.0)
    here = int(np.lexsort((plans.cuts, plans.moved, slope, np.maximum(plans.flat, plans.fixed)))[0])
    while True:
        following, there = _next(plans, here, inverse)
        low = 0.0 if np.isinf(there) else 1 / there
        high = np.inf if inverse == 0 else 1 / inverse
        if low < high:
            made.append(_described(problem, plans, here, low, high))
        if following is None:
            return made[::-1]
        here, inverse = following, there


def _next(plans: _Plans, here: int, inverse: float) -> tuple[int | None, float]:
    """The plan that takes over from this one, and at how many seconds per byte."""
    moved, fixed = plans.moved[here], plans.fixed[here]
    if moved == 0:
        return None, np.inf
    # It can only be undercut where it rises; by a plan while that is flat, or by one that rises less.
    rises = max(inverse, (plans.flat[here] - fixed) / moved)
    at_flat = np.maximum((plans.flat - fixed) / moved, rises)
    flat_there = (plans.fixed + plans.moved * at_flat < plans.flat) & (plans.flat >= fixed + moved * rises)
    less = plans.moved < moved
    at_line = np.maximum((plans.fixed - fixed) / np.where(less, moved - plans.moved, 1.0), rises)
    line_there = less & (plans.fixed + plans.moved * at_line >= plans.flat)
    at = np.minimum(np.where(flat_there, at_flat, np.inf), np.where(line_there, at_line, np.inf))
    at[here] = np.inf
    if np.isinf(at.min()):
        return None, np.inf
    slope = np.where(flat_there & (at == at_flat), 0.0, plans.moved)
    following = int(np.lexsort((plans.cuts, plans.moved, slope, at))[0])
    return following, float(at[following])


def _described(problem: ChainProblem, plans: _Plans, plan: int, low: float, high: float) -> BandwidthRange:
    cut = int(plans.cuts[plan])
    between = 0 < cut < problem.number_of_blocks
    return BandwidthRange(
        low=low,
        high=high,
        cuts=(cut,) if between else (),
        devices=(0, 1) if between else (1,) if cut == 0 else (0,),
        seconds=float(plans.fixed[plan]),
        moved=float(plans.moved[plan]),
        at_least=float(plans.flat[plan]),
    )


def sweep_latency(problem: ChainProblem, low: float, high: float) -> tuple[BandwidthRange, ...]:
    """The plan with the least latency at every bandwidth, for any number of devices and all options of `plan_chain`.

    Two plans' lines meet at one point; if no plan is better there, it is a breakpoint, else there is one more on each
    side (Eisner and Severance, "Mathematical techniques for efficient record segmentation", 1976). So it takes two
    searches for each range.

    Args:
        problem: With one link for all pairs of devices, whose latency counts and whose bandwidth does not.
        low: Lowest bandwidth, bytes per second, more than 0.
        high: Highest bandwidth.

    Returns:
        Ranges from `low` to `high`.

    Raises:
        PlanError: There is no plan.
        ValueError: The links differ, or the bandwidths are no range.

    Example:

    >>> from kerassplit.planner.chain import ChainDevice
    >>> devices = tuple(ChainDevice(name, np.full(3, seconds)) for name, seconds in (("phone", 4.0), ("cloud", 1.0)))
    >>> problem = ChainProblem(devices, crossing=np.array([2e6, 1e6]), links=ChainLink(latency=0.5))
    >>> [(range.low, range.high, range.cuts) for range in sweep_latency(problem, 1e3, 1e9)]
    [(1000.0, 333333.3333333333, (2,)), (333333.3333333333, 1000000000.0, (1,))]
    """
    link = problem.links
    if not isinstance(link, ChainLink):
        raise ValueError("A sweep takes one link for all pairs of devices, and sets its bandwidth.")

    def solve(bandwidth: float) -> BandwidthRange:
        plan = plan_chain(replace(problem, objective="latency", links=replace(link, bandwidth=bandwidth)))
        transfers = len(plan.cuts)
        transfers += (problem.source not in (None, plan.devices[0])) + (problem.sink not in (None, plan.devices[-1]))
        seconds = sum(plan.compute) + transfers * link.latency
        return BandwidthRange(low, high, plan.cuts, plan.devices, seconds, plan.moved)

    return sweep_lines(solve, low, high)


def sweep_lines(solve: Callable[[float], BandwidthRange], low: float, high: float) -> tuple[BandwidthRange, ...]:
    """The lower envelope of plans that are lines, from a function that gives a best one at a bandwidth.

    Args:
        solve: From a bandwidth to a best plan there; its `low` and `high` do not count.
        low: Lowest bandwidth, bytes per second, more than 0.
        high: Highest bandwidth.

    Returns:
        Ranges from `low` to `high`.

    Raises:
        ValueError: The bandwidths are no range.
    """
    if not 0 < low < high:
        raise ValueError(
            f"The bandwidths from {low} to {high} are no range. Both must be more than 0, the second more."
        )
    plans = [solve(low)]
    points = [low]
    waiting = [solve(high)]
    while waiting:
        slow, fast = plans[-1], waiting[-1]
        if not slow.moved < fast.moved or not fast.seconds < slow.seconds:
            # The same line, or two that differ by rounding only.
            waiting.pop()
            continue
        meet = (fast.moved - slow.moved) / (slow.seconds - fast.seconds)
        if not points[-1] < meet < high:
            waiting.pop()
            if meet <= points[-1]:
                plans[-1] = fast
            continue
        between = solve(meet)
        if between.value(meet) < slow.value(meet) * (1 - 1e-12):
            waiting.append(between)
        else:
            plans.append(waiting.pop())
            points.append(meet)
    ends = [*points[1:], high]
    return tuple(replace(plan, low=one, high=two) for plan, one, two in zip(plans, points, ends, strict=True))
