"""`verify`: proof that a split computes what the model computes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import keras

from kerassplit.cutting.arrays import wrong_batch
from kerassplit.cutting.comparison import Comparison, compared
from kerassplit.cutting.receipt import Receipt
from kerassplit.cutting.stages import Stages
from kerassplit.cutting.structure import compare_structure
from kerassplit.cutting.submodel import build_part, part
from kerassplit.cutting.trial import OPEN_SIDE, random_input, state_kept
from kerassplit.errors import SplitError
from kerassplit.graph.assembling import whole_model
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
) -> Receipt:
    """Compares a split with a model: its structure, and the numbers of every stage on one input.

    The model is called, which gives its outputs, and runs once more giving out its own intermediate tensors; the stages
    run one after another, each on what the stages before it made. All run eagerly, in inference mode.

    Args:
        model: The model to compare with: the one that was cut, or one that should be equal to it.
        split: The stages.
        x: Input in the structure of the model's inputs; by default two random samples.
        tolerance: The largest absolute difference to allow. 0 asks for equality bit for bit.
        seed: Seed of the random input.
        open_sides: What stands in random input for sides that the model's inputs leave open: one number for all of
            them, or a shape without the batch for each such input, by name. By default 32.

    Returns:
        A `Receipt`. It does not raise when numbers differ; ask `receipt.ok`, or call `receipt.check()`.

    Raises:
        SplitError: `x` does not fit the model's inputs, or the split is not one of this model.

    Example:

    >>> receipt = ks.verify(resnet, ks.split(resnet, "conv4_block6_out"))
    >>> receipt.ok, receipt.max_difference
    (True, 0.0)
    """
    graph = read_graph(model)
    counterparts = _counterparts(graph, split)
    tensors = split.named_inputs(random_input(graph, seed, open_sides) if x is None else x)
    values = [tensors[name] for name in keras.tree.flatten(split.inputs)]
    values = [None if value is None else keras.ops.convert_to_tensor(value) for value in values]
    given_back = split.given_back(tensors)
    made = sorted({counterparts[name] for names in (given_back, *(one.outputs for one in split)) for name in names})
    try:
        given = _given_by_call(graph, values)
        expected = given | _computed_by(graph, [tensor for tensor in made if tensor not in given], values)
    except Exception as error:
        wrong = wrong_batch(tensors, fixed_batch(symbol.shape for symbol in model.inputs), model.name)
        if wrong is not None:
            raise SplitError(wrong) from error
        if x is not None:
            raise
        raise SplitError(
            f"Random input, with {open_sides or OPEN_SIDE} for open dimensions, does not go through '{model.name}': "
            f"{error}\nSay what stands for them, with open_sides=N (--open-sides N). "
            "Or give an input as `x` to compare on."
        ) from error
    results = set(graph.flat_outputs())
    comparisons = [
        compared(name, _NO_STAGE, counterparts[name] in results, value, expected[counterparts[name]])
        for name, value in given_back.items()
    ]
    with state_kept([stage.model for stage in split]):
        for stage in split:
            outputs = stage.run(tensors, training=False)
            tensors.update(outputs)
            for name, value in outputs.items():
                other = counterparts[name]
                comparisons.append(compared(name, stage.name, other in results, value, expected[other]))
    shared, equal, problems = compare_structure(graph, split)
    problems = [*_another_call(graph, values, given, comparisons, counterparts), *problems]
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


def _given_by_call(graph: Graph, values: Sequence[Any]) -> dict[int, Any]:
    """The model's outputs as calling it gives them; none where that gives another number of tensors."""
    with state_kept([graph.model]):
        outputs = graph.model(keras.tree.pack_sequence_as(graph.inputs, list(values)), training=False)
    flat, tensors = keras.tree.flatten(outputs), graph.flat_outputs()
    return dict(zip(tensors, flat, strict=True)) if len(flat) == len(tensors) else {}


def _another_call(
    graph: Graph,
    values: Sequence[Any],
    given: dict[int, Any],
    comparisons: Iterable[Comparison],
    counterparts: dict[str, int],
) -> list[str]:
    """What to say of a model whose call gives something other than its graph, to which the stages were cut."""
    name = graph.model.name
    if not given:
        return [f"Called, '{name}' gives another number of tensors than its graph has outputs."]
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
        f"Called, '{name}' computes something other than its graph: {listed(others)} {'are' if others[1:] else 'is'} "
        "not what the calls of its layers give."
    ]


def _computed_by(graph: Graph, tensors: Sequence[int], values: Sequence[Any]) -> dict[int, Any]:
    """What the model computes for these tensors: its own by Keras alone, those inside nested models by opening them."""
    own = graph.own_symbols()
    ours = [tensor for tensor in tensors if tensor in own]
    inside = [tensor for tensor in tensors if tensor not in own]
    computed: dict[int, Any] = {}
    with state_kept([graph.model]):
        outputs = whole_model(graph, [own[tensor] for tensor in ours])(values, training=False) if ours else []
        computed.update(zip(ours, keras.tree.flatten(outputs), strict=True))
    if inside:
        calls, taken = part(graph, [], inside)
        opened, taken, made = build_part(graph, calls, taken, inside, graph.model.name, only_to_run=True)
        given = dict(zip(graph.flat_inputs(), values, strict=True))
        with state_kept([graph.model]):
            inputs = keras.tree.pack_sequence_as(opened.input, [given[tensor] for tensor in taken])
            outputs = opened(inputs, training=False)
            computed.update(zip(made, keras.tree.flatten(outputs), strict=True))
    return computed


def _counterparts(graph: Graph, split: Stages) -> dict[str, int]:
    """The model's tensor for each name in the split: inputs by place (Keras's names for them differ), others by name.

    Raises:
        SplitError: The model has no such tensor, or one of another shape.
    """

    def refusal(reason: str) -> SplitError:
        return SplitError(f"This is no split of '{graph.model.name}': {reason}")

    symbols = split.symbols_in(graph.model)
    if symbols is not None:
        counterparts = {name: graph.scope[id(symbol)] for name, symbol in symbols.items()}
    else:
        counterparts = {tensor.name: index for index, tensor in enumerate(graph.tensors)}
    unknown = [name for stage in split for name in stage.outputs if name not in counterparts]
    if unknown:
        raise refusal(f"the stages make {listed(unknown)}, and the model does not.")
    names, inputs = keras.tree.flatten(split.inputs), graph.flat_inputs()
    if len(names) != len(inputs):
        raise refusal(f"it takes {len(names)} inputs ({listed(names)}), and the model {len(inputs)}.")
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
