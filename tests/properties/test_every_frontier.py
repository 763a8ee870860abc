"""Every kind of model in the menagerie, cut at every frontier of its graph.

A frontier separates a set of calls that depend only on each other (any prefix of any topological order) from all other
calls. The tensors that cross it are passed to `split` as one crossing.
"""

import os
import pickle
import re
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import keras
import menagerie
import numpy as np
import pytest
from every_kind import (
    CHOSEN,
    EVERY_KIND,
    array_of,
    bits,
    cached,
    frontiers,
    gradients,
    keeps_order,
    some_splits,
    used_several_times,
    with_states_kept,
)
from keras import ops
from menagerie import Kind, Specimen
from samples import due

import kerassplit as ks
from kerassplit.graph.model_graph import Graph
from kerassplit.graph.reading import read_graph

pytestmark = [
    # Keras says so of every nested model that is given a masked tensor.
    pytest.mark.filterwarnings("ignore:Layer '.*' .* was passed an input with a mask:UserWarning"),
    # And kerassplit of shared layers that keep a state, and of stages that end in a masked output.
    pytest.mark.filterwarnings("ignore:'.*' keeps a state, and the stages call it in another order:UserWarning"),
    pytest.mark.filterwarnings("ignore:In '.*' a loss on '.*' is masked:UserWarning"),
]

_MOST_OUTPUTS = 10  # of one call
_MOST_FRONTIERS = 10  # of one kind; of more, every commit has its own sample


@EVERY_KIND
def test_stages_compute_what_the_model_computes_at_every_frontier(kind: Kind, animal: Specimen) -> None:
    model, x = animal.model, animal.x
    expected, after = with_states_kept(model, lambda: model(x))
    cut = 0
    places = list(frontiers(read_graph(model)).values())
    for names in due(places, 1 + len(places) // _MOST_FRONTIERS):
        try:
            split = ks.split(model, [names], allow_crossing=True)
        except ks.SplitError as error:
            assert animal.refusal and re.search(animal.refusal, str(error), re.DOTALL), f"{names}: {error}"
            continue
        cut += 1
        assert len(split) == 2
        assert set(names) <= {tensor.name for tensor in split.crossings[0].tensors}
        for run in (split, lambda x, split=split: over_the_wire(split, x)):
            outputs, states = with_states_kept(model, lambda run=run: run(x))
            assert_same(outputs, expected, names)
            assert states == after, names
        receipt = split.verify(x)
        assert receipt.ok and receipt.identical, f"{names}: {receipt.verdict()}"
    assert cut


@EVERY_KIND
def test_gradients_and_training_are_the_models(kind: Kind, animal: Specimen) -> None:
    if kind.name == "stateful_recurrent_layers" and keras.backend.backend() == "torch":
        pytest.skip("on torch, Keras cannot go back through a stateful layer that has run before")
    model, x = animal.model, animal.x
    expected, after = with_states_kept(model, lambda: model(x, training=True))
    slopes, _ = with_states_kept(model, lambda: gradients(model, lambda: model(x)))
    for split in some_splits(animal, 3, keeps_order):
        outputs, states = with_states_kept(model, lambda split=split: split(x, training=True))
        assert_same(outputs, expected, split.crossings)
        assert states == after, split.crossings
        ours, _ = with_states_kept(model, lambda split=split: gradients(model, lambda: split(x)))
        several = used_several_times(model)
        for variable, one, other in zip(model.trainable_variables, ours, slopes, strict=True):
            # The parts of a gradient that come from several calls are summed in another order.
            close = id(variable) in several and np.allclose(*map(array_of, (one, other)), rtol=1e-6, atol=1e-7)
            assert one == other or close, (variable.path, split.crossings)


@EVERY_KIND
def test_stages_joined_again_are_the_model(kind: Kind, animal: Specimen) -> None:
    model, x = animal.model, animal.x
    expected, after = with_states_kept(model, lambda: model(x))
    for split in some_splits(animal, 2):
        outputs, states = with_states_kept(model, lambda split=split: split.join()(x))
        assert_same(outputs, expected, split.crossings)
        assert states == after


@pytest.mark.parametrize("kind", due(menagerie.kinds(), 3), ids=lambda kind: kind.name)
def test_compiled_stages_are_within_the_tolerance(kind: Kind, animal: Specimen) -> None:
    model, x = animal.model, animal.x
    [split] = some_splits(animal, 1)
    ours, _ = with_states_kept(model, lambda: split.predict(x, verbose=False))
    theirs, _ = with_states_kept(model, lambda: model.predict(x, verbose=0) if kind.predicts else model(x))
    keras.tree.assert_same_structure(ours, theirs)
    for one, other in zip(keras.tree.flatten(ours), keras.tree.flatten(theirs), strict=True):
        one, other = np.asarray(one), np.asarray(ops.convert_to_numpy(other))
        assert one.dtype == other.dtype
        wide = [array.astype("float64") for array in (one, other)]
        np.testing.assert_allclose(*wide, rtol=kind.tolerance, atol=kind.tolerance)


@EVERY_KIND
def test_loaded_in_a_fresh_process_stages_compute_the_same(kind: Kind, loaded: dict[str, str]) -> None:
    told = loaded[kind.name]
    assert told == "the same" or (not kind.reloads and re.match("StoreError: .* objects could not be loaded", told))


@EVERY_KIND
def test_the_flat_graph_is_the_one_in_the_config(kind: Kind, animal: Specimen) -> None:
    numbers: dict[Any, int] = {}
    expected, names = calls_of_config(animal.model.get_config(), numbers)
    found = calls_of_graph(read_graph(animal.model), names, numbers)
    told = {number: what[0] for what, number in numbers.items()}
    assert Counter(told[one] for one in found.elements()) == Counter(told[one] for one in expected.elements())
    assert found == expected


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Returns, for each kind, one of its splits after saving here and loading in one other process."""
    folder = tmp_path_factory.mktemp("menagerie")
    told: dict[str, str] = {}
    tasks = {}
    for kind in CHOSEN:
        try:
            animal = cached(kind)
            expected, _ = with_states_kept(animal.model, lambda animal=animal: animal.model(animal.x))
            [split] = some_splits(animal, 1)
            save(split, folder / kind.name)
        except Exception as error:
            told[kind.name] = f"not saved: {type(error).__name__}: {error}"
            continue
        x = keras.tree.map_structure(_plain, animal.x)
        wanted = [bits(value) for value in keras.tree.flatten(expected)]
        tasks[kind.name] = (x, wanted, len(split.shared_variables), kind.safe)
    (folder / "tasks.pickle").write_bytes(pickle.dumps(tasks))
    path = os.pathsep.join([*sys.path, str(Path(__file__).parent)])
    done = subprocess.run(
        [sys.executable, __file__, str(folder)], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
    )
    if done.returncode:
        pytest.fail(f"The fresh process ended with {done.returncode}: {done.stderr[-2000:]}")
    return told | pickle.loads((folder / "told.pickle").read_bytes())


def in_a_fresh_process(folder: Path) -> None:
    """Loads all the splits of a folder and records if they compute what they should."""
    warnings.filterwarnings("ignore", ".*was passed an input with a mask")
    told = {}
    for name, (x, expected, shared, safe) in pickle.loads((folder / "tasks.pickle").read_bytes()).items():
        try:
            split = ks.load(folder / name, safe_mode=safe)
            leaves = zip(keras.tree.flatten(x), split.model.inputs, strict=True)
            leaves = [menagerie.sparse(leaf) if symbol.sparse else leaf for leaf, symbol in leaves]
            x = keras.tree.pack_sequence_as(x, leaves)
            outputs = [bits(value) for value in keras.tree.flatten(split(x))]
            if outputs != expected:
                told[name] = "other numbers"
            else:
                told[name] = "the same" if len(split.shared_variables) == shared else "other shared weights"
        except Exception as error:
            told[name] = f"{type(error).__name__}: {error}"
    (folder / "told.pickle").write_bytes(pickle.dumps(told))


# Frontiers


# Running


def over_the_wire(split: ks.Split, x: Any) -> Any:
    """Runs the stages by hand on what another machine would receive: plain arrays without masks."""
    tensors = split.named_inputs(x)
    for stage in split:
        for name, symbol in zip(stage.inputs, stage.model.inputs, strict=True):
            assert not symbol.sparse or name in keras.tree.flatten(split.inputs)
        tensors |= {name: ops.convert_to_numpy(value) for name, value in stage.run(tensors).items()}
    outputs = keras.tree.map_structure(tensors.__getitem__, split.outputs)
    return outputs[0] if isinstance(outputs, list) and len(outputs) == 1 else outputs


def assert_same(outputs: Any, expected: Any, where: Any) -> None:
    """Checks for equal structure, dtypes and bits."""
    keras.tree.assert_same_structure(outputs, expected)
    ours, theirs = ([bits(value) for value in keras.tree.flatten(one)] for one in (outputs, expected))
    assert [one[:2] for one in ours] == [one[:2] for one in theirs], where
    assert ours == theirs, where


# Saving


def save(split: ks.Split, folder: Path) -> None:
    """Saves a split; there must be a warning if stages share weights, and only then."""
    weights = [{id(variable) for variable in stage.model.weights} for stage in split]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        split.save(folder)
    said = [str(warning.message) for warning in caught if "Several stages share" in str(warning.message)]
    assert len(said) == bool(weights[0] & weights[1]), said


def _plain(leaf: Any) -> Any:
    return leaf if leaf is None or isinstance(leaf, np.ndarray) else ops.convert_to_numpy(leaf)


# The graph by another way


# Both ways, a call gets a number for what it computes: its name without `@`, and the numbers of what it receives. Masks
# are left out (Keras passes most of them when the model runs, and kerassplit finds them out), so are calls that lead to
# no output, and the casts and changes of rank on the way into a nested model, which no config shows.

_MASKS = ("mask", "query_mask", "value_mask", "key_mask")
Made = tuple[int, int]
"""A tensor: the number of the call that makes it, and the place among its outputs."""


def calls_of_graph(graph: Graph, known: set[str], numbers: dict[Any, int]) -> Counter[int]:
    """Returns the number of calls for each call number; `known` are the names in the config."""
    made: dict[int, Made] = {}
    received: list[list[int]] = []
    number_of: list[int | None] = []
    for call in graph.calls:
        args, kwargs = call.arguments.args, call.arguments.kwargs
        kwargs = {name: value for name, value in kwargs.items() if name not in _MASKS}
        symbols = [one for one in keras.tree.flatten((args, kwargs)) if isinstance(one, keras.KerasTensor)]
        tensors = list(dict.fromkeys(call.scope[id(symbol)] for symbol in symbols)) if call.inputs else []
        received.append(tensors)
        name = re.sub(r"@\d+", "", call.name)
        if name in known or not tensors:
            number_of.append(_number(numbers, name, [made[tensor] for tensor in tensors]))
            made |= {tensor: (number_of[-1], place) for place, tensor in enumerate(call.outputs)}
        else:
            number_of.append(None)
            made |= dict.fromkeys(call.outputs, made[tensors[0]])
    needed: set[int] = set()
    waiting = [graph.tensors[tensor].call for tensor in graph.flat_outputs()]
    while waiting:
        call = waiting.pop()
        if call not in needed:
            needed.add(call)
            waiting += [graph.tensors[tensor].call for tensor in received[call]]
    return Counter(number_of[call] for call in needed if number_of[call] is not None)


def calls_of_config(config: dict[str, Any], numbers: dict[Any, int]) -> tuple[Counter[int], set[str]]:
    """Returns the same from `model.get_config()`, with nested configs opened, and all names."""
    calls: list[int] = []
    names: set[str] = set()
    for output in _open_config(config, "", None, numbers, calls, names):
        output()
    return Counter(calls), names


def _number(numbers: dict[Any, int], name: str, received: list[Made]) -> int:
    return numbers.setdefault((name, *dict.fromkeys(received)), len(numbers))


def _open_config(
    config: dict[str, Any],
    path: str,
    given: list[Callable[[], Made]] | None,
    numbers: dict[Any, int],
    calls: list[int],
    names: set[str],
) -> list[Callable[[], Made]]:
    """Returns the outputs of a model called on `given`; when asked for one, adds the missing calls that lead to it."""

    def call(layer: dict[str, Any], received: list[Callable[[], Made]]) -> list[Callable[[], Made]]:
        name = path + layer["config"]["name"]
        names.add(name)
        if "layers" in layer["config"]:
            return _open_config(layer["config"], f"{name}/", received, numbers, calls, names)

        @cache
        def number() -> int:
            calls.append(_number(numbers, name, [tensor() for tensor in received]))
            return calls[-1]

        return [lambda place=place: (number(), place) for place in range(_MOST_OUTPUTS)]

    layers = {layer["config"]["name"]: layer for layer in config["layers"]}
    if "input_layers" not in config:  # Sequential
        first, *others = layers.values()
        tensors = given or call(first, [])
        for layer in others:
            tensors = call(layer, tensors[:1])
        return tensors[:1]
    outer = dict(zip(_references(config["input_layers"]), given or [], strict=bool(given)))

    @cache
    def made(name: str, number: int) -> list[Callable[[], Made]]:
        layer = layers[name]
        if not layer["inbound_nodes"]:
            return [outer[name, 0, 0]] if given else call(layer, [])
        node = layer["inbound_nodes"][number]
        node = {**node, "kwargs": {key: value for key, value in node["kwargs"].items() if key not in _MASKS}}
        return call(layer, [made(one, count)[place] for one, count, place in _references(node)])

    # Here, and only here, Keras counts the calls of a functional model from 1.
    outputs = _references(config["output_layers"])
    return [made(name, count - (layers[name]["class_name"] == "Functional"))[place] for name, count, place in outputs]


def _references(value: Any) -> list[tuple[str, int, int]]:
    """Returns all tensors in a part of a config, in Keras's order: (name, number of the call, position)."""
    if isinstance(value, dict):
        if value.get("class_name") == "__keras_tensor__":
            return [tuple(value["config"]["keras_history"])]
        return [found for key in sorted(value) for found in _references(value[key])]
    if isinstance(value, (list, tuple)):
        if len(value) == 3 and isinstance(value[0], str) and isinstance(value[1], int):
            return [tuple(value)]
        return [found for inner in value for found in _references(inner)]
    return []


if __name__ == "__main__":
    in_a_fresh_process(Path(sys.argv[1]))
