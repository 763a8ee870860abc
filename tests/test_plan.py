"""Plans: as good as the best that trying everything finds, and what they say of the stages is so."""

import math
import random

import menagerie
import pytest
from plan_oracle import Oracle

import kerassplit as ks
from kerassplit.cutting import _stage_of_calls, resolve_cuts
from kerassplit.graph import read_graph

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


def small(kind):
    made = kind()
    return made.model


def some_question(model, profile, seed):
    """Devices, a link and an objective by chance."""
    dice = random.Random(seed)
    count = dice.choice([1, 2, 2, 3])
    total = profile.flops
    speeds = [total / dice.uniform(0.5, 3) for _ in range(count)]
    biggest = max(tensor.bytes or 0 for tensor in profile.tensors)
    link = dice.choice([None, (biggest / dice.uniform(0.01, 1), dice.choice([0.0, 0.05]))])
    all_bytes = profile.parameter_bytes + sum(tensor.bytes for tensor in profile.tensors)
    memories = [math.inf if dice.random() < 0.6 else all_bytes * dice.uniform(0.3, 1) for _ in range(count)]
    objective = dice.choice(["throughput", "latency"])
    overlap = objective == "throughput" and dice.random() < 0.4
    leave_out = dice.random() < 0.5
    return speeds, link, memories, objective, overlap, leave_out


def planned(model, profile, question, max_crossing, **options):
    speeds, link, memories, objective, overlap, leave_out = question
    devices = [
        ks.Device(f"d{place}", speed, None if memory == math.inf else memory)
        for place, (speed, memory) in enumerate(zip(speeds, memories, strict=True))
    ]
    return ks.plan(
        model,
        devices,
        links=None if link is None else ks.Link(*link),
        objective=objective,
        overlap=overlap,
        leave_out=leave_out,
        max_crossing=max_crossing,
        profile=profile,
        **options,
    )


def require_as_told(model, plan):
    """The stages of the split are those that the plan tells of: the same calls, and the same tensors cross."""
    graph = read_graph(model)
    if len(plan.stages) == 1:
        assert plan.at == []
        return
    stage_of = _stage_of_calls(graph, resolve_cuts(graph, plan.at))
    for place, stage in enumerate(plan.stages):
        calls = [call.name for index, call in enumerate(graph.calls) if call.inputs and stage_of[index] == place]
        assert list(stage.calls) == calls


@pytest.mark.parametrize("max_crossing", [1, 2, "any"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_no_plan_is_better_than_the_one_found(kind, max_crossing):
    model = small(kind)
    profile = ks.profile(model)
    if profile.flops is None:
        pytest.fail(f"FLOPs unknown: {profile.unknown}")
    answered = 0
    for seed in range(12):
        question = some_question(model, profile, seed)
        speeds, link, memories, objective, overlap, leave_out = question
        oracle = Oracle(
            model, profile, speeds, link, memories,
            objective=objective, overlap=overlap, leave_out=leave_out, max_crossing=max_crossing,
        )  # fmt: skip
        best = oracle.best()
        try:
            plan = planned(model, profile, question, max_crossing)
        except ks.PlanError:
            assert best == math.inf
            continue
        answered += 1
        assert plan.value == pytest.approx(best, rel=1e-9)
        assert plan.optimal
        assert plan.lower_bound == pytest.approx(plan.value)
        require_as_told(model, plan)
    assert answered >= 3
