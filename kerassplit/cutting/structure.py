"""Checks that stages have the calls and weights of a model."""

from collections import Counter, defaultdict
from typing import Any

import keras
import numpy as np

from kerassplit.cutting.layer_weights import match_weights
from kerassplit.cutting.stages import Stages
from kerassplit.graph.masks import MASKED
from kerassplit.graph.model_graph import Graph
from kerassplit.graph.packing import plain_name
from kerassplit.graph.reading import read_graph
from kerassplit.graph.sides import read_sides
from kerassplit.text import safe_name


def compare_structure(graph: Graph, split: Stages) -> tuple[int, int, list[str]]:
    """Returns how many variables are shared, how many are equal copies, and the problems with calls and weights."""
    stages_of: dict[str, list[str]] = defaultdict(list)  # one for each call
    operations: dict[int, Any] = {}
    own = {call.operation.name for call in graph.calls if call.inputs} - graph.made
    carrier = f"{MASKED}/"
    renamed = {  # if operations of nested models have the same name
        safe_name(plain_name(call)): call.operation.name
        for call in graph.calls
        if not isinstance(call.operation, keras.Layer)
    }
    for stage in split:
        for call in read_graph(stage.model).calls:
            name = renamed.get(call.operation.name, call.operation.name)
            if call.inputs and (name in own or (isinstance(call.operation, keras.Layer) and carrier not in call.name)):
                stages_of[name].append(stage.name)
                operations[id(call.operation)] = call.operation
    theirs = Counter(call.operation.name for call in graph.calls if call.operation.name in own)
    again = {graph.calls[call].operation.name for call in read_sides(graph).of_inputs}  # stages may all compute a mask
    made = {name for stage in split for name in (*stage.inputs, *stage.outputs)} | {*keras.tree.flatten(split.inputs)}
    ours = Counter({name: len(stages) for name, stages in stages_of.items()})
    problems = [
        f"'{name}' is called {theirs[name]} times in the model and {ours[name]} times in the stages"
        + (f" ({', '.join(stages_of[name])})." if name in ours else ".")
        for name in {**theirs, **ours}
        if ours[name] != theirs[name] and not (name in again and ours[name] > theirs[name])
    ]
    outputs = dict.fromkeys(graph.names(graph.flat_outputs()))
    problems += [f"No stage computes the model's output '{name}'." for name in outputs if name not in made]
    shared: set[int] = set()
    equal = 0
    originals = {id(call.operation): call.operation for call in graph.calls}
    for operation in operations.values():
        if id(operation) in originals:
            shared.update(id(variable) for variable in _variables(operation))
            continue
        # Layers of different nested models can have the same name.
        namesakes = [other for other in originals.values() if other.name == operation.name]
        results = [_compare_variables(operation, other) for other in namesakes]
        same, wrong = min(results, key=lambda result: len(result[1]), default=(0, []))
        equal += same
        problems += wrong
    return len(shared), equal, problems


def _compare_variables(one: Any, other: Any) -> tuple[int, list[str]]:
    ours, theirs = _variables(one), _variables(other)
    if len(ours) != len(theirs):
        return 0, [f"'{one.name}' has {len(ours)} variables in its stage and {len(theirs)} in the model."]
    equal, problems = 0, []
    places = match_weights(one, other)  # some layers have them in another order once Keras has loaded them
    for place, mine in enumerate(ours):
        its = theirs[places.get(place, place)]
        if mine.shape == its.shape and np.array_equal(*map(keras.ops.convert_to_numpy, (mine, its)), equal_nan=True):
            equal += 1
        else:
            problems.append(f"Variable '{its.path}' has different values in its stage and in the model.")
    return equal, problems


def _variables(operation: Any) -> list[Any]:
    # Not `layer.variables`, which includes the states of random generators: Keras does not restore these.
    return operation.weights if isinstance(operation, keras.Layer) else []
