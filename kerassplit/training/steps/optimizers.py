"""One optimizer for each stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from kerassplit.cutting.stages import Stage, Stages
from kerassplit.display.rich_table import ShownDict
from kerassplit.errors import SplitError
from kerassplit.graph.backends import backend
from kerassplit.graph.compile_options import (
    is_built_for_others,
    keep_out_of_weight_decay,
    made_again,
    out_of_weight_decay,
)
from kerassplit.graph.internals.layers import all_layers
from kerassplit.text import listed

Optimizers = dict[str, keras.optimizers.Optimizer | None]
"""By stage; `None` for one that has nothing to train."""


def stage_optimizers(split: Stages, optimizer: Any) -> Optimizers:
    """An optimizer of its own for every stage of a split, all configured alike.

    Keep what you get for as long as you train: an optimiser's state (momentum, the number of the step) is in it.

    Args:
        split: The split.
        optimizer: An optimizer, its name or its configuration, as `compile` takes it. One that has been used gives its
            settings, not its state.

    Returns:
        Optimisers by the names of the stages.

    Raises:
        SplitError: There is no such optimizer, or it cannot be copied.

    Example:

    >>> optimizers = ks.stage_optimizers(split, keras.optimizers.Adam(1e-3))
    >>> for x, y in batches:
    ...     ks.train_step(split, x, y, "sparse_categorical_crossentropy", optimizers)
    """
    _check_split(split)
    try:
        one = keras.optimizers.get(optimizer)
    except (ValueError, TypeError, AttributeError) as error:
        raise SplitError(
            f"No optimizers can be made from {optimizer!r}: {error} Pass one of keras.optimizers, its name, or its "
            "configuration."
        ) from error
    made: Optimizers = ShownDict()
    for stage in split:
        made[stage.name] = other = made_again(one, "optimizer")
        keep_out_of_weight_decay(other, out_of_weight_decay(one, stage.model.variables))
    return made


def _check_split(split: Any) -> None:
    if not isinstance(split, Stages):
        raise SplitError(f"`split` must be a Split, as `ks.split` and `ks.load` give it; got {type(split).__name__}.")


def checked_optimizers(split: Stages, optimizers: Any) -> Optimizers:
    """Checks what a user passes as `optimizers`; returns them by stage.

    Raises:
        SplitError: It is not one optimizer for each stage, or one that scales losses.
    """
    _check_split(split)
    names = [stage.name for stage in split]
    if isinstance(optimizers, Mapping):
        unknown = [name for name in optimizers if name not in names]
        if unknown:
            raise SplitError(f"`optimizers` names {listed(map(str, unknown))}; the stages are {listed(names)}.")
        given: Optimizers = {name: optimizers.get(name) for name in names}
    elif isinstance(optimizers, (list, tuple)):
        if len(optimizers) != len(names):
            raise SplitError(
                f"{len(optimizers)} optimizers for {len(names)} stages, {listed(names)}: pass one for each."
            )
        given = dict(zip(names, optimizers, strict=True))
    else:
        raise SplitError(
            f"`optimizers` is one optimizer for each stage, as a list or by name; got {_shown(optimizers)}. Make them "
            "once and keep them, for their state is in them: optimizers = ks.stage_optimizers(split, optimizer)."
        )
    _check_each(given)
    for stage in split:
        if given[stage.name] is None and stage.model.trainable_variables:
            raise SplitError(f"Stage '{stage.name}' has trainable variables, and `optimizers` has none for it.")
    _refuse_halves(split)
    return given


def refuse_used(
    optimizer: keras.optimizers.Optimizer | None,
    stage: str,
    variables: Sequence[keras.Variable],
    *,
    exactly: bool = False,
) -> None:
    """Refuses an optimizer whose state is that of other variables; `exactly`: or of more.

    Raises:
        SplitError: It is such.
    """
    if optimizer and is_built_for_others(optimizer, variables, exactly=exactly):
        raise SplitError(
            f"The optimizer of stage '{stage}' has been used for other variables. It belongs to the stage that it was "
            "first used for: after another split, or once other layers are trainable, take a new one."
        )


def refuse_strategy(stage: Stage) -> None:
    """Refuses to train a stage whose variables take no optimiser's updates here.

    Raises:
        SplitError: They were made under a `tf.distribute` strategy.
    """
    strategy = backend().strategy_of(stage.model)
    if strategy is not None:
        raise SplitError(
            f"The variables of stage '{stage.name}' were made under a {type(strategy).__name__}, which lets only `fit` "
            "update them. Train with `fit` or `ks.fine_tune`; or cut a model with variables of its own, "
            "ks.build_submodel(model, copy_weights=True), made outside of the strategy's scope."
        )


def _check_each(given: Optimizers) -> None:
    first: dict[int, str] = {}
    for name, optimizer in given.items():
        if optimizer is None:
            continue
        if not isinstance(optimizer, keras.optimizers.Optimizer):
            raise SplitError(
                f"The optimizer of stage '{name}' is {_shown(optimizer)}, which keeps no state from step to step. Make "
                "one and keep it, such as keras.optimizers.Adam()."
            )
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer) or optimizer.loss_scale_factor:
            raise SplitError(
                f"The optimizer of stage '{name}' scales the loss, which stages cannot do each for itself. Train in "
                "mixed_bfloat16 or float32, which need no scaling."
            )
        other = first.setdefault(id(optimizer), name)
        if other != name:
            raise SplitError(
                f"Stages '{other}' and '{name}' have the same optimizer: each needs its own. "
                "ks.stage_optimizers(split, optimizer) makes them."
            )


def _refuse_halves(split: Stages) -> None:
    for stage in split:
        for layer in all_layers(stage.model) if stage.model.trainable_variables else ():
            if layer.trainable_variables and layer.compute_dtype == "float16":
                raise SplitError(
                    f"Layer '{layer.name}' of stage '{stage.name}' computes in float16, whose gradients vanish without "
                    "loss scaling. Train in mixed_bfloat16 or float32."
                )


def _shown(optimizers: Any) -> str:
    return repr(optimizers) if isinstance(optimizers, str) else type(optimizers).__name__
