"""Stages with balanced FLOPs, for `split(model, stages=3)` and `kerassplit split --stages 3`."""

import operator
from typing import Any

import keras

from kerassplit.errors import SplitError
from kerassplit.planning.plan import Plan
from kerassplit.planning.planner import plan


def even_stages(model: keras.Model, stages: int, **options: Any) -> Plan:
    """Plans for this many identical devices.

    Args:
        model: A functional or built Sequential model.
        stages: Number of stages; at least 2.
        **options: Options of `plan`.

    Raises:
        SplitError: `stages` is not such a number, or there is no such plan. The message refers to `plan`, which has
            more options.
    """
    try:
        count = 0 if isinstance(stages, bool) else operator.index(stages)
    except TypeError:
        count = 0
    if count < 2:
        raise SplitError(f"`stages` must be a whole number, 2 or more; got {stages!r}.")
    try:
        return plan(model, count, **options)
    except SplitError as error:
        raise SplitError(
            f"{error}\nArguments that `split` does not take are those of `kerassplit.plan`: pass the plan as `at`."
        ) from error
