"""Which plan is best at which bandwidth, with exact breakpoints.

What a plan takes is a line in seconds per byte, the inverse of the bandwidth: the seconds of computing and of latency,
plus the bytes moved times the seconds per byte. (With transfers that overlap it is the larger of a constant and a
line.) The best at every bandwidth is the lower envelope of all the plans' lines.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class BandwidthRange:
    """A plan and the bandwidths at which it is the best one.

    Attributes:
        low: Bytes per second: from here on, ...
        high: ... to here.
        plan: Number of the plan.
        seconds: What does not depend on the bandwidth; without what `at_least` counts.
        moved: Bytes that go over the link.
        at_least: Seconds below which no bandwidth brings it: the slowest stage's computing, where transfers overlap.
    """

    low: float
    high: float
    plan: int
    seconds: float
    moved: float
    at_least: float = 0.0

    def value(self, bandwidth: float) -> float:
        """Seconds at a bandwidth in bytes per second.

        >>> BandwidthRange(1e3, 1e6, 0, seconds=0.5, moved=1e4).value(1e5)
        0.6
        """
        return max(self.at_least, self.seconds + self.moved / bandwidth)


def sweep_lines(solve: Callable[[float], BandwidthRange], low: float, high: float) -> tuple[BandwidthRange, ...]:
    """The lower envelope of plans that are lines, from a function that gives a best one at a bandwidth.

    Two plans' lines meet at one point; if no plan is better there, it is a breakpoint, else there is one more on each
    side (Eisner and Severance, "Mathematical techniques for efficient record segmentation", 1976). So it takes two
    searches for each range.

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


def lower_envelope(flat: Numbers, fixed: Numbers, moved: Numbers) -> list[BandwidthRange]:
    """The best of some plans at every bandwidth, each the larger of `flat` and `fixed` + `moved` × seconds per byte.

    Args:
        flat: Seconds, shape (plans,).
        fixed: Seconds; `inf` where there is no such plan.
        moved: Bytes.

    Returns:
        Ranges from bandwidth 0 to infinity, each beginning where the one before ends. At a breakpoint both are equally
        good. None where there is no plan.

    Example:

    >>> ranges = lower_envelope(np.zeros(3), np.array([5.0, 2.5, 1.5]), np.array([0.0, 3e6, 9e6]))
    >>> [(range.low, range.high, range.plan) for range in ranges]
    [(0.0, 1200000.0, 0), (1200000.0, 6000000.0, 1), (6000000.0, inf, 2)]
    """
    made: list[BandwidthRange] = []
    plans = np.flatnonzero(np.isfinite(fixed))
    if not len(plans):
        return made
    flat, fixed, moved = flat[plans], fixed[plans], moved[plans]
    # From infinite bandwidth to none.
    inverse, rises = 0.0, np.where(fixed >= flat, moved, 0.0)
    here = int(np.lexsort((np.arange(len(flat)), moved, rises, np.maximum(flat, fixed)))[0])
    while True:
        following, there = _next(flat, fixed, moved, here, inverse)
        low, high = 0.0 if np.isinf(there) else 1 / there, np.inf if inverse == 0 else 1 / inverse
        if low < high:
            figures = (float(numbers[here]) for numbers in (fixed, moved, flat))
            made.append(BandwidthRange(low, high, int(plans[here]), *figures))
        if following is None:
            return made[::-1]
        here, inverse = following, there


def _next(flat: Numbers, fixed: Numbers, moved: Numbers, here: int, inverse: float) -> tuple[int | None, float]:
    """The plan that takes over from this one, and at how many seconds per byte."""
    slope, start = moved[here], fixed[here]
    if slope == 0:
        return None, np.inf
    # It can only be undercut where it rises; by a plan while that is flat, or by one that rises less.
    rises = max(inverse, (flat[here] - start) / slope)
    at_flat = np.maximum((flat - start) / slope, rises)
    flat_there = (fixed + moved * at_flat < flat) & (flat >= start + slope * rises)
    less = moved < slope
    at_line = np.maximum((fixed - start) / np.where(less, slope - moved, 1.0), rises)
    line_there = less & (fixed + moved * at_line >= flat)
    at = np.minimum(np.where(flat_there, at_flat, np.inf), np.where(line_there, at_line, np.inf))
    at[here] = np.inf
    if np.isinf(at.min()):
        return None, np.inf
    slopes = np.where(flat_there & (at == at_flat), 0.0, moved)
    following = int(np.lexsort((np.arange(len(flat)), moved, slopes, at))[0])
    return following, float(at[following])
