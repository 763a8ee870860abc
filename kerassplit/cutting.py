"""Cutting a model into stages: `split`."""

import warnings
from collections.abc import Sequence, Set
from numbers import Integral

import keras

from kerassplit.dominators import PostDominators
from kerassplit.errors import SplitError
from kerassplit.graph import Graph, read_graph
from kerassplit.names import listed
from kerassplit.plans import Plan
from kerassplit.points import SplitPoint, ancestors, leaving, require_whole_crossing, split_tensors
from kerassplit.references import TensorRef, resolve_glob, several_of
from kerassplit.stages import STAGE_NAME, Crossing, CrossingTensor, Split, Stage, crossing_tensor
from kerassplit.submodel import build_part, warn_of_lost_masks

Cut = int | SplitPoint | Crossing | TensorRef | Sequence[TensorRef]
"""Where to cut: one of `split_points(model)` or its index, one of `crossings(model)`, or the tensors."""

_REMEDY = "To cut here anyway and carry {carried}, pass allow_crossing=True."


def split(
    model: keras.Model,
    at: Cut | Sequence[Cut] | Set[Cut] | Plan,
    *,
    allow_crossing: bool = False,
    names: Sequence[str] | None = None,
) -> Split:
    """Cuts a model into stages that, run one after another, compute what the model computes.

    Args:
        model: A functional or built Sequential model. It is left alone; the stages share its layers.
        at: Where to cut, in any order: tensors (names, layers or `KerasTensor`s), globs for several cuts,
            `split_points(model)` or indices into it. All the tensors of one crossing are named by a list within the
            list, or one of `crossings(model)`. Such a list may name outputs of the model, too: these are computed
            before the cut, and what no cut names and needs is computed in the last stage. Or a `plan` for this model.
        allow_crossing: Whether to cut inside a branch and carry all that crosses there.
        names: One name per stage; by default `stage_0`, `stage_1`, ...

    Returns:
        A `Split` with one stage more than there are cuts.

    Raises:
        InsideBranchError: More than the named tensors cross there, and `allow_crossing` is off.
        UnknownTensorError, AmbiguousTensorError: A name is not one tensor of the model.
        SplitError: A cut is named twice, or is an input or output of the model, or nothing lies between two cuts.

    Example:

    >>> split = ks.split(resnet, ["conv3_block4_out", "conv4_block6_out"], names=["features", "middle", "classifier"])
    >>> bool(keras.ops.all(split(images) == resnet(images)))
    True
    """
    graph = read_graph(model)
    if isinstance(at, Plan):
        at = _planned(at, graph)
    cuts = resolve_cuts(graph, at, allow_crossing)
    labels = _stage_names(names, len(cuts) + 1)
    stage_of = _stage_of_calls(graph, cuts)
    _warn_of_another_order(graph, stage_of)
    stages = tuple(_build_stage(graph, stage_of, place, label) for place, label in enumerate(labels))
    return Split(
        stages,
        keras.tree.map_structure(lambda tensor: graph.tensors[tensor].name, graph.inputs),
        keras.tree.map_structure(lambda tensor: graph.tensors[tensor].name, graph.outputs),
        model.name,
        model,
        _unused_inputs(graph, stages),
    )


def _planned(plan: Plan, graph: Graph) -> Sequence[Cut]:
    """The cuts of a plan that was made for this model."""
    theirs = sorted(name for stage in plan.stages for name in stage.calls)
    if theirs != sorted(call.name for call in graph.calls if call.inputs):
        raise SplitError(
            f"The plan was made for '{plan.model}', and '{graph.model.name}' has other layers. Plan for this model, "
            "or cut where the plan says with at=plan.at."
        )
    if len(plan.stages) == 1:
        raise SplitError(
            f"The plan for '{plan.model}' runs all of it on '{plan.stages[0].device}': there is nothing to cut."
        )
    return plan.at


def _unused_inputs(graph: Graph, stages: Sequence[Stage]) -> tuple[CrossingTensor, ...]:
    taken = {name for stage in stages for name in stage.inputs}
    inputs = [graph.tensors[tensor] for tensor in graph.flat_inputs()]
    return tuple(crossing_tensor(tensor.name, tensor.symbol) for tensor in inputs if tensor.name not in taken)


def resolve_cuts(
    graph: Graph,
    at: Cut | Sequence[Cut] | Set[Cut],
    allow_crossing: bool = False,
    remedy: str = _REMEDY,
    *,
    beside: bool = True,
) -> list[list[int]]:
    """The tensors of each cut, checked, in the order in which the cuts are reached.

    Args:
        graph: The model.
        at: See `split`.
        allow_crossing: See `split`.
        remedy: What to do about a cut inside a branch.
        beside: Whether outputs of the model may be named beside what crosses.
    """
    wanted = list(at) if isinstance(at, Set) else several_of(at)
    if not wanted or any(isinstance(one, (list, tuple)) and not one for one in wanted):
        raise SplitError("`at` is empty: name at least one tensor to cut at.")
    points = split_tensors(graph, PostDominators(graph))
    found: list[tuple[tuple[int, int], list[int]]] = []
    for cut in [cut for one in wanted for cut in _cuts_at(graph, points, one)]:
        if any(cut == other for _, other in found):
            raise SplitError(f"{listed(graph.names(cut))} is named twice in `at`: name each cut once.")
        crossing = _crossing_of(graph, cut, beside)
        found.append(((max(graph.tensors[tensor].call for tensor in crossing), len(cut)), cut))
    cuts = [cut for _, cut in sorted(found, key=lambda one: one[0])]
    outputs = set(graph.flat_outputs())
    given: list[int] = []  # outputs that this cut or an earlier one names
    for cut in cuts:
        given += [tensor for tensor in cut if tensor in outputs]
        if not allow_crossing:
            whole = list(dict.fromkeys([*cut, *given]))
            require_whole_crossing(graph, whole, _naming_outputs(graph, cut, given) + remedy, named=cut)
    return cuts


def _crossing_of(graph: Graph, cut: Sequence[int], beside: bool) -> list[int]:
    """Those of a cut's tensors that cross there; refuses others, but for outputs of the model where these may be."""
    names, outputs = graph.names(cut), set(graph.flat_outputs())
    left = set(leaving(graph, ancestors(graph, cut)))
    crossing = [tensor for tensor in cut if tensor in left]
    may_be_there = outputs if beside and crossing else set()
    ends = [tensor for tensor in cut if not graph.tensors[tensor].users]
    used = [tensor for tensor in cut if tensor not in ends]
    if beside and used and ends and not crossing and outputs.issuperset(ends):
        crosses = f"{listed(graph.names(sorted(left)))} would" if left else "nothing would"
        raise SplitError(
            f"With {listed(graph.names(ends))} computed before the cut, {listed(graph.names(used))} would not cross "
            f"it; {crosses}. Name what does."
        )
    for tensor, name in zip(cut, names, strict=True):
        if len(cut) == 1 and not graph.calls[graph.tensors[tensor].call].inputs:
            raise SplitError(f"'{name}' is an input of the model: there is nothing before it to cut off.")
        if not graph.tensors[tensor].users and tensor not in may_be_there:
            what = "an output of the model" if tensor in outputs else "used by no call of the model"
            raise SplitError(f"'{name}' is {what}: there is nothing behind it to cut off. Cut at an earlier tensor.")
    for tensor, name in zip(cut, names, strict=True):
        if tensor not in left and tensor not in may_be_there:
            others = [other for other in names if other != name]
            raise SplitError(
                f"'{name}' does not cross where {listed(others)} {'does' if len(others) == 1 else 'do'}. Name only "
                "what crosses together; for several cuts, name each apart."
            )
    return crossing


def _naming_outputs(graph: Graph, cut: Sequence[int], given: Sequence[int]) -> str:
    """What to say where no more than `cut` would cross if outputs of the model were computed before it."""
    head = ancestors(graph, [*cut, *given])
    crossing, helping = set(leaving(graph, head)), []
    if crossing <= set(cut):
        return ""
    for tensor in dict.fromkeys(graph.flat_outputs()):
        if graph.tensors[tensor].call not in head:
            left = set(leaving(graph, ancestors(graph, [*cut, *given, tensor])))
            if crossing > left >= crossing.intersection(cut):
                helping.append(tensor)
    if not helping or not set(leaving(graph, ancestors(graph, [*cut, *given, *helping]))) <= set(cut):
        return ""
    names = graph.names(helping)
    them = "it" if len(names) == 1 else "them"
    text = (
        f"To compute {listed(names)} before the cut, so that nothing else crosses, name {them} in one list with what "
        f"does: at=[{[*graph.names(cut), *names]!r}]. "
    )
    return text.replace("{", "{{").replace("}", "}}")


def _cuts_at(graph: Graph, points: Sequence[int], one: Cut) -> list[list[int]]:
    """The cuts that one item of `at` stands for, each as its tensors: several for a glob, else one."""
    several = [tensor.name for tensor in one.tensors] if isinstance(one, Crossing) else several_of(one)
    tensors = [tensor for reference in several for tensor in _cut_tensors(graph, points, reference)]
    if several == [one]:
        return [[tensor] for tensor in tensors]
    if len(set(tensors)) < len(tensors):
        raise SplitError(f"A tensor is named twice in the crossing {listed(graph.names(tensors))}: name each once.")
    return [sorted(tensors)]


def _cut_tensors(graph: Graph, points: Sequence[int], reference: int | SplitPoint | TensorRef) -> list[int]:
    if isinstance(reference, SplitPoint):
        reference = reference.name
    if not isinstance(reference, Integral) or isinstance(reference, bool):
        return resolve_glob(graph, reference)
    reference = int(reference)
    if -len(points) <= reference < len(points):
        return [points[reference]]
    raise SplitError(
        f"Model '{graph.model.name}' has {len(points)} split points, numbered 0 to {len(points) - 1}; got {reference}."
        if points
        else f"Model '{graph.model.name}' has no split points, so none has index {reference}."
    )


def _stage_names(names: Sequence[str] | None, count: int) -> list[str]:
    if names is None:
        return [f"stage_{place}" for place in range(count)]
    labels = several_of(names)
    if len(labels) != count:
        cuts = "1 cut makes" if count == 2 else f"{count - 1} cuts make"
        raise SplitError(f"{cuts} {count} stages; `names` has {len(labels)}: {listed(map(str, labels))}.")
    for label in labels:
        if not isinstance(label, str) or not STAGE_NAME.fullmatch(label):
            raise SplitError(
                f"{label!r} cannot name a stage: a name is made of letters, digits, '_', '-' and '.' and begins with "
                "a letter or '_'."
            )
    if len({label.lower() for label in labels}) < count:
        raise SplitError(f"The names of stages must differ (also in more than capitals); got {listed(labels)}.")
    return labels


def _stage_of_calls(graph: Graph, cuts: Sequence[Sequence[int]]) -> list[int]:
    """For each call the stage it runs in: the first whose cut depends on it; the last for all the others."""
    stage_of = [len(cuts)] * len(graph.calls)
    for place in range(len(cuts) - 1, -1, -1):
        for call in ancestors(graph, cuts[place]):
            stage_of[call] = place
    filled = {stage_of[index] for index, call in enumerate(graph.calls) if call.inputs}
    for place, cut in enumerate(cuts):
        if place not in filled:
            raise SplitError(
                f"No call would be left for the stage that ends at {listed(graph.names(cut))}: an earlier cut covers "
                "it. Leave one of the two out."
            )
    return stage_of


def _warn_of_another_order(graph: Graph, stage_of: Sequence[int]) -> None:
    """Warns of layers that keep a state and whose calls the stages run in another order than the model.

    A moving average after two updates, and what a generator of random numbers draws, depend on the order.
    """
    last: dict[int, int] = {}
    for index, call in enumerate(graph.calls):
        layer = call.operation
        if not isinstance(layer, keras.Layer) or not call.inputs:
            continue
        before = last.setdefault(id(layer), stage_of[index])
        last[id(layer)] = max(before, stage_of[index])
        if before > stage_of[index] and changes_in_training(layer):
            warnings.warn(
                f"'{layer.name}' keeps a state, and the stages call it in another order than '{graph.model.name}' "
                "does. In training mode its state and what it computes may differ. Cut where all its calls lie on one "
                "side.",
                stacklevel=3,
            )


def changes_in_training(layer: keras.Layer) -> bool:
    """Whether a call in training mode changes variables of a layer: moving averages, states of random generators."""
    generators = [variable for variable in layer.variables if not any(variable is weight for weight in layer.weights)]
    return bool(generators) or (layer.trainable and bool(layer.non_trainable_weights))


def _build_stage(graph: Graph, stage_of: Sequence[int], place: int, name: str) -> Stage:
    calls = [index for index, call in enumerate(graph.calls) if call.inputs and stage_of[index] == place]
    ours = set(calls)
    received = {tensor for call in calls for tensor in graph.calls[call].inputs}
    inputs = sorted(tensor for tensor in received if graph.tensors[tensor].call not in ours)
    results = set(graph.flat_outputs())
    outputs = [
        tensor
        for call in calls
        for tensor in graph.calls[call].outputs
        if tensor in results or any(user not in ours for user in graph.tensors[tensor].users)
    ]
    warn_of_lost_masks(graph, calls, [tensor for tensor in outputs if tensor in results], name)
    model, inputs, outputs = build_part(graph, calls, inputs, outputs, name)
    return Stage(name, model, tuple(graph.names(inputs)), tuple(graph.names(outputs)))
