"""Chains of blocks as placement problems."""

import math
from collections.abc import Sequence
from typing import Any

from kerassplit.planning.solver.problem import DeviceType, Link, Node, Problem, Tensor

NO_LINK = Link(latency=math.inf)


def chain(
    seconds: Sequence[Sequence[float]], crossing: Sequence[float], *, counts: Sequence[int] = (), **options: Any
) -> Problem:
    """Creates the problem of consecutive blocks on devices in order.

    Args:
        seconds: Seconds of each block, for each type of device.
        crossing: Bytes between each block and the next.
        counts: Number of devices of each type; one by default.
        **options: Fields of the problem. Without `links`, transfers take no time.
    """
    nodes = tuple(Node(tuple(map(float, times))) for times in zip(*seconds, strict=True))
    tensors = tuple(Tensor(block, (block + 1,), float(size)) for block, size in enumerate(crossing))
    devices = tuple(DeviceType(f"d{kind}", (*counts, *[1] * len(seconds))[kind]) for kind in range(len(seconds)))
    free = tuple((Link(0.0, 0.0),) * len(devices) for _ in devices)
    return Problem(nodes, tensors, devices, **{"links": free, "in_order": True, **options})


def everywhere(link: Link, types: int = 1) -> tuple[tuple[Link, ...], ...]:
    """The same link between all types of devices."""
    return tuple((link,) * types for _ in range(types))


def between_neighbours(links: Sequence[Link]) -> tuple[tuple[Link, ...], ...]:
    """Links from each device to the next only."""
    types = range(len(links) + 1)
    return tuple(tuple(links[one] if other == one + 1 else NO_LINK for other in types) for one in types)
