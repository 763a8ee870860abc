"""Random small chains, and all plans of a chain one by one: the slow way, from the words of the problem."""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations, permutations

import numpy as np

from kerassplit.planner.chain import ChainDevice, ChainLimits, ChainLink, ChainProblem, SharedWeight


@dataclass(frozen=True)
class Plain:
    """A plan, and what it costs."""

    devices: tuple[int, ...]
    cuts: tuple[int, ...]
    loads: tuple[float, ...]
    latency: float

    @property
    def bottleneck(self) -> float:
        return max(self.loads)

    def rank(self, objective: str) -> tuple:
        """The documented order of plans; what comes first is best."""
        value = self.bottleneck if objective == "throughput" else self.latency
        squares = sum(load**2 for load in self.loads)
        return value, len(self.devices), squares, tuple(zip(self.devices, (*self.cuts, 0), strict=True))


def all_plans(problem: ChainProblem) -> Iterator[Plain]:
    """Every plan that keeps to the limits."""
    blocks, limits = problem.number_of_blocks, problem.limits
    last_from = blocks if limits.last_from is None else limits.last_from
    usable = [
        cut
        for cut in range(1, blocks)
        if problem.crossing[cut - 1] <= limits.largest_crossing
        and cut not in limits.must_not_cut
        and limits.first_to <= cut <= last_from
    ]
    for devices in _orders(problem):
        for cuts in combinations(usable, len(devices) - 1):
            if set(limits.must_cut) <= set(cuts):
                plan = _priced(problem, devices, cuts)
                if plan is not None:
                    yield plan


def _orders(problem: ChainProblem) -> list[tuple[int, ...]]:
    each = [index for index, device in enumerate(problem.devices) for _ in range(device.count)]
    sizes = range(1, len(each) + 1) if problem.leave_out else [len(each)]
    most = problem.limits.most_stages or len(each)
    sizes = [size for size in sizes if problem.limits.fewest_stages <= size <= most]
    choose = permutations if problem.any_order else combinations
    return sorted({order for size in sizes for order in choose(each, size)})


def _link(problem: ChainProblem, one: int, other: int, place: int) -> ChainLink | None:
    if isinstance(problem.links, ChainLink):
        return problem.links
    return problem.links.get((one, other)) if isinstance(problem.links, Mapping) else problem.links[place]


def _priced(problem: ChainProblem, devices: tuple[int, ...], cuts: tuple[int, ...]) -> Plain | None:
    """The plan with its costs; `None` if a device cannot run a block, lacks memory, or is not linked."""
    ends = (0, *cuts, problem.number_of_blocks)
    moving = [0.0]
    for place, cut in enumerate(cuts):
        link = _link(problem, devices[place], devices[place + 1], place)
        if link is None:
            return None
        moving.append(link.latency + problem.crossing[cut - 1] / link.bandwidth)
    moving.append(0.0)
    for place, (outer, device, size) in enumerate(
        [(problem.source, devices[0], problem.input_bytes), (problem.sink, devices[-1], problem.output_bytes)]
    ):
        if outer is not None and outer != device:
            link = _link(problem, *((outer, device) if place == 0 else (device, outer)), 0)
            if link is None:
                return None
            moving[-place] = link.latency + size / link.bandwidth
    loads, compute = [], []
    for place, device in enumerate(devices):
        first, behind = ends[place], ends[place + 1]
        if _memory(problem, first, behind) > problem.devices[device].memory:
            return None
        compute.append(sum(problem.devices[device].seconds[first:behind]))
        parts = moving[place], compute[-1], moving[place + 1]
        loads.append(max(parts) if problem.overlap else sum(parts))
    if np.isinf(compute).any():
        return None
    return Plain(devices, cuts, tuple(loads), sum(compute) + sum(moving))


def _memory(problem: ChainProblem, first: int, behind: int) -> float:
    buffers = [0.0, *problem.buffers, 0.0]
    shared = sum(weight.bytes for weight in problem.shared if any(first <= block < behind for block in weight.blocks))
    own = sum(problem.parameters[first:behind]) + max(problem.peaks[first:behind])
    return own + shared + buffers[first] + buffers[behind]


def random_chain(seed: int, **given) -> ChainProblem:
    """A small problem with whole numbers, so that many plans are equally good. Some have no plan.

    Args:
        seed: Decides all that is not given.
        **given: Fields of the problem.
    """
    dice = random.Random(seed)
    blocks = dice.randint(1, 7)
    kinds = dice.randint(1, 3)
    inf = float("inf")

    def numbers(most: int, size: int, unable: float = 0.0) -> list[float]:
        return [inf if dice.random() < unable else float(dice.randint(0, most)) for _ in range(size)]

    memories = [inf, inf, *(float(dice.randint(10, 60)) for _ in range(3))]
    same = numbers(9, blocks)
    devices = tuple(
        ChainDevice(
            f"d{index}",
            np.array(same if dice.random() < 0.3 else numbers(9, blocks, dice.choice([0, 0, 0.15]))),
            memory=dice.choice(memories),
            count=dice.choice([1, 1, 2]) if kinds > 1 else dice.randint(1, 4),
        )
        for index in range(kinds)
    )
    fields: dict = {
        "any_order": dice.random() < 0.4,
        "leave_out": dice.random() < 0.4,
        "objective": dice.choice(["throughput", "latency"]),
        "overlap": dice.random() < 0.4,
    } | given
    positions = sum(device.count for device in devices)

    def link() -> ChainLink:
        return ChainLink(bandwidth=dice.choice([0.5, 1.0, 2.0, inf]), latency=float(dice.randint(0, 2)))

    pairs = {(one, other): link() for one in range(kinds) for other in range(kinds) if dice.random() < 0.9}
    shapes = [link(), pairs]
    ends: dict = {}
    if not fields["any_order"] and not fields["leave_out"] and dice.random() < 0.3:
        shapes = [tuple(link() for _ in range(positions - 1))]
    elif dice.random() < 0.5:
        ends = {
            "source": dice.choice([None, *range(kinds)]),
            "sink": dice.choice([None, *range(kinds)]),
            "input_bytes": float(dice.randint(0, 9)),
            "output_bytes": float(dice.randint(0, 9)),
        }
    cuts = list(range(1, blocks))
    dice.shuffle(cuts)
    limits = ChainLimits(
        largest_crossing=dice.choice([inf, inf, float(dice.randint(3, 9))]),
        must_cut=tuple(cuts[: dice.choice([0, 0, 0, 1])]),
        must_not_cut=tuple(cuts[1 : 1 + dice.choice([0, 0, 1])]),
        first_to=dice.choice([0, 0, dice.randint(0, blocks)]),
        last_from=dice.choice([None, None, dice.randint(0, blocks)]),
        fewest_stages=dice.choice([1, 1, 2]),
        most_stages=dice.choice([None, None, dice.randint(1, 4)]),
    )
    shared = tuple(
        SharedWeight(float(dice.randint(1, 9)), tuple(dice.choices(range(blocks), k=dice.randint(1, 3))))
        for _ in range(dice.choice([0, 0, 1, 3]))
    )
    return ChainProblem(
        devices,
        crossing=np.array(numbers(9, blocks - 1)),
        links=dice.choice(shapes),
        parameters=np.array(numbers(9, blocks)),
        peaks=np.array(numbers(12, blocks)),
        buffers=dice.choice([None, np.array(numbers(15, blocks - 1))]),
        shared=shared,
        limits=dice.choice([limits, ChainLimits()]),
        **(ends | fields),
    )
