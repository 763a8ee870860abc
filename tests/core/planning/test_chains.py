"""Chains of blocks: published measurements."""

import math
from dataclasses import replace

import numpy as np
import pytest
import scission

from kerassplit.planning.solver.place import place
from kerassplit.planning.solver.problem import Node, Problem


def test_the_example_of_scissions_readme():
    """VGG19 on a Raspberry Pi, an edge machine that holds layer 10, and a cloud machine that holds layer 16."""
    found = {}
    for machines in scission.triples():
        measured = scission.blocks("vgg19", machines[0])
        problem = scission.problem("vgg19", machines, objective="latency")
        problem = _only_on(problem, {measured.holding(10): 1, measured.holding(16): 2})
        found[place(problem).value] = machines, place(problem), measured
    assert round(min(found), 4) == 9.0106
    machines, placement, measured = found[min(found)]
    assert machines[1:] == ("vm2Core", "6700k(GPU)")
    layers = [measured.first_layers[stage.nodes[0]] for stage in placement.stages[1:]]
    assert layers == [7, 12]  # raspi4 0-6, vm2Core 7-11, 6700k(GPU) 12-25
    moved = sum(measured.bytes[stage.nodes[-1]] for stage in placement.stages[:-1])
    assert round(moved / 1e6, 4) == 2.4087
    assert round(sum(stage.compute for stage in placement.stages), 4) == 0.7666
    assert [round(stage.receive, 4) for stage in placement.stages] == [0, 8.0955, 0.1485]


def _only_on(problem: Problem, places: dict[int, int]) -> Problem:
    """Restricts each of these blocks to the given device."""
    nodes = list(problem.nodes)
    for block, only in places.items():
        times = enumerate(nodes[block].seconds)
        nodes[block] = Node(tuple(time if device == only else math.inf for device, time in times))
    return replace(problem, nodes=tuple(nodes))


@pytest.mark.parametrize("fields", [{}, {"overlap": True}, {"objective": "latency"}], ids=str)
def test_scissions_models_on_all_its_machines_are_planned_as_well_as_by_exhaustive_search(fields):
    assert len(scission.models()) == 18
    assert len(scission.triples()) == 4
    for model in scission.models():
        for machines in scission.triples():
            problem = scission.problem(model, machines, **fields)
            assert place(problem).value == pytest.approx(_exhaustively(problem), rel=1e-12), (model, machines)


def _exhaustively(problem: Problem) -> float:
    """Finds the best of all pairs of cuts for three devices."""
    one, two = np.triu_indices(len(problem.nodes) - 1, 1)
    times, sizes = zip(*(node.seconds for node in problem.nodes), strict=True), [t.seconds for t in problem.tensors]
    running = [np.concatenate([[0.0], np.cumsum(seconds)]) for seconds in times]
    compute = running[0][one + 1], running[1][two + 1] - running[1][one + 1], running[2][-1] - running[2][two + 1]
    links = problem.links or ()
    moving = [link.latency + link.factor * np.array(sizes) for link in (links[0][1], links[1][2])]
    send, forward = moving[0][one], moving[1][two]
    if problem.objective == "latency":
        return (sum(compute) + send + forward).min()
    if problem.overlap:
        return np.max([*compute, send, forward], axis=0).min()
    return np.max([compute[0] + send, send + compute[1] + forward, forward + compute[2]], axis=0).min()
