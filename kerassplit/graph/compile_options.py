"""What a model is compiled with, made again for a part of it."""

import contextlib
from collections.abc import Iterable, Sequence
from typing import Any

import keras

from kerassplit.errors import UnsupportedModelError
from kerassplit.graph.backends import backend
from kerassplit.graph.internals.keras_src import SafeModeScope


def compile_like(part: keras.Model, model: keras.Model) -> None:
    """Compiles a part of a model as the model is compiled.

    It gets an optimizer of its own, of the same configuration and without steps behind it, the same losses and weights
    of losses, and metrics of its own.

    Raises:
        UnsupportedModelError: The optimizer or a metric cannot be made again from its configuration.
    """
    config = dict(model._compile_config.config)
    strategy = backend().strategy_of(part)
    with contextlib.nullcontext() if strategy is None else strategy.scope():
        config["optimizer"] = made_again(model.optimizer, "optimizer")
        keep_out_of_weight_decay(config["optimizer"], out_of_weight_decay(model.optimizer, part.variables))
        for name in ("metrics", "weighted_metrics"):
            config[name] = keras.tree.map_structure(
                lambda one: made_again(one, "metric") if isinstance(one, keras.Metric) else one, config.get(name)
            )
        part.compile(**config, auto_scale_loss=False)  # where losses are scaled, the optimizer does it already


def made_again(one: Any, what: str) -> Any:
    """An optimizer or a metric of the same configuration.

    Raises:
        UnsupportedModelError: It cannot be made again from that.
    """
    kinds = {type(inner).__name__: type(inner) for inner in (one, getattr(one, "_learning_rate", None))}
    try:
        with keras.saving.custom_object_scope(kinds), SafeModeScope(False):
            return type(one).from_config(one.get_config())
    except Exception as error:
        raise UnsupportedModelError(
            f"The {what} '{one.name}' ({type(one).__name__}) cannot be made again from its configuration: "
            f"{type(error).__name__}: {error}. Mend its `get_config`, or take another one."
        ) from error


def is_built_for_others(
    optimizer: keras.optimizers.Optimizer, variables: Iterable[keras.Variable], *, exactly: bool = False
) -> bool:
    """Whether an optimizer has been used, and not for these variables; `exactly`: nor for more than these."""
    known, wanted = {id(one) for one in optimizer._trainable_variables}, {id(one) for one in variables}
    return optimizer.built and not (wanted == known if exactly else wanted <= known)


def out_of_weight_decay(
    optimizer: keras.optimizers.Optimizer, variables: Sequence[keras.Variable]
) -> list[keras.Variable]:
    """Those of the variables that an optimizer was told to leave out of weight decay; its configuration is silent."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    return [variable for variable in variables if not optimizer._use_weight_decay(variable)]


def keep_out_of_weight_decay(optimizer: keras.optimizers.Optimizer, variables: Sequence[keras.Variable]) -> None:
    """Tells an optimizer that has not been used to leave these variables out of weight decay."""
    if variables:
        getattr(optimizer, "inner_optimizer", optimizer).exclude_from_weight_decay(var_list=variables)
