"""Every architecture of `keras.applications`, cut wherever one tensor crosses; NASNet also where two do.

Every commit has its own sample (`samples.py`), named in the ids of the tests.
"""

import gc
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import pytest
from applications import NEEDS_NASNET, SMALLEST_SIDE
from comparing import copied, fingerprint, same_bits
from samples import SAMPLE, due, marked

import kerassplit as ks
from kerassplit.zoo.models import load_model
from kerassplit.zoo.names import architectures

CUTS = 20  # one in so many is taken
ARCHITECTURES = 20  # likewise
CUTS_THAT_RUN = 6  # at most, of an architecture in a sample


def cuts_of(name: str, model: keras.Model) -> tuple[ks.Crossing | ks.SplitPoint, ...]:
    """Places where one tensor crosses in an architecture; in NASNet, which has only 5, also where two do."""
    return ks.crossings(model, 2) if name.startswith("NASNet") else ks.split_points(model)


def names_of(cut: ks.Crossing | ks.SplitPoint) -> tuple[str, ...]:
    return tuple(tensor.name for tensor in cut.tensors) if isinstance(cut, ks.Crossing) else (cut.name,)


def nodes_of(model: keras.Model) -> Iterator[Any]:
    """Returns Keras's own record of the calls of a functional or Sequential model, in topological order."""
    functional = model._functional if isinstance(model, keras.Sequential) else model
    for depth in sorted(functional._nodes_by_depth, reverse=True):
        yield from functional._nodes_by_depth[depth]


def operations_in(model: keras.Model, path: str = "") -> Iterator[tuple[keras.Operation, str]]:
    """Returns each call's operation and the name of its output, including nested models, without inputs."""
    for node in nodes_of(model):
        if isinstance(node.operation, keras.Model):
            yield from operations_in(node.operation, f"{path}{node.operation.name}/")
        elif not node.is_input:
            yield node.operation, path + node.operation.name


def calls_in(model: keras.Model, names: dict[int, str], tensors: dict[int, str]) -> Iterator[tuple[str, Any]]:
    """Returns the name and the full description of each call, with tensors by name.

    Args:
        model: Nested models in it are opened.
        names: Maps the `id` of an operation to the name of its output.
        tensors: Maps the `id` of a symbolic tensor to its name; contains the model's inputs, others are added.
    """

    def said(value: Any) -> Any:
        if isinstance(value, keras.KerasTensor):
            return ("tensor", tensors[id(value)])
        if isinstance(value, (list, tuple)):
            return (type(value), *map(said, value))
        if isinstance(value, dict):
            return (dict, *((key, said(one)) for key, one in sorted(value.items())))
        return value

    for node in nodes_of(model):
        operation = node.operation
        if isinstance(operation, keras.Model):
            given = [tensors[id(symbol)] for symbol in node.input_tensors]
            tensors.update(zip(map(id, operation.inputs), given, strict=True))
            yield from calls_in(operation, names, tensors)
            made = [tensors[id(symbol)] for symbol in operation.outputs]
            tensors.update(zip(map(id, node.outputs), made, strict=True))
        elif not node.is_input:
            (made,) = node.outputs
            name = tensors[id(made)] = names[id(operation)]
            arguments = said(node.arguments.args), said(node.arguments.kwargs)
            yield name, (operation, *arguments, said(made), made.shape, made.dtype)


@dataclass
class Record:
    """The contents of a model, read from Keras itself.

    Attributes:
        names: Maps the `id` of an operation to the name of its output.
        calls: Full description of each call, by the name of its output.
        inputs: Names of the model's inputs.
        outputs: Names of its outputs.
        symbols: Maps a tensor's name to its shape and dtype.
        variables: Sorted `id`s of all variables.
        parameters: Number of parameters.
    """

    names: dict[int, str]
    calls: dict[str, Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    symbols: dict[str, Any]
    variables: list[int]
    parameters: int


def record_of(model: keras.Model) -> Record:
    operations = list(operations_in(model))
    names = {id(operation): name for operation, name in operations}
    assert len(names) == len(set(names.values())) == len(operations)  # none is called twice
    tensors = {id(symbol): symbol._keras_history.operation.name for symbol in model.inputs}
    symbols = {tensors[id(symbol)]: (symbol.shape, symbol.dtype) for symbol in model.inputs}
    inputs = tuple(tensors.values())
    calls = dict(calls_in(model, names, tensors))
    symbols |= {name: call[-2:] for name, call in calls.items()}
    outputs = tuple(tensors[id(symbol)] for symbol in model.outputs)
    return Record(names, calls, inputs, outputs, symbols, sorted(map(id, model.variables)), model.count_params())


def assert_two_stages_are_the_model(split: ks.Split, record: Record, cut: ks.Crossing | ks.SplitPoint) -> None:
    head, tail = split
    assert head.inputs == record.inputs
    assert sorted(head.outputs) == sorted(tail.inputs) == sorted(names_of(cut))
    assert tail.outputs == record.outputs
    calls = []
    for stage in split:
        tensors = dict(zip(map(id, stage.model.inputs), stage.inputs, strict=True))
        calls += calls_in(stage.model, record.names, tensors)
        assert tuple(tensors[id(symbol)] for symbol in stage.model.outputs) == stage.outputs
        for symbol in (*stage.model.inputs, *stage.model.outputs):
            assert (symbol.shape, symbol.dtype) == record.symbols[tensors[id(symbol)]]
    assert len(calls) == len(record.calls)
    assert dict(calls) == record.calls
    assert sorted(id(variable) for stage in split for variable in stage.model.variables) == record.variables
    numbers = [stage.model.count_params() for stage in split]
    assert sum(numbers) == record.parameters
    if isinstance(cut, ks.SplitPoint):
        assert numbers == [cut.params_before, cut.params_after]


@pytest.mark.parametrize(("name", "places"), [("NASNetLarge", 128), ("NASNetMobile", 104)])
@NEEDS_NASNET
def test_nasnet_is_cut_at_far_more_places_than_its_five_split_points(name, places):
    model = load_model(name)
    sizes = [len(names_of(cut)) for cut in cuts_of(name, model)]
    assert (sizes.count(1), sizes.count(2)) == (5, places - 5)
    assert len(ks.split_points(model)) == 5


@pytest.mark.parametrize("name", marked(architectures()))
def test_the_stages_are_made_of_the_calls_of_the_model_and_only_what_was_named_crosses(name):
    model = load_model(name)  # its weights take no memory
    before = fingerprint(model, weights=False)
    record = record_of(model)
    for cut in due(cuts_of(name, model), CUTS):
        assert_two_stages_are_the_model(ks.split(model, cut), record, cut)
    assert fingerprint(model, weights=False) == before


@pytest.mark.parametrize("name", marked(due(architectures(), ARCHITECTURES)))
def test_head_and_tail_compute_what_the_model_computes_bit_for_bit(name, images):
    gc.collect()  # the model before this one is gone
    side = SMALLEST_SIDE.get(name, 64)
    model = load_model(name, weights="random", seed=7, input_shape=(side, side, 3))
    cuts = cuts_of(name, model)
    cuts = due(cuts, -(-len(cuts) // CUTS_THAT_RUN), SAMPLE // ARCHITECTURES)
    x = keras.ops.convert_to_tensor(images(model))
    tensors = ks.tap(model, list(dict.fromkeys(tensor for cut in cuts for tensor in names_of(cut))))(x)
    expected = model(x)
    for cut in cuts:
        head, tail = ks.split(model, cut)
        made = head.run({head.inputs[0]: x})
        crossing = {tensor: tensors[tensor] for tensor in names_of(cut)}
        assert all(copied(value).std() > 0 for value in crossing.values()), cut
        assert same_bits([made[tensor] for tensor in crossing], list(crossing.values())), cut
        assert same_bits(tail.run(crossing), [expected]), cut
