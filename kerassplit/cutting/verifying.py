"""`verify`: proves that a split computes what the model computes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import keras

from kerassplit.cutting.arrays import wrong_batch
from kerassplit.cutting.comparison import TensorComparison, check_tolerance, compared
from kerassplit.cutting.receipt import Receipt
from kerassplit.cutting.stages import Stages
from kerassplit.cutting.structure import compare_structure
from kerassplit.cutting.trial import random_input, random_refused, state_kept, values_of
from kerassplit.display.progress import progress
from kerassplit.errors import SplitError
from kerassplit.graph.assembling import whole_model
from kerassplit.graph.internals.layers import functional_of
from kerassplit.graph.internals.nodes import observed
from kerassplit.graph.model_graph import Graph
from kerassplit.graph.reading import read_graph
from kerassplit.graph.shapes import OpenSides, fixed_batch
from kerassplit.text import listed

_NO_STAGE = "(input)"


def verify(
    model: keras.Model,
    split: Stages,
    x: Any = None,
    *,
    tolerance: float = 0.0,
    seed: int = 0,
    open_sides: OpenSides = None,
    verbose: bool | None = None,
) -> Receipt:
    """Compares a split with a model: the structure, and the numbers of every stage on one input.

    The model is called once, which computes its outputs and records its intermediate tensors (those inside nested
    models are computed separately). The stages run one after another, each on the outputs of the stages before it. All
    run eagerly, in inference mode.

    Args:
        model: The model to compare with: the one that was cut, or one that should be equal to it.
        split: The stages.
        x: Input in the structure of the model's inputs; by default two random samples.
        tolerance: Largest absolute difference to allow. 0 requires equality bit for bit.
        seed: Seed of the random input.
        open_sides: Size of open dimensions in random input: one number for all of them, or for each input with open
            dimensions, by name, a shape without the batch. By default 32.
        verbose: Show progress on standard error; by default only on a terminal, after 2 seconds.

    Returns:
        A `Receipt`. It does not raise if numbers differ; check `receipt.ok`, or call `receipt.check()`.

    Raises:
        SplitError: `x` does not fit the model's inputs, the split is not one of this model, or `tolerance` is negative
            or NaN.

    Example:

    >>> receipt = ks.verify(resnet, ks.split(resnet, "conv4_block6_out"))
    >>> receipt.ok, receipt.max_difference
    (True, 0.0)
    """
    check_tolerance(tolerance)
    graph = read_graph(model)
    counterparts = _counterparts(graph, split)
    tensors = split.named_inputs(random_input(graph, seed, open_sides) if x is None else x)
    values = [tensors[name] for name in keras.tree.flatten(split.inputs)]
    values = [None if value is None else keras.ops.convert_to_tensor(value) for value in values]
    given_back = split.given_back(tensors)
    made = sorted({counterparts[name] for names in (given_back, *(one.outputs for one in split)) for name in names})
    results = set(graph.flat_outputs())
    comparisons = []

    def compare(name: str, stage: str, value: Any) -> None:
        tensor = counterparts[name]
        comparisons.append(compared(name, stage, tensor in results, value, expected[tensor]))

    with progress(f"Verifying {model.name}", len(split) + 1, verbose, unit="") as show:
        try:
            given, seen = _given_by_call(graph, made, values)
            expected = given | seen | _computed_by(graph, [one for one in made if one not in given | seen], values)
        except Exception as error:
            raise _run_error(model, tensors, error, x is None, open_sides) from error
        show(1, 1)
        for name, value in given_back.items():
            compare(name, _NO_STAGE, value)
        with state_kept([stage.model for stage in split]):
            for place, stage in enumerate(split):
                outputs = stage.run(tensors, training=False)
                tensors.update(outputs)
                for name, value in outputs.items():
                    compare(name, stage.name, value)
                show(place + 2, place + 2)
    shared, equal, problems = compare_structure(graph, split)
    problems = [*_call_problems(graph, values, given, comparisons, counterparts), *problems]
    return Receipt(
        model=model.name,
        comparisons=tuple(comparisons),
        num_calls=sum(1 for call in graph.calls if call.inputs),
        weights_shared=shared,
        weights_equal=equal,
        shared_variables=split.shared_variables,
        problems=tuple(problems),
        tolerance=tolerance,
    )


def _run_error(model: keras.Model, tensors: Any, error: Exception, is_random: bool, open_sides: OpenSides) -> Exception:
    """Returns the error to raise if the model does not run on these inputs: a better explanation, or its own error."""
    wrong = wrong_batch(tensors, fixed_batch(symbol.shape for symbol in model.inputs), model.name)
    if wrong is not None:
        return SplitError(wrong)
    return random_refused(model.name, error, open_sides) if is_random else error


def _given_by_call(graph: Graph, wanted: Iterable[int], values: Sequence[Any]) -> tuple[dict[int, Any], dict[int, Any]]:
    """Calls the model; returns its outputs, and the values observed on the way for the `wanted` tensors.

    Returns no outputs if the call returns another number of tensors than the graph has outputs.
    """
    model, tensors, own = graph.model, graph.flat_outputs(), graph.own_symbols()
    inner = {one: own[one] for one in wanted if one in own and one not in tensors}
    if "call" in vars(model):  # compiled: tensors observed while it is traced are not numbers
        inner = {}
    with state_kept([model]), observed(functional_of(model), inner.values()) as seen:
        outputs = model(keras.tree.pack_sequence_as(graph.inputs, list(values)), training=False)
    flat = keras.tree.flatten(outputs)
    given = dict(zip(tensors, flat, strict=True)) if len(flat) == len(tensors) else {}
    return given, {one: seen[id(symbol)] for one, symbol in inner.items() if id(symbol) in seen}


def _call_problems(
    graph: Graph,
    values: Sequence[Any],
    given: dict[int, Any],
    comparisons: Iterable[TensorComparison],
    counterparts: dict[str, int],
) -> list[str]:
    """Returns the problem, if any, of a model whose call computes something other than the graph that was cut."""
    name = graph.model.name
    if not given:
        return [f"When called, '{name}' returns another number of tensors than its graph has outputs."]
    differing = [counterparts[one.tensor] for one in comparisons if one.is_output and not one.identical]
    by_graph = _computed_by(graph, differing, values) if differing else {}
    others = [
        graph.tensors[tensor].name
        for tensor in dict.fromkeys(differing)
        if not compared("", "", True, by_graph[tensor], given[tensor]).identical
    ]
    if not others:
        return []
    return [
        f"When called, '{name}' computes something other than its graph: {listed(others)} "
        f"{'are' if others[1:] else 'is'} not what the calls of its layers return."
    ]


def _computed_by(graph: Graph, tensors: Sequence[int], values: Sequence[Any]) -> dict[int, Any]:
    """Computes tensors by the model's graph: the model's own by Keras alone, others by opening nested models."""
    own = graph.own_symbols()
    ours = [tensor for tensor in tensors if tensor in own]
    inside = [tensor for tensor in tensors if tensor not in own]
    computed: dict[int, Any] = {}
    with state_kept([graph.model]):
        outputs = whole_model(graph, [own[tensor] for tensor in ours])(values, training=False) if ours else []
        computed.update(zip(ours, keras.tree.flatten(outputs), strict=True))
    return computed | values_of(graph, inside, values) if inside else computed


def _counterparts(graph: Graph, split: Stages) -> dict[str, int]:
    """Maps each name in the split to the model's tensor: inputs by position, as Keras renames them; others by name.

    Raises:
        SplitError: The model has no such tensor, or its shape differs.
    """

    def refusal(reason: str) -> SplitError:
        return SplitError(f"This is not a split of '{graph.model.name}': {reason}")

    symbols = split.symbols_in(graph.model)
    if symbols is not None:
        counterparts = {name: graph.scope[id(symbol)] for name, symbol in symbols.items()}
    else:
        counterparts = {tensor.name: index for index, tensor in enumerate(graph.tensors)}
    unknown = [name for stage in split for name in stage.outputs if name not in counterparts]
    if unknown:
        raise refusal(f"the stages compute {listed(unknown)}, but the model does not.")
    names, inputs = keras.tree.flatten(split.inputs), graph.flat_inputs()
    if len(names) != len(inputs):
        raise refusal(f"it takes {len(names)} inputs ({listed(names)}), but the model takes {len(inputs)}.")
    counterparts |= dict(zip(names, inputs, strict=True))
    for stage in split:
        symbols = [*stage.model.inputs, *read_graph(stage.model).output_symbols()]
        for name, symbol in zip((*stage.inputs, *stage.outputs), symbols, strict=True):
            ours, theirs = tuple(symbol.shape), tuple(graph.tensors[counterparts[name]].symbol.shape)
            if ours != theirs:
                raise refusal(
                    f"'{name}' has the shape {ours} in stage '{stage.name}' and {theirs} in the model. "
                    "Was the model built with another input shape?"
                )
    return counterparts
