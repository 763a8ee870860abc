"""Plans of chains are the best there are: held to all plans one by one, to another exact method, and to their words."""

import doctest
import math
import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import scission
from chains import all_plans, random_chain
from hypothesis import given, settings
from hypothesis import strategies as st

from kerassplit.errors import PlanError
from kerassplit.planner import chain, chain_even, chain_search
from kerassplit.planner.chain import ChainDevice, ChainLimits, ChainLink, ChainProblem, SharedWeight
from kerassplit.planner.chain_memory import Highest, Memory
from kerassplit.planner.chain_search import best_plans, plan_chain

pytestmark = pytest.mark.plain


@pytest.mark.parametrize("module", [chain, chain_search])
def test_the_examples_in_the_docstrings_are_right(module):
    results = doctest.testmod(module)
    assert results.attempted
    assert not results.failed


@pytest.mark.parametrize("order", ["given", "any"])
@pytest.mark.parametrize("leave_out", [False, True])
@pytest.mark.parametrize("objective", ["latency", "throughput", "overlap"])
def test_the_plan_is_the_best_of_all_plans_down_to_the_last_tie(objective, leave_out, order):
    seen = Counter()
    for seed in range(200):
        problem = random_chain(
            seed,
            objective="latency" if objective == "latency" else "throughput",
            overlap=objective == "overlap",
            leave_out=leave_out,
            any_order=order == "any",
        )
        best = min(all_plans(problem), key=lambda plan: plan.rank(problem.objective), default=None)
        seen[best is None] += 1
        if best is None:
            with pytest.raises(PlanError):
                plan_chain(problem)
            continue
        plan = plan_chain(problem)
        assert (plan.devices, plan.cuts, plan.loads) == (best.devices, best.cuts, best.loads), seed
        assert plan.value == plan.lower_bound == best.rank(problem.objective)[0], seed
        assert plan.optimal
        assert plan.even
        assert plan.latency == best.latency
        assert plan.bottleneck == best.bottleneck
    assert min(seen.values()) > 20


def test_a_plan_that_may_not_be_the_evenest_is_as_good_all_the_same(monkeypatch):
    monkeypatch.setattr(chain_even, "_MOST_PAIRS", 1)
    thinned = 0
    for seed in range(600):
        problem = random_chain(seed)
        plans = {(plan.devices, plan.cuts): plan.rank(problem.objective) for plan in all_plans(problem)}
        if plans:
            plan = plan_chain(problem)
            assert plans[plan.devices, plan.cuts][:2] == min(plans.values())[:2]
            assert plan.value == min(plans.values())[0]
            thinned += not plan.even
            assert not plan.even or plans[plan.devices, plan.cuts] == min(plans.values())
    assert thinned > 5


def test_all_plans_come_from_the_best_on():
    for seed in range(120):
        problem = random_chain(seed)
        best: dict[tuple[int, ...], float] = {}
        for plan in all_plans(problem):
            value = plan.rank(problem.objective)[0]
            best[plan.cuts] = min(value, best.get(plan.cuts, value))
        found = list(best_plans(problem))
        assert [plan.value for plan in found] == sorted(best.values()), seed
        assert {plan.cuts: plan.value for plan in found} == best, seed


# Another exact method: all pairs of cuts, stage after stage, in floats.


def _by_all_pairs(problem: ChainProblem) -> float:
    """The best value for devices in the given order, all of them used; `inf` if there is none."""
    blocks, link = problem.number_of_blocks, problem.links
    assert isinstance(link, ChainLink)
    moving = np.concatenate([[0.0], link.seconds(problem.crossing), [0.0]])
    first, behind = np.meshgrid(np.arange(blocks + 1), np.arange(blocks + 1), indexing="ij")
    inside = np.full((blocks + 1, blocks + 1), np.inf)
    above = first < behind
    inside[above] = Memory(problem).needed(first[above], behind[above])
    devices = [device for device in problem.devices for _ in range(device.count)]
    best = np.where(np.arange(blocks + 1) == 0, 0.0, np.inf)
    for device in devices:
        running = np.concatenate([[0.0], np.cumsum(device.seconds)])
        compute = np.where(above & (inside <= device.memory), running[None, :] - running[:, None], np.inf)
        if problem.objective == "latency":
            best = (best[:, None] + moving[:, None] + compute).min(axis=0)
        elif problem.overlap:
            loads = np.maximum(compute, np.maximum(moving[:, None], moving[None, :]))
            best = np.maximum(best[:, None], loads).min(axis=0)
        else:
            best = np.maximum(best[:, None], compute + moving[:, None] + moving[None, :]).min(axis=0)
    return best[-1]


def _longer_chain(seed: int, blocks: int, devices: int, tightness: float, **fields) -> ChainProblem:
    """Random numbers of very different sizes; memory is scarce and buffers differ much."""
    dice = np.random.default_rng(seed)
    parameters = np.round(dice.exponential(1000, blocks))
    buffers = np.round(dice.exponential(3000, blocks - 1))
    fair = parameters.sum() / devices + 6000
    return ChainProblem(
        tuple(
            ChainDevice(f"d{index}", dice.exponential(1, blocks), memory=fair * tightness * dice.uniform(1, 1.5))
            for index in range(devices)
        ),
        crossing=dice.exponential(1, blocks - 1),
        links=ChainLink(bandwidth=1.0, latency=0.1),
        parameters=parameters,
        peaks=np.round(dice.exponential(1000, blocks)),
        buffers=buffers,
        shared=tuple(SharedWeight(500, tuple(dice.integers(0, blocks, 4).tolist())) for _ in range(blocks // 10)),
        **fields,
    )


@pytest.mark.parametrize("fields", [{}, {"overlap": True}, {"objective": "latency"}], ids=str)
def test_longer_chains_agree_with_another_exact_method(fields):
    possible = 0
    for seed in range(60):
        problem = _longer_chain(seed, 40 + seed, 2 + seed % 5, (0.9, 1.1, 1.4, 3.0)[seed % 4], **fields)
        expected = _by_all_pairs(problem)
        if expected == math.inf:
            with pytest.raises(PlanError):
                plan_chain(problem)
            continue
        possible += 1
        assert plan_chain(problem).value == pytest.approx(expected, rel=1e-12)
    assert possible > 20


def test_the_memory_of_a_stage_counts_a_shared_weight_once():
    for seed in range(40):
        problem = random_chain(seed)
        blocks = problem.number_of_blocks
        pairs = [(first, behind) for behind in range(blocks + 1) for first in range(behind)]
        found = Memory(problem).needed(*np.array(pairs).T)
        buffers = [0.0, *problem.buffers, 0.0]
        for (first, behind), count in zip(pairs, found, strict=True):
            held = sum(weight.bytes for weight in problem.shared if set(weight.blocks) & set(range(first, behind)))
            own = sum(problem.parameters[first:behind]) + max(problem.peaks[first:behind])
            assert count == held + own + buffers[first] + buffers[behind]


@given(st.lists(st.integers(-(2**40), 2**40), min_size=1, max_size=40), st.data())
@settings(deadline=None)
def test_the_highest_of_a_range(values, data):
    first = data.draw(st.integers(0, len(values) - 1))
    behind = data.draw(st.integers(first + 1, len(values)))
    found = Highest(np.array(values)).over(np.array([first]), np.array([behind]))
    assert found.tolist() == [max(values[first:behind])]


# What must hold for every chain.


def _value(problem: ChainProblem) -> float:
    try:
        return plan_chain(problem).value
    except PlanError:
        return math.inf


seeds = st.integers(0, 100_000)


@given(seeds, st.sampled_from([0.5, 4.0]))
@settings(deadline=None)
def test_a_slower_clock_changes_no_cut(seed, factor):
    problem = random_chain(seed, leave_out=True, source=None, sink=None)
    problem = replace(problem, links=ChainLink(bandwidth=2.0, latency=1.0))
    devices = tuple(replace(device, seconds=device.seconds * factor) for device in problem.devices)
    slower = replace(problem, devices=devices, links=ChainLink(bandwidth=2.0 / factor, latency=factor))
    if _value(problem) < math.inf:
        assert plan_chain(slower).cuts == plan_chain(problem).cuts
        assert plan_chain(slower).value == plan_chain(problem).value * factor


@given(seeds)
@settings(deadline=None)
def test_more_memory_never_hurts(seed):
    problem = random_chain(seed)
    more = replace(problem, devices=tuple(replace(d, memory=2 * d.memory) for d in problem.devices))
    assert _value(more) <= _value(problem)


@given(seeds)
@settings(deadline=None)
def test_leaving_devices_out_never_hurts(seed):
    problem = random_chain(seed, leave_out=False, any_order=True)
    assert _value(replace(problem, leave_out=True)) <= _value(problem)


@given(seeds)
@settings(deadline=None)
def test_any_order_is_never_worse_than_the_given_one(seed):
    problem = random_chain(seed, leave_out=True, any_order=False)
    assert _value(replace(problem, any_order=True)) <= _value(problem)


@given(seeds)
@settings(deadline=None)
def test_transfers_that_overlap_never_hurt(seed):
    problem = random_chain(seed, objective="throughput", overlap=False)
    assert _value(replace(problem, overlap=True)) <= _value(problem)


@given(seeds)
@settings(deadline=None)
def test_a_chain_read_backwards_has_the_same_value(seed):
    problem = random_chain(seed, any_order=True)
    if not isinstance(problem.links, ChainLink):
        problem = replace(problem, links=problem.links.get((0, 0), ChainLink()))
    blocks = problem.number_of_blocks
    limits = replace(
        problem.limits,
        must_cut=tuple(blocks - cut for cut in problem.limits.must_cut),
        must_not_cut=tuple(blocks - cut for cut in problem.limits.must_not_cut),
        first_to=0 if problem.limits.last_from is None else blocks - problem.limits.last_from,
        last_from=blocks - problem.limits.first_to,
    )
    backwards = replace(
        problem,
        devices=tuple(replace(device, seconds=device.seconds[::-1]) for device in problem.devices),
        crossing=problem.crossing[::-1],
        parameters=problem.parameters[::-1],
        peaks=problem.peaks[::-1],
        buffers=problem.buffers[::-1],
        shared=tuple(
            replace(weight, blocks=tuple(blocks - 1 - block for block in weight.blocks)) for weight in problem.shared
        ),
        input_bytes=problem.output_bytes,
        output_bytes=problem.input_bytes,
        source=problem.sink,
        sink=problem.source,
        limits=limits,
    )
    assert _value(backwards) == _value(problem)


def test_infeasible_chains_say_exactly_what_would_be_enough():
    checked = Counter()
    for seed in range(400):
        problem = random_chain(seed)
        try:
            plan_chain(problem)
            continue
        except PlanError as error:
            binding, enough = error.binding, error.enough
        assert binding
        for name in {"memory", "largest_crossing"} & set(enough):
            assert name in binding
            checked[name] += 1
            assert _with(problem, name, enough[name])
            sizes = sorted(size for size in problem.crossing if size < enough[name])
            less = enough[name] - 1 if name == "memory" else (sizes[-1] if sizes else -1.0)
            assert not _with(problem, name, less), seed
    assert checked["memory"] > 20
    assert checked["largest_crossing"] > 3


def _with(problem: ChainProblem, name: str, value: float) -> bool:
    """Whether any plan is possible with the limit raised to the value."""
    if name == "memory":
        devices = tuple(replace(device, memory=max(device.memory, value)) for device in problem.devices)
        problem = replace(problem, devices=devices)
    else:
        problem = replace(problem, limits=replace(problem.limits, largest_crossing=value))
    return next(all_plans(problem), None) is not None


def test_the_fewest_devices_are_exact():
    checked = 0
    for seed in range(800):
        problem = random_chain(seed, any_order=False, leave_out=False)
        if len(problem.devices) > 1 or not isinstance(problem.links, ChainLink) or problem.limits != ChainLimits():
            continue
        try:
            plan_chain(problem)
        except PlanError as error:
            if "devices" not in error.enough:
                continue
            checked += 1
            device = problem.devices[0]
            possible = [
                count
                for count in range(1, 8)
                if next(all_plans(replace(problem, devices=(replace(device, count=count),))), None)
            ]
            assert error.enough["devices"] == min(possible), seed
    assert checked > 10


# Other people's measurements.


def test_the_example_of_scissions_readme():
    """VGG19 on a Raspberry Pi, an edge machine that holds layer 10, and a cloud machine that holds layer 16."""
    lines = []
    for machines in scission.triples():
        measured = scission.blocks("vgg19", machines[0])
        problem = scission.problem("vgg19", machines, objective="latency")
        problem = _only_on(problem, {measured.holding(10): 1, measured.holding(16): 2})
        for plan, _ in zip(best_plans(problem), range(5), strict=False):
            layers = [measured.first_layers[cut] for cut in plan.cuts]
            lines.append((plan.value, machines[1:], layers, plan))
    lines.sort(key=lambda line: line[0])
    assert [round(value, 4) for value, *_ in lines[:5]] == [9.0106, 9.0594, 9.0721, 9.1209, 9.1511]
    _, machines, layers, plan = lines[0]
    assert machines == ("vm2Core", "6700k(GPU)")
    assert layers == [7, 12]  # raspi4 0-6, vm2Core 7-11, 6700k(GPU) 12-25
    assert round(plan.moved / 1e6, 4) == 2.4087
    assert round(sum(plan.compute), 4) == 0.7666
    assert [round(seconds, 4) for seconds in plan.transfers] == [0, 8.0955, 0.1485, 0]


def _only_on(problem: ChainProblem, places: dict[int, int]) -> ChainProblem:
    """Each of these blocks runs only on the device given."""
    devices = []
    for number, device in enumerate(problem.devices):
        seconds = device.seconds.copy()
        seconds[[block for block, only in places.items() if only != number]] = math.inf
        devices.append(replace(device, seconds=seconds))
    return replace(problem, devices=tuple(devices))


@pytest.mark.parametrize("fields", [{}, {"overlap": True}, {"objective": "latency"}], ids=str)
def test_scissions_models_on_all_its_machines_are_planned_as_well_as_by_exhaustive_search(fields):
    assert len(scission.models()) == 18
    assert len(scission.triples()) == 4
    for model in scission.models():
        for machines in scission.triples():
            problem = scission.problem(model, machines, **fields)
            assert plan_chain(problem).value == pytest.approx(_exhaustively(problem), rel=1e-12), (model, machines)


def _exhaustively(problem: ChainProblem) -> float:
    """The best of all pairs of cuts for three devices."""
    one, two = np.triu_indices(problem.number_of_blocks - 1, 1)
    running = [np.concatenate([[0.0], np.cumsum(device.seconds)]) for device in problem.devices]
    compute = running[0][one + 1], running[1][two + 1] - running[1][one + 1], running[2][-1] - running[2][two + 1]
    moving = [link.seconds(problem.crossing) for link in problem.links]  # type: ignore[union-attr]
    send, forward = moving[0][one], moving[1][two]
    if problem.objective == "latency":
        return (sum(compute) + send + forward).min()
    if problem.overlap:
        return np.max([*compute, send, forward], axis=0).min()
    return np.max([compute[0] + send, send + compute[1] + forward, forward + compute[2]], axis=0).min()


# Words.


def _equal(count: int, blocks: int = 4, **fields) -> ChainProblem:
    device = ChainDevice("cpu", np.ones(blocks), count=count, memory=fields.pop("memory", math.inf))
    return ChainProblem((device,), **({"crossing": np.arange(1.0, blocks)} | fields))


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (
            _equal(2, parameters=np.full(4, 1000.0), memory=1500),
            "No plan for 4 blocks on 2 devices keeps to all limits. Each device needs a memory of 2002 bytes (2.0 KiB) "
            "or more (the smallest has 1500 bytes (1.5 KiB)); or 4 devices would be enough (there are 2).",
        ),
        (
            _equal(3, limits=ChainLimits(largest_crossing=1)),
            "No plan for 4 blocks on 3 devices keeps to all limits. The largest crossing has to be 2 bytes or more (it "
            "is 1 bytes); or 1 stage can be made, so take fewer devices or allow to leave some out.",
        ),
        (
            _equal(5),
            "No plan for 4 blocks on 5 devices keeps to all limits. "
            "1 stage can be made, so take fewer devices or allow to leave some out.",
        ),
        (
            _equal(2, limits=ChainLimits(must_cut=(1, 3))),
            "No plan for 4 blocks on 2 devices keeps to all limits. 3 devices would be enough (there are 2); "
            "or do not require all of the cuts 1, 3.",
        ),
        (
            _equal(2, limits=ChainLimits(first_to=3, last_from=1)),
            "No plan for 4 blocks on 2 devices keeps to all limits. 1 stage can be made, so take fewer devices or "
            "allow to leave some out; or let the first stage end before cut 3; or let the last stage begin behind "
            "cut 1.",
        ),
        (
            _equal(2, limits=ChainLimits(must_cut=(2,), must_not_cut=(2,))),
            "No plan for 4 blocks on 2 devices keeps to all limits. "
            "Do not require the cut 2; or do not forbid the cut 2.",
        ),
        (
            ChainProblem((ChainDevice("cpu", np.array([1.0, math.inf])),), crossing=np.zeros(1)),
            "No plan for 2 blocks on 1 device keeps to all limits. "
            "Let more blocks run on more devices (some seconds are infinite).",
        ),
        (
            _equal(2, memory=10, parameters=np.full(4, 8.0), limits=ChainLimits(largest_crossing=0.5)),
            "No plan for 4 blocks on 2 devices keeps to all limits. These are in the way together: "
            "memory and largest crossing. Loosen all of them.",
        ),
    ],
)
def test_a_refusal_names_the_limit_and_what_would_be_enough(problem, message):
    with pytest.raises(PlanError) as raised:
        plan_chain(problem)
    assert str(raised.value) == message


def test_too_many_orders_are_refused():
    devices = tuple(ChainDevice(f"d{index}", np.ones(40)) for index in range(24))
    with pytest.raises(PlanError, match="too many orders of devices for 40 blocks on 24 devices"):
        plan_chain(ChainProblem(devices, crossing=np.zeros(39), any_order=True))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ChainLink(bandwidth=0.0), "A link has a bandwidth of 0.0 bytes per second. It must be more than 0."),
        (lambda: ChainLink(latency=-1.0), "A link has a latency of -1.0 s. It must be 0 or more, and finite."),
        (
            lambda: ChainDevice("cpu", np.array([1.0, -2.0])),
            "Number 1 of the seconds of device 'cpu' is -2.0. It must be 0 or more.",
        ),
        (
            lambda: ChainDevice("cpu", np.ones((2, 2))),
            "The seconds of device 'cpu' have shape (2, 2). Expected one dimension.",
        ),
        (
            lambda: ChainDevice("cpu", np.ones(2), memory=-1),
            "Device 'cpu' has a memory of -1 bytes. It must be 0 or more.",
        ),
        (lambda: ChainDevice("cpu", np.ones(2), count=0), "Device 'cpu' has a count of 0. It must be 1 or more."),
        (lambda: ChainProblem((), crossing=np.zeros(1)), "There is no device. Give one or more."),
        (lambda: _equal(1, blocks=0, crossing=np.zeros(0)), "There is no block. Give the seconds of one or more."),
        (lambda: _equal(2, crossing=np.ones(4)), "The crossing have shape (4,). Expected shape (3,)."),
        (
            lambda: _equal(2, peaks=np.full(4, np.inf)),
            "Number 0 of the peaks is inf. It must be finite and 0 or more.",
        ),
        (
            lambda: replace(_equal(1), devices=(_equal(1).devices[0], ChainDevice("gpu", np.ones(3)))),
            "Device 'gpu' has seconds for 3 blocks, 'cpu' for 4. Give each device one number for each block.",
        ),
        (
            lambda: _equal(2, objective="speed"),
            "The objective is 'speed'. It must be 'throughput' or 'latency'.",
        ),
        (lambda: _equal(2, limits=ChainLimits(must_cut=(4,))), "`must_cut` has cut 4. The cuts are 1 to 3."),
        (
            lambda: _equal(2, shared=(SharedWeight(1.0, (4,)),)),
            "No weight has 1.0 bytes in the blocks (4,) of 4.",
        ),
        (lambda: _equal(2, source=1), "The source is device 1. The devices are 0 to 0."),
        (
            lambda: _equal(2, links=(ChainLink(),), leave_out=True),
            "Links between neighbours say nothing about devices in another order, or with some left out. "
            "Give one link for all, or one for each pair of devices.",
        ),
        (
            lambda: _equal(3, links=(ChainLink(),)),
            "There are 1 links for 3 devices. Expected 2, one between each and the next.",
        ),
    ],
)
def test_nonsense_is_refused(make, message):
    with pytest.raises(ValueError) as raised:
        make()
    assert str(raised.value) == message


def test_tensors_that_cross_together_are_added_up():
    problem = _equal(2, crossing=[(1, 2), 5, (7, 8, 9)])  # type: ignore[arg-type]
    assert problem.crossing.tolist() == [3, 5, 24]


# Speed.


@pytest.mark.parametrize("fields", [{}, {"overlap": True}, {"objective": "latency"}], ids=str)
def test_a_thousand_cuts_take_well_under_a_second(fields):
    assert _seconds(1_001, 8, **fields) < 1


@pytest.mark.slow
@pytest.mark.parametrize("memory", [math.inf, 6_450_000.0])
@pytest.mark.parametrize("fields", [{}, {"overlap": True}, {"objective": "latency"}], ids=str)
def test_a_hundred_thousand_cuts_take_seconds(fields, memory):
    assert _seconds(100_001, 8, memory=memory, **fields) < 30


def _seconds(blocks: int, devices: int, memory: float = math.inf, **fields) -> float:
    dice = np.random.default_rng(1)
    device = ChainDevice("cpu", dice.random(blocks), count=devices, memory=memory)
    problem = ChainProblem(
        (device,),
        crossing=dice.integers(1, 1000, blocks - 1),
        links=ChainLink(bandwidth=1000.0),
        parameters=dice.integers(1, 1000, blocks),
        peaks=dice.integers(1, 5000, blocks),
        **fields,
    )
    began = time.perf_counter()
    assert len(plan_chain(problem).cuts) == devices - 1
    return time.perf_counter() - began
