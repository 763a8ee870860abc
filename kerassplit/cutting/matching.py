"""Matches the outputs of two models by key or position, and all tensors by name."""

import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Any

import keras

from kerassplit.cutting.model_comparison import STRUCTURE
from kerassplit.errors import SplitError
from kerassplit.graph.model_graph import Graph
from kerassplit.graph.references import resolve
from kerassplit.text import snake_case

Pair = tuple[int, int]
"""A tensor of the first model and one of the other."""
_Names = Mapping[int, tuple[str, str]]
"""Names of tensors: without the numbers of automatic ones, and as they are."""


def match_outputs(ours: Graph, theirs: Graph) -> tuple[dict[str, Pair], dict[str, tuple[str, str]]]:
    """Matches outputs: by key if both models return a dict, else by position. A list of one counts as a tensor.

    Returns:
        The pairs by key or position (`"boxes"`, `"0"`, `"heads.0"`); and, in the form of `Comparison.outputs`, the
        outputs that only one model has, and the structures if they differ.
    """
    graphs = (ours, theirs)
    are_dicts = [isinstance(graph.outputs, Mapping) for graph in graphs]
    mine, its = (dict(_labeled(_several(graph.outputs, all(are_dicts)))) for graph in graphs)
    only = {label: (ours.tensors[tensor].name, "-") for label, tensor in mine.items() if label not in its}
    only |= {label: ("-", theirs.tensors[tensor].name) for label, tensor in its.items() if label not in mine}
    if are_dicts[0] != are_dicts[1]:
        one, other = ("a dict" if is_dict else "no dict" for is_dict in are_dicts)
        only[STRUCTURE] = (one, other)
    return {label: (tensor, its[label]) for label, tensor in mine.items() if label in its}, only


def _several(outputs: Any, by_key: bool) -> Any:
    if isinstance(outputs, Mapping):
        return outputs if by_key else [outputs[key] for key in sorted(outputs)]
    return outputs if isinstance(outputs, (list, tuple)) else [outputs]


def _labeled(outputs: Any, path: str = "") -> Iterator[tuple[str, int]]:
    if isinstance(outputs, (Mapping, list, tuple)):
        for key, one in outputs.items() if isinstance(outputs, Mapping) else enumerate(outputs):
            yield from _labeled(one, f"{path}.{key}" if path else str(key))
    else:
        yield path, outputs


def match_tensors(ours: Graph, theirs: Graph, names: Mapping[str, str], outputs: Iterable[Pair]) -> dict[int, int]:
    """Matches the tensors that two models compute: from the first model's to the other's.

    Automatic names (`dense_1`) depend on what else a process has built. They tell as much as others only if both
    models have the same ones for a class of layers, or share layers. If not, outputs are matched as outputs first,
    then the calls of the class in execution order if there are equally many, and by these names only if there are not.

    Args:
        ours: The first model.
        theirs: The other.
        names: From the name of a tensor in `ours` to its name in `theirs`, as the user says.
        outputs: The pairs of outputs.

    Raises:
        SplitError: `names` is no dict.
        UnknownTensorError: A model has no such tensor.
    """
    if not isinstance(names, Mapping):
        raise SplitError(
            f"names is {names!r}. Expected a dict: the name of a tensor in '{ours.model.name}' -> its name in "
            f"'{theirs.model.name}'."
        )
    found = {resolve(ours, mine): resolve(theirs, its) for mine, its in names.items()}
    whole = [_named(graph) for graph in (ours, theirs)]
    ends = [{one: (_end(kind), _end(name)) for one, (kind, name) in some.items()} for some in whole]

    def take(pairs: Iterable[Pair]) -> None:
        taken = {*found.values()}
        for mine, its in pairs:
            if mine not in found and its not in taken:
                found[mine] = its
                taken.add(its)

    def left(named: Iterable[_Names]) -> list[_Names]:
        return [
            {one: name for one, name in some.items() if one not in but}
            for some, but in zip(named, (found, {*found.values()}), strict=True)
        ]

    shared = [*_of_same_objects(ours, theirs)]
    take(shared)
    for names_here in (whole, ends):  # tensors inside nested models are also matched by their names there
        take(_of_same_names(*left(names_here)))
        take((mine, its) for mine, its in outputs if its not in theirs.flat_inputs())
        if not shared:
            take(_in_order(*left(names_here)))
        take(_of_equal_name(*left(names_here)))
    return {mine: its for mine, its in found.items() if mine not in ours.flat_inputs()}


def computable(graph: Graph) -> list[int]:
    """Returns the tensors that a model computes: all but its inputs."""
    return [tensor for call in graph.calls if call.inputs for tensor in call.outputs]


def _end(name: str) -> str:
    return name.rpartition("/")[2]


def _named(graph: Graph) -> dict[int, tuple[str, str]]:
    """Returns the names of computed tensors, without the numbers of automatic ones and as they are."""
    nests = {nest.name: nest.operation for nest in graph.nests}
    named = {}
    for tensor in computable(graph):
        name, call = graph.tensors[tensor].name, graph.calls[graph.tensors[tensor].call]
        parts = name.split("/")
        operations = [nests.get("/".join(parts[: place + 1])) for place in range(len(parts) - 1)] + [call.operation]
        named[tensor] = ("/".join(map(_without_number, parts, operations)), name)
    return named


def _without_number(name: str, operation: keras.Operation | None) -> str:
    """Returns a name without the number that Keras gives a layer without a name: `dense_1` is a `*dense`."""
    base = snake_case(type(operation).__name__)
    return re.sub(rf"^{re.escape(base)}(_\d+)?(?=$|[@:])", f"*{base}", name)


def _of_same_objects(ours: Graph, theirs: Graph) -> Iterator[Pair]:
    """Yields the tensors that a layer computes in both models, under one name."""
    there = {(tensor.name, id(theirs.calls[tensor.call].operation)): at for at, tensor in enumerate(theirs.tensors)}
    for mine in computable(ours):
        tensor = ours.tensors[mine]
        its = there.get((tensor.name, id(ours.calls[tensor.call].operation)))
        if its is not None:
            yield mine, its


def _of_same_names(mine: _Names, its: _Names) -> Iterator[Pair]:
    """Yields tensors of equal names, of those kinds of which both models have the same names."""
    for ours, theirs in _groups(mine, its):
        if sorted(ours.values()) == sorted(theirs.values()):
            yield from _of_equal(ours, theirs)


def _in_order(mine: _Names, its: _Names) -> Iterator[Pair]:
    """Yields the first, second, ... tensors of kinds of which both models have equally many, of different names."""
    for ours, theirs in _groups(mine, its):
        if len({*ours.values()}) == len({*theirs.values()}) == len(ours) == len(theirs):
            yield from zip(ours, theirs, strict=True)


def _of_equal_name(mine: _Names, its: _Names) -> Iterator[Pair]:
    return _of_equal(*({tensor: name for tensor, (_, name) in some.items()} for some in (mine, its)))


def _groups(mine: _Names, its: _Names) -> Iterator[list[dict[int, str]]]:
    """Yields the tensors with their names, in both models, kind by kind."""
    groups: dict[str, list[dict[int, str]]] = defaultdict(lambda: [{}, {}])
    for place, some in enumerate((mine, its)):
        for tensor, (kind, name) in some.items():
            groups[kind][place][tensor] = name
    yield from groups.values()


def _of_equal(mine: Mapping[int, Hashable], its: Mapping[int, Hashable]) -> Iterator[Pair]:
    """Yields the pairs of equal keys, without keys that are there more than once."""
    counts = [Counter(some.values()) for some in (mine, its)]
    there = {key: tensor for tensor, key in its.items()}
    for tensor, key in mine.items():
        if counts[0][key] == counts[1][key] == 1:
            yield tensor, there[key]
