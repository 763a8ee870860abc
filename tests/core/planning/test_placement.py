"""Placement of graphs on devices: published optima, and the same answers as brute force."""

import math
from dataclasses import replace
from itertools import combinations, product
from operator import le

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from placement_files import BEST_LOADS, published_problem
from samples import LONG, due

from kerassplit.errors import PlanError
from kerassplit.planning.solver import contract as contract_module, dynamic_program
from kerassplit.planning.solver.bounds import device_rates
from kerassplit.planning.solver.closed_sets import closed_sets, family_of, node_work
from kerassplit.planning.solver.contract import contract
from kerassplit.planning.solver.device_orders import device_orders
from kerassplit.planning.solver.dynamic_program import search
from kerassplit.planning.solver.least_crossing import Crossings
from kerassplit.planning.solver.listed import listed
from kerassplit.planning.solver.place import place
from kerassplit.planning.solver.problem import CutRules, DeviceType, Link, Node, Problem, Tensor, Weight
from kerassplit.planning.solver.stages import stages_of, value_of

# ---------------------------------------------------------------------------------------------------------------------
# Trying everything, written down from the definitions alone.


def all_closed_sets(problem):
    nodes = range(len(problem.nodes))
    subsets = [frozenset(some) for size in range(len(nodes) + 1) for some in combinations(nodes, size)]
    return [
        some
        for some in subsets
        if all(tensor.producer in some for tensor in problem.tensors if some & set(tensor.consumers))
    ]


def all_placements(problem):
    """Yields every list of (type of device, nodes) that follows the rules, ignoring memory and cost."""
    everything = frozenset(range(len(problem.nodes)))
    sets = all_closed_sets(problem)

    def crossing(cut):
        return [t for t in problem.tensors if t.producer in cut and not set(t.consumers) <= cut]

    def is_cut(cut):
        rules, over = problem.rules, crossing(cut)
        return (
            (rules.max_tensors is None or len(over) <= rules.max_tensors)
            and sum(tensor.memory for tensor in over) <= rules.max_memory
            and cut not in rules.forbidden
        )

    def going_on(before, parts):
        if before == everything:
            yield parts
            return
        for cut in sets:
            if before < cut and (cut == everything or is_cut(cut)):
                stage = cut - before
                for device, kind in enumerate(problem.devices):
                    used = [other for other, _ in parts]
                    if used.count(device) == kind.count or (problem.in_order and used and used[-1] > device):
                        continue
                    if all(problem.nodes[node].seconds[device] < math.inf for node in stage):
                        yield from going_on(cut, [*parts, (device, stage)])

    for parts in going_on(frozenset(), []):
        stages = [nodes for _, nodes in parts]
        cuts = [frozenset().union(*stages[:end]) for end in range(len(stages) + 1)]
        if (
            all(any(set(members) <= nodes for nodes in stages) for members in problem.classes)
            and problem.rules.first <= stages[0]
            and problem.rules.last <= stages[-1]
            and all(cut in cuts for cut in problem.rules.required)
            and not (problem.use_all and any(all(problem.nodes[node].idle for node in nodes) for nodes in stages))
        ):
            yield parts


def replicas_of(problem, parts):
    """Yields every list of numbers of devices for these stages."""
    most = [problem.devices[device].count if problem.replicas else 1 for device, _ in parts]
    for numbers in product(*(range(1, number + 1) for number in most)):
        used = [
            sum(number for (other, _), number in zip(parts, numbers, strict=True) if other == device)
            for device in range(len(problem.devices))
        ]
        counts = [kind.count for kind in problem.devices]
        if all(map(le, used, counts)) and (used == counts or not problem.use_all):
            yield numbers


def every_placement(problem):
    """Yields every list of (type of device, nodes) and of numbers of devices."""
    return ((parts, numbers) for parts in all_placements(problem) for numbers in replicas_of(problem, parts))


def cost(problem, parts, replicas=None):
    """Computes the value, the squares of the loads, and if memory and budget are enough, by definition."""
    loads, total, energy, fits = [], 0.0, 0.0, True
    before = frozenset()
    for index, ((device, nodes), number) in enumerate(zip(parts, replicas or [1] * len(parts), strict=True)):
        kind, behind = problem.devices[device], frozenset(range(len(problem.nodes))) - before - nodes
        taken_in = [t for t in problem.tensors if t.producer in before and nodes & set(t.consumers)]
        given_out = [t for t in problem.tensors if t.producer in nodes and behind & set(t.consumers)]
        compute = sum(problem.nodes[node].seconds[device] for node in nodes)
        compute += 0.0 if all(problem.nodes[node].idle for node in nodes) else kind.overhead
        if problem.links is None:
            receive = kind.receive * sum(tensor.seconds for tensor in taken_in)
            send = sending = kind.send * sum(tensor.seconds for tensor in given_out)
            packing = unpacking = 0.0
            total += compute + receive + send
            room = sum(tensor.memory for tensor in taken_in) + sum(tensor.memory for tensor in given_out)
        else:
            over_first = [t for t in problem.tensors if t.producer in before and (nodes | behind) & set(t.consumers)]
            over_last = [t for t in problem.tensors if t.producer in before | nodes and behind & set(t.consumers)]
            received = packed_before = unpacking = sending = packing = 0.0
            if over_first:
                received, packed_before, unpacking = moving(problem.links[parts[index - 1][0]][device], over_first)
            if over_last:
                sending, packing, _ = moving(problem.links[device][parts[index + 1][0]], over_last)
            receive, send = received + unpacking, sending + packing
            total += compute + packed_before + received + unpacking
            kept = [t for t in problem.tensors if any(t is other for other in over_first + over_last)]
            room = sum(tensor.memory for tensor in kept)
        energy += (compute + packing + unpacking) * kind.watts + sending * kind.sending_watts
        loads.append((max(compute, receive, send) if problem.overlap else compute + receive + send) / number)
        memory = sum(problem.nodes[node].memory for node in nodes) + room
        memory += max(problem.nodes[node].workspace for node in nodes)
        memory += sum(weight.memory for weight in problem.weights if nodes & set(weight.nodes))
        fits = fits and memory <= kind.memory
        before |= nodes
    value = {"throughput": max(loads), "latency": total, "energy": energy}[problem.objective]
    fits = fits and (energy if problem.objective == "latency" else total) <= problem.budget
    return value, sum(load * load for load in loads), fits and total < math.inf


def moving(link, tensors):
    """Returns the seconds on the way, of packing and of unpacking."""
    seconds = link.latency + sum(link.factor * tensor.seconds for tensor in tensors)
    packing = sum(link.packing * tensor.packing for tensor in tensors)
    return seconds, packing, sum(link.unpacking * tensor.unpacking for tensor in tensors)


def tensors_crossing(problem, parts):
    """Counts the tensors that cross the cuts of a placement, leaving out those that do not count."""
    stages = [nodes for _, nodes in parts]
    cuts = [frozenset().union(*stages[:end]) for end in range(1, len(stages))]
    return sum(
        tensor.counts and tensor.producer in cut and not set(tensor.consumers) <= cut
        for cut in cuts
        for tensor in problem.tensors
    )


def best_by_trying(problem):
    """Least value, then fewest tensors, then least sum of squared loads, by brute force; or `None`."""
    costs = [
        (cost(problem, parts, numbers), tensors_crossing(problem, parts)) for parts, numbers in every_placement(problem)
    ]
    possible = [(value, tensors, squares) for (value, squares, fits), tensors in costs if fits]
    return min(possible, default=None)


# ---------------------------------------------------------------------------------------------------------------------
# Random problems. All numbers are quarters, so that sums are exact and ties are frequent.


def random_problem(seed):
    rng = np.random.default_rng(seed)

    def quarters(high):
        return int(rng.integers(0, 4 * high)) / 4

    def chance(probability):
        return bool(rng.random() < probability)

    count, types = int(rng.integers(1, 7)), int(rng.integers(1, 4))
    order = rng.permutation(count).tolist()  # nodes are not numbered in topological order
    tensors = []
    for index, producer in enumerate(order[:-1]):
        for _ in range(1 + chance(0.15)):
            users = [user for user in order[index + 1 :] if chance(0.4)]
            if users and len(tensors) < 9:
                tensors.append(Tensor(producer, tuple(users), quarters(3), float(rng.integers(0, 4))))
    nodes = []
    for _ in range(count):
        seconds = [quarters(5) for _ in range(types)]
        if chance(0.3):
            seconds = [0.0] * types
        if types > 1 and chance(0.2):
            seconds[int(rng.integers(types))] = math.inf
        tight = chance(0.7)
        nodes.append(Node(tuple(seconds), float(rng.integers(0, 5)) * tight, float(rng.integers(0, 5)) * chance(0.3)))
    counts = [1 + chance(0.4) for _ in range(types)] if types < 3 else [1] * 3
    limited = chance(0.5)
    devices = tuple(
        DeviceType(
            f"type {index}",
            number,
            float(rng.integers(5, 25)) if limited else math.inf,
            *((1.0, 1.0) if chance(0.7) else (quarters(2), quarters(2))),
        )
        for index, number in enumerate(counts)
    )
    links = None
    if chance(0.5):
        links = tuple(tuple(Link(quarters(1), quarters(2)) for _ in devices) for _ in devices)
        if chance(0.4):
            links = tuple(tuple(links[0][0] for _ in devices) for _ in devices)
        elif chance(0.3):
            links = tuple(tuple(Link(math.inf) if chance(0.2) else link for link in row) for row in links)
    problem = Problem(
        tuple(nodes),
        tuple(tensors),
        devices,
        classes=tuple(tuple(rng.permutation(count)[:2].tolist()) for _ in range(int(rng.integers(0, 2 + (count > 4))))),
        weights=tuple(
            Weight(tuple(rng.permutation(count)[: rng.integers(1, 4)].tolist()), float(rng.integers(0, 8)))
            for _ in range(int(rng.integers(0, 3)) if limited else 0)
        ),
        links=links,
        objective="latency" if chance(0.4) else "throughput",
        overlap=chance(0.3),
        in_order=chance(0.3),
        use_all=chance(0.1),
    )
    problem = replace(problem, rules=random_rules(problem, rng)) if chance(0.3) else problem
    return with_more_costs(problem, seed) if seed % 2 else problem


def with_more_costs(problem, seed):
    """Adds overheads, idle nodes, seconds to move tensors that no link makes shorter, energy, and limits of it."""
    rng, other = np.random.default_rng([seed, 1]), np.random.default_rng([seed, 2])

    def quarters(probability, rng=rng):
        return int(rng.integers(0, 8)) / 4 * bool(rng.random() < probability)

    return replace(
        problem,
        nodes=tuple(
            replace(node, idle=index > 0 and bool(rng.random() < 0.3)) for index, node in enumerate(problem.nodes)
        ),
        tensors=tuple(
            replace(tensor, packing=quarters(0.6), unpacking=quarters(0.6, other)) for tensor in problem.tensors
        ),
        devices=tuple(
            replace(device, overhead=quarters(0.8), watts=quarters(0.9), sending_watts=quarters(0.9))
            for device in problem.devices
        ),
        objective="energy" if problem.objective == "latency" and rng.random() < 0.6 else problem.objective,
        replicas=problem.objective == "throughput" and bool(rng.random() < 0.5),
        budget=float(rng.integers(1, 30)) if problem.objective == "latency" and rng.random() < 0.6 else math.inf,
        links=problem.links
        and tuple(
            tuple(replace(one, packing=quarters(1), unpacking=quarters(1, other)) for one in row)
            for row in problem.links
        )
        if seed % 4 == 1
        else problem.links,
    )


def random_rules(problem, rng):
    sets = [some for some in all_closed_sets(problem) if 0 < len(some) < len(problem.nodes)]
    some = [sets[int(rng.integers(len(sets)))] for _ in range(2)] if sets else []
    which = int(rng.integers(5))
    if which == 0:
        return CutRules(max_tensors=int(rng.integers(0, 4)))
    if which == 1:
        return CutRules(max_memory=float(rng.integers(0, 6)))
    if which == 2:
        return CutRules(first=frozenset([int(rng.integers(len(problem.nodes)))]))
    if which == 3:
        return CutRules(last=frozenset([int(rng.integers(len(problem.nodes)))]))
    return CutRules(required=tuple(some[:1]), forbidden=tuple(some[1:]))


def answer(problem, **options):
    """Returns the placement, or `None`, after checking that its stages follow all rules."""
    try:
        placement = place(problem, **options)
    except PlanError:
        return None
    parts = [(stage.device, frozenset(stage.nodes)) for stage in placement.stages]
    numbers = tuple(stage.replicas for stage in placement.stages)
    value, _, fits = cost(problem, parts, numbers)
    assert fits
    assert value == pytest.approx(placement.value, abs=1e-9)
    assert (parts, numbers) in list(every_placement(problem))
    return placement


def agree(problem):
    expected, found = best_by_trying(problem), answer(problem)
    assert (found is None) == (expected is None)
    if found is not None and expected is not None:
        assert (found.optimal, found.method) == (True, "closed sets")
        assert found.lower_bound == found.value == pytest.approx(expected[0], abs=1e-9)
        parts = [(stage.device, frozenset(stage.nodes)) for stage in found.stages]
        assert problem.budget < math.inf or tensors_crossing(problem, parts) == expected[1]
        if problem.objective == "throughput":
            assert sum(stage.load**2 for stage in found.stages) == pytest.approx(expected[2], abs=1e-7)


@settings(deadline=None)
@given(st.integers(10**6, 2**40))
def test_no_placement_is_better_or_more_even(seed):
    agree(random_problem(seed))


@pytest.mark.parametrize("start", range(0, 6000 if LONG else 500, 500))
def test_random_problems_have_the_answers_that_trying_everything_gives(start):
    for seed in due(range(start, start + 500), 3):
        agree(random_problem(seed))


def with_a_trade_between_time_and_energy(seed):
    """Few nodes on devices that take more power the faster they are."""
    rng = np.random.default_rng(seed)
    count, types = int(rng.integers(3, 6)), int(rng.integers(2, 4))
    times = rng.integers(1, 20, (count, types)) / 2.0 ** np.arange(types)
    tensors = [
        Tensor(
            node,
            (node + 1,),
            float(rng.integers(0, 4)),
            packing=rng.integers(0, 4) / 4,
            unpacking=rng.integers(0, 4) / 4,
        )
        for node in range(count - 1)
    ]
    tensors += [Tensor(0, (count - 1,), float(rng.integers(0, 4)))] * int(rng.integers(0, 2))
    return Problem(
        tuple(Node(tuple(row), idle=index == 0) for index, row in enumerate(times.tolist())),
        tuple(tensors),
        tuple(
            DeviceType(
                f"type {one}", overhead=rng.integers(0, 4) / 4, watts=4.0**one, sending_watts=rng.integers(0, 8) / 4
            )
            for one in range(types)
        ),
        links=None if seed % 4 == 0 else ((Link(rng.integers(0, 4) / 4, rng.integers(1, 4) / 4),) * types,) * types,
        objective=("latency", "energy")[seed % 2],
        in_order=bool(rng.random() < 0.5),
    )


def test_with_a_limit_beside_the_objective_no_placement_within_it_is_better():
    between = 0
    for seed in range(100):
        problem = with_a_trade_between_time_and_energy(seed)
        other = replace(problem, objective="energy" if problem.objective == "latency" else "latency")
        points = {(cost(problem, parts)[0], cost(other, parts)[0]) for parts, _ in every_placement(problem)}
        budget = float(np.random.default_rng(seed).choice(sorted(spent for _, spent in points)))
        agree(replace(problem, budget=budget))
        value, spent = min(point for point in points if point[1] <= budget)
        between += any(  # no price finds it
            left < spent < right and high + (low - high) * (spent - left) / (right - left) < value
            for high, left in points
            for low, right in points
        )
    assert between > 10


def test_bounds_found_first_change_no_answer(monkeypatch):
    monkeypatch.setattr(dynamic_program, "FEW", 1)
    for seed in due(range(6000, 6400), 3):
        agree(random_problem(seed))


def test_chains_are_planned_alike_in_small_parts_and_with_bounds_found_first(monkeypatch):
    dice = np.random.default_rng(7)
    monkeypatch.setattr(dynamic_program, "FEW_IN_CHAIN", 3)
    for seed in range(60):
        seconds, moving = dice.integers(0, 9, (7, 2)).astype(float), dice.integers(0, 4, 6).astype(float)
        problem = Problem(
            nodes=tuple(Node(tuple(times)) for times in seconds.tolist()),
            tensors=tuple(Tensor(place, (place + 1,), time) for place, time in enumerate(moving.tolist())),
            devices=(DeviceType("a", 2), DeviceType("b", 1)),
            links=((Link(0.5, 1.0),) * 2,) * 2,
            objective=("throughput", "latency")[seed % 2],
            overlap=seed % 3 == 0,
            in_order=seed % 5 < 3,
            use_all=seed % 7 < 3,
        )
        monkeypatch.setattr(dynamic_program, "MOST_PAIRS", 1 + seed % 9)
        agree(problem)


@pytest.mark.parametrize("start", [0, 100, 600, 1100] if LONG else [0])
def test_without_the_list_of_closed_sets_the_same_values_are_proved(start):
    for seed in due(range(start, start + (500 if start else 100)), 2):
        problem = replace(random_problem(seed), budget=math.inf)
        expected, found = best_by_trying(problem), answer(problem, limit=0)
        assert (found is None) == (expected is None)
        if found is not None and expected is not None:
            assert found.optimal
            assert found.value == pytest.approx(expected[0], abs=1e-6)


def test_what_is_found_and_proved_in_no_time_is_on_both_sides_of_the_optimum():
    optimal = feasible = 0
    seeds = due(range(300), 3)
    for seed in seeds:
        problem = replace(random_problem(seed), budget=math.inf)
        expected, found = best_by_trying(problem), answer(problem, limit=0, time_limit=1e-9)
        if expected is None:
            assert found is None
        elif found is not None:
            assert found.value >= expected[0] - 1e-9
            assert found.lower_bound <= expected[0] + 1e-9
            feasible += 1
            optimal += found.value <= expected[0] + 1e-9
    assert feasible > 0.66 * len(seeds)
    assert optimal > 0.95 * feasible


def test_minimum_cuts_bound_what_crosses_from_below():
    for seed in due(range(300), 2):
        problem = replace(random_problem(seed), classes=(), rules=CutRules())
        count, rng = len(problem.nodes), np.random.default_rng(seed)
        crossings = Crossings(problem, node_work(problem, device_rates(problem)))
        low, high = sorted(rng.random(2) * crossings.total)
        none = np.zeros(count, dtype=np.bool_)
        sets = [np.isin(np.arange(count), list(some)) for some in all_closed_sets(problem)]
        within = [some for some in sets if low <= crossings.work @ some <= high]
        decided = crossings.decided(none, none, low, high)
        if decided is None:
            assert not within
            continue
        assert all((some[decided[0]]).all() and not some[decided[1]].any() for some in within)
        least = crossings.least(*decided, low, high).seconds
        assert least <= min((crossings.seconds(some) for some in within), default=math.inf) + 1e-7
        everything = crossings.least(none, none, 0.0, crossings.total).seconds
        assert everything == pytest.approx(min(crossings.seconds(some) for some in sets), abs=1e-6)


@pytest.mark.parametrize(("seed", "end"), [(18, "last"), (33, "first"), (86, "first"), (777, "last")])
def test_rules_for_the_ends_are_said_to_be_in_the_way_where_they_are(seed, end):
    problem = random_problem(seed)
    with pytest.raises(
        PlanError, match=r"^The nodes \[.*\] are in one stage by the rules for the first and the"
    ) as caught:
        place(problem)
    assert caught.value.binding == ("cuts",)
    assert answer(replace(problem, rules=replace(problem.rules, **{end: frozenset()}))) is not None


@pytest.mark.parametrize("seed", [397, 489, 626])
def test_devices_are_said_to_be_in_the_way_of_what_must_stay_together(seed):
    problem = random_problem(seed)
    with pytest.raises(PlanError, match=r"^The nodes \[.*\] must stay in one stage, and no type of device") as caught:
        place(problem)
    assert caught.value.binding == ("devices",)
    assert answer(replace(problem, rules=CutRules())) is None


def test_random_problems_are_of_every_sort():
    problems = [random_problem(seed) for seed in range(300)]
    answers = [best_by_trying(problem) for problem in problems]
    assert sum(answer is None for answer in answers) > 20
    assert {len(problem.devices) for problem in problems} == {1, 2, 3}
    assert {problem.objective for problem in problems} == {"throughput", "latency", "energy"}
    for name in ("overlap", "in_order", "use_all"):
        assert len({getattr(problem, name) for problem in problems}) == 2
    assert any(problem.rules.required for problem in problems)


# ---------------------------------------------------------------------------------------------------------------------
# Published problems.


@pytest.mark.parametrize("name", BEST_LOADS)
def test_the_best_load_of_a_published_problem_is_the_published_one(name):
    problem = published_problem(name)
    placement = place(problem)
    assert placement.value == pytest.approx(BEST_LOADS[name], rel=1e-5)
    assert (placement.optimal, placement.method) == (True, "closed sets")
    keeps_the_rules(problem, placement)


def keeps_the_rules(problem, placement):
    """Checks a placement on a graph that is too large for brute force."""
    where = {node: index for index, stage in enumerate(placement.stages) for node in stage.nodes}
    assert sorted(where) == list(range(len(problem.nodes)))
    assert sum(len(stage.nodes) for stage in placement.stages) == len(problem.nodes)
    assert all(where[tensor.producer] <= where[user] for tensor in problem.tensors for user in tensor.consumers)
    assert all(len({where[node] for node in members}) == 1 for members in problem.classes)
    for device, kind in enumerate(problem.devices):
        assert sum(stage.device == device for stage in placement.stages) <= kind.count
    value, _, fits = cost(problem, [(stage.device, frozenset(stage.nodes)) for stage in placement.stages])
    assert fits
    assert value == pytest.approx(placement.value)


def test_resnet50_and_inceptionv3_have_the_published_numbers_of_closed_sets():
    for name, count in (("resnet50", 242), ("inceptionv3", 36_596)):
        table = closed_sets(published_problem(name), 50_000)
        assert table is not None
        assert table.shape[1] == count


def test_sinks_that_take_no_time_leave_gnmt_few_closed_sets():
    problem = published_problem("gnmt")
    assert closed_sets(problem, 100_000) is None
    placement = place(problem, limit=1000)
    assert placement.method == "closed sets"


def test_inceptionv3_has_a_certified_optimum():
    problem = published_problem("inceptionv3")
    placement = place(problem)
    assert placement.optimal
    assert placement.value == pytest.approx(51.55186, rel=1e-6)  # the search below, without bounds, finds it too
    keeps_the_rules(problem, placement)


@pytest.mark.skipif(not LONG, reason="takes half a minute: nightly")
def test_inceptionv3_has_no_better_placement_without_bounds_and_with_every_node(monkeypatch):
    monkeypatch.setattr(contract_module, "_may_fold", lambda problem: False)
    problem = contract(published_problem("inceptionv3")).problem
    table = closed_sets(problem, 50_000)
    assert table is not None
    family = family_of(problem, table, device_rates(problem))

    def everything(family, orders, goal, bound):
        return np.ones((len(orders.arcs), len(family)), dtype=np.bool_), np.zeros(len(family))

    monkeypatch.setattr(dynamic_program, "_allowed", everything)
    chain = search(family, device_orders(problem), "largest", 51.7)
    assert chain is not None
    assert chain.value == pytest.approx(51.55186, rel=1e-6)


@pytest.mark.parametrize("name", ["bert24", "gnmt"])
def test_where_closed_sets_are_too_many_the_solver_proves_what_local_search_finds(name):
    placement = place(published_problem(name), limit=20, time_limit=60)
    assert placement.value == pytest.approx(BEST_LOADS[name], rel=1e-5)
    assert placement.optimal
    assert placement.method == "local search"
    assert placement.closed_sets is None


def test_inceptionv3_is_solved_without_a_list_of_its_closed_sets():
    placement = place(published_problem("inceptionv3"), limit=0)
    assert (placement.method, placement.optimal, placement.closed_sets) == ("local search", True, None)
    assert placement.value == pytest.approx(51.55186, rel=1e-6)


def lattice(rng, branches=6, length=20):
    """Parallel chains, with occasional tensors from one to the next: far too many closed sets to list."""
    count = branches * length
    nodes = tuple(Node((float(rng.integers(1, 9)),)) for _ in range(count))
    tensors = [Tensor(node, (node + branches,), rng.random()) for node in range(count - branches)]
    tensors += [
        Tensor(node, (node + branches + 1 - branches * ((node + 1) % branches == 0),), rng.random())
        for node in range(0, count - 2 * branches, 5)
    ]
    return Problem(nodes, tuple(tensors), (DeviceType("one", 5),), links=((Link(),),), use_all=True)


def test_a_bound_is_given_where_nothing_is_proved_and_grows_with_time():
    problem = lattice(np.random.default_rng(1))
    at_once, later = place(problem, time_limit=1e-9), place(problem, time_limit=5)
    work = sum(node.seconds[0] for node in problem.nodes) / 5
    assert not at_once.optimal
    assert work * 0.9999 < at_once.lower_bound < later.lower_bound <= later.value <= at_once.value
    keeps_the_rules(problem, later)


# ---------------------------------------------------------------------------------------------------------------------
# What the answers mean.


def chain_of(times, *, moves=1.0, **options):
    nodes = tuple(Node((time,)) for time in times)
    tensors = tuple(Tensor(index, (index + 1,), moves, 1.0) for index in range(len(times) - 1))
    return Problem(nodes, tensors, **{"devices": (DeviceType("one", 2),)} | options)


def nodes_of(placement):
    return [stage.nodes for stage in placement.stages]


def test_a_tensor_is_sent_once_and_received_once_however_many_nodes_use_it():
    nodes = tuple(Node((1.0,)) for _ in range(4))
    problem = Problem(nodes, (Tensor(0, (1, 2, 3), 0.25),), (DeviceType("one", 2),))
    placement = place(problem)
    assert placement.value == 2.25
    assert [(stage.send, stage.receive) for stage in placement.stages] == [(0.25, 0.0), (0.0, 0.25)]


def test_over_links_a_tensor_passes_through_the_stages_between():
    nodes = (Node((1.0,)), Node((1.0,)), Node((1.0,)))
    tensors = (Tensor(0, (1, 2), 0.25), Tensor(1, (2,), 0.0))
    parts = [(0, [0]), (0, [1]), (0, [2])]
    direct = Problem(nodes, tensors, (DeviceType("one", 3),))
    linked = replace(direct, links=((Link(latency=0.5, factor=2.0),),))
    assert [(stage.receive, stage.send) for stage in stages_of(direct, parts)] == [(0, 0.25), (0.25, 0), (0.25, 0)]
    assert [(stage.receive, stage.send) for stage in stages_of(linked, parts)] == [(0, 1.0), (1.0, 1.0), (1.0, 0)]
    assert value_of(replace(linked, objective="latency"), stages_of(linked, parts)) == 3 + 2 * 1.0


def test_with_overlap_the_load_is_the_longest_of_receiving_computing_and_sending():
    placement = place(chain_of([3.0, 3.0], moves=2.5, overlap=True))
    assert placement.value == 3.0
    assert place(chain_of([3.0, 3.0], moves=2.5)).value == 5.5


def test_of_equal_largest_loads_the_fewest_stages_are_taken_and_of_these_the_most_even():
    problem = chain_of([4.0, 1.0, 1.0, 1.0, 1.0], moves=0.0, devices=(DeviceType("one", 3),))
    assert nodes_of(place(problem)) == [(0,), (1, 2, 3, 4)]
    assert nodes_of(place(replace(problem, use_all=True))) == [(0,), (1, 2), (3, 4)]


@pytest.mark.parametrize("objective", ["throughput", "latency"])
def test_of_equally_good_and_even_placements_one_with_the_fewest_bytes_crossing_is_taken(objective):
    """Nodes that take no time may be on either side of the cut."""
    nodes = tuple(Node((seconds,)) for seconds in (2.0, 0.0, 0.0, 2.0))
    for smallest in range(3):
        tensors = tuple(Tensor(one, (one + 1,), 0.0, 4.0 - (one == smallest)) for one in range(3))
        problem = Problem(nodes, tensors, (DeviceType("one", 2),), objective=objective, use_all=True, in_order=True)
        first = place(problem).stages[0].nodes
        assert first == tuple(range(smallest + 1))


def test_a_device_that_would_only_cost_stays_without_a_stage_unless_all_must_be_used():
    problem = chain_of([1.0, 1.0], moves=5.0)
    assert nodes_of(place(problem)) == [(0, 1)]
    assert nodes_of(place(replace(problem, use_all=True))) == [(0,), (1,)]


def test_in_order_the_first_device_comes_first():
    nodes = (Node((1.0, 9.0)), Node((9.0, 1.0)))
    problem = Problem(nodes, (Tensor(0, (1,)),), (DeviceType("b", 1), DeviceType("a", 1)), in_order=True)
    assert [stage.device for stage in place(problem).stages] == [0, 1]
    turned = replace(problem, nodes=(nodes[1], nodes[0]))
    assert place(turned).value == 9.0
    assert place(replace(turned, in_order=False)).value == 1.0


def test_classes_that_feed_each_other_share_a_stage():
    nodes = tuple(Node((1.0,)) for _ in range(5))
    tensors = (Tensor(0, (1,)), Tensor(2, (3,)), Tensor(3, (4,)))
    problem = Problem(nodes, tensors, (DeviceType("one", 5),), classes=((0, 3), (1, 2)))
    assert nodes_of(place(problem)) == [(0, 1, 2, 3), (4,)]


def test_a_shared_weight_counts_once_for_each_stage():
    problem = chain_of([1.0, 1.0, 1.0], moves=0.0, weights=(Weight((0, 2), 10.0),))
    assert [stage.memory for stage in stages_of(problem, [(0, [0, 1]), (0, [2])])] == [11.0, 11.0]
    assert [stage.memory for stage in stages_of(problem, [(0, [0, 1, 2])])] == [10.0]


def test_only_the_given_cuts_are_made():
    problem = chain_of([1.0, 1.0, 1.0, 1.0], moves=0.0)
    assert nodes_of(place(problem)) == [(0, 1), (2, 3)]
    placement = place(problem, cuts=[{0}, {0, 1, 2}])
    assert nodes_of(placement) == [(0,), (1, 2, 3)]
    assert placement.closed_sets == 4


def test_a_given_cut_that_is_not_closed_is_refused():
    with pytest.raises(ValueError, match="One of `cuts` contains a node without all that the node depends on"):
        place(chain_of([1.0, 1.0, 1.0]), cuts=[{1}])


def test_more_closed_sets_than_allowed_are_refused_where_a_budget_needs_them():
    nodes = tuple(Node((1.0,)) for _ in range(12))
    problem = Problem(nodes, (), (DeviceType("one", 2),), objective="latency", budget=1.0)
    with pytest.raises(ValueError, match="There are more than 100 closed sets"):
        place(problem, limit=100)


def test_equal_problems_get_equal_answers():
    for name in ("resnet50", "op_bert_l-3"):
        assert place(published_problem(name)) == place(published_problem(name))


# ---------------------------------------------------------------------------------------------------------------------
# Where there is none.


def test_a_problem_without_a_placement_is_refused():
    never = Problem((Node((1.0, math.inf)), Node((math.inf, 1.0))), (Tensor(0, (1,)),), (DeviceType("a"),) * 2)
    in_turn = replace(never, nodes=(*never.nodes, never.nodes[0]), tensors=(*never.tensors, Tensor(1, (2,))))
    assert place(never).value == 1.0
    assert place(replace(in_turn, devices=(DeviceType("a", 2), DeviceType("b")))).value == 1.0
    for problem in (in_turn, chain_of([1.0, 1.0], use_all=True, rules=CutRules(max_tensors=0))):
        with pytest.raises(PlanError, match="^No placement satisfies all limits of memory, cuts and devices"):
            place(problem)


@pytest.mark.parametrize("seed", range(40))
def test_the_fewest_stages_are_the_fewest_devices_that_are_enough(seed):
    rng = np.random.default_rng(seed)
    nodes = tuple(Node((1.0,), memory=float(rng.integers(1, 5))) for _ in range(6))
    tensors = tuple(Tensor(place, (place + 1,), 1.0, float(rng.integers(0, 3))) for place in range(5))
    problem = Problem(nodes, tensors, (DeviceType("chip", 1, float(rng.integers(4, 11))),))
    fewest, counts = listed(problem, limit=100).fewest_stages(), range(1, 7)
    enough = [count for count in counts if listed(with_count(problem, count), limit=100).best() is not None]
    assert fewest == min(enough, default=None)


def with_count(problem, count):
    return replace(problem, devices=tuple(replace(device, count=count) for device in problem.devices))


# ---------------------------------------------------------------------------------------------------------------------
# What is refused, and what a looser problem gives.


def test_too_many_orders_of_devices_are_refused():
    devices = tuple(DeviceType(f"d{index}") for index in range(24))
    problem = Problem(tuple(Node((1.0,) * 24) for _ in range(40)), (), devices)
    with pytest.raises(PlanError, match="^There are too many orders of 24 devices to try them all.") as raised:
        place(problem)
    assert raised.value.binding == ("any_order",)


def value_or_none(problem: Problem) -> float:
    try:
        return place(problem).value
    except PlanError:
        return math.inf


LOOSER = {
    "more memory": lambda one: replace(
        one, devices=tuple(replace(device, memory=device.memory * 1.5) for device in one.devices)
    ),
    "any order": lambda one: replace(one, in_order=False),
    "devices left out": lambda one: replace(one, use_all=False),
    "overlap": lambda one: replace(one, overlap=True),
}


@pytest.mark.parametrize("looser", LOOSER)
def test_a_looser_problem_never_has_a_worse_answer(looser):
    changed = 0
    for seed in range(150):
        problem = random_problem(seed)
        if looser == "overlap" and problem.objective != "throughput":
            continue
        before, after = value_or_none(problem), value_or_none(LOOSER[looser](problem))
        assert after <= before * (1 + 1e-9), seed
        changed += after < before
    assert changed > 3
