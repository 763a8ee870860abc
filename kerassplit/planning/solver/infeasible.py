"""Why there is no placement, and what would be enough."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from kerassplit.errors import PlanError
from kerassplit.planning.solver.bounds import in_order_of_memory
from kerassplit.planning.solver.closed_sets import Family
from kerassplit.planning.solver.device_orders import NO_LINK, Arc, DeviceOrders, Kind, device_orders
from kerassplit.planning.solver.dynamic_program import search, upper_bound
from kerassplit.planning.solver.problem import CutRules, Problem


def infeasible(
    problem: Problem, family: Family | None, chosen_cuts: bool, feasible: Callable[[Problem], bool]
) -> PlanError:
    """The error for a problem that is known to have no placement.

    Args:
        problem: The problem.
        family: The closed sets that its cuts come from, if they are listed.
        chosen_cuts: Whether these are not all that there are.
        feasible: Tells whether a problem has a placement, with any cuts.
    """
    factor = None
    if family is not None:
        family = in_order_of_memory(family)
        orders = device_orders(family.problem)
        # Within the limits there is none, so the share is more than 1; and the bounds hold from 1 on.
        least = search(family, orders, "memory", max(upper_bound(family, orders, "memory"), 1.0))
        factor = None if least is None else least.value
    unlimited = replace(problem, devices=tuple(replace(device, memory=math.inf) for device in problem.devices))
    if factor is not None or (family is None and unlimited != problem and feasible(unlimited)):
        return _too_little_memory(family, None if factor is None or factor > 1e100 else factor)
    if chosen_cuts:
        return PlanError("None of the given cuts leave a placement on these devices.", binding=("cuts",))
    if problem.rules != CutRules() and feasible(replace(unlimited, rules=CutRules())):
        return PlanError(
            "The rules for cuts leave no placement on these devices. Without these rules there is one.",
            binding=("cuts",),
        )
    used = "Every device must have a stage, and" if problem.use_all else "Here"
    return PlanError(
        f"The devices cannot run these nodes one stage after another. {used} a stage needs a device that can run all "
        "of its nodes, and a link to the next. Allow more devices, or another order of them.",
        binding=("devices",),
    )


def _too_little_memory(family: Family | None, factor: float | None) -> PlanError:
    message = "The devices have too little memory."
    if factor is not None:
        message += f" It would be enough if each had {factor:.4g} times as much."
    fewest = None if family is None else fewest_devices(family)
    if fewest is not None:
        message += f" So would {fewest} devices like these."
    enough = {"memory_factor": factor, "devices": fewest}
    known = {name: number for name, number in enough.items() if number is not None}
    return PlanError(message, binding=("memory",), enough=known)


def fewest_devices(family: Family) -> int | None:
    """How many devices a problem with one type of them needs, if any number is enough; `None` if not or not known.

    The family is one in order of memory.
    """
    problem = family.problem
    if len(problem.devices) > 1:
        return None
    link = next((row[0] for row in problem.links or ()), NO_LINK)
    # One state, to which every stage comes back: however many devices there are.
    counts = np.zeros((1, 1), dtype=np.int64)
    orders = DeviceOrders(((Arc(0, 0, Kind(0, link, link)),),), counts, counts + 1, (0,), (0,), (0,))
    chain = search(family, orders, "stages", 1.0)
    if chain is None or chain.value <= sum(device.count for device in problem.devices):
        return None
    return round(chain.value)
