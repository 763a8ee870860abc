"""Builds sub-models: a part of a model as a model of its own."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

import keras

from kerassplit.cutting.frontiers import crossing_at, require_whole_crossing
from kerassplit.errors import NotConnectedError, SplitError
from kerassplit.graph.building import Builder
from kerassplit.graph.internals.symbols import has_mask
from kerassplit.graph.model_graph import Graph
from kerassplit.graph.packing import naturally_masked, packed
from kerassplit.graph.reading import read_graph
from kerassplit.graph.references import TensorRef, resolve_glob, several_of
from kerassplit.graph.sides import read_sides
from kerassplit.text import listed, safe_name, unique, warn

_COPIES = "pass copy_weights=True"
FLAT_COPIES = "take `kerassplit.flatten(model, copy_weights=True)` in the model's place, which has layers of its own"
_CARRY = "To build on {carried}, pass {crossing}."


def build_submodel(
    model: keras.Model,
    start: TensorRef | Sequence[TensorRef] | None = None,
    end: TensorRef | Sequence[TensorRef] | None = None,
    *,
    copy_weights: bool = False,
    name: str | None = None,
) -> keras.Model:
    """Builds the part of a model from `start` to `end` as a model of its own.

    The sub-model has new Inputs, named after the tensors that they replace; the same layer and variable objects as the
    model; and the same calls with the same arguments. The layer that computes `start` is not part of it. The model is
    not changed.

    To take a part of a sub-model, build from it again: `tail.get_layer(name).output` is a tensor of the original model,
    because the layers are shared.

    Args:
        model: A functional or built Sequential model.
        start: The tensor or tensors to start from: names, globs, layers or `KerasTensor`s. `None`: the model's inputs.
            Inputs of the model that the part needs besides `start`, such as a `padding_mask`, stay inputs. Masks are
            recomputed from these or from `start`; a mask named in `start` becomes an input instead.
        end: The tensor or tensors to end at: any tensor, including one inside a branch or one of several outputs.
            `None`: the model's outputs that come after `start`.
        copy_weights: Give the sub-model its own layers and variables, with equal values.
        name: Name of the sub-model; by default derived from the model's name and the ends.

    Returns:
        A `keras.Model`. If it has all of the model's inputs, it accepts them in the model's structure; else one plain
        tensor, or a dict keyed by tensor names (with `/`, `@`, `:` replaced as in the Inputs' names). The same holds
        for its outputs.

    Raises:
        InsideBranchError: More tensors cross at `start`, and are needed, than were named.
        NotConnectedError: An end does not depend on any start, or a start leads to no end.
        SplitError: `name` is not a valid model name.
        UnknownTensorError, AmbiguousTensorError: A name does not stand for exactly one tensor of the model.

    Example:

    >>> tail = ks.build_submodel(resnet, start="conv4_block6_out")
    >>> tail.input.name, tail.input.shape
    ('conv4_block6_out', (None, 14, 14, 1024))
    """
    graph = read_graph(model)
    starts = None if start is None else resolve_several(graph, start, "start")
    ends = None if end is None else resolve_several(graph, end, "end")
    if starts and ends is None:
        require_whole_crossing(read_sides(graph), starts, _CARRY)
    if ends is None:
        ends = _outputs_after(graph, starts or [])
    elif starts:
        _require_all_needed(graph, starts, ends)
    calls, inputs = part(graph, starts or [], ends)
    if starts is not None:
        _check_connected(graph, starts, ends, calls)
    elif not calls:
        raise NotConnectedError(
            f"{listed(graph.names(ends))} is an input of the model: there is nothing to compute before it.",
            name=graph.tensors[ends[0]].name,
        )
    name = _default_name(graph, starts, ends) if name is None else model_name(name)
    warn_of_lost_masks(graph, calls, ends, name)
    return build_part(graph, calls, inputs, ends, name, copy_weights=copy_weights, copies=_COPIES)[0]


def flatten(model: keras.Model, *, copy_weights: bool = False) -> keras.Model:
    """Builds the same model with its nested models inlined, at any depth.

    A mask that a nested model receives or returns becomes an argument of the layers that use it. Whatever Keras does to
    the inputs of a nested model (a cast, an axis of size 1) becomes a call of its own.

    Args:
        model: A functional or built Sequential model. It is not changed.
        copy_weights: Give the flat model its own layers and variables, with equal values, instead of sharing the
            model's.

    Returns:
        A `keras.Model` with the model's name, inputs and outputs, in the same structure.

    Raises:
        UnsupportedModelError: Layers of different nested models have the same name, which Keras refuses in one model.
            Copies get new names.

    Example:

    >>> [layer.name for layer in ks.flatten(keras.Sequential([backbone, head])).layers][:2]
    ['input_layer', 'conv1_pad']
    """
    return rebuilt(read_graph(model), copy_weights=copy_weights, nested=False, copies=_COPIES)


def rebuilt(graph: Graph, **options: Any) -> keras.Model:
    """Builds the whole model again; for the options see `build_part`."""
    calls, _ = part(graph, [], graph.flat_outputs())
    inputs, outputs = (list(dict.fromkeys(some)) for some in (graph.flat_inputs(), graph.flat_outputs()))
    return build_part(graph, calls, inputs, outputs, graph.model.name, **options)[0]


def model_name(name: Any) -> str:
    """Returns `name`; refuses one that Keras does not accept for a model."""
    if not isinstance(name, str) or not name or "/" in name:
        raise SplitError(f"{name!r} cannot name a model: give a string without '/', or leave `name` out.")
    return name


def resolve_several(graph: Graph, references: TensorRef | Sequence[TensorRef], what: str) -> list[int]:
    """Resolves one or several references to tensors; refuses an empty list and duplicates."""
    several = several_of(references)
    if not several:
        raise SplitError(f"`{what}` is empty: name at least one tensor, or leave it out.")
    tensors = [tensor for reference in several for tensor in resolve_glob(graph, reference)]
    for place, tensor in enumerate(tensors):
        if tensor in tensors[:place]:
            raise SplitError(f"'{graph.tensors[tensor].name}' is named twice in `{what}`: name each tensor once.")
    return tensors


def part(graph: Graph, starts: Sequence[int], ends: Sequence[int]) -> tuple[list[int], list[int]]:
    """Returns the calls that compute `ends` from `starts` and inputs of the model, and the tensors they start from."""
    given = set(starts)
    calls = sorted(call for call in graph.ancestors(ends, given) if graph.calls[call].inputs)
    used = {*ends, *(tensor for call in calls for tensor in graph.calls[call].inputs)}
    return calls, sorted(one for one in used if one in given or not graph.calls[graph.tensors[one].call].inputs)


def build_part(
    graph: Graph,
    calls: Sequence[int],
    inputs: Sequence[int],
    outputs: Sequence[int],
    name: str,
    *,
    copy_weights: bool = False,
    nested: bool = True,
    only_to_run: bool = False,
    results: Any = None,
    copies: str = FLAT_COPIES,
    opened: Container[int] = (),
    operations: Mapping[int, keras.Operation] | None = None,
    kind: type[keras.Model] = keras.Model,
) -> tuple[keras.Model, list[int], list[int]]:
    """Builds the model that computes `outputs` from `inputs` by `calls`, with shared or copied layers.

    A nested model that is wholly inside stays one layer, unless `nested` is off or it is in `opened`.
    `results` is the structure of the outputs, by default that of `build_submodel`. For `only_to_run` and `copies` see
    `Builder`, for `operations` its `add_calls`, for `kind` its `model`.

    Returns:
        The model, and the tensors in the order of its `inputs` and its `outputs`.
    """
    items = packed(graph, calls, inputs, outputs, opened) if nested else [graph.calls[call] for call in calls]
    taken = {item.operation.name for item in items}
    keys = {tensor: unique(safe_name(graph.tensors[tensor].name), taken) for tensor in inputs}
    sources = _structure(graph, inputs, graph.inputs, keys)
    if results is None:
        results = _structure(graph, outputs, graph.outputs, {})
    with Builder(only_to_run, copies) as builder:
        symbols = {tensor: graph.new_input(tensor, key) for tensor, key in keys.items()}
        if copy_weights:
            builder.add_copies(graph, items, symbols)
        else:
            builder.add_calls(graph, items, symbols, operations)
        model = builder.model(symbols, sources, results, name, graph.model, kind)
    return model, keras.tree.flatten(sources), keras.tree.flatten(results)


def warn_of_lost_masks(graph: Graph, calls: Sequence[int], outputs: Sequence[int], name: str) -> None:
    """Warns if a loss on these outputs is masked in the model, but would not be in a part with these calls.

    Keras attaches masks to tensors when the model runs, and its losses look for them there. Masks that layers use cross
    a cut as tensors; nothing carries a mask across that only a loss would use.
    """
    masked = naturally_masked(graph, [graph.calls[call] for call in calls])
    lost = [tensor for tensor in outputs if has_mask(graph.tensors[tensor].symbol) and tensor not in masked]
    if lost:
        warn(
            f"In '{graph.model.name}' a loss on {listed(graph.names(lost))} is masked. In '{name}' it is not: no layer "
            "there uses the mask. To train it, pass the mask to its loss as `sample_weight`."
        )


def _structure(graph: Graph, tensors: Sequence[int], own: Any, names: dict[int, str]) -> Any:
    """Returns a structure for these tensors: the model's `own` if they are all of it, else one tensor or a dict."""
    if set(keras.tree.flatten(own)) == set(tensors):
        return own
    if len(tensors) == 1:
        return tensors[0]
    taken: set[str] = set()
    return {names.get(tensor) or unique(safe_name(graph.tensors[tensor].name), taken): tensor for tensor in tensors}


def _outputs_after(graph: Graph, starts: Sequence[int]) -> list[int]:
    """Returns the model's outputs that depend on `starts`, or all of them if there are no starts."""
    reached = _reached(graph, starts, range(len(graph.calls)))
    outputs = list(dict.fromkeys(graph.flat_outputs()))
    after = [tensor for tensor in outputs if not starts or tensor in reached - set(starts)]
    if not after:
        name = graph.tensors[starts[0]].name
        raise NotConnectedError(
            f"'{name}' is an output of the model: nothing comes after it. Start from an earlier tensor.", name=name
        )
    return after


def _require_all_needed(graph: Graph, starts: Sequence[int], ends: Sequence[int]) -> None:
    """Raises `InsideBranchError` unless the ends can be computed from the starts without ancestors of the starts.

    Masks and the model's inputs may be needed as well.
    """
    sides = read_sides(graph)
    before = sides.main.ancestors(starts)
    calls, first = part(sides.main, starts, ends)
    needed_calls = {*calls, *(graph.tensors[tensor].call for tensor in first if tensor not in starts)}
    after = needed_calls - before
    if after < needed_calls:
        needed = [one for one in crossing_at(sides, starts) if after.intersection(graph.tensors[one].users)]
        require_whole_crossing(sides, starts, _CARRY, among=needed)


def _reached(graph: Graph, starts: Iterable[int], calls: Iterable[int]) -> set[int]:
    """Returns the starts and all that these calls, in execution order, compute from them."""
    reached = set(starts)
    for call in calls:
        if any(tensor in reached for tensor in graph.calls[call].inputs):
            reached.update(graph.calls[call].outputs)
    return reached


def _check_connected(graph: Graph, starts: Sequence[int], ends: Sequence[int], calls: Sequence[int]) -> None:
    """Refuses ends that depend on no start, and starts that lead to no end."""
    given = set(starts)
    reached = _reached(graph, starts, calls)
    sources = listed(graph.names(starts))
    if not calls:
        raise NotConnectedError(
            f"The start and the end are the same ({sources}): there is no call between them. Name a later end.",
            name=graph.tensors[ends[0]].name,
        )
    for tensor in ends:
        if tensor not in reached:
            name = graph.tensors[tensor].name
            raise NotConnectedError(
                f"'{name}' does not depend on {sources}: the end must come after the start. "
                f"Name an end after {sources}, or an earlier start.",
                name=name,
            )
    used = {tensor for call in calls for tensor in graph.calls[call].inputs} | set(ends)
    for tensor in given - used:
        name = graph.tensors[tensor].name
        raise NotConnectedError(
            f"'{name}' leads to none of the ends ({listed(graph.names(ends))}) unless through another start. "
            "Leave it out of `start`.",
            name=name,
        )


def _default_name(graph: Graph, starts: Sequence[int] | None, ends: Sequence[int]) -> str:
    def short(tensors: Sequence[int]) -> str:
        return safe_name(graph.tensors[tensors[0]].name)

    if starts is None:
        return f"{graph.model.name}_to_{short(ends)}"
    if set(ends) <= set(graph.flat_outputs()):
        return f"{graph.model.name}_from_{short(starts)}"
    return f"{graph.model.name}_{short(starts)}_to_{short(ends)}"
