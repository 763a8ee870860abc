"""Adds exits to a model: small classifiers at intermediate tensors, in addition to its own outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import keras

from kerassplit.cutting.adapters import fitting
from kerassplit.cutting.piece_tensors import PieceTensor
from kerassplit.editing.edited import edited
from kerassplit.editing.steps import Edits, Insertion
from kerassplit.errors import SplitError, UnsupportedModelError
from kerassplit.graph.internals.layers import all_layers
from kerassplit.graph.model_graph import Graph
from kerassplit.graph.reading import read_graph
from kerassplit.graph.references import TensorRef, resolve, several_of
from kerassplit.text import listed


def with_outputs(model: keras.Model, exits: Mapping[TensorRef, keras.Layer | Sequence[keras.Layer]]) -> keras.Model:
    """Adds exits to a model: outputs computed by extra layers from intermediate tensors, with losses of their own.

    The result contains the model and its exits: one pass computes everything, and `compile` and `fit` train it. The
    layers and variables are the model's own; nothing is copied, and the model is not changed. (A nested model with an
    exit inside is opened in the result: its layers appear individually, under their own names.) Training the result
    trains the model's layers, too, unless they are frozen:

    - Only the exits: set `model.trainable = False` before `compile`. The model then still computes the same bits,
      including the statistics of its batch normalization. Leave its own outputs out of `loss` to save time.
    - All together, as in BranchyNet (Teerapittayanon, McDanel and Kung, ICPR 2016): a loss for each output, weighted
      by `loss_weights`. The early layers learn to serve the exits, too.

    To run no more of the model than an exit needs, cut it and use `Split.predict_early`. To compute an exit before a
    cut, name it there: `ks.split(result, at=[["conv3_block4_out", "exit_softmax"]])` names the tensor that crosses and
    the exit's last tensor.

    Args:
        model: A functional or built Sequential model.
        exits: A dict from the tensor that each exit starts from (a name, also inside a nested model, a layer or a
            `KerasTensor`) to its layers: one layer, several to be called in order, or a model, which stays nested in
            the result. Unbuilt layers are built for the shape of the tensor. Exits may share layers.

    Returns:
        A `keras.Model` with the model's name and inputs. It returns a dict of the model's outputs, under the names of
        their tensors (or their keys, if the model returns a dict), and the exits, each under the name of the tensor
        that it starts from, as given in `exits`. `loss`, `metrics`, `loss_weights` and targets use these names (with
        metrics, Keras requires targets for all of them).

    Raises:
        UnknownTensorError, AmbiguousTensorError: A name does not stand for exactly one tensor of the model.
        UnsupportedModelError: The layers of an exit do not fit the tensor (the message suggests an adapter), or have
            the name of another layer.
        SplitError: There are no exits; or an exit has no layers, layers of the model itself, or the name of another
            output.

    Example:

    >>> exit_layers = [
    ...     keras.layers.GlobalAveragePooling2D(name="exit_pool"),
    ...     keras.layers.Dense(1000, "softmax", name="exit_softmax"),
    ... ]
    >>> multi = ks.with_outputs(resnet, {"conv3_block4_out": exit_layers})
    >>> {name: scores.shape for name, scores in multi.output.items()}
    {'predictions': (None, 1000), 'conv3_block4_out': (None, 1000)}
    >>> resnet.trainable = False
    >>> multi.compile("adam", loss={"conv3_block4_out": "sparse_categorical_crossentropy"})
    """
    graph = read_graph(model)
    if not isinstance(exits, Mapping):
        raise SplitError(
            f"`exits` must be a dict from tensors to layers, such as {{'conv3_block4_out': layers}}; got a "
            f"{type(exits).__name__}."
        )
    if not exits:
        raise SplitError("`exits` is empty: name at least one tensor, with the layers of its exit.")
    own = _own_outputs(graph)
    insertions: dict[str, Insertion] = {}
    for reference, layers in exits.items():
        tensor = resolve(graph, reference)
        key = reference if isinstance(reference, str) else graph.tensors[tensor].name
        if key in own or key in insertions:
            raise SplitError(
                f"The exit at '{key}' would have the name of another output; there are {listed([*own, *insertions])}. "
                "Use another tensor, or rename the layer or the output."
            )
        insertions[key] = Insertion((tensor,), partial(_called, key, _layers(graph, key, layers)), frozenset())
    return edited(graph, Edits(insertions=[*insertions.values()]), None, {**own, **insertions})


def _own_outputs(graph: Graph) -> dict[str, int]:
    """Returns the model's outputs by their keys, or by the names of their tensors if it does not return a dict."""
    given = graph.outputs
    if isinstance(given, dict) and all(isinstance(tensor, int) for tensor in given.values()):
        return dict(given)
    return {graph.tensors[tensor].name: tensor for tensor in graph.flat_outputs()}


def _layers(graph: Graph, key: str, given: Any) -> list[keras.Layer]:
    """Returns the layers of an exit; refuses anything else, and layers of the model itself."""
    layers = [given] if isinstance(given, keras.Layer) else several_of(given)
    if not layers:
        raise SplitError(f"The exit at '{key}' has no layers: give a layer, a list of layers or a model.")
    ours = {id(layer) for layer in all_layers(graph.model)}
    taken = {item.operation.name for item in [*graph.calls, *graph.nests]}
    for layer in layers:
        if not isinstance(layer, keras.Layer):
            kind = f"class {layer.__name__}" if isinstance(layer, type) else f"{type(layer).__name__} {layer!r:.80}"
            raise SplitError(f"The exit at '{key}' contains the {kind}; expected keras layers, or a model.")
        for inner in all_layers(layer):
            if id(inner) in ours:
                raise SplitError(
                    f"'{inner.name}' in the exit at '{key}' is a layer of '{graph.model.name}' itself. Give the exit a "
                    "layer of its own (`type(layer).from_config(layer.get_config())` under another name, and "
                    "`set_weights` for equal values)."
                )
        if layer.name in taken:
            raise UnsupportedModelError(
                f"A layer of the exit at '{key}' is called '{layer.name}', and so is another one in "
                f"'{graph.model.name}'. Names of layers must be unique in a Keras model: rename this one, such as "
                f"`name='exit_{layer.name}'`."
            )
    return layers


def _called(key: str, layers: Sequence[keras.Layer], x: keras.KerasTensor) -> list[keras.KerasTensor]:
    """Calls the layers one after another on a tensor, and returns the result."""
    giver = f"The tensor '{key}', where the exit begins,"
    for layer in layers:
        with fitting(layer, [PieceTensor("", "", giver, x.shape, x.dtype)]):
            x = layer(x)
        if not isinstance(x, keras.KerasTensor):
            raise SplitError(
                f"'{layer.name}' in the exit at '{key}' returns {len(keras.tree.flatten(x))} tensors. Use layers that "
                "return one."
            )
        giver = f"'{layer.name}' in the exit at '{key}'"
    return [x]
