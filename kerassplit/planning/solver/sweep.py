"""Finds the best plan at every bandwidth, with exact breakpoints.

The time of a plan is a linear function of seconds per byte, the inverse of the bandwidth: the seconds of computing and
of latency, plus the bytes moved times the seconds per byte. (If transfers overlap, it is the larger of a constant and a
line.) The best time at every bandwidth is the lower envelope of all the plans' lines.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class BandwidthRange:
    """A plan and the range of bandwidths at which it is the best.

    Attributes:
        low: Lowest bandwidth of the range, in bytes per second.
        high: Highest bandwidth of the range, in bytes per second.
        plan: Index of the plan.
        seconds: Seconds that do not depend on the bandwidth, without what `at_least` counts.
        moved: Bytes that go over the link.
        at_least: Lower limit in seconds at any bandwidth: the slowest stage's computing, if transfers overlap.
    """

    low: float
    high: float
    plan: int
    seconds: float
    moved: float
    at_least: float = 0.0

    def value(self, bandwidth: float) -> float:
        """Returns the seconds at a bandwidth in bytes per second.

        >>> BandwidthRange(1e3, 1e6, 0, seconds=0.5, moved=1e4).value(1e5)
        0.6
        """
        return max(self.at_least, self.seconds + self.moved / bandwidth)


def sweep_lines(solve: Callable[[float], BandwidthRange], low: float, high: float) -> tuple[BandwidthRange, ...]:
    """Finds the lower envelope of plans whose times are lines, with a function that finds a best plan at a bandwidth.

    The lines of two plans intersect at one point; if no plan is better there, it is a breakpoint; otherwise there is
    another one on each side (Eisner and Severance, "Mathematical techniques for efficient record segmentation", 1976).
    So each range needs two searches.

    Args:
        solve: Returns a best plan at a bandwidth; its `low` and `high` are ignored.
        low: Lowest bandwidth in bytes per second, more than 0.
        high: Highest bandwidth in bytes per second.

    Returns:
        Ranges from `low` to `high`.

    Raises:
        ValueError: The bandwidths are not a range.
    """
    if not 0 < low < high:
        raise ValueError(
            f"The bandwidths from {low} to {high} are not a range. Both must be above 0, the second above the first."
        )
    plans = [solve(low)]
    points = [low]
    waiting = [solve(high)]
    while waiting:
        slow, fast = plans[-1], waiting[-1]
        if not slow.moved < fast.moved or not fast.seconds < slow.seconds:
            # The same line, or two lines that differ by rounding only.
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
    """Finds the best plan at every bandwidth, for times of max(`flat`, `fixed` + `moved` × seconds per byte).

    Args:
        flat: Seconds, shape (plans,).
        fixed: Seconds, shape (plans,); `inf` if there is no such plan.
        moved: Bytes, shape (plans,).

    Returns:
        Ranges from bandwidth 0 to infinity, each beginning where the previous one ends. At a breakpoint both are
        equally good. Empty if there is no plan.

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
    # From infinite bandwidth down to 0.
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
    """Returns the plan that is better next as seconds per byte grow, and where that begins."""
    slope, start = moved[here], fixed[here]
    if slope == 0:
        return None, np.inf
    # It can only be beaten where it rises: by a plan that is still flat there, or by one that rises less.
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
