"""Overheads, energy, limits beside the objective, and replicas: plans as good as the best by brute force."""

import math
import random
from dataclasses import replace

import menagerie
import pytest
from plan_oracle import Oracle
from samples import due

import kerassplit as ks
from kerassplit.planning import graph_answers

KINDS = [
    menagerie.two_towers,
    menagerie.outputs_that_the_head_makes,
    menagerie.input_used_on_both_sides,
    menagerie.nested_called_twice,
    menagerie.encoder_decoder,
]
LINK = ks.Link("20 Mbit/s", "10 ms")
PHONE = ks.Device("phone", "20 GFLOPS", overhead="2 ms", watts=4, sending_watts="1 W")
SERVER = ks.Device("server", "5 TFLOPS", watts=0, sending_watts=0)


@pytest.fixture(scope="module")
def costs(resnet):
    return ks.profile(resnet)


def question_of(profile, seed):
    """Random devices and options, the same for `plan` and for the oracle."""
    dice = random.Random(seed)
    count, objective = dice.choice([1, 2, 2, 3]), dice.choice(["throughput", "latency", "energy", "energy"])
    speeds = [(profile.flops or 1) / dice.uniform(0.5, 3) for _ in range(count)]
    overheads = [dice.choice([0.0, 0.1, 1.0]) for _ in range(count)]
    powers = [(dice.choice([0.0, 1.0, 5.0]), dice.choice([0.0, 2.0])) for _ in range(count)]
    biggest = max(tensor.bytes or 0 for tensor in profile.tensors)
    link = dice.choice([None, (biggest / dice.uniform(0.01, 1), dice.choice([0.0, 0.05]))])
    options = {
        "objective": objective,
        "overlap": objective == "throughput" and dice.random() < 0.4,
        "leave_out": dice.random() < 0.6,
        "any_order": dice.random() < 0.3,
    }
    budget = dice.uniform(1, 12) if objective != "throughput" and dice.random() < 0.5 else math.inf
    devices = [
        ks.Device(f"d{place}", speed, overhead=overhead, watts=power[0], sending_watts=power[1])
        for place, (speed, overhead, power) in enumerate(zip(speeds, overheads, powers, strict=True))
    ]
    return devices, link, options, budget


@pytest.mark.parametrize("max_crossing", [1, 2, "any"])
@pytest.mark.parametrize("kind", due(KINDS, 2), ids=lambda kind: kind.__name__)
def test_no_plan_with_overheads_and_energy_is_better(kind, max_crossing):
    model = kind().model
    profile, answers = ks.profile(model), []
    for seed in range(20):
        devices, link, options, budget = question_of(profile, seed)
        oracle = Oracle(
            model,
            profile,
            [device.flops_per_second for device in devices],
            link,
            [math.inf] * len(devices),
            max_crossing=max_crossing,
            overheads=[device.overhead for device in devices],
            powers=[(device.watts, device.sending_watts) for device in devices],
            budget=budget,
            **options,
        )
        best, links = oracle.best(), None if link is None else ks.Link(*link)
        name = "largest_latency" if options["objective"] == "energy" else "largest_energy"
        limits = {"max_crossing": max_crossing} | ({name: budget} if budget < math.inf else {})
        try:
            plan = ks.plan(model, devices, links=links, profile=profile, **options, **limits)
        except ks.PlanError:
            assert best == math.inf, seed
            continue
        answers.append(plan)
        value = {"throughput": plan.bottleneck, "latency": plan.latency, "energy": plan.energy}[plan.objective]
        assert plan.value == pytest.approx(best, rel=1e-9), seed
        assert plan.value == pytest.approx(value), seed
        assert plan.optimal
        assert (plan.energy if plan.objective == "latency" else plan.latency) <= budget * (1 + 1e-9)
    assert len(answers) >= 10


# Overhead.


def test_each_stage_takes_the_overhead_of_its_device_once(resnet, costs):
    fast = ks.Device("chip", "1 TFLOPS", count=3)
    free = ks.plan(resnet, fast, profile=costs)
    slow = ks.plan(resnet, replace(fast, overhead="5 ms"), profile=costs)
    assert [stage.work for stage in slow.stages] == pytest.approx([stage.work + 0.005 for stage in free.stages])
    assert slow.latency == pytest.approx(free.latency + 0.015)


def test_an_overhead_keeps_everything_on_one_device(resnet, costs):
    phone, server = ks.Device("phone", "20 GFLOPS"), ks.Device("server", "5 TFLOPS")
    for most in (1, "any"):
        options = {"links": ks.Link("1 Gbit/s"), "objective": "latency", "max_crossing": most, "profile": costs}
        options["first_to"] = "pool1_pool" if most == 1 else ()
        near = ks.plan(resnet, [phone, server], **options)
        far = ks.plan(resnet, [phone, replace(server, overhead="1 s")], **options)
        assert (near.stages[-1].device, [stage.device for stage in far.stages]) == ("server", ["phone"])


def test_the_overhead_of_a_sweep_is_that_of_its_plans(resnet, costs):
    devices = [PHONE, replace(SERVER, overhead="3 ms")]
    sweep = ks.plan_sweep(resnet, devices, latency="10 ms", profile=costs, first_to="pool1_pool")
    for one in sweep.ranges:
        for bandwidth in (one.low, math.sqrt(one.low * one.high), one.high):
            link = ks.Link(bandwidth, "10 ms")
            plan = ks.plan(resnet, devices, links=link, objective="latency", profile=costs, first_to="pool1_pool")
            assert plan.value == pytest.approx(one.value(bandwidth), rel=1e-9)


def test_an_overhead_without_seconds_is_refused(resnet, costs):
    with pytest.raises(
        ks.SplitError, match="The overhead of device 'chip' takes seconds, but the work of devices is in"
    ):
        ks.plan(resnet, ks.Device("chip", overhead="2 ms", count=2), profile=costs)


# Energy.


def test_energy_is_the_power_of_computing_and_sending_times_their_seconds(resnet, costs):
    question = {"links": LINK, "objective": "energy", "profile": costs}
    plan = ks.plan(resnet, [PHONE, SERVER], first_to="pool1_pool", must_cut="pool1_pool", **question)
    phone, server = plan.stages
    assert phone.energy == pytest.approx(4 * phone.work + 1 * phone.send)
    assert (server.energy, plan.energy) == (0.0, phone.energy)
    assert plan.value == plan.energy
    assert repr(plan) == f"<Plan for resnet50 on phone, server: energy {plan.value:.6g} joules>"
    sent = ks.plan(resnet, [PHONE, SERVER], **question)  # the phone only sends the image
    assert [stage.device for stage in sent.stages] == ["server"]
    assert sent.energy == sent.stages[0].energy == pytest.approx(1 * sent.stages[0].receive)


def test_the_least_energy_within_a_latency_and_the_least_latency_within_an_energy_are_the_same_plans(resnet, costs):
    question = {"links": LINK, "profile": costs, "compression": "float16"}
    devices = [PHONE, replace(SERVER, watts=20_000)]
    quick = ks.plan(resnet, devices, objective="latency", **question)
    frugal = ks.plan(resnet, devices, objective="energy", **question)
    assert quick.latency < frugal.latency
    assert frugal.energy < quick.energy
    middle = (quick.latency + frugal.latency) / 2
    limited = ks.plan(resnet, devices, objective="energy", largest_latency=middle, **question)
    assert frugal.energy < limited.energy <= quick.energy
    assert limited.latency <= middle
    same = ks.plan(resnet, devices, objective="latency", largest_energy=limited.energy, **question)
    assert same.energy <= limited.energy * (1 + 1e-9)
    assert same.latency <= limited.latency * (1 + 1e-9)


@pytest.mark.parametrize(("objective", "limit"), [("energy", "largest_latency"), ("latency", "largest_energy")])
def test_a_limit_that_leaves_no_plan_is_named_with_what_would_be_enough(resnet, costs, objective, limit):
    question = {"links": LINK, "profile": costs, "objective": objective}
    with pytest.raises(ks.PlanError, match=f"The {limit.replace('_', ' ')} has to be .* or more") as error:
        ks.plan(resnet, [PHONE, SERVER], **question, **{limit: 1e-6})
    assert limit in error.value.binding
    enough = error.value.enough[limit]
    plan = ks.plan(resnet, [PHONE, SERVER], **question, **{limit: enough})
    assert getattr(plan, limit.removeprefix("largest_")) <= enough
    with pytest.raises(ks.PlanError):
        ks.plan(resnet, [PHONE, SERVER], **question, **{limit: enough * (1 - 1e-6)})


@pytest.mark.parametrize(
    ("devices", "options", "message"),
    [
        ([PHONE, ks.Device("server", "5 TFLOPS")], {"objective": "energy"}, "the power of device 'server' is unknown"),
        (ks.Device("a", watts=1, sending_watts=1), {"objective": "energy"}, "but the work of devices is in FLOPs."),
        ([PHONE], {"objective": "latency", "largest_latency": 1}, "limits plans that minimize the energy, but"),
        ([PHONE], {"largest_energy": "1 J"}, "limits plans that minimize the latency, but the objective is 'through"),
        ([PHONE], {"objective": "energy", "largest_latency": "1 J"}, "The largest latency '1 J' has the unit 'J'."),
        ([PHONE], {"objective": "power"}, "`objective` is 'throughput', 'latency' or 'energy'; got 'power'."),
        ([PHONE], {"objective": "energy", "replicas": True}, "Replicas take turns with batches, which helps through"),
        (2, {"balance": "params", "replicas": True}, "Replicas share the time of a stage, but balance='params'"),
    ],
)  # fmt: skip
def test_what_does_not_fit_energy_and_replicas_is_refused(resnet, costs, devices, options, message):
    with pytest.raises(ks.SplitError) as error:
        ks.plan(resnet, devices, profile=costs, **options)
    assert message in str(error.value)


def test_a_power_is_a_number_of_watts():
    assert (PHONE.sending_watts, ks.Device("a", watts="800 mW").watts) == (1.0, 0.8)
    with pytest.raises(ks.SplitError, match="The power of device 'a' '2 V' has the unit 'V'|The power of device 'a'"):
        ks.Device("a", watts="2 V")


def test_a_sweep_of_energy_is_refused(resnet):
    with pytest.raises(ks.SplitError, match="For least energy, call `plan` with objective='energy'"):
        ks.plan_sweep(resnet, [PHONE, SERVER], objective="energy")


def test_with_too_many_cuts_a_limit_is_refused(resnet, costs, monkeypatch):
    monkeypatch.setattr(graph_answers, "MOST_CUTS", 10)
    with pytest.raises(ks.SplitError, match=r"all cuts are compared, and 'resnet50' has more than 10 if so many"):
        ks.plan(resnet, [PHONE, SERVER], objective="energy", largest_latency=1, max_crossing=2, profile=costs)


def test_plans_of_energy_are_shown_saved_and_drawn(resnet, costs, tmp_path, capsys):
    plan = ks.plan(resnet, [PHONE, SERVER], links=LINK, objective="energy", profile=costs, must_cut="avg_pool")
    plan.save(tmp_path / "plan.json")
    assert ks.Plan.load(tmp_path / "plan.json") == plan
    plan.plot(tmp_path / "plan.png")
    shown = str(plan)
    assert "energy" in shown.splitlines()[2]
    assert "The energy of one sample through all stages: " in shown


# Replicas.


def test_a_slow_stage_gets_several_devices_and_its_load_is_divided(resnet, costs):
    chip = ks.Device("chip", "1 TFLOPS", memory="60 MB", count=4)
    alone, shared = (ks.plan(resnet, chip, profile=costs, replicas=replicas) for replicas in (False, True))
    assert shared.value < alone.value
    assert sum(stage.replicas for stage in shared.stages) == 4
    assert shared.replicas == [stage.replicas for stage in shared.stages]
    for stage in shared.stages:
        assert stage.load == pytest.approx((stage.receive + stage.work + stage.send) / stage.replicas)
        assert stage.memory <= chip.memory
    assert shared.latency == pytest.approx(sum(stage.work for stage in shared.stages))
    several = next(stage for stage in shared.stages if stage.replicas > 1)
    first, last = several.device.removeprefix("chip ").split("-")
    assert int(last) - int(first) + 1 == several.replicas


def test_more_devices_than_split_points_have_work_as_replicas(resnet, costs):
    plan = ks.plan(resnet, ks.Device("chip", memory="120 MB", count=60), profile=costs, replicas=True)
    assert plan.value == costs.flops / 60
    assert [(stage.device, stage.replicas) for stage in plan.stages] == [("chip 1-60", 60)]
    assert plan.replicas == [60]
    assert "There is nothing to cut: everything runs on each of 60 devices, which take turns." in str(plan)
    split = ks.split(resnet, plan, names=["everything"])
    assert [stage.name for stage in split] == ["everything"]
    assert split.verify().identical
    with pytest.raises(ks.SplitError, match="There is 1 stage; `names` has 2: 'a' and 'b'"):
        ks.split(resnet, plan, names=["a", "b"])
