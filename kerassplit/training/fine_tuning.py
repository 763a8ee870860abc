"""Trains the tail of a model on cached features of its frozen head: `fine_tune`."""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import keras

from kerassplit.cutting.crossing import crossing_tensor
from kerassplit.cutting.cuts import Cut, changes_in_training, cut, resolve_cuts
from kerassplit.cutting.stages import Stages
from kerassplit.engines.local import refuse_states
from kerassplit.engines.route import route_of
from kerassplit.errors import SplitError, UnsupportedModelError
from kerassplit.files.values import as_count
from kerassplit.graph.compile_options import compile_like
from kerassplit.graph.reading import read_graph
from kerassplit.graph.sides import read_sides
from kerassplit.graph.strings import refuse_strings
from kerassplit.graph.unsupported import replaces
from kerassplit.text import listed
from kerassplit.training.features.cache_features import cache_features
from kerassplit.training.features.dataset import FeatureDataset
from kerassplit.training.features.head import DEPENDS, FeatureHead
from kerassplit.training.features.preprocess import Preprocess
from kerassplit.training.features.rows import data_of

_OWN_STEPS = ("compile", "compute_loss", "compute_metrics", "test_step", "train_step")
_REMEDY = "To cut here anyway and cache {carried}, name them in a list: at={crossing}."
_SET_HERE = {"self", "x", "y", "sample_weight", "batch_size", "epochs", "verbose", "callbacks", "shuffle"}
_SET_HERE |= {"validation_data", "validation_split", "validation_batch_size"}


def fine_tune(
    model: keras.Model,
    at: Cut | Sequence[Cut],
    data: Any,
    directory: str | os.PathLike[str],
    *,
    validation_data: Any = None,
    epochs: int = 1,
    batch_size: int = 32,
    storage: str = "float32",
    preprocess: Preprocess = None,
    repeats: int = 1,
    shuffle: bool = True,
    seed: int | None = None,
    callbacks: Sequence[keras.callbacks.Callback] | None = None,
    overwrite: bool = False,
    verbose: bool | None = None,
    **options: Any,
) -> keras.callbacks.History:
    """Trains the part of a model after `at`, at the cost of that part: the rest runs over the data only once.

    The model is cut at `at`. The head before it runs in inference mode and its features are cached (see
    `cache_features`); then the tail is trained on them. The tail shares its weights with the model, so the model is
    fine-tuned when this returns: `model.evaluate` returns for the images what the tail returned for their features.

    The tail is compiled like the model, with its own optimizer that starts at step 0. The head's weights and
    batch-norm statistics, the `trainable` flags of all layers and the model's own optimizer are not changed. Losses
    added by layers of the head (regularizers) are constant and left out. Callbacks see the tail.

    To train a new classifier on the features of a model, join the two and fine-tune the result:
    `ks.join([head, new_tail])`.

    Args:
        model: A functional or built Sequential model, compiled.
        at: Where to cut: a tensor (a name, layer or `KerasTensor`), a split point or its index; or a list of all the
            tensors of a crossing, or one of `crossings(model)`. Inputs of the model that the tail also takes are
            cached, too.
        data: Training data: `(x, y)` or `(x, y, sample_weight)` as arrays, or an iterable of such batches; see
            `cache_features`.
        directory: Directory of the caches, which are in its folders `training` and `validation`.
        validation_data: Data to evaluate on after each epoch, likewise.
        epochs: Number of passes over the features.
        batch_size: Rows per batch.
        storage: How features are stored: `"float32"`, `"float16"` or `"bfloat16"`.
        preprocess: Preprocessing of the inputs: a function, or an architecture such as `"ResNet50"`.
        repeats: Number of (augmented) passes over `data` to cache; an epoch goes through all of them. The validation
            data is cached once.
        shuffle: Give each epoch its own order.
        seed: Seed of the orders.
        callbacks: Callbacks for `fit`.
        overwrite: Replace caches of something else.
        verbose: Show progress; by default, that of caching on a terminal and that of `fit` always.
        **options: Further arguments of `keras.Model.fit`: `class_weight`, `initial_epoch`, `steps_per_epoch` (number of
            batches per epoch, each epoch in its own order), `validation_freq`, `validation_steps`.

    Returns:
        The `History` from `fit`. Its `history` has the losses and metrics of each epoch.

    Raises:
        SplitError: The model is not compiled; a layer with weights is used on both sides, so that training the tail
            would change the head; the head computes an output of the model; the tail has nothing to train; or an
            option is invalid.
        UnsupportedModelError: The model customizes training (`train_step` and the like), or its optimizer or a metric
            cannot be copied.
        StoreError, RunError: As in `cache_features`.

    Example:

    >>> model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    >>> history = ks.fine_tune(model, "conv4_block6_out", (images, labels), "cache", epochs=10, preprocess="ResNet50")
    >>> history.history["accuracy"][-1]
    0.97
    """
    _check_compiled(model)
    _check_options(options, shuffle)
    refuse_strings(read_graph(model), "compile that as the model is and fine-tune it")
    if isinstance(at, (list, tuple)):
        two = cut(model, [list(at)], allow_crossing=True)
    else:
        one: Any = [at] if isinstance(at, Integral) else at
        resolve_cuts(read_sides(read_graph(model)), one, remedy=_REMEDY, beside=False)
        two = cut(model, one)
    _check_cut(model, two)
    tail = two[1].model
    compile_like(tail, model)
    head: Any = _feature_head(two)

    def cached(some: Any, name: str, repeats: int, shuffle: bool) -> FeatureDataset:
        rows = data_of(some, as_count(batch_size, "batch_size"))
        if not rows.first.others:
            raise SplitError("The data has inputs only. Training needs targets: pass `(x, y)`, or batches of these.")
        shared = {"storage": storage, "preprocess": preprocess, "seed": seed, "overwrite": overwrite}
        shared |= {"batch_size": batch_size, "repeats": repeats, "shuffle": shuffle, "verbose": verbose}
        return cache_features(head, rows, Path(directory, name), **shared)

    training = cached(data, "training", repeats, shuffle)
    validation = None if validation_data is None else cached(validation_data, "validation", 1, False)
    return tail.fit(
        training,
        validation_data=validation,
        epochs=epochs,
        callbacks=callbacks,
        verbose="auto" if verbose is None else int(verbose),
        **options,
    )


def _check_compiled(model: Any) -> None:
    if not isinstance(model, keras.Model):
        raise SplitError(f"`model` must be a keras.Model; got {type(model).__name__}.")
    if not model.compiled or model.optimizer is None:
        raise SplitError(
            f"'{model.name}' is not compiled. Call `model.compile` with an optimizer and a loss first: its tail is "
            "trained with the same."
        )
    own = [
        name
        for name in _OWN_STEPS
        if getattr(type(model), name) is not getattr(keras.Model, name) or replaces(model, name)
    ]
    if own:
        raise UnsupportedModelError(
            f"'{model.name}' ({type(model).__name__}) has its own {listed(own)}, which its tail would not have. Cache "
            "the features with `cache_features`, and train the tail (`build_submodel`) yourself."
        )


def _check_options(options: dict[str, Any], shuffle: bool) -> None:
    known = [name for name in inspect.signature(keras.Model.fit).parameters if name not in _SET_HERE]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise SplitError(f"`fine_tune` has no option {listed(unknown)}. For `fit` it takes {listed(known)}.")
    if options.get("steps_per_epoch") is not None and not shuffle:
        raise SplitError(
            "`steps_per_epoch` with shuffle=False would train on the first rows only, in every epoch. Leave one out."
        )


def _check_cut(model: keras.Model, two: Stages) -> None:
    """Refuses cuts where the tail cannot be trained by itself."""
    if len(two) != 2:
        raise SplitError(
            f"`at` names {len(two) - 1} cuts, and `fine_tune` cuts once. Name one tensor, or one crossing."
        )
    head, tail = two
    made = [name for name in dict.fromkeys(keras.tree.flatten(two.outputs)) if name not in tail.outputs]
    if made:
        raise SplitError(
            f"The output {listed(made)} of '{model.name}' is computed before the cut, so training the tail leaves it "
            "as it is. Cut earlier, or fine-tune a model without it (`build_submodel(model, end=...)`)."
        )
    shared = _shared_layers(head.model, tail.model)
    if shared:
        raise SplitError(
            f"{listed(shared)} is used before and after the cut: training the tail would change the head, and the "
            "cached features would be wrong. Cut where all its calls are on one side, or freeze it "
            "(`layer.trainable = False`)."
        )
    if not tail.model.trainable_weights:
        raise SplitError(
            f"There is nothing to train after {listed(tail.inputs)}: the tail has no trainable weights. Cut earlier, "
            "or set `trainable = True` on its layers and compile the model again."
        )
    refuse_states(head.model, f"'{head.model.name}'", DEPENDS)


def _shared_layers(head: keras.Model, tail: keras.Model) -> list[str]:
    """Returns the layers of the tail whose training would change weights of the head."""
    ours = {id(weight) for weight in head.weights}
    found: dict[str, None] = {}
    for call in read_graph(tail).calls:
        layer = call.operation
        if isinstance(layer, keras.Layer):
            moving = layer.weights if changes_in_training(layer) else layer.trainable_weights
            if any(id(weight) in ours for weight in moving):
                found[layer.name] = None
    return list(found)


def _feature_head(two: Stages) -> FeatureHead:
    """Builds a feature head from the first stage, with all inputs of the second one as features."""
    head, tail = two
    features = keras.tree.pack_sequence_as(tail.model.input, list(tail.inputs))
    tensors = [crossing_tensor(name, symbol) for name, symbol in zip(tail.inputs, tail.model.inputs, strict=True)]
    return FeatureHead(head, route_of(two), features, tuple(tensors))
