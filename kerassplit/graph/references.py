"""Resolves the user's references to tensors: names, globs, layers and symbolic tensors."""

import difflib
import fnmatch
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import keras

from kerassplit.errors import AmbiguousTensorError, SplitError, UnknownTensorError
from kerassplit.graph.inside import closed_around, why_closed
from kerassplit.graph.internals.symbols import name_of
from kerassplit.graph.model_graph import Call, Graph, Nest
from kerassplit.graph.packing import plain_name
from kerassplit.text import listed

TensorRef = str | keras.Layer | keras.KerasTensor
"""A user's reference to a tensor: its name, the layer that produces it, or the symbolic tensor itself."""


def resolve(graph: Graph, reference: TensorRef) -> int:
    """Returns the index of the tensor that a name, a layer or a `KerasTensor` refers to.

    Raises:
        UnknownTensorError: The model has no such tensor.
        AmbiguousTensorError: The name or layer refers to several.
    """
    if isinstance(reference, str):
        return _by_name(graph, reference)
    if isinstance(reference, keras.KerasTensor):
        return _only(graph, graph.by_symbol(reference), name_of(reference))
    if isinstance(reference, keras.Operation):
        return _only(graph, _outputs_of(graph, lambda operation, _: operation is reference), reference.name)
    raise SplitError(
        f"Name a tensor by a string, a keras.Layer or a KerasTensor of the model; got {reference!r} "
        f"of type {type(reference).__name__}."
    )


def resolve_glob(graph: Graph, reference: TensorRef) -> list[int]:
    """Returns all tensors whose names match a glob such as `conv3_*_out`; for anything else, the one it refers to.

    Raises:
        UnknownTensorError: Nothing matches.
        AmbiguousTensorError: It is not a glob and refers to several.
    """
    is_glob = isinstance(reference, str) and set("*?[") & set(reference)
    if not is_glob or any(tensor.name == reference for tensor in graph.tensors):
        return [resolve(graph, reference)]
    found = {index for index, tensor in enumerate(graph.tensors) if _matches(tensor.name, reference)}
    found |= {tensor for nest in graph.nests if _matches(nest.name, reference) for tensor in given_by(graph, nest)}
    if not found:
        raise _unmatched(graph, reference)
    return sorted(found)


def _matches(name: str, pattern: str) -> bool:
    """True if a name matches a pattern; as in a shell, `*` does not match a `/`."""
    parts, patterns = name.split("/"), pattern.split("/")
    return len(parts) == len(patterns) and all(map(fnmatch.fnmatchcase, parts, patterns))


def find_nest(graph: Graph, reference: TensorRef) -> Nest | None:
    """Returns the single call of a nested model that a name or the nested model itself refers to, or `None`."""
    if isinstance(reference, str):
        if any(tensor.name == reference for tensor in graph.tensors):
            return None
        found = [nest for nest in graph.nests if _is_name(reference, nest.name)]
    else:
        found = [nest for nest in graph.nests if nest.operation is reference]
    if len(found) > 1:
        name = reference if isinstance(reference, str) else reference.name
        names = [nest.name for nest in found]
        raise AmbiguousTensorError(
            f"'{name}' stands for {len(names)} calls of a nested model: {listed(names)}. Name one of them.",
            name=name,
            matches=names,
        )
    return found[0] if found else None


def resolve_calls(graph: Graph, references: Any) -> list[Call | Nest]:
    """Returns the calls, also those of nested models, that names, globs, layers or classes of layers refer to.

    A layer or its name stands for all its calls, a class for all calls of its layers at any depth. Of a nested model
    and calls inside it, the nested model counts. Inputs of the model are no calls.

    Raises:
        UnknownTensorError: Nothing has that name, or matches the glob.
        SplitError: The model has no such layer, or the reference is of another kind.
    """
    items: list[Call | Nest] = [*graph.nests, *(call for call in graph.calls if call.inputs)]
    found: dict[int, Call | Nest] = {}
    several = several_of(references)
    if not several:
        raise SplitError("No layer is named: give at least one name, glob, layer or class of layers.")
    for reference in several:
        ours = {id(item): item for item in items if _stands_for(reference, item)}
        if not ours:
            raise _no_call(graph, reference)
        found |= ours
    nests = [place for place, nest in enumerate(graph.nests) if id(nest) in found]
    inside = {id(graph.calls[call]) for place in nests for call in graph.nests[place].calls}
    inside |= {id(one) for one in graph.nests if not set(nests).isdisjoint(graph.around(one.outer))}
    return [item for key, item in found.items() if key not in inside]


def _stands_for(reference: Any, item: Call | Nest) -> bool:
    if isinstance(reference, str):
        return _is_name(reference, item.name) or _matches(plain_name(item), reference)
    if isinstance(reference, type):
        wanted = keras.Model if isinstance(item, Nest) else keras.Operation
        return issubclass(reference, wanted) and isinstance(item.operation, reference)
    return item.operation is reference


def _no_call(graph: Graph, reference: Any) -> SplitError:
    if isinstance(reference, str):
        glob = set("*?[") & set(reference)
        return _unmatched(graph, reference) if glob else unknown_tensor(graph, reference)
    if isinstance(reference, type) and issubclass(reference, keras.Operation):
        said = f"'{graph.model.name}' has no layer of the class {reference.__name__}."
        return SplitError(said + closed_around(graph, lambda layer: isinstance(layer, reference)))
    if isinstance(reference, keras.Operation):
        where = closed_around(graph, lambda layer: layer is reference) or " Name a layer of its own."
        return SplitError(f"'{graph.model.name}' does not call this layer '{reference.name}'.{where}")
    return SplitError(
        f"Name layers by strings, globs, keras.Layer objects or classes; got {reference!r} of type "
        f"{type(reference).__name__}."
    )


def given_by(graph: Graph, nest: Nest) -> list[int]:
    """Returns the outputs of a nested model's call, except those that nothing uses."""
    return [tensor for tensor, _ in graph.results(nest) if tensor >= 0]


def several_of(references: Any) -> list[Any]:
    """Returns a single reference or an iterable of them as a list; a string or a tensor counts as one.

    Raises:
        SplitError: It is a set, which has no order, or a mapping, half of which would be lost.
    """
    if isinstance(references, (set, frozenset, Mapping)):
        raise SplitError(f"Expected a single item or a list, got a {type(references).__name__}: {references!r}.")
    one = isinstance(references, (str, keras.KerasTensor)) or not isinstance(references, Iterable)
    return [references] if one else list(references)


def _by_name(graph: Graph, name: str) -> int:
    for index, tensor in enumerate(graph.tensors):
        if tensor.name == name:
            return index
    return _only(graph, _outputs_of(graph, lambda _, of_call: _is_name(name, of_call)), name)


def _outputs_of(graph: Graph, meant: Callable[[keras.Operation, str], bool]) -> list[int]:
    """Returns the outputs of the calls (nested models included) for which `meant(operation, name)` is true."""
    found = [tensor for call in graph.calls if meant(call.operation, call.name) for tensor in call.outputs]
    for nest in graph.nests:
        if meant(nest.operation, nest.name):
            found += given_by(graph, nest)
    return list(dict.fromkeys(found))


def _is_name(given: str, name: str) -> bool:
    """True if a user may refer to a call by the name `given`: `tower/relu` matches `tower@0/relu@1`, too."""
    givens, names = given.split("/"), name.split("/")
    return len(givens) == len(names) and all(
        one in (whole, whole.partition("@")[0]) for one, whole in zip(givens, names, strict=True)
    )


def _only(graph: Graph, candidates: Sequence[int], name: str) -> int:
    if len(candidates) == 1:
        return candidates[0]
    if not candidates:
        raise unknown_tensor(graph, name)
    names = graph.names(candidates)
    raise AmbiguousTensorError(
        f"'{name}' stands for {len(names)} tensors of model '{graph.model.name}': {listed(names)}. Name one of them.",
        name=name,
        matches=names,
    )


def unknown_tensor(graph: Graph, name: str) -> UnknownTensorError:
    """Returns the error for a name that the model does not have: what it may refer to, or why nothing has that name."""
    said = f"Model '{graph.model.name}' has no tensor '{name}'"
    names = [tensor.name for tensor in graph.tensors]
    matches = [one for one in names if _ends_with(one, name)]
    close = matches or difflib.get_close_matches(name, names, n=3, cutoff=0.75)
    if not close:
        last = {one: one.rpartition("/")[2] for one in names}
        parts = difflib.get_close_matches(name.rpartition("/")[2], last.values(), n=3, cutoff=0.75)
        close = [one for part in dict.fromkeys(parts) for one in names if last[one] == part]
    return _unknown(graph, said, name, matches, close)


def _unknown(
    graph: Graph, said: str, name: str, matches: Sequence[str], close: Sequence[str] = ()
) -> UnknownTensorError:
    """Returns the error with suggestions: `matches`, else something inside a closed layer, else `close` names."""
    if not matches and (closed := why_closed(graph, name)):
        return UnknownTensorError(f"{said}: {closed}", name=name)
    found = matches or close
    hint = f"Did you mean {listed(found, 'or')}?" if found else "`kerassplit.split_points(model)` lists the names."
    return UnknownTensorError(f"{said}. {hint}", name=name, matches=found)


def _unmatched(graph: Graph, glob: str) -> UnknownTensorError:
    """Returns the error for a glob that matches nothing."""
    said = f"No tensor of model '{graph.model.name}' matches '{glob}'"
    count = glob.count("/") + 1
    inside = [one.split("/") for one in graph.names(range(len(graph.tensors))) if one.count("/") >= count]
    found = [parts[:-count] for parts in inside if _matches("/".join(parts[-count:]), glob)]
    return _unknown(graph, said, glob, list(dict.fromkeys("/".join([*parts, glob]) for parts in found)))


def _ends_with(name: str, given: str) -> bool:
    """True if a user who looks only at the nested model around a tensor may call it `given`."""
    names, count = name.split("/"), given.count("/") + 1
    return len(names) > count and all(
        one in (whole, whole.partition("@")[0], whole.partition(":")[0])
        for one, whole in zip(given.split("/"), names[-count:], strict=True)
    )
