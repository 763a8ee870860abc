"""`replace`: other layers in place of those of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras

from kerassplit.editing.edited import edited, own_copy
from kerassplit.editing.layers import Names, has_automatic_name, is_unbuilt, made_by
from kerassplit.editing.steps import Edits, Replacement
from kerassplit.editing.weights import carry_over
from kerassplit.errors import SplitError
from kerassplit.graph.internals.layers import is_new
from kerassplit.graph.model_graph import Call, Nest
from kerassplit.graph.reading import read_graph
from kerassplit.graph.references import resolve_calls
from kerassplit.text import listed, warn


def replace(
    model: keras.Model,
    layers: Mapping[Any, keras.Layer | Callable[[Any], Any]],
    *,
    copy_weights: bool = False,
    name: str | None = None,
) -> keras.Model:
    """Replaces layers by others.

    A new layer is called on what the old one received, with the same arguments. If it is not built yet, it gets the old
    layer's weights where names and shapes agree; a warning names the weights that it could not get. The rest of the
    model stays as it is; see `insert`.

    Args:
        model: A functional or built Sequential model.
        layers: From the layers to replace to what replaces them. On the left: a name, a glob such as `"conv*_relu"`, a
            layer, or a class of layers, which stands for those at any depth; also a nested model, or one call of a
            shared layer such as `"relu@1"`. Of several that match a layer, the first counts. On the right: a layer or
            model, which all of them then share; or a function of the old layer, called once for each, that returns a
            layer or model, or `None` to keep the old one. A new layer without a name of its own takes that of the layer
            that it replaces.
        copy_weights: Give the result its own layers and variables, with equal values.
        name: Name of the result; by default the model's.

    Returns:
        A `keras.Model` with the inputs and outputs of the model, in the same structure.

    Raises:
        UnsupportedModelError: A new layer cannot be called on what the old one received, or a layer after it on its
            result, or it has the name of another layer.
        SplitError: `layers` is empty or no dict, or something in it is no layer or function.
        UnknownTensorError: Nothing has that name, or matches the glob.

    Example:

    >>> smooth = ks.replace(resnet, {"conv*_relu": lambda old: keras.layers.Activation("gelu")})
    """
    if not isinstance(layers, Mapping) or not layers:
        raise SplitError(
            "`layers` must be a dict from names, globs or classes of layers to layers or functions, such as "
            f"{{'conv*_relu': keras.layers.Activation('gelu')}}; got {layers!r:.100}."
        )
    graph = read_graph(model)
    chosen: dict[int, tuple[Call | Nest, Any]] = {}
    for pattern, new in layers.items():
        for item in resolve_calls(graph, [pattern]):
            chosen.setdefault(id(item), (item, new))
    made: dict[tuple[int, int], Any] = {}
    for item, new in chosen.values():
        key = id(item.operation), id(new)
        if key not in made:
            made[key] = _new(item.operation, new)
    pairs = [(item, made[id(item.operation), id(new)]) for item, new in chosen.values()]
    pairs = [(item, new) for item, new in pairs if new is not None and new is not item.operation]
    fresh = {id(new): new for _, new in pairs if is_new(new)}
    unbuilt = {key for key, new in fresh.items() if is_unbuilt(new)}
    olds = {
        key: list({id(item.operation): item.operation for item, new in pairs if id(new) == key}.values())
        for key in fresh
    }
    with Names(graph, [item for item, _ in pairs]) as names:
        for key, new in fresh.items():
            takes_name = len(olds[key]) == 1 and has_automatic_name(new)
            names.give(new, olds[key][0].name if takes_name else None)
        replacements = [Replacement(item, new) for item, new in pairs]
        result = edited(graph, Edits(replacements=replacements), name)
    _carry_over([(olds[key][0], new) for key, new in fresh.items() if key in unbuilt and len(olds[key]) == 1])
    return own_copy(result) if copy_weights else result


def _carry_over(pairs: Iterable[tuple[keras.Operation, keras.Layer]]) -> None:
    """Carries weights over from old layers to new ones, and warns of those that are not."""
    found = [carry_over(old, new) for old, new in pairs]
    left, gone = ([text for one in found for text in one[place]] for place in (0, 1))
    said = []
    if left:
        said.append(f"Weights that new layers could not get from those that they replace: {listed(left)}.")
    if gone:
        said.append(f"Weights of replaced layers that the new ones do not have: {listed(gone)}.")
    if said:
        warn(" ".join(said))


def _new(old: keras.Operation, given: Any) -> Any:
    """Returns what replaces an operation; `None` if it stays."""
    new = made_by(given, old, "What replaces a layer")
    if new is not None and not isinstance(new, keras.Operation):
        raise SplitError(
            f"The function for '{old.name}' returned a {type(new).__name__}; expected a layer, a model or None."
        )
    return new
