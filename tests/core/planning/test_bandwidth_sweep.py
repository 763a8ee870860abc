"""The best cut at every bandwidth: none is better within a range, and adjacent ones are equal where they meet."""

import doctest
import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import scission
from chains import chain, everywhere
from test_placement import best_by_trying, cost, every_placement, random_problem

from kerassplit.errors import PlanError
from kerassplit.planning.solver import sweep
from kerassplit.planning.solver.listed import listed
from kerassplit.planning.solver.minimum_cut import on_first_device
from kerassplit.planning.solver.place import place
from kerassplit.planning.solver.problem import CutRules, Link, Node, Tensor
from kerassplit.planning.solver.stages import stages_of, value_of
from kerassplit.planning.solver.sweep import BandwidthRange, lower_envelope, sweep_lines


def test_the_examples_in_the_docstrings_are_right():
    results = doctest.testmod(sweep)
    assert results.attempted
    assert not results.failed


def _two_devices(seed, whole=True, **fields):
    """Two devices: integers cause ties, other numbers do not."""
    dice = np.random.default_rng(seed)
    blocks = int(dice.integers(1, 7))

    def numbers(most, size):
        return dice.integers(0, most, size).astype(float) if whole else dice.random(size) * most

    equal = dice.random() < 0.2
    seconds = [numbers(9, blocks)] if equal else [numbers(9, blocks), numbers(4, blocks)]
    rules = [CutRules(), CutRules(first=frozenset({0})), CutRules(required=(frozenset({0, 1}),))]
    problem = chain(
        seconds,
        numbers(20, blocks - 1),
        counts=[2] if equal else [],
        links=everywhere(Link(float(dice.integers(0, 3))), len(seconds)),
        use_all=bool(dice.random() < 0.3),
        rules=dice.choice(rules[: 3 if blocks > 2 else 2]),
        **fields,
    )
    nodes = tuple(Node(node.seconds, memory=size) for node, size in zip(problem.nodes, numbers(9, blocks), strict=True))
    memory = float(dice.choice([math.inf, 20.0]))
    devices = tuple(replace(device, memory=memory) for device in problem.devices[:1]) + problem.devices[1:]
    if seed % 2:  # the first node is an input
        nodes = (replace(nodes[0], idle=True), *nodes[1:])
        devices = tuple(
            replace(one, overhead=cost) for one, cost in zip(devices, numbers(4, len(devices)), strict=True)
        )
    ends = numbers(4, 2 * len(problem.tensors)).reshape(-1, 2) * (seed % 3 == 0)
    tensors = tuple(
        replace(one, packing=packing, unpacking=unpacking)
        for one, (packing, unpacking) in zip(problem.tensors, ends.tolist(), strict=True)
    )
    return replace(problem, nodes=nodes, devices=devices, tensors=tensors)


def _at(problem, bandwidth):
    latency = problem.links[0][0].latency
    return replace(problem, links=everywhere(Link(latency, 1 / bandwidth), len(problem.devices)))


def _best(problem, bandwidth):
    best = best_by_trying(_at(problem, bandwidth))
    return math.inf if best is None else best[0]


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("overlap", [True, False])
def test_no_plan_for_two_devices_is_better_at_any_bandwidth(overlap, whole):
    several = 0
    for seed in range(150):
        problem = _two_devices(seed, whole, overlap=overlap)
        known = listed(problem, limit=100)
        ranges = lower_envelope(*known.on_two_devices())
        if not ranges:
            assert _best(problem, 1.0) == math.inf, seed
            continue
        several += len(ranges) > 2
        _require_seamless(ranges, 0.0, math.inf)
        for one in ranges:
            low = one.low or min(one.high, 1.0) / 100
            high = min(one.high, 100 * max(low, 1.0))
            for bandwidth in (low, high, math.sqrt(low * high)):
                assert one.value(bandwidth) == pytest.approx(_best(problem, bandwidth), rel=1e-9), (seed, one)
                stages = known.over(_at(problem, bandwidth).links[0][0]).divided(one.plan)
                assert value_of(problem, stages) == pytest.approx(one.value(bandwidth), rel=1e-9), (seed, one)
    assert several > 3


def _require_seamless(ranges, low, high):
    """Checks that ranges cover everything, that neighbors differ, and that they are equal where they meet."""
    assert (ranges[0].low, ranges[-1].high) == (low, high)
    for one, other in pairwise(ranges):
        assert one.low < one.high == other.low
        assert one.plan != other.plan
        assert one.value(one.high) == pytest.approx(other.value(other.low), rel=1e-9)


def test_a_better_link_never_hurts():
    for seed in range(100):
        problem = replace(_two_devices(seed, overlap=True), use_all=False)
        values = [one.value(min(one.high, 1e9)) for one in lower_envelope(*listed(problem, limit=100).on_two_devices())]
        assert values == sorted(values, reverse=True)


def _solver(problem):
    """Maps a bandwidth to the line of the best placement."""
    known, latency, plans = listed(problem, limit=1000), problem.links[0][0].latency, []

    def solve(bandwidth):
        stages = known.over(Link(latency, 1 / bandwidth)).best().stages
        parts = [(stage.device, stage.nodes) for stage in stages]
        seconds = value_of(problem, stages_of(known.over(Link(latency, 0.0)).problem, parts))
        moved = (value_of(problem, stages) - seconds) * bandwidth
        plans.append(stages)
        return BandwidthRange(0, 0, len(plans) - 1, seconds, moved)

    return solve


def test_more_devices_in_any_order():
    several = 0
    for seed in range(80):
        problem = replace(
            random_problem(seed), objective="latency", budget=math.inf, replicas=False, in_order=False, use_all=False
        )
        problem = replace(problem, links=everywhere(Link(1.0), len(problem.devices)))
        if _best(problem, 1.0) == math.inf:
            continue
        ranges = sweep_lines(_solver(problem), 0.1, 100.0)
        several += len(ranges) > 1
        _require_seamless(ranges, 0.1, 100.0)
        for one in ranges:
            for bandwidth in (one.low, one.high, math.sqrt(one.low * one.high)):
                assert one.value(bandwidth) == pytest.approx(_best(problem, bandwidth), rel=1e-9), (seed, one)
    assert several > 3


def test_a_whole_graph_can_be_swept_by_minimum_cuts():
    edge, cloud = [0.0, 2.0, 3.0, 3.0, 4.0], [math.inf, 0.1, 0.1, 0.1, 0.1]
    tensors = [Tensor(0, (1,), 100.0), Tensor(1, (2, 3), 40.0), Tensor(2, (4,), 5.0), Tensor(3, (4,), 5.0)]
    problem = chain([edge, cloud], [], links=everywhere(Link(0.0), 2), objective="latency")
    problem = replace(problem, tensors=tuple(tensors))

    def solve(bandwidth):
        first = on_first_device(replace(problem, links=everywhere(Link(0.0, 1 / bandwidth), 2)))
        over = [one for one in tensors if first[one.producer] and not first[list(one.consumers)].all()]
        seconds = sum(np.where(first, edge, cloud))
        return BandwidthRange(0, 0, int(first.sum()), seconds, sum(one.seconds for one in over))

    ranges = sweep_lines(solve, 0.1, 1000.0)
    assert [one.plan for one in ranges] == [5, 4, 2, 1]
    assert [one.high for one in ranges[:-1]] == pytest.approx([10 / 3.9, 30 / 5.8, 60 / 1.9])


def test_vgg19_on_a_raspberry_pi_and_a_server():
    device, cloud = (scission.blocks("vgg19", machine) for machine in ("raspi4", "6700k(GPU)"))
    # The picture is a node of its own, on the first device.
    seconds = [[0.0, *device.seconds], [math.inf, *cloud.seconds]]
    crossing = [224 * 224 * 3 * 4, *device.bytes[:-1]]
    first = CutRules(first=frozenset({0}))
    problem = chain(seconds, crossing, links=everywhere(Link(0.1), 2), objective="latency", rules=first)
    ranges = sweep_lines(_solver(problem), 1.0, 1e12)
    _require_seamless(ranges, 1.0, 1e12)
    for one in ranges:
        middle = math.sqrt(one.low * one.high)
        assert place(_at(problem, middle)).value == pytest.approx(one.value(middle), rel=1e-9)
    assert len(place(_at(problem, 1.0)).stages) == 1
    assert place(_at(problem, 1e12)).stages[0].nodes == (0,)


# Latency against throughput.


def test_the_front_is_what_no_plan_beats_in_both():
    several = 0
    for seed in range(60):
        problem = replace(random_problem(seed), objective="latency", budget=math.inf, replicas=False)
        if len(problem.nodes) > 5:
            continue
        busiest = replace(problem, objective="throughput")
        points = {
            (cost(problem, parts)[0], cost(busiest, parts)[0])
            for parts, _ in every_placement(problem)
            if cost(problem, parts)[2]
        }
        expected = [
            point for point in sorted(points) if not any(_beats(other, point) for other in points if other != point)
        ]
        try:
            found = listed(problem, limit=1000).front()
        except PlanError:
            found = []
        several += len(found) > 1
        values = [(value_of(problem, one), value_of(busiest, one)) for one in found]
        assert values == [pytest.approx(point, abs=1e-9) for point in expected], seed
    assert several > 3


def _beats(one, other):
    return one[0] <= other[0] and one[1] <= other[1]


def test_bandwidths_must_be_a_range():
    with pytest.raises(ValueError, match=r"The bandwidths from 2.0 to 1.0 are not a range."):
        sweep_lines(_solver(_two_devices(0)), 2.0, 1.0)
