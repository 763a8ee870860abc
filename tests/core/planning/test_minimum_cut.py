"""Two devices and a whole graph: the minimum cut is the best of all closed sets."""

import doctest
import math
import random
import time
from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest
from chains import chain, everywhere
from hypothesis import given, settings, strategies as st

from kerassplit.errors import PlanError
from kerassplit.planning.solver import minimum_cut as module
from kerassplit.planning.solver.minimum_cut import GraphTensor, minimum_cut, plan_two_devices
from kerassplit.planning.solver.place import place
from kerassplit.planning.solver.problem import CutRules, Link


def test_the_examples_in_the_docstrings_are_right():
    results = doctest.testmod(module)
    assert results.attempted
    assert not results.failed


def _random_graph(seed: int) -> tuple[list[float], list[float], list[GraphTensor], tuple[float, float]]:
    """Small whole numbers, some calls that only one device can run, some tensors with several consumers."""
    dice = random.Random(seed)
    calls = dice.randint(1, 9)
    unable = dice.choice([0.0, 0.0, 0.15])

    def seconds(most: int) -> list[float]:
        return [math.inf if dice.random() < unable else float(dice.randint(0, most)) for _ in range(calls)]

    tensors = []
    for producer in [None, *range(calls - 1)]:
        later = range(0 if producer is None else producer + 1, calls)
        for _ in range(dice.choice([1, 1, 2])):
            consumers = dice.sample(later, min(len(later), dice.choice([0, 1, 1, 2, 3])))
            tensors.append(GraphTensor(producer, tuple(consumers), float(dice.randint(0, 9))))
    link = (dice.choice([0.5, 1.0, 4.0, math.inf]), dice.choice([0.0, 0.0, 2.0, 5.0]))
    return seconds(9), seconds(4), tensors, link


def _closed_sets(calls: int, tensors: list[GraphTensor]) -> Iterator[tuple[bool, ...]]:
    """All sets of calls that hold the producers of all that their calls use."""
    needs = [(tensor.producer, user) for tensor in tensors if tensor.producer is not None for user in tensor.consumers]
    for on_edge in product((False, True), repeat=calls):
        if all(on_edge[producer] or not on_edge[user] for producer, user in needs):
            yield on_edge


def _seconds(on_edge: tuple[bool, ...], edge, cloud, tensors, link) -> float:
    moved = [
        tensor.bytes
        for tensor in tensors
        if (tensor.producer is None or on_edge[tensor.producer]) and not all(on_edge[user] for user in tensor.consumers)
    ]
    compute = sum(edge[call] if here else cloud[call] for call, here in enumerate(on_edge))
    bandwidth, latency = link
    return compute + (latency + sum(moved) / bandwidth if moved else 0.0)


def test_the_plan_is_the_best_of_all_closed_sets():
    possible = 0
    for seed in range(1500):
        edge, cloud, tensors, link = _random_graph(seed)
        best = min(_seconds(on_edge, edge, cloud, tensors, link) for on_edge in _closed_sets(len(edge), tensors))
        if best == math.inf:
            with pytest.raises(PlanError, match="nothing comes back from there"):
                plan_two_devices(edge, cloud, tensors, *link)
            continue
        possible += 1
        plan = plan_two_devices(edge, cloud, tensors, *link)
        assert plan.value == plan.lower_bound == best, seed
        assert plan.optimal
        assert plan.on_edge in set(_closed_sets(len(edge), tensors))
        assert _seconds(plan.on_edge, edge, cloud, tensors, link) == best
        assert plan.edge_seconds + plan.moving_seconds + plan.cloud_seconds == best
        assert plan.moved == sum(tensors[number].bytes for number in plan.crossing)
    assert possible > 1000


def test_without_latency_the_fewest_calls_are_on_the_edge():
    for seed in range(300):
        edge, cloud, tensors, link = _random_graph(seed)
        link = (link[0], 0.0)
        sums = {on_edge: _seconds(on_edge, edge, cloud, tensors, link) for on_edge in _closed_sets(len(edge), tensors)}
        best = min(sums.values())
        if best < math.inf:
            fewest = min(sum(on_edge) for on_edge, seconds in sums.items() if seconds == best)
            assert sum(plan_two_devices(edge, cloud, tensors, *link).on_edge) == fewest


@given(st.integers(0, 100_000))
@settings(deadline=None)
def test_a_chain_has_the_same_value_as_a_graph(seed):
    dice = np.random.default_rng(seed)
    blocks = int(dice.integers(2, 30))
    edge, cloud = dice.exponential(3, blocks), dice.exponential(1, blocks)
    sizes = dice.exponential(1, blocks)
    tensors = [GraphTensor(number - 1 if number else None, (number,), size) for number, size in enumerate(sizes)]
    # The input is a node of its own, at the edge.
    seconds, links = [[0.0, *edge], [math.inf, *cloud]], everywhere(Link(0.3), 2)
    problem = chain(seconds, sizes, links=links, objective="latency", rules=CutRules(first=frozenset({0})))
    plan = plan_two_devices(edge.tolist(), cloud.tolist(), tensors, 1.0, 0.3)
    assert plan.value == pytest.approx(place(problem).value, rel=1e-12)


@given(st.integers(0, 100_000), st.sampled_from([3, 2**20, 2**45]))
@settings(deadline=None)
def test_flows_are_exact_for_capacities_of_many_bits(seed, most):
    dice = random.Random(seed)
    nodes = dice.randint(3, 9)
    arcs = [(*dice.sample(range(nodes), 2), dice.randint(0, most)) for _ in range(dice.randint(1, 40))]
    side = minimum_cut(nodes, arcs)
    assert side is not None
    assert side[0]
    assert not side[1]
    cuts = [
        sum(capacity for tail, head, capacity in arcs if ([True, False, *rest])[tail] > ([True, False, *rest])[head])
        for rest in product((False, True), repeat=nodes - 2)
    ]
    assert sum(capacity for tail, head, capacity in arcs if side[tail] > side[head]) == min(cuts)


def test_a_tensor_with_several_consumers_is_moved_once():
    tensors = [GraphTensor(0, (1, 2, 3), 6.0)]
    plan = plan_two_devices([1.0, 9, 9, 9], [math.inf, 1, 1, 1], tensors, 2.0)
    assert (plan.crossing, plan.moving_seconds, plan.value) == ((0,), 3.0, 7.0)


def test_a_producer_behind_its_consumer_is_refused():
    with pytest.raises(
        ValueError, match=r"A tensor made by call 1 is used by the calls \(0,\) of 2. A producer must come"
    ):
        plan_two_devices([1.0, 1.0], [1.0, 1.0], [GraphTensor(1, (0,), 1.0)])


def test_negative_seconds_are_refused():
    with pytest.raises(ValueError, match="Seconds and bytes must be 0 or more; bytes must be finite."):
        plan_two_devices([-1.0], [1.0], [])


def test_five_thousand_calls_take_seconds():
    dice = np.random.default_rng(0)
    calls = 5000
    tensors = [GraphTensor(None, (0,), 1e6)]
    tensors += [
        GraphTensor(call, tuple({call + 1, min(calls - 1, call + int(dice.integers(1, 9)))}), float(dice.integers(1e6)))
        for call in range(calls - 1)
    ]
    edge, cloud = dice.random(calls), 0.1 * dice.random(calls)
    began = time.perf_counter()
    plan = plan_two_devices(edge.tolist(), cloud.tolist(), tensors, 2e3, 0.01)
    assert time.perf_counter() - began < 10
    assert 0 < sum(plan.on_edge) < calls
    assert plan.value < min(edge.sum(), cloud.sum() + 0.01 + 1e6 / 2e3)
