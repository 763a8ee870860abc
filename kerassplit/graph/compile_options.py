"""Compile options of a model, recreated for a part of it."""

import contextlib
from collections.abc import Iterable, Sequence
from typing import Any

import keras

from kerassplit.errors import UnsupportedModelError
from kerassplit.graph.backends import backend
from kerassplit.graph.internals.keras_src import SafeModeScope


def compile_like(part: keras.Model, model: keras.Model) -> None:
    """Compiles a part of a model as the whole model is compiled.

    The part gets a fresh optimizer of the same configuration, the same losses and loss weights, and metrics of its
    own.

    Raises:
        UnsupportedModelError: The optimizer or a metric cannot be recreated from its configuration.
    """
    config = dict(model._compile_config.config)
    strategy = backend().strategy_of(part)
    with contextlib.nullcontext() if strategy is None else strategy.scope():
        config["optimizer"] = optimizer_again(model.optimizer, part.variables)
        for name in ("metrics", "weighted_metrics"):
            config[name] = keras.tree.map_structure(
                lambda one: _made_again(one, "metric") if isinstance(one, keras.Metric) else one, config.get(name)
            )
        part.compile(**config, auto_scale_loss=False)  # if losses are scaled, the optimizer already does it


def optimizer_again(
    optimizer: keras.optimizers.Optimizer, variables: Sequence[keras.Variable]
) -> keras.optimizers.Optimizer:
    """Recreates an optimizer, unused, for a part of the model with these variables.

    Raises:
        UnsupportedModelError: Its configuration does not allow that.
    """
    again = _made_again(optimizer, "optimizer")
    keep_out_of_weight_decay(again, out_of_weight_decay(optimizer, variables))
    return again


def _made_again(one: Any, what: str) -> Any:
    """Recreates an optimizer or a metric from its configuration."""
    kinds = {type(inner).__name__: type(inner) for inner in (one, getattr(one, "_learning_rate", None))}
    try:
        with keras.saving.custom_object_scope(kinds), SafeModeScope(False):
            return type(one).from_config(one.get_config())
    except Exception as error:
        raise UnsupportedModelError(
            f"The {what} '{one.name}' ({type(one).__name__}) cannot be recreated from its configuration: "
            f"{type(error).__name__}: {error}. Fix its `get_config`, or use another {what}."
        ) from error


def is_built_for_others(
    optimizer: keras.optimizers.Optimizer, variables: Iterable[keras.Variable], *, exactly: bool = False
) -> bool:
    """True if an optimizer has been built for variables that do not include these; `exactly`: for any other set."""
    known, wanted = {id(one) for one in optimizer._trainable_variables}, {id(one) for one in variables}
    return optimizer.built and not (wanted == known if exactly else wanted <= known)


def out_of_weight_decay(
    optimizer: keras.optimizers.Optimizer, variables: Sequence[keras.Variable]
) -> list[keras.Variable]:
    """Returns the variables that an optimizer excludes from weight decay, which its configuration does not tell."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    return [variable for variable in variables if not optimizer._use_weight_decay(variable)]


def keep_out_of_weight_decay(optimizer: keras.optimizers.Optimizer, variables: Sequence[keras.Variable]) -> None:
    """Excludes these variables from the weight decay of an unused optimizer."""
    if variables:
        getattr(optimizer, "inner_optimizer", optimizer).exclude_from_weight_decay(var_list=variables)
