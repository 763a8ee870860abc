"""Common pieces of models: intermediate tensors, blocks, and a Sequential model of the blocks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise

import keras

from kerassplit.cutting.cuts import cut
from kerassplit.cutting.points import SHAPING, SplitPoint, split_points
from kerassplit.cutting.stage_parts import build_stage
from kerassplit.cutting.stages import Stage
from kerassplit.cutting.submodel import build_part, part
from kerassplit.display.rich_table import ShownDict
from kerassplit.errors import NotConnectedError, SplitError
from kerassplit.graph.internals.process_state import deep_recursion
from kerassplit.graph.model_graph import Graph
from kerassplit.graph.reading import read_graph
from kerassplit.graph.references import TensorRef, resolve, resolve_glob, several_of
from kerassplit.graph.sides import read_sides
from kerassplit.text import listed, safe_name, unique, warn


def tap(
    model: keras.Model,
    names: TensorRef | Sequence[TensorRef] | Mapping[TensorRef, str],
    *,
    keep_outputs: bool = False,
) -> keras.Model:
    """Builds a model that returns intermediate tensors of another, all in one pass.

    The tensors need not be split points: any will do, including those inside branches and nested models. The layers
    and variables are the model's own; nothing is copied, and the model is not changed.

    Args:
        model: A functional or built Sequential model.
        names: One tensor or several: names, globs, layers or `KerasTensor`s; `tensors(model)` lists them. A tensor
            named twice, for example by two globs, is returned once. A dict renames tensors: from each tensor to its
            name in the result.
        keep_outputs: Return the model's own outputs, too.

    Returns:
        A `keras.Model` that returns a dict from names to tensors, even for one tensor. Its inputs are those that the
        tensors depend on, as in `build_submodel(model, end=names)`: all of the model's inputs in the model's structure;
        else one plain tensor, or a dict keyed by tensor names.

    Raises:
        UnknownTensorError, AmbiguousTensorError: A name does not stand for exactly one tensor of the model.
        NotConnectedError: Only inputs of the model are named.
        SplitError: No tensor is named, or two would get the same name.

    Example:

    >>> list(ks.tap(resnet, {"conv4_block6_out": "features"}).output)
    ['features']
    >>> features = ks.tap(resnet, ["conv2_block3_out", "conv5_block1_*_relu"])(images)
    >>> {name: tuple(feature.shape) for name, feature in features.items()}
    {'conv2_block3_out': (2, 56, 56, 256), 'conv5_block1_1_relu': (2, 7, 7, 512), 'conv5_block1_2_relu': (2, 7, 7, 512)}
    """
    graph = read_graph(model)
    called = _called(graph, names)
    if keep_outputs:
        called = {**called, **{one: graph.tensors[one].name for one in graph.flat_outputs() if one not in called}}
    results = {name: tensor for tensor, name in called.items()}
    if len(results) < len(called):
        twice = [name for name in results if list(called.values()).count(name) > 1]
        raise SplitError(f"Several tensors would be called {listed(twice)}: give each a name of its own.")
    tensors = list(called)
    calls, inputs = part(graph, [], tensors)
    if not calls:
        name = graph.tensors[tensors[0]].name
        raise NotConnectedError(
            f"'{name}' is an input of the model: there is nothing to compute. Tap a later tensor, too.", name=name
        )
    return build_part(graph, calls, inputs, tensors, f"{model.name}_tapped", results=results)[0]


def _called(graph: Graph, names: TensorRef | Sequence[TensorRef] | Mapping[TensorRef, str]) -> dict[int, str]:
    """Resolves the tensors that a user names; returns each with its name in the result."""
    references = list(names) if isinstance(names, Mapping) else several_of(names)
    if not references:
        raise SplitError("`names` is empty: name at least one tensor to tap.")
    found = [resolve_glob(graph, reference) for reference in references]
    if not isinstance(names, Mapping):
        return {tensor: graph.tensors[tensor].name for several in found for tensor in several}
    called: dict[int, str] = {}
    for several, name in zip(found, names.values(), strict=True):
        if not isinstance(name, str) or not name:
            raise SplitError(f"`names` says what to call a tensor, such as {{'relu': 'features'}}; got {name!r}.")
        if len(several) > 1 or several[0] in called:
            raise SplitError(
                f"Each tensor gets one name, but '{name}' is given to {listed(graph.names(several))}"
                + (f", which is already called '{called[several[0]]}'." if several[0] in called else ".")
            )
        called[several[0]] = name
    return called


def blocks(model: keras.Model) -> dict[str, keras.Model]:
    """Cuts a model after each merge (`Add`, `Concatenate`, ...), into the blocks that most architectures consist of.

    A merge belongs to the block that it ends, as do the activations and normalizations that follow it. A block ends
    only at a split point: a merge inside a branch, such as a squeeze-and-excite gate, does not end a block unless
    nothing else crosses there. The first block includes all that comes before the first merge; the last block is all
    that comes after the last merge. A model without such merges is one block.

    Args:
        model: A functional or built Sequential model. It is not changed; the blocks share its layers.

    Returns:
        A dict of the blocks in execution order. Each key is the name of the tensor that the block ends at; for the last
        block, the first of the model's outputs that it computes. Called one after another, the blocks compute the model
        bit for bit. Each block maps one plain tensor to another; if inputs enter late or outputs leave early, dicts
        keyed by tensor names.

    Raises:
        UnsupportedModelError: The model has no graph.

    Example:

    >>> resnet_blocks = ks.blocks(resnet)
    >>> len(resnet_blocks), list(resnet_blocks)[0], list(resnet_blocks)[-1]
    (17, 'conv2_block1_out', 'predictions')
    """
    return ShownDict({name: stage.model for name, stage in _block_stages(model).items()})


def to_sequential(model: keras.Model) -> keras.Sequential:
    """Turns a model into a `keras.Sequential` of its blocks, those of `blocks(model)`.

    Residual connections stay inside the blocks. The layers and variables are the model's own, the outputs are equal
    bit for bit, and the model is not changed. If several blocks share a layer, a warning says that Keras cannot load
    the result from a file.

    Args:
        model: A functional or built Sequential model with one input and one output.

    Returns:
        A built `keras.Sequential` with one nested model per block, named after the block.

    Raises:
        SplitError: The model has several inputs or outputs, or several tensors cross from one block to the next.

    Example:

    >>> sequential = ks.to_sequential(resnet)
    >>> [block.name for block in sequential.layers][:2]
    ['conv2_block1_out', 'conv2_block2_out']
    """
    graph = read_graph(model)
    for verb, tensors in (("takes", graph.flat_inputs()), ("returns", graph.flat_outputs())):
        if len(tensors) != 1:
            raise SplitError(
                f"Model '{model.name}' {verb} {len(tensors)} tensors ({listed(graph.names(tensors))}), but a "
                "keras.Sequential passes on only one. Use `kerassplit.split(model, at=...)`, which routes several."
            )
    stages = list(_block_stages(model).values())
    for stage, following in pairwise(stages):
        crossing = dict.fromkeys((*stage.outputs, *following.inputs))
        if len(crossing) != 1:
            raise SplitError(
                f"After block '{stage.name}' of model '{model.name}', {listed(crossing)} cross, but a "
                "keras.Sequential passes on only one. Use `kerassplit.split(model, at=...)`, which routes several."
            )
    _warn_of_shared_layers(model, stages)
    [source] = graph.flat_inputs()
    symbol = graph.new_input(source, unique(safe_name(graph.tensors[source].name), {stage.name for stage in stages}))
    with deep_recursion():
        return keras.Sequential([symbol, *(_plain(stage.model) for stage in stages)], name=model.name)


def _block_stages(model: keras.Model) -> dict[str, Stage]:
    """Builds the blocks as stages, keyed by the name of the tensor that each ends at."""
    graph = read_graph(model)
    ends = _block_ends(split_points(model))
    if ends and all(_is_shaping(graph.calls[call].operation) for call in _calls_after(graph, ends[-1])):
        ends.pop()
    outputs = list(dict.fromkeys(graph.flat_outputs()))
    after = _calls_after(graph, ends[-1] if ends else None)
    last = next((tensor for tensor in outputs if graph.tensors[tensor].call in after), outputs[0])
    names = [*(point.name for point in ends), graph.tensors[last].name]
    labels = _names_of_stages(names)
    if ends:
        return dict(zip(names, cut(model, ends, names=labels), strict=True))
    return {names[0]: build_stage(graph, *part(graph, [], outputs), outputs, labels[0])}


def _block_ends(points: Sequence[SplitPoint]) -> list[SplitPoint]:
    """Returns the split points that end blocks: for each merge, the last of it and the `SHAPING` layers after it."""
    ends: list[SplitPoint] = []
    for point in points:
        if point.after_merge:
            if ends and _is_shaping(point.layer):
                ends.pop()
            ends.append(point)
    return ends


def _is_shaping(operation: keras.Operation) -> bool:
    return type(operation).__name__ in SHAPING


def _calls_after(graph: Graph, point: SplitPoint | None) -> set[int]:
    """Returns the calls that a split point does not depend on; all calls for `None`."""
    sides = read_sides(graph)
    before = sides.calls | (sides.main.ancestors([resolve(graph, point.name)]) if point else set())
    return {index for index, call in enumerate(graph.calls) if call.inputs and index not in before}


def _names_of_stages(names: Sequence[str]) -> list[str]:
    """Turns tensor names into names of stages: plain characters only, and distinct even in lower case."""
    taken: set[str] = set()
    labels = []
    for name in names:
        label = re.sub(r"[^\w.-]", "_", safe_name(name))
        label = label if re.match(r"[A-Za-z_]", label) else f"_{label}"
        small = unique(label.lower(), taken)
        labels.append(label if small == label.lower() else small)
    return labels


def _warn_of_shared_layers(model: keras.Model, stages: Sequence[Stage]) -> None:
    """Warns of layers that several blocks share: loading, Keras mistakes a later block's call for the first block's."""
    blocks_of: dict[keras.Operation, list[str]] = {}
    for stage in stages:
        for operation in dict.fromkeys(call.operation for call in read_graph(stage.model).calls if call.inputs):
            blocks_of.setdefault(operation, []).append(stage.name)
    for operation, names in blocks_of.items():
        if len(names) > 1:
            warn(
                f"Blocks {listed(names)} of model '{model.name}' share the layer '{operation.name}'. The Sequential "
                "model computes and trains correctly, but Keras cannot load it once it is saved. To save the pieces, "
                "use `kerassplit.split(model, at=...).save(directory)`."
            )
            return


def _plain(model: keras.Model) -> keras.Model:
    """Makes a model with one input and one output accept and return plain tensors, not lists or dicts of one."""
    if not keras.tree.is_nested(model.input) and not keras.tree.is_nested(model.output):
        return model
    with deep_recursion():
        plain = keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    if plain.dtype_policy != model.dtype_policy:
        plain.dtype_policy = model.dtype_policy
    return plain
