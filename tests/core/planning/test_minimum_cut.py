"""Two devices and a whole graph: the minimum cut is the best of all closed sets."""

import doctest
import math
import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from chains import chain, everywhere
from hypothesis import given, settings, strategies as st

from kerassplit.planning.solver import minimum_cut as module
from kerassplit.planning.solver.minimum_cut import minimum_cut, on_first_device
from kerassplit.planning.solver.place import place
from kerassplit.planning.solver.problem import DeviceType, Link, Node, Problem, Tensor


def test_the_examples_in_the_docstrings_are_right():
    results = doctest.testmod(module)
    assert results.attempted
    assert not results.failed


def two_devices(edge, cloud, tensors, link):
    """Latency on an edge device and a cloud; `tensors` are (producer, consumers, bytes), the input is node 0."""
    return Problem(
        tuple(Node(times) for times in zip(edge, cloud, strict=True)),
        tuple(Tensor(producer, tuple(users), float(size)) for producer, users, size in tensors),
        (DeviceType("edge"), DeviceType("cloud")),
        links=everywhere(link, 2),
        objective="latency",
        in_order=True,
    )


def _random_problem(seed: int) -> Problem:
    """Small integers, some nodes that only one device can run, some tensors with several consumers."""
    dice = random.Random(seed)
    nodes = dice.randint(2, 9)
    unable = dice.choice([0.0, 0.0, 0.15])

    def seconds(most: int) -> tuple[float, float]:
        here, there = float(dice.randint(0, most)), float(dice.randint(0, 4))
        which = dice.random()
        return (math.inf, there) if which < unable else (here, math.inf) if which < 2 * unable else (here, there)

    times = [(0.0, math.inf), *(seconds(9) for _ in range(nodes - 1))]
    tensors = []
    for producer in range(nodes - 1):
        for _ in range(dice.choice([1, 1, 2])):
            later = range(producer + 1, nodes)
            users = dice.sample(later, min(len(later), dice.choice([0, 1, 1, 2, 3])))
            tensors.append((producer, users, dice.randint(0, 9)))
    link = Link(dice.choice([0.0, 0.0, 2.0, 5.0]), dice.choice([2.0, 1.0, 0.25, 0.0]))
    problem = two_devices(*zip(*times, strict=True), tensors, link)
    if seed % 4:
        return problem
    return replace(
        problem,
        nodes=(replace(problem.nodes[0], idle=True), *problem.nodes[1:]),
        tensors=tuple(
            replace(tensor, packing=float(dice.randint(0, 2)), unpacking=float(dice.randint(0, 2)))
            for tensor in problem.tensors
        ),
        devices=tuple(replace(device, overhead=float(dice.randint(0, 9))) for device in problem.devices),
    )


def _closed_sets(problem: Problem) -> Iterator[tuple[bool, ...]]:
    """Returns all sets of nodes that contain the producers of everything that their nodes use."""
    needs = [(tensor.producer, user) for tensor in problem.tensors for user in tensor.consumers]
    for first in product((False, True), repeat=len(problem.nodes)):
        if all(first[producer] or not first[user] for producer, user in needs):
            yield first


def _cost(problem: Problem, first) -> tuple[float, int]:
    """Returns the seconds, and the number of tensors moved."""
    over = [one for one in problem.tensors if first[one.producer] and not all(first[user] for user in one.consumers)]
    compute = sum(node.seconds[0 if here else 1] for node, here in zip(problem.nodes, first, strict=True))
    called = {0 if here else 1 for node, here in zip(problem.nodes, first, strict=True) if not node.idle}
    compute += sum(problem.devices[device].overhead for device in called)
    link = (problem.links or everywhere(Link(), 2))[0][1]
    moving = (
        link.latency + sum(link.factor * one.seconds + one.packing + one.unpacking for one in over) if over else 0.0
    )
    return compute + moving, len(over)


def found(problem):
    """Returns the nodes on the first device, if there is a placement."""
    first = on_first_device(problem)
    assert first is not None
    return first


def test_no_closed_set_is_better_or_moves_fewer_tensors():
    possible = ties = 0
    for seed in range(500):
        problem = _random_problem(seed)
        costs = {first: _cost(problem, first) for first in _closed_sets(problem)}
        best = min(seconds for seconds, _ in costs.values())
        first = on_first_device(problem)
        if best == math.inf:
            assert first is None
            continue
        possible += 1
        equal = [moved for seconds, moved in costs.values() if seconds == best]
        ties += len(set(equal)) > 1
        assert first is not None
        assert costs[tuple(first.tolist())] == (best, min(equal)), seed
    assert possible > 300
    assert ties > 15


def test_without_latency_the_fewest_nodes_are_on_the_first_device():
    for seed in range(300):
        problem = _random_problem(2 * seed + 1)  # no overheads
        link = Link(0.0, (problem.links or everywhere(Link(), 2))[0][1].factor)
        problem = replace(problem, links=everywhere(link, 2))
        costs = {first: _cost(problem, first) for first in _closed_sets(problem)}
        best = min(costs.values())
        if best[0] < math.inf:
            fewest = min(sum(first) for first, cost in costs.items() if cost == best)
            assert found(problem).sum() == fewest


@given(st.integers(0, 100_000))
@settings(deadline=None)
def test_a_chain_has_the_same_value_as_a_graph(seed):
    dice = np.random.default_rng(seed)
    blocks = int(dice.integers(2, 30))
    edge, cloud = [0.0, *dice.exponential(3, blocks)], [math.inf, *dice.exponential(1, blocks)]
    sizes = dice.exponential(1, blocks)
    problem = chain([edge, cloud], sizes, links=everywhere(Link(0.3), 2), objective="latency")
    assert _cost(problem, found(problem))[0] == pytest.approx(place(problem).value, rel=1e-12)


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
    problem = two_devices([1.0, 9, 9, 9], [math.inf, 1, 1, 1], [(0, (1, 2, 3), 6.0)], Link(factor=0.5))
    assert _cost(problem, found(problem)) == (7.0, 1)


def test_five_thousand_nodes_are_placed():
    dice = np.random.default_rng(0)
    calls = 5000
    tensors = [(0, (1,), 1e6)]
    tensors += [
        (call, {call + 1, min(calls, call + int(dice.integers(1, 9)))}, float(dice.integers(1e6)))
        for call in range(1, calls)
    ]
    edge, cloud = dice.random(calls), 0.1 * dice.random(calls)
    problem = two_devices([0.0, *edge], [math.inf, *cloud], tensors, Link(0.01, 1 / 2e3))
    first = found(problem)
    assert 1 < first.sum() < calls
    assert _cost(problem, first)[0] < min(edge.sum(), cloud.sum() + 0.01 + 1e6 / 2e3)
