"""Cuts a model into stages."""

from collections.abc import Callable, Sequence, Set
from functools import cache, partial
from numbers import Integral

import keras

from kerassplit.cutting.crossing import Crossing, crossing_tensor
from kerassplit.cutting.frontiers import leaving, require_whole_crossing, split_tensors
from kerassplit.cutting.points import SplitPoint
from kerassplit.cutting.stage_names import stage_names
from kerassplit.cutting.stage_parts import StagePart, build_stage, stage_parts
from kerassplit.cutting.stages import Stages
from kerassplit.cutting.submodel import warn_of_lost_masks
from kerassplit.errors import SplitError
from kerassplit.graph.model_graph import Graph
from kerassplit.graph.reading import read_graph
from kerassplit.graph.references import TensorRef, resolve_glob, several_of
from kerassplit.graph.sides import Sides, read_sides
from kerassplit.text import listed, warn

Cut = int | SplitPoint | Crossing | TensorRef | Sequence[TensorRef]
"""Where to cut: one of `split_points(model)` or its index, one of `crossings(model)`, or the tensors."""

_REMEDY = "To cut here anyway and carry {carried}, pass allow_crossing=True."


def cut(
    model: keras.Model,
    at: Cut | Sequence[Cut] | Set[Cut] | None,
    *,
    allow_crossing: bool = False,
    names: Sequence[str] | None = None,
) -> Stages:
    """Cuts a model into stages; see `kerassplit.split`. Without `at`, the whole model is one stage."""
    graph = read_graph(model)
    sides = read_sides(graph)
    cuts = [] if at is None else resolve_cuts(sides, at, allow_crossing)
    labels = stage_names(None if names is None else several_of(names), len(cuts) + 1)
    parts = stage_parts(sides, cuts)
    _warn_of_another_order(graph, parts)
    outputs = set(graph.flat_outputs())
    made = []
    for one, label in zip(parts, labels, strict=True):
        warn_of_lost_masks(graph, one.calls, [tensor for tensor in one.outputs if tensor in outputs], label)
        made.append(build_stage(graph, one.calls, one.inputs, one.outputs, label))
    taken = {name for stage in made for name in stage.inputs}
    inputs = [graph.tensors[tensor] for tensor in graph.flat_inputs()]
    return Stages(
        tuple(made),
        graph.named(graph.inputs),
        graph.named(graph.outputs),
        model.name,
        model,
        tuple(crossing_tensor(one.name, one.symbol) for one in inputs if one.name not in taken),
        preprocessor=own_preprocessor(model),
    )


def own_preprocessor(model: keras.Model) -> str | None:
    """Returns the name of the preprocessor that the model's own `predict` applies (as in KerasHub's tasks), if any."""
    found = getattr(model, "preprocessor", None)
    if not callable(found) or type(model).predict is keras.Model.predict:
        return None
    return getattr(found, "__name__", type(found).__name__)


def resolve_cuts(
    sides: Sides,
    at: Cut | Sequence[Cut] | Set[Cut],
    allow_crossing: bool = False,
    remedy: str = _REMEDY,
    *,
    beside: bool = True,
) -> list[list[int]]:
    """Resolves cuts to their tensors, checks them, and sorts them by execution order.

    Args:
        sides: The model's graph.
        at: See `split`.
        allow_crossing: See `split`.
        remedy: Advice for the error about a cut inside a branch.
        beside: Allow outputs of the model to be named along with the tensors that cross.
    """
    graph = sides.graph
    wanted = list(at) if isinstance(at, Set) else several_of(at)
    if not wanted or any(isinstance(one, (list, tuple)) and not one for one in wanted):
        raise SplitError("`at` is empty: name at least one tensor to cut at.")
    points = cache(partial(split_tensors, sides))  # needed for indices only
    found: list[tuple[tuple[int, int], list[int]]] = []
    for cut in [cut for one in wanted for cut in _cuts_at(graph, points, one)]:
        if any(cut == other for _, other in found):
            raise SplitError(f"{listed(graph.names(cut))} is named twice in `at`: name each cut once.")
        crossing = _crossing_of(graph, cut, beside)
        found.append(((max(graph.tensors[tensor].call for tensor in crossing), len(cut)), cut))
    cuts = [cut for _, cut in sorted(found, key=lambda one: one[0])]
    outputs = set(graph.flat_outputs())
    given: list[int] = []  # outputs named by this or an earlier cut
    for cut in cuts:
        given += [tensor for tensor in cut if tensor in outputs]
        if not allow_crossing:
            whole = list(dict.fromkeys([*cut, *given]))
            before = _outputs_advice(sides.main, cut, given) if beside else ""
            require_whole_crossing(sides, whole, before + remedy, named=cut)
    return cuts


def _crossing_of(graph: Graph, cut: Sequence[int], beside: bool) -> list[int]:
    """Returns the tensors of a cut that cross it; refuses others, except outputs of the model if these are allowed."""
    names, outputs = graph.names(cut), set(graph.flat_outputs())
    left = set(leaving(graph, graph.ancestors(cut)))
    crossing = [tensor for tensor in cut if tensor in left]
    may_be_there = outputs if beside and crossing else set()
    ends = [tensor for tensor in cut if not graph.tensors[tensor].users]
    used = [tensor for tensor in cut if tensor not in ends]
    if beside and used and ends and not crossing and outputs.issuperset(ends):
        crosses = f"{listed(graph.names(sorted(left)))} would" if left else "nothing would"
        raise SplitError(
            f"With {listed(graph.names(ends))} computed before the cut, {listed(graph.names(used))} would not cross "
            f"it; {crosses}. Name a tensor that does."
        )
    for tensor, name in zip(cut, names, strict=True):
        if len(cut) == 1 and not graph.calls[graph.tensors[tensor].call].inputs:
            raise SplitError(f"'{name}' is an input of the model: nothing comes before it. Cut at a later tensor.")
        if not graph.tensors[tensor].users and tensor not in may_be_there:
            what = "an output of the model" if tensor in outputs else "used by no call of the model"
            raise SplitError(f"'{name}' is {what}: nothing comes after it. Cut at an earlier tensor.")
    for tensor, name in zip(cut, names, strict=True):
        if tensor not in left and tensor not in may_be_there:
            others = [other for other in names if other != name]
            raise SplitError(
                f"'{name}' does not cross where {listed(others)} {'does' if len(others) == 1 else 'do'}. Name only "
                "tensors that cross together; for several cuts, list each separately."
            )
    return crossing


def _outputs_advice(graph: Graph, cut: Sequence[int], given: Sequence[int]) -> str:
    """Returns advice if computing outputs of the model before the cut would leave only `cut` crossing, else `""`."""
    head = graph.ancestors([*cut, *given])
    crossing, helping = set(leaving(graph, head)), []
    if crossing <= set(cut):
        return ""
    for tensor in dict.fromkeys(graph.flat_outputs()):
        if graph.tensors[tensor].call not in head:
            left = set(leaving(graph, graph.ancestors([*cut, *given, tensor])))
            if crossing > left >= crossing.intersection(cut):
                helping.append(tensor)
    if not helping or not set(leaving(graph, graph.ancestors([*cut, *given, *helping]))) <= set(cut):
        return ""
    names = graph.names(helping)
    them = "it" if len(names) == 1 else "them"
    text = (
        f"To compute {listed(names)} before the cut, so that nothing else crosses, name {them} in the same list: "
        f"at=[{[*graph.names(cut), *names]!r}]. "
    )
    return text.replace("{", "{{").replace("}", "}}")


def _cuts_at(graph: Graph, points: Callable[[], list[int]], one: Cut) -> list[list[int]]:
    """Resolves one item of `at` to its cuts, each a list of tensors: several for a glob, else one."""
    several = [tensor.name for tensor in one.tensors] if isinstance(one, Crossing) else several_of(one)
    tensors = [tensor for reference in several for tensor in _cut_tensors(graph, points, reference)]
    if several == [one]:
        return [[tensor] for tensor in tensors]
    if len(set(tensors)) < len(tensors):
        raise SplitError(f"A tensor is named twice in the crossing {listed(graph.names(tensors))}: name each once.")
    return [sorted(tensors)]


def _cut_tensors(
    graph: Graph, all_points: Callable[[], list[int]], reference: int | SplitPoint | TensorRef
) -> list[int]:
    if isinstance(reference, SplitPoint):
        reference = reference.name
    if not isinstance(reference, Integral) or isinstance(reference, bool):
        return resolve_glob(graph, reference)
    reference, points = int(reference), all_points()
    if -len(points) <= reference < len(points):
        return [points[reference]]
    raise SplitError(
        f"Model '{graph.model.name}' has {len(points)} split points, numbered 0 to {len(points) - 1}; got {reference}."
        if points
        else f"Model '{graph.model.name}' has no split points, so none has index {reference}."
    )


def _warn_of_another_order(graph: Graph, parts: Sequence[StagePart]) -> None:
    """Warns of stateful layers whose calls the stages run in another order than the model.

    A moving average after two updates, and the numbers that a random generator draws, depend on the order.
    """
    last: dict[int, int] = {}
    for call, place in sorted((call, place) for place, one in enumerate(parts) for call in one.calls):
        layer = graph.calls[call].operation
        if not isinstance(layer, keras.Layer):
            continue
        before = last.setdefault(id(layer), place)
        last[id(layer)] = max(before, place)
        if before > place and changes_in_training(layer):
            warn(
                f"'{layer.name}' keeps a state, and the stages call it in another order than '{graph.model.name}' "
                "does. In training mode its state and its outputs may differ. Cut where all its calls lie on one side."
            )


def changes_in_training(layer: keras.Layer) -> bool:
    """True if a call in training mode changes variables of a layer: moving averages, states of random generators."""
    generators = [variable for variable in layer.variables if not any(variable is weight for weight in layer.weights)]
    return bool(generators) or (layer.trainable and bool(layer.non_trainable_weights))
