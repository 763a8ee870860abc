"""Describes layers and blocks in a few words, for boxes."""

import math
import re
from collections.abc import Iterable, Sequence

import keras

from kerassplit.cutting import points
from kerassplit.editing.marks import mark_of
from kerassplit.graph.model_graph import Graph

SHAPING = points.SHAPING | {"Dropout", "GaussianNoise", "SpatialDropout2D"}
"""Classes of layers that belong to the layer before them."""

# `MaxPool`, `LSTMCell`; `ViT` and `ReLU` are words.
_WORD_ENDS = re.compile(r"(?<=[a-z]{2})(?=[A-Z])|(?<=[A-Za-z][A-Z])(?=[A-Z][a-z])")
_MINOR = SHAPING | {"Flatten", "Identity", "Lambda", "Normalization", "Rescaling", "Reshape", "ZeroPadding2D"}

_KINDS = {"Add": "residual", "Concatenate": "dense", "Multiply": "gated"}  # of blocks that end in a merge


def describe(operation: keras.Operation) -> str:
    """Returns the class of an operation in words: `conv 7×7`, `max pool`, `layer normalization`."""
    name = re.sub(r"[123]D(?=Transpose|$)", "", type(operation).__name__)
    words = re.sub(_WORD_ENDS, " ", name).lower()
    words = words.replace("pooling", "pool").replace("separable ", "sep ").replace("multi head ", "multi-head ")
    kernel = getattr(operation, "kernel_size", None)
    if isinstance(kernel, tuple):
        words += f" {'×'.join(map(str, kernel))}"
    return words


def summary(operations: Iterable[keras.Operation], most: int = 2) -> str:
    """Describes operations by the different kinds that matter: up to `most`, or else the first and the last."""
    operations = list(operations)
    major = [each for each in operations if type(each).__name__ not in _MINOR] or operations
    words = list(dict.fromkeys(describe(each) for each in major))
    return " · ".join(words) if len(words) <= most else f"{words[0]} … {words[-1]}"


def block_kind(graph: Graph, regions: Sequence[Sequence[int]], count: int) -> str:
    """Returns the kind of blocks from the merges that end them: residual, dense, with parallel branches, gated.

    Args:
        graph: The graph.
        regions: The calls of the blocks, or of parts of them, that end in a merge.
        count: Number of blocks. If fewer are of this kind, the text says how many.
    """
    merges = [type(graph.calls[region[-1]].operation).__name__ for region in regions]
    kind = next((kind for kind in _KINDS if kind in merges), None)
    found = [region for region, merge in zip(regions, merges, strict=True) if kind in (None, merge)]
    word = "branched" if kind is None else _KINDS[kind]
    if kind == "Concatenate":
        merged = graph.calls[found[-1][-1]].inputs
        if len(merged) != 2 or all(len(graph.tensors[tensor].users) == 1 for tensor in merged):
            return "parallel branches"
        word = word if all(_is_dense(graph, region) for region in found) else "branched"
    if len(found) < count:
        return f"{len(found)} of {count} {word}"
    return f"{word} block{'s' if count > 1 else ''}"


def _is_dense(graph: Graph, region: Sequence[int]) -> bool:
    """True if the last call appends to the only tensor that the region receives."""
    given = {
        tensor for call in region for tensor in graph.calls[call].inputs if graph.tensors[tensor].call not in region
    }
    return len(given) == 1 and given <= set(graph.calls[region[-1]].inputs)


def count_parameters(operations: Iterable[keras.Operation]) -> int:
    """Counts the parameters of layers; a shared variable counts once."""
    weights = {id(weight): weight for operation in operations for weight in getattr(operation, "weights", ())}
    return sum(math.prod(weight.shape) for weight in weights.values())


def count_layers(operations: Iterable[keras.Operation]) -> str:
    """Says how many layers there are, without inputs, and separately how many other operations."""
    distinct = {
        id(operation): operation for operation in operations if not isinstance(operation, keras.layers.InputLayer)
    }
    layers = sum(isinstance(operation, keras.Layer) for operation in distinct.values())
    others = len(distinct) - layers
    parts = [_number(layers, "layer")] if layers else []
    return " · ".join([*parts, _number(others, "op")] if others else parts)


def edits_of(operations: Iterable[keras.Operation], title: str | None = None) -> list[str]:
    """Returns which of these an edit has inserted, and which it has put in the place of others, as texts.

    Args:
        operations: Layers and operations.
        title: Title of their box, which need not be repeated. `None`: only count them.
    """
    texts = []
    for how, sign in (("inserted", "+"), ("replaced", "≠")):
        names = list(dict.fromkeys(one.name for one in operations if mark_of(one) == how))
        if len(names) > 1 or (names and title is None):
            texts.append(f"{sign} {len(names)} {how}")
        elif names:
            texts.append(f"{sign} {how}" if names == [title] else f"{sign} {how}: {names[0]}")
    return texts


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
