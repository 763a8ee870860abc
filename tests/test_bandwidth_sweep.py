"""The best cut at every bandwidth: nothing is better in a range, and where two meet they are equally good."""

import doctest
import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import scission
from chains import all_plans, random_chain
from hypothesis import given, settings
from hypothesis import strategies as st

from kerassplit.errors import PlanError
from kerassplit.planner import chain_front, sweep
from kerassplit.planner.chain import ChainDevice, ChainLimits, ChainLink, ChainProblem
from kerassplit.planner.chain_front import latency_throughput_front
from kerassplit.planner.chain_search import plan_chain
from kerassplit.planner.minimum_cut import GraphTensor, plan_two_devices
from kerassplit.planner.sweep import BandwidthRange, sweep_latency, sweep_lines, sweep_two_devices

pytestmark = pytest.mark.plain


@pytest.mark.parametrize("module", [sweep, chain_front])
def test_the_examples_in_the_docstrings_are_right(module):
    results = doctest.testmod(module)
    assert results.attempted
    assert not results.failed


def _two_devices(seed: int, whole: bool = True, **fields) -> ChainProblem:
    """Whole numbers bring ties, others none."""
    dice = np.random.default_rng(seed)
    blocks = int(dice.integers(1, 9))

    def numbers(most: int, size: int) -> np.ndarray:
        return dice.integers(0, most, size).astype(float) if whole else dice.random(size) * most

    limits = dice.choice([ChainLimits(), ChainLimits(largest_crossing=12.0), ChainLimits(first_to=1)])
    return ChainProblem(
        (
            ChainDevice("edge", numbers(9, blocks), memory=dice.choice([math.inf, 30.0])),
            ChainDevice("cloud", numbers(4, blocks)),
        ),
        crossing=numbers(20, blocks - 1),
        parameters=numbers(9, blocks),
        links=ChainLink(latency=float(dice.integers(0, 3))),
        input_bytes=float(dice.integers(0, 20)),
        source=dice.choice([None, 0]),
        limits=limits,
        **({"leave_out": bool(dice.random() < 0.7)} | fields),
    )


def _best(problem: ChainProblem, bandwidth: float) -> float:
    link = problem.links
    assert isinstance(link, ChainLink)
    there = replace(problem, links=replace(link, bandwidth=bandwidth))
    return min((plan.rank(problem.objective)[0] for plan in all_plans(there)), default=math.inf)


OBJECTIVES = [{"objective": "latency"}, {"objective": "throughput"}, {"objective": "throughput", "overlap": True}]


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
def test_no_plan_is_better_at_any_bandwidth(objective, whole):
    several = 0
    for seed in range(250):
        problem = _two_devices(seed, whole, **objective)
        if _best(problem, 1.0) == math.inf:
            with pytest.raises(PlanError):
                sweep_two_devices(problem)
            continue
        ranges = sweep_two_devices(problem)
        several += len(ranges) > 2
        _assert_seamless(ranges, 0.0, math.inf)
        for one in ranges:
            low = one.low or min(one.high, 1.0) / 100
            high = min(one.high, 100 * max(low, 1.0))
            for bandwidth in (low, high, math.sqrt(low * high)):
                assert one.value(bandwidth) == pytest.approx(_best(problem, bandwidth), rel=1e-9), (seed, one)
    assert several > 10


def _assert_seamless(ranges: tuple[BandwidthRange, ...], low: float, high: float) -> None:
    """From end to end, each another plan than the one before, equally good where they meet."""
    assert (ranges[0].low, ranges[-1].high) == (low, high)
    for one, other in pairwise(ranges):
        assert one.low < one.high == other.low
        assert (one.cuts, one.devices) != (other.cuts, other.devices)
        assert one.value(one.high) == pytest.approx(other.value(other.low), rel=1e-9)


@given(st.integers(0, 100_000))
@settings(deadline=None)
def test_a_better_link_never_hurts(seed):
    problem = _two_devices(seed, leave_out=True, objective="throughput", overlap=True)
    if _best(problem, 1.0) < math.inf:
        values = [one.value(min(one.high, 1e9)) for one in sweep_two_devices(problem)]
        assert values == sorted(values, reverse=True)


def test_the_search_and_the_closed_form_agree():
    for seed in range(60):
        problem = _two_devices(seed, whole=False, objective="latency", leave_out=True)
        if _best(problem, 1.0) == math.inf:
            continue
        found = sweep_latency(problem, 1e-2, 1e4)
        expected = [one for one in sweep_two_devices(problem) if one.high > 1e-2 and one.low < 1e4]
        assert [(one.cuts, one.devices) for one in found] == [(one.cuts, one.devices) for one in expected]
        assert [one.high for one in found[:-1]] == pytest.approx([one.high for one in expected[:-1]], rel=1e-9)


def test_more_devices_in_any_order():
    several = 0
    for seed in range(90):
        problem = random_chain(seed, objective="latency", leave_out=True)
        problem = replace(problem, links=ChainLink(latency=1.0))
        if _best(problem, 1.0) == math.inf:
            continue
        ranges = sweep_latency(problem, 0.1, 100.0)
        several += len(ranges) > 1
        _assert_seamless(ranges, 0.1, 100.0)
        for one in ranges:
            for bandwidth in (one.low, one.high, math.sqrt(one.low * one.high)):
                assert one.value(bandwidth) == pytest.approx(_best(problem, bandwidth), rel=1e-9), (seed, one)
    assert several > 10


def test_a_whole_graph_can_be_swept_by_minimum_cuts():
    tensors = [GraphTensor(None, (0,), 100.0), GraphTensor(0, (1, 2), 40.0), GraphTensor(1, (3,), 5.0)]
    tensors += [GraphTensor(2, (3,), 5.0)]
    edge, cloud = [2.0, 3.0, 3.0, 4.0], [0.1, 0.1, 0.1, 0.1]

    def solve(bandwidth: float) -> BandwidthRange:
        plan = plan_two_devices(edge, cloud, tensors, ChainLink(bandwidth))
        cuts = tuple(call for call, here in enumerate(plan.on_edge) if here)
        return BandwidthRange(0, 0, cuts, (), plan.edge_seconds + plan.cloud_seconds, plan.moved)

    ranges = sweep_lines(solve, 0.1, 1000.0)
    assert [one.cuts for one in ranges] == [(0, 1, 2, 3), (0, 1, 2), (0,), ()]
    assert [one.high for one in ranges[:-1]] == pytest.approx([10 / 3.9, 30 / 5.8, 60 / 1.9])


def test_vgg19_on_a_raspberry_pi_and_a_server():
    device, cloud = (scission.blocks("vgg19", machine) for machine in ("raspi4", "6700k(GPU)"))
    problem = ChainProblem(
        (ChainDevice("raspi4", np.array(device.seconds)), ChainDevice("6700k(GPU)", np.array(cloud.seconds))),
        crossing=np.array(device.bytes[:-1]),
        links=ChainLink(latency=0.1),
        objective="latency",
        input_bytes=224 * 224 * 3 * 4,
        source=0,
        leave_out=True,
    )
    ranges = sweep_two_devices(problem)
    _assert_seamless(ranges, 0.0, math.inf)
    assert ranges[0].devices == (0,)
    assert ranges[-1].devices == (1,)
    for one in ranges:
        middle = math.sqrt(max(one.low, 1.0) * min(one.high, 1e12))
        there = replace(problem, links=ChainLink(middle, 0.1))
        assert plan_chain(there).cuts == one.cuts
        assert plan_chain(there).value == pytest.approx(one.value(middle), rel=1e-12)


# Latency against throughput.


@pytest.mark.parametrize("overlap", [False, True])
def test_the_front_is_what_no_plan_beats_in_both(overlap):
    several = 0
    for seed in range(250):
        problem = random_chain(seed, overlap=overlap)
        points = {(plan.latency, plan.bottleneck) for plan in all_plans(problem)}
        if not points:
            with pytest.raises(PlanError):
                latency_throughput_front(problem)
            continue
        expected = [
            point for point in sorted(points) if not any(_beats(other, point) for other in points if other != point)
        ]
        found = latency_throughput_front(problem)
        several += len(found) > 1
        assert [(plan.latency, plan.bottleneck) for plan in found] == expected, seed
    assert several > 20


def _beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[0] <= other[0] and one[1] <= other[1]


# Words.


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"any_order": True}, "A sweep in closed form takes devices in a given order, an input at the first one or at"),
        ({"sink": 0}, "A sweep in closed form takes devices in a given order, an input at the first one or at both"),
        ({"links": {(0, 1): ChainLink()}}, "A sweep in closed form takes two devices and one link. For others, use"),
    ],
)
def test_what_has_no_closed_form_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        sweep_two_devices(replace(_two_devices(0), **change))


def test_a_sweep_takes_one_link():
    with pytest.raises(ValueError, match="A sweep takes one link for all pairs of devices, and sets its bandwidth."):
        sweep_latency(replace(_two_devices(0), links={(0, 1): ChainLink()}), 1.0, 2.0)


def test_bandwidths_must_be_a_range():
    with pytest.raises(ValueError, match=r"The bandwidths from 2.0 to 1.0 are no range."):
        sweep_latency(_two_devices(0), 2.0, 1.0)
