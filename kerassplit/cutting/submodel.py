"""Sub-models: a part of a model as a model of its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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

    The sub-model has fresh Inputs named after the tensors whose place they take, the layers and variables of the model
    (the very same objects), and each call with the arguments of the original. The layer that makes `start` is not in
    it. The model is left alone.

    To go on inside a sub-model, build from it again. `tail.get_layer(name).output` is a tensor of the model it was cut
    from, because the layers are shared.

    Args:
        model: A functional or built Sequential model.
        start: The tensor, or the several tensors, to start from: names, globs, layers or `KerasTensor`s. `None`: the
            model's own inputs. Inputs of the model that the part needs besides `start`, such as a `padding_mask`, stay
            inputs. Masks are made again of these or of `start`; one that is named in `start` is an input instead.
        end: The tensor, or the several tensors, to stop at; any will do, also one inside a branch or one output of
            several. `None`: those of the model's own outputs that lie behind `start`.
        copy_weights: Whether the sub-model gets layers and variables of its own, with equal values.
        name: Name of the sub-model; by default made of the model's name and the ends.

    Returns:
        A `keras.Model`. Its inputs (and outputs) are the model's own, in their own structure, where it has all of
        them; else one plain tensor, or a dict keyed by tensor names (with `/`, `@`, `:` as in the Inputs' names).

    Raises:
        InsideBranchError: More tensors cross at `start`, and are needed, than were named.
        NotConnectedError: An end does not depend on a start, or a start leads nowhere.
        SplitError: `name` cannot name a model.
        UnknownTensorError, AmbiguousTensorError: A name is not one tensor of the model.

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
        ends = _outputs_behind(graph, starts or [])
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
    """Builds the same model with the models nested in it inlined, at any depth.

    A mask that a nested model is given, or gives, is an argument of the layers that use it, and what Keras does to the
    inputs of a nested model (a cast, an axis of 1) is a call of its own.

    Args:
        model: A functional or built Sequential model. It is left alone.
        copy_weights: Whether the flat model gets layers and variables of its own, with equal values. It shares the
            model's else.

    Returns:
        A `keras.Model` with the model's name, inputs and outputs, in their own structure.

    Raises:
        UnsupportedModelError: Layers of different nested models bear one name, which Keras refuses in one model;
            copies get new names.

    Example:

    >>> [layer.name for layer in ks.flatten(keras.Sequential([backbone, head])).layers][:2]
    ['input_layer', 'conv1_pad']
    """
    graph = read_graph(model)
    calls, _ = part(graph, [], graph.flat_outputs())
    inputs, outputs = (list(dict.fromkeys(some)) for some in (graph.flat_inputs(), graph.flat_outputs()))
    options = {"copy_weights": copy_weights, "nested": False, "copies": _COPIES}
    return build_part(graph, calls, inputs, outputs, model.name, **options)[0]


def model_name(name: Any) -> str:
    """`name`, if Keras takes it for a model."""
    if not isinstance(name, str) or not name or "/" in name:
        raise SplitError(f"{name!r} cannot name a model: give a string without '/', or leave `name` out.")
    return name


def resolve_several(graph: Graph, references: TensorRef | Sequence[TensorRef], what: str) -> list[int]:
    """One or several references as tensors; refuses none at all and the same one twice."""
    several = several_of(references)
    if not several:
        raise SplitError(f"`{what}` is empty: name at least one tensor, or leave it out.")
    tensors = [tensor for reference in several for tensor in resolve_glob(graph, reference)]
    for place, tensor in enumerate(tensors):
        if tensor in tensors[:place]:
            raise SplitError(f"'{graph.tensors[tensor].name}' is named twice in `{what}`: name each tensor once.")
    return tensors


def part(graph: Graph, starts: Sequence[int], ends: Sequence[int]) -> tuple[list[int], list[int]]:
    """The calls that make `ends` out of `starts` and inputs of the model, and all the tensors they set out from."""
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
) -> tuple[keras.Model, list[int], list[int]]:
    """The model that makes `outputs` out of `inputs` by `calls`, sharing the layers or with copies of them.

    A nested model that lies whole within stays one layer, unless `nested` is off. For the others see `Builder`.
    `results` is the structure in which it gives the outputs, for another than that of `build_submodel`.

    Returns:
        It, and the tensors in the order of its `inputs` and its `outputs`.
    """
    items = packed(graph, calls, inputs, outputs) if nested else [graph.calls[call] for call in calls]
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
            builder.add_calls(graph, items, symbols)
        model = builder.model(
            keras.tree.map_structure(symbols.__getitem__, sources),
            keras.tree.map_structure(symbols.__getitem__, results),
            name,
            like=graph.model,
        )
    return model, keras.tree.flatten(sources), keras.tree.flatten(results)


def warn_of_lost_masks(graph: Graph, calls: Sequence[int], outputs: Sequence[int], name: str) -> None:
    """Warns where a loss on these outputs is masked in the model, and would not be in a part with these calls.

    Keras hangs a mask on the tensors themselves when the model runs, and its losses look for it there. Masks that
    layers take cross a cut as tensors; one that only a loss would look at has nothing to take it there.
    """
    masked = naturally_masked(graph, [graph.calls[call] for call in calls])
    lost = [tensor for tensor in outputs if has_mask(graph.tensors[tensor].symbol) and tensor not in masked]
    if lost:
        warn(
            f"In '{graph.model.name}' a loss on {listed(graph.names(lost))} is masked. In '{name}' it is not: no layer "
            "there takes the mask. Where you train it, pass the mask to its loss as `sample_weight`."
        )


def _structure(graph: Graph, tensors: Sequence[int], own: Any, names: dict[int, str]) -> Any:
    """How a sub-model takes or gives these tensors: as the model does where they are all of its own, else by name."""
    if set(keras.tree.flatten(own)) == set(tensors):
        return own
    if len(tensors) == 1:
        return tensors[0]
    taken: set[str] = set()
    return {names.get(tensor) or unique(safe_name(graph.tensors[tensor].name), taken): tensor for tensor in tensors}


def _outputs_behind(graph: Graph, starts: Sequence[int]) -> list[int]:
    """The model's outputs that can be made from `starts`: not those that the part before makes."""
    reached = _reached(graph, starts, range(len(graph.calls)))
    outputs = list(dict.fromkeys(graph.flat_outputs()))
    behind = [tensor for tensor in outputs if not starts or tensor in reached - set(starts)]
    if not behind:
        name = graph.tensors[starts[0]].name
        raise NotConnectedError(
            f"'{name}' is an output of the model: nothing comes after it. Start from an earlier tensor.", name=name
        )
    return behind


def _require_all_needed(graph: Graph, starts: Sequence[int], ends: Sequence[int]) -> None:
    """Raises `InsideBranchError` unless `ends` can be made of the starts without the calls that the starts depend on.

    Masks and the model's inputs may be needed besides.
    """
    sides = read_sides(graph)
    before = sides.main.ancestors(starts)
    calls, first = part(sides.main, starts, ends)
    needed_calls = {*calls, *(graph.tensors[tensor].call for tensor in first if tensor not in starts)}
    behind = needed_calls - before
    if behind < needed_calls:
        needed = [one for one in crossing_at(sides, starts) if behind.intersection(graph.tensors[one].users)]
        require_whole_crossing(sides, starts, _CARRY, among=needed)


def _reached(graph: Graph, starts: Iterable[int], calls: Iterable[int]) -> set[int]:
    """The starts, and what these calls, in execution order, make of them."""
    reached = set(starts)
    for call in calls:
        if any(tensor in reached for tensor in graph.calls[call].inputs):
            reached.update(graph.calls[call].outputs)
    return reached


def _check_connected(graph: Graph, starts: Sequence[int], ends: Sequence[int], calls: Sequence[int]) -> None:
    """Refuses ends that no start leads to, and starts that lead to no end."""
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
                f"Name an end behind {sources}, or an earlier start.",
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
