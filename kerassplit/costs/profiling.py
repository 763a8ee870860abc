"""`profile`: the costs of a model, call by call and block by block."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import keras

from kerassplit.costs.memory import peaks
from kerassplit.costs.profile import Profile
from kerassplit.costs.records import BlockCost, CallCost, TensorCost, VariableCost
from kerassplit.costs.sample import check_shapes, read_sample, rows_of
from kerassplit.costs.timing import measure as measure_blocks
from kerassplit.costs.wire_costs import measure_wire
from kerassplit.cutting.blocks import Region, regions
from kerassplit.flops.count import UnknownCountError
from kerassplit.flops.inside import count_call
from kerassplit.graph.internals.process_state import names_kept
from kerassplit.graph.model_graph import Graph
from kerassplit.graph.reading import read_graph
from kerassplit.graph.shapes import (
    ConcreteCall,
    OpenSides,
    batch_or_own,
    concrete_call,
    concrete_shapes,
    input_shapes,
)
from kerassplit.graph.sizes import Shape, bytes_in, tensor_bytes, total
from kerassplit.wire import Form


def profile(
    model: keras.Model,
    batch_size: int | None = None,
    *,
    open_sides: OpenSides = None,
    measure: bool = False,
    seed: int = 0,
    sample: Any = None,
    wire: Form | None = None,
    verbose: bool | None = None,
) -> Profile:
    """Computes the costs of a model in inference: parameters, bytes, FLOPs and, on request, seconds and packed bytes.

    All figures are for a batch of `batch_size` samples, for every call of the model and for every block between its
    split points. One multiply-add is two FLOPs. FLOPs are counted by formulas for Keras's layers and operations, the
    same on every backend; a layer without a formula, such as a custom layer, is traced and counts as the calls inside
    it. The FLOPs of a call that cannot be counted are `None`, and so is every total that includes such a call
    (`known_flops` is the sum of the others, `unknown` names the calls).

    Args:
        model: A functional or built Sequential model. It is not changed.
        batch_size: Samples in a batch; by default the batch size that the model is built for, or 1 if it accepts any.
        open_sides: Sizes to assume for unknown (`None`) input dimensions other than the batch: one number for all of
            them, also used as the number of words where a layer turns strings into an unknown number of words; or a
            shape without the batch for each such input, by name.
        measure: Whether to run each block on this device: compiled, with warm-up, several times, one block in memory
            at a time. Takes from seconds to minutes: every block is compiled with the `jit_compile` that was passed to
            `model.compile`. A model that was not compiled runs with Keras's `jit_compile="auto"`: through XLA on JAX,
            and on TensorFlow with a GPU; as a plain `tf.function` on TensorFlow without one; eagerly on torch.
        seed: Seed of the random input for measuring.
        sample: Arrays in the structure of the model's inputs, to pack the tensors that can cross a cut with real
            values. Its batch is the batch size, and its shapes are the sizes of open dimensions.
        wire: Form to pack them in, one of `kerassplit.wire.FORMS`, such as `"int8+zlib"`. The profile then holds the
            bytes of each tensor in this form, the seconds to pack and unpack it on this device and, for the cut after
            each block, the error of the outputs. Runs the model on the sample, and each block once for every cut
            before it.
        verbose: Whether to show a progress bar while measuring; by default on a terminal.

    Returns:
        `Profile`: prints as a table; has `save`, `to_pandas` and `plot`.

    Raises:
        SplitError: `batch_size`, `open_sides` or `sample` do not fit the model; or only one of `sample` and `wire` is
            given; or it cannot be measured (it takes strings, or fails on its input).
        UnsupportedModelError: The model has no graph.

    Example:

    >>> profile = ks.profile(keras.applications.ResNet50(weights=None))
    >>> profile.multiply_adds, profile.parameters, len(profile.blocks)
    (3857973248, 25636712, 40)
    """
    graph = read_graph(model)
    values = read_sample(graph, sample, wire)
    samples = batch_or_own(graph, batch_size if batch_size is not None or not values else rows_of(values))
    if values and open_sides is None:
        open_sides = {graph.tensors[tensor].name: value.shape[1:] for tensor, value in values.items() if value.ndim}
    found = regions(graph)
    with names_kept():
        shapes = concrete_shapes(graph, input_shapes(graph, samples, open_sides), open_sides=open_sides)
        profiled = _profile(graph, found, shapes, samples)
    check_shapes(profiled, values)
    if measure and found:  # a model that returns its inputs has no calls
        profiled = measure_blocks(profiled, graph, found, seed=seed, verbose=verbose)
    return measure_wire(profiled, graph, found, values, wire, verbose=verbose) if wire else profiled


def _profile(graph: Graph, found: Sequence[Region], shapes: Sequence[Shape], batch_size: int) -> Profile:
    tensors = tuple(
        TensorCost(tensor.name, shape, tensor.symbol.dtype, tensor_bytes(shape, tensor.symbol.dtype))
        for tensor, shape in zip(graph.tensors, shapes, strict=True)
    )
    variables, weights_of = _variables(graph)
    block_of = {call: place for place, region in enumerate(found) for call in region.calls}
    order = sorted(block_of)
    calls = tuple(
        CallCost(
            name=graph.calls[call].name,
            kind=type(graph.calls[call].operation).__name__,
            block=block_of[call],
            inputs=graph.calls[call].inputs,
            outputs=graph.calls[call].outputs,
            **_of_weights(weights_of[call], variables),
            activation_bytes=total(tensors[tensor].bytes for tensor in graph.calls[call].outputs),
            **_of_arithmetic(concrete_call(graph.calls[call], shapes)),
        )
        for call in order
    )
    place_of = {call: place for place, call in enumerate(order)}
    outputs = tuple(dict.fromkeys(graph.flat_outputs()))
    steps = [[(graph.calls[call].inputs, graph.calls[call].outputs) for call in region.calls] for region in found]
    most = peaks(steps, [tensor.bytes for tensor in tensors], set(outputs))
    blocks = []
    for region, peak in zip(found, most, strict=True):
        places = tuple(place_of[call] for call in region.calls)
        own = [calls[place] for place in places]
        blocks.append(
            BlockCost(
                name=tensors[region.end].name,
                calls=places,
                **_of_weights((weight for call in own for weight in call.variables), variables),
                activation_bytes=total(call.activation_bytes for call in own),
                peak_live_bytes=peak,
                flops=total(call.flops for call in own),
                known_flops=sum(call.flops or 0 for call in own),
                multiply_adds=total(call.multiply_adds for call in own),
                crossing=region.crossing,
                crossing_bytes=total(tensors[tensor].bytes for tensor in (*region.crossing, *region.also)),
                also=region.also,
            )
        )
    return Profile(
        model=graph.model.name,
        batch_size=batch_size,
        backend=keras.backend.backend(),
        calls=calls,
        blocks=tuple(blocks),
        tensors=tensors,
        variables=variables,
        inputs=tuple(dict.fromkeys(graph.flat_inputs())),
        outputs=outputs,
    )


def _variables(graph: Graph) -> tuple[tuple[VariableCost, ...], list[tuple[int, ...]]]:
    """Returns the weights of the model, each once, and for each call the indices of its weights."""
    costs: list[VariableCost] = []
    places: dict[int, int] = {}
    weights_of: dict[int, tuple[int, ...]] = {}  # by operation: asking a layer for its weights takes time
    for call in graph.calls:
        if id(call.operation) in weights_of:
            continue
        weights: Any = call.operation.weights if isinstance(call.operation, keras.Layer) else []
        for variable in weights:
            if id(variable) not in places:
                places[id(variable)] = len(costs)
                costs.append(VariableCost(variable.path, math.prod(variable.shape), bytes_in([variable])))
        weights_of[id(call.operation)] = tuple(places[id(variable)] for variable in weights)
    return tuple(costs), [weights_of[id(call.operation)] for call in graph.calls]


def _of_weights(weights: Iterable[int], variables: Sequence[VariableCost]) -> dict[str, Any]:
    """Returns the fields of calls and blocks about weights, each of which counts once."""
    own = tuple(dict.fromkeys(weights))
    return {
        "variables": own,
        "parameters": sum(variables[weight].parameters for weight in own),
        "parameter_bytes": sum(variables[weight].bytes for weight in own),
    }


def _of_arithmetic(call: ConcreteCall) -> dict[str, Any]:
    """Returns the fields of calls about FLOPs."""
    try:
        count = count_call(call)
    except UnknownCountError:
        return {"flops": None, "multiply_adds": None, "counted_by": "unknown"}
    return {"flops": count.flops, "multiply_adds": count.multiply_adds, "counted_by": "formula"}
