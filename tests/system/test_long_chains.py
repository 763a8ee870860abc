"""Models with thousands of calls: traced, cut and planned where recursion would fail."""

import sys

import keras
import numpy as np
import pytest
from chains import chain, everywhere
from comparing import same_bits

import kerassplit as ks
from kerassplit import trace
from kerassplit.graph.internals.process_state import deep_recursion
from kerassplit.graph.reading import read_graph
from kerassplit.planning.solver.place import place
from kerassplit.planning.solver.problem import Link


def test_a_chain_of_fifteen_hundred_layers_is_traced():
    class Chain(keras.Model):
        def __init__(self):
            super().__init__(name="chain")
            self.links = [keras.layers.Dense(3, name=f"link_{number}") for number in range(1500)]

        def call(self, x):
            for link in self.links:
                x = link(x)
            return x

    model, x = Chain(), np.ones((1, 3), "float32")
    assert same_bits(model(x), trace(model, x)(x))


def test_a_chain_of_5000_layers_can_be_cut_where_keras_own_recursion_stops():
    x = inputs = keras.Input((2,), name="x")
    for number in range(5000):
        x = (
            keras.layers.Dense(2, name=f"dense{number}")(x)
            if number % 50 == 0
            else keras.layers.ReLU(name=f"relu{number}")(x)
        )
    with deep_recursion():
        model = keras.Model(inputs, x, name="chain")
    assert sys.getrecursionlimit() < 5000
    points = ks.split_points(model)
    assert len(points) == 4999
    with pytest.raises(RecursionError):
        keras.Model(points_symbol(model, "relu1"), model.output)
    split = ks.split(model, [1000, 2500])
    data = np.ones((1, 2), "float32")
    assert same_bits(split(data), model(data))
    assert split.verify(data).identical


def test_a_chain_of_3000_layers_has_a_crossing_after_every_layer():
    x = inputs = keras.Input((2,), name="x")
    for number in range(3000):
        x = keras.layers.ReLU(name=f"relu{number}")(x)
    with deep_recursion():
        model = keras.Model(inputs, x, name="chain")
    found = [[tensor.name for tensor in crossing.tensors] for crossing in ks.crossings(model, 2)]
    assert found == [[f"relu{number}"] for number in range(2999)]


@pytest.mark.parametrize("fields", [{}, {"overlap": True}, {"objective": "latency"}], ids=str)
def test_chains_of_three_thousand_cuts_are_planned_exactly(fields):
    """`benchmarks/scale.py` shows how long that takes."""
    dice = np.random.default_rng(1)
    seconds, crossing = dice.random(3_001), dice.integers(1, 1000, 3_000)
    problem = chain([seconds], crossing, counts=[8], links=everywhere(Link(0.0, 1e-3)), use_all=True, **fields)
    placement = place(problem)
    assert placement.optimal
    assert placement.closed_sets == 3_002
    assert len(placement.stages) == 8


def points_symbol(model, name):
    graph = read_graph(model)
    return next(tensor.symbol for tensor in graph.tensors if tensor.name == name)
