"""NASNet, where almost all cuts carry several tensors."""

import random

import numpy as np
from applications import application
from comparing import same_bits
from oracle import ancestors, as_in_the_oracle, edges_of

import kerassplit as ks
from kerassplit.cutting.crossings import crossings, cuts
from kerassplit.cutting.frontiers import leaving
from kerassplit.graph.reading import read_graph
from kerassplit.graph.sides import read_sides
from kerassplit.zoo.models import load_model

NASNET_COUNTS = {1: 5, 2: 104, 3: 1785}


def test_every_crossing_of_nasnet_is_one_by_definition_and_no_pair_is_missing():
    model = load_model("NASNetMobile")  # its weights take no memory
    graph = read_graph(model)
    sides = read_sides(graph)
    for limit, count in NASNET_COUNTS.items():
        found = cuts(sides, limit)
        assert len(found) == len({tuple(cut) for cut in found}) == count
    for cut in found:
        assert leaving(graph, graph.ancestors(cut)) == cut
    pairs = {as_in_the_oracle(graph, cut) for cut in found if len(cut) == 2}
    assert pairs == pairs_by_matrices(model)


def pairs_by_matrices(model):
    """Finds all cuts of two tensors: for each pair, counts the users of every tensor among their ancestors."""
    received, _ = edges_of(model)
    assert all(place == 0 for tensors in received.values() for _, _, place in tensors)  # one output each
    calls = list(received)
    index = {call: number for number, call in enumerate(calls)}
    uses = np.zeros((len(calls), len(calls)), "float32")  # maker, user
    depends = np.zeros((len(calls), len(calls)), bool)  # call, what it depends on
    for call, tensors in received.items():
        uses[[index[tensor[:2]] for tensor in tensors], index[call]] = 1
        depends[index[call], [index[other] for other in ancestors(received, (*call, 0))]] = True
    used = np.flatnonzero(uses.any(axis=1))
    pairs = set()
    for one in used:
        before = depends[one] | depends
        crossing = before & (before.astype("float32") @ uses.T < uses.sum(axis=1))
        for other in used[used > one]:
            if crossing[other, [one, other]].all() and crossing[other].sum() == 2:
                pairs.add(frozenset({(*calls[one], 0), (*calls[other], 0)}))
    return pairs


def test_nasnet_cut_at_crossings_computes_what_it_computes(images):
    model = application("NASNetMobile")
    x = images(model)[:1]
    expected = model(x)
    for crossing in random.Random(0).sample(crossings(model, 3), 6):
        assert same_bits(
            ks.split(model, [[tensor.name for tensor in crossing.tensors]], allow_crossing=True)(x), expected
        )
