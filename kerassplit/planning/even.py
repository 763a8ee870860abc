"""Stages of even FLOPs: what `split(model, stages=3)` and `kerassplit split --stages 3` cut."""

import operator
from typing import Any

import keras

from kerassplit.errors import SplitError
from kerassplit.planning.plan import Plan
from kerassplit.planning.planner import plan


def even_stages(model: keras.Model, stages: int, **options: Any) -> Plan:
    """The plan for this many equal devices.

    Args:
        model: A functional or built Sequential model.
        stages: How many; at least 2.
        **options: Those of `plan`.

    Raises:
        SplitError: It is no such number, or there is no such plan. The message leads to `plan`, which knows more ways.
    """
    try:
        count = 0 if isinstance(stages, bool) else operator.index(stages)
    except TypeError:
        count = 0
    if count < 2:
        raise SplitError(f"`stages` is how many stages to make: a whole number, 2 or more; got {stages!r}.")
    try:
        return plan(model, count, **options)
    except SplitError as error:
        raise SplitError(
            f"{error}\nArguments that `split` does not take are those of `kerassplit.plan`: pass the plan as `at`."
        ) from error
