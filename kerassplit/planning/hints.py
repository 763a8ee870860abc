"""Hint for `Plan.hints` if a plan would be much better with two tensors crossing a cut."""

import numpy as np

from kerassplit.cutting.crossings import cuts
from kerassplit.errors import SplitError
from kerassplit.planning.graph_answers import InGraph
from kerassplit.planning.plan import Plan
from kerassplit.planning.solver.listed import listed
from kerassplit.planning.tables import format_amount
from kerassplit.planning.task import Task

_FAR_FROM_EVEN = 1.25  # times an even share
_WORTH_TELLING = 0.95  # of the plan's value
_MOST_CUTS = 5_000  # so that looking for a better plan takes little time


def hint_at_two_tensors(task: Task, plan: Plan) -> tuple[str, ...]:
    """Returns a hint if `max_crossing=2` beats a plan of one tensor per cut whose largest load is far from even."""
    if task.limits.max_crossing != 1 or task.objective != "throughput" or len(plan.stages) < 2:
        return ()
    even = _even_share(task)
    if plan.value <= _FAR_FROM_EVEN * even:
        return ()
    possible = cuts(task.sides, 2, most=_MOST_CUTS)
    if possible is None or not any(len(cut) == 2 for cut in possible):
        return ()
    most = _WORTH_TELLING * plan.value
    try:
        graph = InGraph(task.with_limits(max_crossing=2), task.holds or "bytes")
        if task.holds:
            better = graph.least_memory()
        else:  # cuts are listed once
            known = listed(graph.problem(), graph.permitted(graph.table(possible)))
            better = None if known is None else known.least_load(most)
    except SplitError:  # no plan; or the bytes of a tensor inside a branch are unknown
        return ()
    if better is None or better > most or (task.holds and task.limits_memory):
        return ()
    unit = "" if plan.unit in ("seconds", "bytes") else f" {plan.unit}"
    return (
        f"The largest load is {plan.value / even:.1f} times an even share, because few cuts have a single tensor. "
        f"With two tensors per cut (max_crossing=2, --max-crossing 2), it would be "
        f"{format_amount(better, plan.unit)}{unit}.",
    )


def _even_share(task: Task) -> float:
    """Returns the load of each device if the work could be divided freely, with faster devices doing more."""
    blocks = task.work.blocks
    totals = np.where(np.isinf(blocks), 0.0, blocks).sum(axis=1)
    rates = [device.count / total for device, total in zip(task.devices, totals, strict=True) if total]
    return 1 / sum(rates) if rates else 0.0
