"""Plans: as good as the best by brute force, and correct in what they say about the stages."""

import doctest
import itertools
import json
import math
import random
from dataclasses import replace

import keras
import menagerie
import numpy as np
import pytest
from applications import NEEDS_NASNET, OLD_KERAS
from hypothesis import assume, given, strategies as st
from plan_oracle import Oracle
from random_models import build, examples, recipes
from samples import due
from small_models import uneven

import kerassplit as ks
from kerassplit import wire
from kerassplit.cutting.cuts import resolve_cuts
from kerassplit.cutting.stage_parts import stage_parts
from kerassplit.graph.reading import read_graph
from kerassplit.graph.sides import read_sides
from kerassplit.planning import graph_answers, sweeper, tables

KINDS = [
    menagerie.two_towers,
    menagerie.unet,
    menagerie.feature_pyramid,
    menagerie.outputs_that_the_head_makes,
    menagerie.input_that_only_the_tail_needs,
    menagerie.input_used_on_both_sides,
    menagerie.siamese_layers,
    menagerie.layer_in_two_stages,
    menagerie.nested_called_twice,
    menagerie.one_relu_called_many_times,
    menagerie.takes_and_gives_nested_structures,
    menagerie.layers_with_several_outputs,
    menagerie.encoder_decoder,
]
EVERY_KIND = pytest.mark.parametrize("kind", due(KINDS, 2), ids=lambda kind: kind.__name__)


@pytest.fixture(scope="module")
def costs(resnet):
    return ks.profile(resnet)


def question_of(profile, seed, **fixed):
    """Random devices, link and objective."""
    dice = random.Random(seed)
    count = dice.choice([1, 2, 2, 3])
    speeds = [(profile.flops or 1) / dice.uniform(0.5, 3) for _ in range(count)]
    biggest = max(tensor.bytes or 0 for tensor in profile.tensors)
    link = dice.choice([None, (biggest / dice.uniform(0.01, 1), dice.choice([0.0, 0.05]))])
    everything = profile.parameter_bytes + sum(tensor.bytes or 0 for tensor in profile.tensors)
    memories = [math.inf if dice.random() < 0.6 else everything * dice.uniform(0.3, 1) for _ in range(count)]
    objective = dice.choice(["throughput", "latency"])
    options = {
        "objective": objective,
        "overlap": objective == "throughput" and dice.random() < 0.4,
        "leave_out": dice.random() < 0.5,
        "any_order": dice.random() < 0.3,
    }
    return speeds, link, memories, options | fixed


def devices_of(speeds, memories):
    return [
        ks.Device(f"d{place}", speed, None if memory == math.inf else memory)
        for place, (speed, memory) in enumerate(zip(speeds, memories, strict=True))
    ]


def asked(model, profile, question, max_crossing, **limits):
    speeds, link, memories, options = question
    links = None if link is None else ks.Link(*link)
    return ks.plan(
        model,
        devices_of(speeds, memories),
        links=links,
        max_crossing=max_crossing,
        profile=profile,
        **options,
        **limits,
    )


def require_as_told(model, plan):
    """Checks that the stages of the split have the calls of the plan's stages, except for masks."""
    if len(plan.stages) == 1:
        assert plan.at == []
        return
    graph = read_graph(model)
    sides = read_sides(graph)
    masks = set(graph.names(tensor for call in sides.calls for tensor in graph.calls[call].outputs))
    parts = stage_parts(sides, resolve_cuts(sides, plan.at))
    for part, stage in zip(parts, plan.stages, strict=True):
        calls = [graph.calls[index].name for index in part.calls if index not in sides.calls]
        assert [name for name in stage.calls if name not in masks] == calls


def require_the_best(model, profile, question, max_crossing):
    """Checks that the plan is as good as the best by brute force; returns True if there is one."""
    speeds, link, memories, options = question
    best = Oracle(model, profile, speeds, link, memories, max_crossing=max_crossing, **options).best()
    try:
        plan = asked(model, profile, question, max_crossing)
    except ks.PlanError as error:
        assert best == math.inf, str(error)
        assert error.binding
        return False
    assert plan.value == pytest.approx(best, rel=1e-9)
    assert plan.optimal
    assert plan.lower_bound == pytest.approx(plan.value)
    assert plan.value == pytest.approx(plan.latency if plan.objective == "latency" else plan.bottleneck)
    require_as_told(model, plan)
    return True


# The best there is.


@pytest.mark.parametrize("max_crossing", [1, 2, "any"])
@EVERY_KIND
def test_no_plan_is_better_than_the_one_found(kind, max_crossing):
    model = kind().model
    profile = ks.profile(model)
    answers = [require_the_best(model, profile, question_of(profile, seed), max_crossing) for seed in range(10)]
    assert answers.count(True) >= 2


@examples(200)
@given(recipes, st.integers(0, 10**6), st.sampled_from([1, 2, 3, "any"]))
def test_no_plan_of_a_random_model_is_better(recipe, seed, max_crossing):
    model = build(recipe)
    profile = ks.profile(model)
    assume(profile.flops and len(profile.calls) <= 9)
    require_the_best(model, profile, question_of(profile, seed), max_crossing)


def test_four_even_stages_of_resnet50_are_the_most_even_there_are(resnet, costs):
    plan = ks.plan(resnet, 4, profile=costs)
    flops = np.array([block.flops for block in costs.blocks])
    running = np.concatenate([[0], np.cumsum(flops)])
    cuts = np.array(list(itertools.combinations(range(1, len(flops)), 3)))
    bounds = np.column_stack([np.zeros(len(cuts), int), cuts, np.full(len(cuts), len(flops))])
    loads = np.diff(running[bounds], axis=1)
    assert plan.value == loads.max(axis=1).min()
    best = loads[loads.max(axis=1) == plan.value]
    squares = (best.astype(float) ** 2).sum(axis=1)
    assert sum(stage.load**2 for stage in plan.stages) == pytest.approx(squares.min(), rel=1e-9)
    assert (plan.unit, plan.optimal, plan.gap) == ("FLOPs", True, 0.0)


def test_what_a_plan_says_of_its_stages_is_so(resnet, costs, images):
    for max_crossing in (1, 2):
        plan = ks.plan(resnet, 3, profile=costs, max_crossing=max_crossing)
        split = ks.split(resnet, plan)
        assert split.verify(images(resnet)).identical
        for planned, stage in zip(plan.stages, split, strict=True):
            assert planned.parameter_bytes == sum(4 * weight.numpy().size for weight in stage.model.weights)
            assert planned.memory > planned.parameter_bytes
        for planned, crossing in zip(plan.stages, split.crossings, strict=False):
            assert planned.crossing == tuple(tensor.name for tensor in crossing.tensors)
            assert planned.crossing_bytes == sum(tensor.bytes for tensor in crossing.tensors)
        assert sum(len(stage.calls) for stage in plan.stages) == len(costs.calls)


def test_more_tensors_at_a_cut_are_never_worse(applications):
    nasnet = applications("EfficientNetB0")
    profile = ks.profile(nasnet)
    values = [ks.plan(nasnet, 4, max_crossing=most, profile=profile).value for most in (1, 2, 3)]
    assert values == sorted(values, reverse=True)


def test_the_methods_agree_on_two_devices(resnet, costs):
    """A chain, dynamic programming over cuts with few tensors, and a minimum cut over all cuts."""
    phone, server = ks.Device("phone", "2 GFLOPS"), ks.Device("server", "200 GFLOPS")
    for bandwidth in ("1 Mbit/s", "8 Mbit/s", "50 Mbit/s", "1 Gbit/s"):
        link = ks.Link(bandwidth, "1 ms")
        found = [
            ks.plan(resnet, [phone, server], links=link, objective="latency", max_crossing=most, profile=costs)
            for most in (1, 3, "any")
        ]
        methods = ["dynamic programming over closed sets", "dynamic programming over closed sets", "minimum cut"]
        assert [plan.method for plan in found] == methods
        values = [plan.value for plan in found]
        assert values[0] >= values[1] * (1 - 1e-9) >= values[2] * (1 - 2e-9)
        assert values[0] == pytest.approx(values[2], rel=0.2)


def test_where_closed_sets_are_too_many_there_is_a_bound(applications):
    model = applications("InceptionV3")
    plan = ks.plan(model, 3, max_crossing="any", time_limit=5)
    assert plan.lower_bound <= plan.value
    assert plan.optimal == (plan.gap == 0)
    assert plan.value <= ks.plan(model, 3).value
    require_as_told(model, plan)


@NEEDS_NASNET
def test_a_looser_limit_is_never_worse(applications):
    model = applications("NASNetMobile")
    profile = ks.profile(model)
    few, more = (ks.plan(model, 4, max_crossing=most, profile=profile, time_limit=2) for most in (2, "any"))
    assert few.optimal
    assert more.lower_bound <= more.value <= few.value
    require_as_told(model, more)


def test_latency_on_three_devices_has_a_bound_from_two(applications):
    model = applications("MobileNetV2")
    devices = [ks.Device(name, f"{speed} GFLOPS") for name, speed in (("a", 1), ("b", 10), ("c", 200))]
    plan = ks.plan(model, devices, links=ks.Link("5 Mbit/s", "2 ms"), objective="latency", max_crossing="any")
    assert plan.optimal
    assert plan.lower_bound == pytest.approx(plan.value)


def test_equal_questions_get_equal_plans(resnet, costs):
    devices = [ks.Device("a", "1 GFLOPS", count=2), ks.Device("b", "3 GFLOPS", "80 MiB")]
    for most in (1, 2):
        one, other = (
            ks.plan(resnet, devices, links=ks.Link("1 Gbit/s"), any_order=True, max_crossing=most, profile=costs)
            for _ in range(2)
        )
        assert one == other
        assert sorted(stage.device for stage in one.stages) == ["a 1", "a 2", "b"]


# Limits.


def test_limits_are_kept_and_nothing_better_keeps_them(resnet, costs):
    points = [point.name for point in ks.split_points(resnet)]
    blocks = [block.name for block in costs.blocks]
    running = np.cumsum([block.flops for block in costs.blocks])

    def best(allowed):
        return min(
            max(running[cuts[0]], running[cuts[1]] - running[cuts[0]], running[-1] - running[cuts[1]])
            for cuts in itertools.combinations(range(len(points)), 2)
            if allowed(*(blocks[cut] for cut in cuts))
        )

    place = {name: index for index, name in enumerate(blocks)}
    size = {block.name: block.crossing_bytes for block in costs.blocks}
    cases = [
        ({"must_cut": "conv3_block1_out"}, lambda one, two: "conv3_block1_out" in (one, two)),
        ({"must_not_cut": "conv4_*"}, lambda one, two: not one.startswith("conv4") and not two.startswith("conv4")),
        ({"first_to": "conv4_block5_1_relu"}, lambda one, two: place[one] >= place["conv4_block5_add"]),
        ({"last_from": "conv3_block2_out"}, lambda one, two: place[two] <= place["conv3_block2_out"]),
        ({"largest_crossing": "49 KiB"}, lambda one, two: max(size[one], size[two]) <= 49 * 1024),
    ]
    for limit, allowed in cases:
        expected = best(allowed)
        for most in (1, 2):
            plan = ks.plan(resnet, 3, profile=costs, max_crossing=most, **limit)
            if most == 1:
                assert plan.value == expected, limit
                assert allowed(*plan.at)
            assert plan.value <= expected


def test_with_first_to_the_first_stage_is_the_first_devices(resnet, costs):
    """Without it, the planner would send the image away."""
    phone, server = ks.Device("phone", "1 GFLOPS"), ks.Device("server", "1 TFLOPS")
    question = {"links": ks.Link("1 Gbit/s"), "objective": "latency", "profile": costs}
    for most in (1, 2, "any"):
        assert [stage.device for stage in ks.plan(resnet, [phone, server], max_crossing=most, **question).stages] == [
            "server"
        ]
        plan = ks.plan(resnet, [phone, server], max_crossing=most, first_to="pool1_pool", **question)
        assert plan.stages[0].device == "phone"
        assert "pool1_pool" in plan.stages[0].calls


def test_memory_that_is_enough_is_enough_and_a_byte_less_is_not(resnet, costs):
    with pytest.raises(ks.PlanError, match=r"Each device needs a memory of \d+ bytes \([\d.]+ MiB\) or more") as error:
        ks.plan(resnet, [ks.Device("chip", memory="8 MiB", count=4)], profile=costs)
    assert "memory" in error.value.binding
    enough = error.value.enough["memory"]
    plan = ks.plan(resnet, [ks.Device("chip", memory=enough, count=4)], profile=costs)
    assert max(stage.memory for stage in plan.stages) <= enough
    with pytest.raises(ks.PlanError):
        ks.plan(resnet, [ks.Device("chip", memory=enough - 1, count=4)], profile=costs)


@pytest.mark.parametrize(
    ("limits", "binding", "message"),
    [
        ({"devices": 41}, {"devices"}, "'resnet50' has 39 split points, so 40 stages at most, and there"),
        ({"devices": 2, "largest_crossing": 100}, {"largest_crossing"}, "the largest crossing has to be"),
        ({"devices": 2, "largest_crossing": 100, "max_crossing": 2}, {"largest_crossing"}, "has to be 8192 bytes"),
        ({"devices": 2, "must_cut": ["conv3_block1_out", "avg_pool"]}, {"must_cut"}, "not require all of the cuts 'co"),
        ({"devices": 2, "must_cut": ["conv3_block1_out", "avg_pool"]}, {"devices"}, "3 devices would be enough (the"),
        ({"devices": 2, "must_cut": "avg_pool", "last_from": "pool1_pool"}, {"must_cut"}, "not require the cut 'avg"),
        ({"devices": 2, "must_cut": "avg_pool", "last_from": "pool1_pool"}, {"last_from"}, "later than at 'pool1_p"),
        ({"devices": 2, "must_cut": "pool1_pool", "first_to": "avg_pool"}, {"first_to"}, "earlier than at 'avg_pool'"),
        (
            {"devices": 2, "must_cut": ["conv3_block1_out", "avg_pool"], "largest_crossing": 100},
            {"devices", "must_cut"},
            "in the way together: devices and must cut.",
        ),
    ],
)  # fmt: skip
def test_limits_that_leave_no_plan_are_named(resnet, costs, limits, binding, message):
    with pytest.raises(ks.PlanError) as error:
        ks.plan(resnet, profile=costs, **limits)
    assert message.lower() in str(error.value).lower()
    assert binding <= set(error.value.binding)


def test_following_the_advice_on_devices_gives_a_plan():
    """The number of devices, and if some of them stay without a stage."""
    dice, followed = random.Random(3), {True: 0, False: 0}
    x = inputs = keras.Input((8,), name="x")
    for place in range(6):
        x = keras.layers.Dense(dice.choice([4, 8, 16, 32]), name=f"dense{place}")(x)
    model = keras.Model(inputs, x)
    profile = ks.profile(model)
    most = max(block.parameter_bytes for block in profile.blocks)
    for _ in range(40):
        memory, count = int(most * dice.uniform(0.9, 2)), dice.randint(1, 5)
        options = {"profile": profile, "must_cut": f"dense{dice.randrange(5)}"}
        try:
            ks.plan(model, ks.Device("chip", memory=memory, count=count), **options)
        except ks.PlanError as error:
            enough = error.enough.get("devices")
            if enough is not None and enough > count:
                some_left = "some of them without a stage (leave_out=True, --leave-out)" in str(error)
                ks.plan(model, ks.Device("chip", memory=memory, count=enough), leave_out=some_left, **options)
                followed[some_left] += 1
    assert followed[False] > 5


def require_that_all_advice_gives_a_plan(model, profile, count, options):
    """Checks that every solution named by the error leads to a plan; returns what it names."""
    device = ks.Device("chip", memory=options.pop("memory", None), count=count)
    try:
        ks.plan(model, device, profile=profile, **options)
    except ks.PlanError as error:
        lifted = []
        for name in error.binding:
            enough, loosened, devices = error.enough.get(name), {**options}, device
            if name == "memory":
                devices = replace(device, memory=enough)
            elif name == "devices" and enough is not None:
                left_out = "some of them without a stage (leave_out=True, --leave-out)" in str(error)
                devices, loosened["leave_out"] = replace(device, count=enough), left_out
            elif name == "devices":
                loosened["leave_out"] = True
            elif name == "max_crossing":
                loosened[name] += 2
            else:
                loosened[name] = enough
            lifted.append((devices, loosened))
        if "in the way together" in str(error):
            return ["together"]
        for name, (devices, loosened) in zip(error.binding, lifted, strict=True):
            try:
                ks.plan(model, devices, profile=profile, **loosened)
            except ks.PlanError as other:
                raise AssertionError(f"{name} {error.enough}: {count}, {options}; {error}; {other}") from other
        return list(error.binding)
    return []


def test_following_any_advice_gives_a_plan():
    dice, followed = random.Random(11), []
    model = menagerie.feature_pyramid().model
    profile, names = ks.profile(model), [point.name for point in ks.split_points(model)]
    chain = a_chain(12)
    chain_profile, points = ks.profile(chain), [point.name for point in ks.split_points(chain)]
    for _ in range(70):
        some, costs, where = dice.choice([(model, profile, names), (chain, chain_profile, points)])
        options = {"max_crossing": dice.choice([1, 1, 2])}
        if dice.random() < 0.4:
            options["memory"] = int(costs.parameter_bytes * dice.uniform(0.1, 1)) + dice.choice([0, 4096])
        if dice.random() < 0.3:
            options["largest_crossing"] = dice.choice([10, 60, 100, 2000])
        for name in ("must_cut", "must_not_cut", "first_to", "last_from"):
            if dice.random() < 0.25:
                options[name] = dice.choice(where)
        followed += require_that_all_advice_gives_a_plan(some, costs, dice.randint(1, 5), options)
    assert {"memory", "largest_crossing", "devices", "must_cut", "first_to", "last_from"} <= set(followed)


def test_a_block_that_no_device_can_run_is_named():
    x = keras.Input((4,), name="x")
    model = keras.Model(x, keras.layers.Dense(2, name="last")(keras.layers.Dense(3, name="first")(x)))
    never = ks.Device("small", seconds={"first": 1.0, "last": math.inf})
    for max_crossing in (1, "any"):
        with pytest.raises(ks.PlanError, match="No device can run the block 'last': on each of them its") as error:
            ks.plan(model, [never, replace(never, name="other")], max_crossing=max_crossing)
        assert error.value.binding == ("seconds",)


def test_a_sweep_explains_as_a_plan_does(small):
    phones = ks.Device("phone", "1 MFLOPS", count=2)
    options = {"must_cut": "pool", "last_from": "stem", "max_crossing": 2}
    with pytest.raises(ks.PlanError) as by_plan:
        ks.plan(small, phones, links=ks.Link("1 MB/s"), objective="latency", **options)
    with pytest.raises(ks.PlanError) as by_sweep:
        ks.plan_sweep(small, phones, **options)
    assert str(by_sweep.value) == str(by_plan.value)


# What work is.


def test_flops_and_parameters_are_shared_out(resnet, costs):
    for balance, total, unit in (("flops", costs.flops, "FLOPs"), ("params", costs.parameters, "parameters")):
        plan = ks.plan(resnet, 3, balance=balance, profile=costs)
        assert plan.unit == unit
        assert sum(stage.work for stage in plan.stages) == total


def test_memory_is_shared_out_so_that_the_largest_stage_is_the_smallest(applications):
    model = applications("MobileNetV2")
    profile = ks.profile(model)
    plan = ks.plan(model, 4, balance="memory", profile=profile)
    assert (plan.unit, plan.optimal) == ("bytes", True)
    assert plan.value == max(stage.memory for stage in plan.stages)
    with pytest.raises(ks.PlanError) as error:
        ks.plan(model, ks.Device("chip", memory=1000, count=4), profile=profile)
    assert plan.value == error.value.enough["memory"]
    ks.plan(model, ks.Device("chip", memory=plan.value, count=4), profile=profile)
    limited = [ks.Device("a", memory=plan.value), ks.Device("b"), ks.Device("c"), ks.Device("d")]
    assert ks.plan(model, limited, balance="memory", profile=profile).value == plan.value
    with pytest.raises(ks.PlanError, match="needs a memory of"):
        ks.plan(model, ks.Device("chip", memory=plan.value - 1, count=4), balance="memory", profile=profile)


def test_a_shared_weight_is_in_every_stage_that_uses_it():
    """Cut at its first call, one stage would look small, but the other also has the shared weight."""
    x = keras.Input((64,))
    shared = keras.layers.Dense(64, name="shared")
    y = keras.layers.Dense(64, name="middle")(keras.layers.ReLU(name="first")(shared(x)))
    y = keras.layers.Dense(8, name="end")(keras.layers.ReLU(name="second")(shared(y)))
    model = keras.Model(x, y)
    plan = ks.plan(model, 2, balance="params")
    split = ks.split(model, plan)
    assert [stage.work for stage in plan.stages] == [stage.model.count_params() for stage in split]
    others = [ks.split(model, point) for point in ks.split_points(model)]
    assert plan.value == min(max(stage.model.count_params() for stage in other) for other in others)
    assert plan.optimal
    siamese = menagerie.siamese_layers().model
    assert ks.plan(siamese, 1, balance="params").value == siamese.count_params()


def test_what_stages_hold_is_no_latency(small):
    with pytest.raises(ks.SplitError, match="Latency is a time, but balance='params' balances what stages hold"):
        ks.plan(small, 2, balance="params", objective="latency")
    with pytest.raises(ks.SplitError, match="balance bytes: balance='memory'"):
        ks.plan(small, ks.Device("a", memory="1 GiB", count=2), balance="params")


def test_seconds_come_from_a_measured_profile_or_a_table(small):
    measured = ks.profile(small, measure=True)
    measured = replace(measured, whole_seconds=0.75 * measured.seconds)  # on a busy machine, it may be measured as 0
    factor = measured.whole_seconds / measured.seconds  # together they take as long as the whole model
    table = {block.name: block.seconds * factor for block in measured.blocks}
    by_profile = ks.plan(small, ks.Device("here", seconds=measured, count=2))
    overhead = measured.overhead.median
    by_table = ks.plan(small, ks.Device("here", seconds=table, count=2, overhead=overhead))
    by_time = ks.plan(small, ks.Device("here", count=2), balance="time", profile=measured)
    assert by_profile == by_table == by_time
    assert by_profile.unit == "seconds"
    assert sum(stage.work for stage in by_profile.stages) == pytest.approx(measured.whole_seconds + 2 * overhead)
    free = ks.plan(small, ks.Device("here", seconds=measured, count=2, overhead=0.0))
    assert free == ks.plan(small, ks.Device("here", seconds=table, count=2))
    assert free.value == pytest.approx(by_profile.value - overhead)
    together = ks.plan(small, ks.Device("here", seconds=measured, count=2), max_crossing="any")
    assert together.value <= by_table.value * (1 + 1e-9)


def test_a_block_that_cannot_run_somewhere_runs_elsewhere(small):
    names = [block.name for block in ks.profile(small).blocks]
    slow = ks.Device("slow", seconds=dict.fromkeys(names, 1.0))
    picky = ks.Device("picky", seconds={**dict.fromkeys(names, 0.1), names[0]: math.inf})
    plan = ks.plan(small, [slow, picky])
    assert plan.at == [names[0]]
    with pytest.raises(ks.PlanError, match="let more blocks run on more devices"):
        ks.plan(small, [picky, slow])


def test_compression_shrinks_what_is_sent(resnet, costs):
    devices = [ks.Device("a", "1 GFLOPS"), ks.Device("b", "1 GFLOPS")]
    sent = {}
    for compression in (None, 4, "float16", "float8_e4m3fn", "float32"):
        plan = ks.plan(
            resnet, devices, links=ks.Link("1 MB/s"), must_cut="avg_pool", compression=compression, profile=costs
        )
        sent[compression] = plan.stages[0].crossing_bytes
        assert plan.stages[0].send == pytest.approx(sent[compression] / 1e6)
    packed = {
        form: len(wire.pack({"avg_pool": np.ones((1, 2048), "float32")}, form)) for form in ("float16", "float32")
    }
    assert sent == {None: 8192, 4: 2048, "float8_e4m3fn": 2048, **packed}


def test_a_tensor_is_moved_once_however_many_wait_for_it():
    model = menagerie.unet().model
    profile = ks.profile(model)
    devices = [ks.Device(name, "1 MFLOPS") for name in "ab"]
    plan = ks.plan(model, devices, links=ks.Link("1 kB/s"), max_crossing="any", must_cut=[["down0", "down1", "down2"]])
    sizes = {tensor.name: tensor.bytes for tensor in profile.tensors}
    assert plan.stages[0].send == pytest.approx(sum(sizes[name] for name in plan.stages[0].crossing) / 1e3)
    assert len(set(plan.stages[0].crossing)) == 3


def test_links_between_neighbours_and_between_pairs(resnet, costs):
    a, b, c = (ks.Device(name, "1 GFLOPS") for name in "abc")
    slow, fast = ks.Link("1 MB/s"), ks.Link("1 GB/s")
    for most in (1, 2):
        in_order = ks.plan(resnet, [a, b, c], links=[slow, fast], max_crossing=most, profile=costs)
        by_pairs = ks.plan(
            resnet, [a, b, c], links={("a", "b"): slow, ("b", "c"): fast}, max_crossing=most, profile=costs
        )
        assert in_order.at == by_pairs.at
        assert in_order.value == pytest.approx(by_pairs.value)
        first, second = in_order.stages[:2]
        assert first.send == pytest.approx(first.crossing_bytes / 1e6)
        assert second.send == pytest.approx(second.crossing_bytes / 1e9)
    with pytest.raises(ks.PlanError):
        ks.plan(resnet, [a, b, c], links={("a", "b"): slow}, profile=costs)


# Nonsense.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"devices": 0}, "A plan needs at least one device; got 0."),
        ({"devices": []}, r"`devices` must be a number of identical devices, a Device or a list; got \[\]."),
        ({"devices": True}, "`devices` must be a number of identical devices"),
        ({"devices": [ks.Device("a"), ks.Device("a")]}, "Two devices are called 'a'."),
        ({"objective": "speed"}, "`objective` is 'throughput', 'latency' or 'energy'; got 'speed'."),
        ({"balance": "layers"}, "`balance` must be one of 'flops', 'params', 'memory' and 'time'; got 'layers'."),
        ({"max_crossing": 0}, "`max_crossing` says how many tensors may cross a cut: 1 or more, or 'any'; got 0."),
        ({"max_crossing": 1.5}, "got 1.5"),
        ({"batch_size": 0}, "batch"),
        ({"compression": 0.5}, "`compression` is 0.5. Expected a factor of 1 or more, or a form to send floats in"),
        ({"compression": "zip"}, "`compression` is 'zip'."),
        ({"largest_crossing": "1 MHz"}, "The largest crossing '1 MHz' has the unit 'MHz'."),
        ({"largest_crossing": -1}, "The largest crossing is -1. It must be 0 or more, and finite."),
        ({"must_cut": "block1_conv"}, "'block1_conv' is inside a branch"),
        ({"must_cut": "nothing"}, "no tensor 'nothing'"),
        ({"time_limit": 0}, "`time_limit` is 0."),
        ({"links": ks.Link("1 MB/s")}, "Links take seconds, but the work of devices is in FLOPs"),
        ({"links": [ks.Link("1 MB/s")] * 2}, "`links` has 2 links for 2 devices. Expected 1: one between each"),
        ({"links": "fast"}, "`links` is a Link, a list of them, or a mapping"),
        ({"links": {("a", "b"): ks.Link("1 MB/s")}}, "`links` names device 'a'. The devices are 'device'."),
        ({"devices": [ks.Device("a", 1e9), ks.Device("b")]}, "Give it `flops_per_second` or `seconds`"),
        ({"devices": ks.Device("a", seconds={"x": 1.0})}, "Device 'a' has no seconds for"),
        ({"profile": "p.json"}, "`profile` must be the result of `kerassplit.profile"),
    ],
)  # fmt: skip
def test_nonsense_is_refused_with_what_was_expected(small, arguments, message):
    with pytest.raises(ks.SplitError, match=message):
        ks.plan(small, **{"devices": 2, **arguments})


def test_a_cut_beside_an_early_output_names_only_what_plan_takes():
    x = keras.Input((4,), name="x")
    first = keras.layers.Dense(4, name="first")(x)
    exit_output, second = (keras.layers.Dense(4, name=name)(first) for name in ("exit", "second"))
    model = keras.Model(x, [exit_output, keras.layers.Dense(2, name="last")(second)])
    with pytest.raises(ks.InsideBranchError) as caught:
        ks.plan(model, 2, must_cut="second")
    assert str(caught.value).endswith(
        "To cut where several tensors cross, name all of them in a list of their own: [['first', 'second']] "
        "(--must-cut A,B), and allow it with max_crossing."
    )
    assert "at=" not in str(caught.value)
    plan = ks.plan(model, 2, must_cut=[["first", "second"]], max_crossing=2)
    assert plan.at == [["first", "second"]]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ks.Device(""), "A device needs a name; got ''."),
        (lambda: ks.Device("a", 0), "The speed of device 'a' is 0. It must be more than 0, and finite."),
        (lambda: ks.Device("a", "5 GB"), "The speed of device 'a' '5 GB' has the unit 'GB'. Expected FLOPs per second"),
        (lambda: ks.Device("a", memory="2 gib"), "Did you mean 'GiB'?"),
        (lambda: ks.Device("a", count=0), "The count of device 'a' is 0."),
        (lambda: ks.Device("a", 1e9, seconds={}), "both say how fast it is"),
        (lambda: ks.Device("a", seconds=3), "The seconds of device 'a' are a int."),
        (lambda: ks.Link("20 Mbit"), "has the unit 'Mbit'. Expected bytes per second, or a text"),
        (lambda: ks.Link("20 mbit/s"), "Did you mean 'Mbit/s'?"),
        (lambda: ks.Link(0), "The bandwidth of a link is 0. It must be more than 0"),
        (lambda: ks.Link("fast"), "The bandwidth of a link is 'fast'."),
        (lambda: ks.Link("1 MB/s", "-1 ms"), "The latency of a link is '-1 ms'. It must be 0 or more"),
        (lambda: ks.Link("1 MB/s", "10 kg"), "has the unit 'kg'. Expected seconds"),
        (lambda: ks.Link(float("nan")), "The bandwidth of a link is nan"),
    ],
)
def test_devices_and_links_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ks.SplitError) as error:
        make()
    assert message in str(error.value)


def test_flops_that_nobody_knows_are_not_shared_out():
    model = menagerie.lambdas().model
    profile = ks.profile(model)
    unknown = replace(profile, calls=tuple(replace(call, flops=None) for call in profile.calls))
    with pytest.raises(ks.SplitError, match=r"are unknown, so they cannot be balanced\. Balance something"):
        ks.plan(model, 2, profile=unknown)
    assert ks.plan(model, 1, balance="memory", profile=unknown).unit == "bytes"


def test_a_profile_of_another_model_is_refused(small, resnet, costs):
    with pytest.raises(ks.SplitError, match="The profile is of 'resnet50', not of this model: their layers differ"):
        ks.plan(small, 2, profile=costs)
    with pytest.raises(ks.SplitError, match="Profile this model, with the same input shape"):
        ks.plan(keras.applications.ResNet50(weights=None), 2, profile=costs)
    with pytest.raises(ks.SplitError, match="pass either `open_sides` or `profile`, not both"):
        ks.plan(resnet, 2, profile=costs, open_sides=3)
    with pytest.raises(ks.SplitError, match="The profile is for batches of 1, the plan for 8"):
        ks.plan(resnet, 2, profile=costs, batch_size=8)
    with pytest.raises(ks.SplitError, match="The profile of device 'a' holds no seconds"):
        ks.Device("a", seconds=costs)


def test_open_sides_are_asked_for():
    model = menagerie.open_sides().model
    with pytest.raises(ks.SplitError, match="open_sides="):
        ks.plan(model, 2, balance="memory")
    plan = ks.plan(model, 2, balance="memory", open_sides=16)
    assert plan.value > 0


# What can be done with a plan.


def test_a_plan_is_kept_on_disk(resnet, costs, tmp_path):
    file = tmp_path / "plan.json"
    for plan in (
        ks.plan(resnet, 3, profile=costs, max_crossing=2),
        ks.plan(resnet, ks.Device("one", "1 GFLOPS"), links=ks.Link("1 MB/s"), profile=costs),
    ):
        plan.save(file)
        assert ks.Plan.load(file) == plan
        assert json.loads(file.read_text())["at"] == plan.at
    assert list(tmp_path.iterdir()) == [file]
    with pytest.raises(ks.SplitError, match="cannot be written"):
        plan.save(tmp_path / "missing" / "plan.json")
    with pytest.raises(ks.SplitError, match="cannot be read"):
        ks.Plan.load(tmp_path / "missing.json")
    good = json.loads(file.read_text())
    spoilt = [good | change for change in ({"stages": "abc"}, {"stages": []}, {"value": "x"}, {"unit": "parsecs"})]
    for text in ("", "[]", "{}", '{"format_version": 1}', json.dumps(costs.to_dict()), *map(json.dumps, spoilt)):
        file.write_text(text)
        with pytest.raises(ks.SplitError, match="holds no plan. Expected a file that `Plan.save` wrote"):
            ks.Plan.load(file)
    file.write_text('{"format_version": 99}')
    with pytest.raises(ks.SplitError, match="holds a plan of format 99, but this kerassplit reads 1"):
        ks.Plan.load(file)


def test_a_plan_with_one_stage_is_nothing_to_split_by(resnet, costs):
    plan = ks.plan(resnet, ks.Device("phone"), profile=costs)
    with pytest.raises(ks.SplitError, match="runs all of it on 'phone': there is nothing to cut"):
        ks.split(resnet, plan)


def test_a_plan_of_another_model_is_refused(resnet, costs, small):
    with pytest.raises(ks.SplitError, match="The plan was made for 'resnet50', but '.*' has other layers"):
        ks.split(small, ks.plan(resnet, 2, profile=costs))


@pytest.mark.skipif(OLD_KERAS, reason="Keras 3.13 makes no such model")
def test_a_model_that_computes_nothing_is_refused():
    x = keras.Input((3,))
    with pytest.raises(ks.SplitError, match="computes nothing: there is nothing to plan"):
        ks.plan(keras.Model(x, x), 1)


def test_a_plan_reads_well(resnet, costs):
    plan = ks.plan(resnet, 4, profile=costs)
    text = str(plan)
    for stage in plan.stages:
        assert stage.device in text
    assert "no plan within the limits has less (dynamic programming over closed sets)" in text
    assert "Cut at 'conv3_block1_add'" in text
    assert repr(plan) == "<Plan for resnet50 on device 1, device 2, device 3, device 4: bottleneck 1.78829e+08 FLOPs>"
    unsure = replace(plan, lower_bound=plan.value / 1.1, optimal=False)
    assert unsure.gap == pytest.approx(0.1)
    assert "at most 10.0% could be gained" in str(unsure)
    assert "There is nothing to cut" in str(ks.plan(resnet, 1, profile=costs))


@pytest.mark.parametrize("module", [tables])
def test_the_examples_in_the_docstrings_are_right(module):
    results = doctest.testmod(module)
    assert results.attempted
    assert not results.failed


def test_plans_and_sweeps_are_drawn(resnet, costs, tmp_path):
    phone, server = ks.Device("phone", "2 GFLOPS"), ks.Device("server", "200 GFLOPS")
    link = ks.Link("50 Mbit/s", "1 ms")
    drawn = [
        ks.plan(resnet, 4, profile=costs),
        ks.plan(resnet, 1, profile=costs),
        ks.plan(resnet, [phone, server], links=link, profile=costs, overlap=True, max_crossing=2),
        ks.plan(resnet, [phone, server], links=link, profile=costs, objective="latency"),
        ks.plan_sweep(resnet, [phone, server], profile=costs),
        ks.plan_sweep(resnet, [phone, server], profile=costs, max_crossing=2),
    ]
    for number, one in enumerate(drawn):
        for extension in ("svg", "png", "pdf") if number == 2 else ("svg",):
            file = tmp_path / f"{number}.{extension}"
            one.plot(file)
            assert file.stat().st_size > 5000
    chosen = (tmp_path / "0.svg").read_text()
    for name in drawn[0].at:
        assert name in chosen
    assert one.plot().render("svg") == one.plot().render("svg")
    with pytest.raises(ks.SplitError, match="Charts are written as"):
        drawn[0].plot(tmp_path / "plan.bmp")


def test_of_equal_bottlenecks_the_plan_with_the_fewest_tensors_is_taken():
    """One block is the bottleneck; the others can be cut at one tensor, or more evenly inside branches."""
    x = inputs = keras.Input((16,), name="x")
    for place in range(3):
        x = keras.layers.Add()([keras.layers.Dense(16, name=f"d{place}{side}")(x) for side in "abcd"])
    model = keras.Model(inputs, keras.layers.Dense(400, name="large")(x))
    for limits in ({}, {"leave_out": True}):
        for most in (1, 4, "any"):
            plan = ks.plan(model, 3, max_crossing=most, **limits)
            assert plan.value == 2 * 16 * 400 + 400 and plan.optimal
            assert sum(len(stage.crossing) for stage in plan.stages[:-1]) == (1 if limits else 2)


def test_a_search_says_how_far_it_has_come(monkeypatch, capfd):
    """Its time limit, and the proved share of the value."""
    monkeypatch.setattr(graph_answers, "MOST_CUTS", 3)
    monkeypatch.setattr(graph_answers, "FEW_CUTS", 3)
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal
    monkeypatch.setenv("COLUMNS", "200")
    model = menagerie.feature_pyramid().model
    devices, options = devices_of([1e6, 1e6], [math.inf] * 2), {"links": ks.Link(1e6), "max_crossing": "any"}
    plan = ks.plan(model, devices, verbose=True, time_limit=7, **options)
    shown = capfd.readouterr().err
    assert f"Planning {model.name} (a search takes 7 s at most); proved, % of the value" in " ".join(shown.split())
    assert "/100" in shown
    assert ks.plan(model, devices, verbose=False, time_limit=7, **options) == plan
    assert not capfd.readouterr().err


def test_a_chain_with_too_many_cuts_has_no_sweep_of_throughput(monkeypatch):
    model = a_chain(12)
    devices = devices_of([1e6, 2e6], [math.inf] * 2)
    known = ks.plan_sweep(model, devices)
    monkeypatch.setattr(graph_answers, "MOST_CUTS", 5)
    monkeypatch.setattr(sweeper, "MOST_CUTS", 5)
    sweep = ks.plan_sweep(model, devices)
    assert (sweep.front, [one.at for one in sweep.ranges]) == ((), [one.at for one in known.ranges])
    with pytest.raises(ks.SplitError, match="has too many cuts for a sweep of throughput.*: more than 5"):
        ks.plan_sweep(model, devices, objective="throughput")


# Sweeps.


def swept(model, kind_of_sweep, seed, profile):
    dice = random.Random(seed)
    speeds = [profile.flops / dice.uniform(0.5, 3) for _ in range(2)]
    devices = devices_of(speeds, [math.inf] * 2)
    options = {"latency": dice.choice([0.0, 0.01]), "leave_out": dice.random() < 0.5, **kind_of_sweep}
    if options.get("objective") != "throughput":
        options["any_order"] = dice.random() < 0.5
    sweep = ks.plan_sweep(model, devices, bandwidths=(10, 1e7), profile=profile, **options)
    return devices, options, sweep


@pytest.mark.parametrize("max_crossing", [1, 2, "any"])
@EVERY_KIND
def test_a_sweep_is_the_best_plan_at_every_bandwidth(kind, max_crossing):
    model = kind().model
    profile = ks.profile(model)
    for seed in range(3):
        devices, options, sweep = swept(model, {"max_crossing": max_crossing}, seed, profile)
        latency = options.pop("latency")
        require_best_everywhere(model, devices, sweep, latency, options, profile, "latency")


def test_in_any_order_a_sweep_counts_no_inputs_as_moved():
    """They are available wherever they are needed."""
    x = keras.Input((16,))
    y = keras.layers.Dense(16, name="first")(x)
    model = keras.Model(x, keras.layers.Dense(16)(keras.layers.Add()([x, y])))
    devices = devices_of([1e6, 1e6], [math.inf] * 2)
    (one,) = ks.plan_sweep(model, devices, any_order=True, leave_out=False, must_cut="first").ranges
    assert one.moved == 16 * 4


@pytest.mark.parametrize("overlap", [False, True])
def test_a_sweep_of_throughput_is_the_best_plan_at_every_bandwidth(resnet, costs, overlap):
    devices, options, sweep = swept(resnet, {"objective": "throughput", "overlap": overlap}, 5, costs)
    latency = options.pop("latency")
    require_best_everywhere(resnet, devices, sweep, latency, options, costs, "throughput")


def require_best_everywhere(model, devices, sweep, latency, options, profile, objective):
    ranges = sweep.ranges
    assert (ranges[0].low, ranges[-1].high) == (10, 1e7)
    assert all(one.high == two.low for one, two in itertools.pairwise(ranges))
    options = {**options, "objective": objective}
    for one in ranges:
        for bandwidth in (one.low, math.sqrt(one.low * one.high), one.high):
            plan = ks.plan(model, devices, links=ks.Link(bandwidth, latency), profile=profile, **options)
            assert one.value(bandwidth) == pytest.approx(plan.value, rel=1e-6)
    for one, two in itertools.pairwise(ranges):
        assert one.value(one.high) == pytest.approx(two.value(one.high), rel=1e-6)
        assert (one.at, one.devices) != (two.at, two.devices)
        assert sweep.best(math.sqrt(one.low * one.high)) == one


def test_the_front_has_no_plan_that_another_beats(resnet, costs):
    phone, server = ks.Device("phone", "2 GFLOPS"), ks.Device("server", "3 GFLOPS")
    sweep = ks.plan_sweep(resnet, [phone, server], latency="1 ms", front_bandwidth="30 Mbit/s", profile=costs)
    assert len(sweep.front) >= 2
    for one, two in itertools.pairwise(sweep.front):
        assert one.latency < two.latency
        assert one.bottleneck > two.bottleneck
    link = ks.Link("30 Mbit/s", "1 ms")
    options = {"links": link, "profile": costs, "leave_out": True}
    fastest = ks.plan(resnet, [phone, server], objective="latency", **options)
    busiest = ks.plan(resnet, [phone, server], **options)
    assert sweep.front[0].latency == pytest.approx(fastest.value)
    assert sweep.front[-1].bottleneck == pytest.approx(busiest.value)


def test_a_sweep_reads_well(resnet, costs):
    phone, server = ks.Device("phone", "20 GFLOPS"), ks.Device("server", "1 TFLOPS")
    sweep = ks.plan_sweep(resnet, [phone, server], profile=costs)
    text = str(sweep)
    assert "all on 'phone'" in text
    assert "all on 'server'" in text
    assert sweep.best("1 Mbit/s").at == ()
    assert sweep.to_dict()["ranges"][0]["devices"] == ("phone",)
    with pytest.raises(ks.SplitError, match="The sweep goes from 100 kbit/s to 10 Gbit/s; got '1 bit/s'"):
        sweep.best("1 bit/s")
    with pytest.raises(ks.SplitError, match="must be lower than the second"):
        ks.plan_sweep(resnet, [phone, server], bandwidths=("1 Gbit/s", "1 Mbit/s"), profile=costs)
    with pytest.raises(ks.SplitError, match="A sweep for throughput needs two devices"):
        three = [phone, server, ks.Device("third", 1e9)]
        ks.plan_sweep(resnet, three, objective="throughput", profile=costs)


def test_a_plan_far_from_even_says_what_two_tensors_at_a_cut_would_give():
    model = uneven()
    plan, better = ks.plan(model, 2), ks.plan(model, 2, max_crossing=2)
    share = plan.value / (ks.profile(model).flops / 2)
    (hint,) = plan.hints
    assert hint == (
        f"The largest load is {share:.1f} times an even share, because few cuts have a single tensor. With two "
        "tensors per cut (max_crossing=2, --max-crossing 2), it would be "
        f"{tables.format_amount(better.value, 'FLOPs')} FLOPs."
    )
    assert better.value < 0.95 * plan.value and not better.hints
    assert hint in str(tables.plan_tables(plan).renderables[-1])
    assert not ks.plan(model, 1).hints and not ks.plan(a_chain(), 2).hints


def a_chain(length=8):
    x = inputs = keras.Input((16,))
    for _ in range(length):
        x = keras.layers.Dense(16)(x)
    return keras.Model(inputs, x)
