"""One optimizer for each stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from kerassplit.cutting.stages import Stage, Stages
from kerassplit.display.rich_table import ShownDict
from kerassplit.errors import SplitError
from kerassplit.graph.backends import backend
from kerassplit.graph.compile_options import is_built_for_others, optimizer_again
from kerassplit.graph.internals.layers import all_layers
from kerassplit.text import listed

Optimizers = dict[str, keras.optimizers.Optimizer | None]
"""Optimizers by stage name; `None` for a stage that has nothing to train."""


def stage_optimizers(split: Stages, optimizer: Any) -> Optimizers:
    """Creates one optimizer for each stage of a split, all configured alike.

    Keep the result for as long as you train: the optimizers hold their state (momentum, step number).

    Args:
        split: The split.
        optimizer: An optimizer, its name or its configuration, as in `compile`. Of an optimizer that has been used,
            the settings are copied, not the state.

    Returns:
        Optimizers by stage name.

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
            f"Cannot create optimizers from {optimizer!r}: {error} Pass one of keras.optimizers, its name, or its "
            "configuration."
        ) from error
    return ShownDict({stage.name: optimizer_again(one, stage.model.variables) for stage in split})


def _check_split(split: Any) -> None:
    if not isinstance(split, Stages):
        raise SplitError(f"`split` must be a Split, from `ks.split` or `ks.load`; got {type(split).__name__}.")


def checked_optimizers(split: Stages, optimizers: Any) -> Optimizers:
    """Checks the `optimizers` that a user passes; returns them by stage.

    Raises:
        SplitError: They are not one optimizer for each stage, or one of them scales losses.
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
                f"There are {len(optimizers)} optimizers for {len(names)} stages, {listed(names)}. Pass one for each."
            )
        given = dict(zip(names, optimizers, strict=True))
    else:
        raise SplitError(
            f"`optimizers` must be one optimizer for each stage, as a list or by name; got {_shown(optimizers)}. "
            "Create them once and keep them, as they hold their state: optimizers = ks.stage_optimizers(split, "
            "optimizer)."
        )
    _check_each(given)
    for stage in split:
        if given[stage.name] is None and stage.model.trainable_variables:
            raise SplitError(
                f"Stage '{stage.name}' has trainable variables, but no optimizer. Add one to `optimizers`."
            )
    _refuse_halves(split)
    return given


def refuse_used(
    optimizer: keras.optimizers.Optimizer | None,
    stage: str,
    variables: Sequence[keras.Variable],
    *,
    exactly: bool = False,
) -> None:
    """Refuses an optimizer whose state belongs to other variables; `exactly`: or to further ones.

    Raises:
        SplitError: The optimizer has been used for other variables.
    """
    if optimizer and is_built_for_others(optimizer, variables, exactly=exactly):
        raise SplitError(
            f"The optimizer of stage '{stage}' has been used for other variables. It belongs to the stage that it was "
            "first used for: after another split, or once other layers are trainable, create a new one."
        )


def refuse_strategy(stage: Stage) -> None:
    """Refuses to train a stage whose variables cannot be updated by an optimizer here.

    Raises:
        SplitError: They were created under a `tf.distribute` strategy.
    """
    strategy = backend().strategy_of(stage.model)
    if strategy is not None:
        raise SplitError(
            f"The variables of stage '{stage.name}' were created under a {type(strategy).__name__}, which lets only "
            "`fit` update them. Train with `fit` or `ks.fine_tune`; or split a model with its own variables, "
            "ks.build_submodel(model, copy_weights=True), created outside the strategy's scope."
        )


def _check_each(given: Optimizers) -> None:
    first: dict[int, str] = {}
    for name, optimizer in given.items():
        if optimizer is None:
            continue
        if not isinstance(optimizer, keras.optimizers.Optimizer):
            raise SplitError(
                f"The optimizer of stage '{name}' is {_shown(optimizer)}, which keeps no state from step to step. "
                "Create one and keep it, such as keras.optimizers.Adam()."
            )
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer) or optimizer.loss_scale_factor:
            raise SplitError(
                f"The optimizer of stage '{name}' scales the loss, which single stages cannot do. Train in "
                "mixed_bfloat16 or float32, which need no scaling."
            )
        other = first.setdefault(id(optimizer), name)
        if other != name:
            raise SplitError(
                f"Stages '{other}' and '{name}' have the same optimizer, but each needs its own. "
                "Create them with ks.stage_optimizers(split, optimizer)."
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
