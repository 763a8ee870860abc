"""Problems with listed closed sets, and their exact solutions: the best placement, and the front of tradeoffs."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from kerassplit.planning.solver.bounds import device_rates, in_order_of_memory
from kerassplit.planning.solver.closed_sets import Family, Table, closed_sets, family_of, table_of
from kerassplit.planning.solver.contract import Contraction, contract, contract_by
from kerassplit.planning.solver.device_orders import NO_LINK, Arc, DeviceOrders, Kind, device_orders
from kerassplit.planning.solver.dynamic_program import Chain, best_chain, search
from kerassplit.planning.solver.energy import additive
from kerassplit.planning.solver.problem import Link, Problem
from kerassplit.planning.solver.stage_costs import ROUNDING, StageCosts
from kerassplit.planning.solver.stages import Placement, Stage, stages_of, stages_of_two, value_of
from kerassplit.planning.solver.within import best_within, is_within

Cuts = Sequence[Collection[int]] | Table
Numbers = NDArray[np.float64]
MOST_CUTS = 50_000
"""The most closed sets that are listed. With more of them, the answer has a bound instead of a proof."""


@dataclass(frozen=True, eq=False)
class Listed:
    """A problem and all closed sets that may be cuts.

    Attributes:
        problem: The problem.
        contraction: The problem with merged nodes.
        family: The closed sets of the merged nodes; for energy, with seconds in joules (`additive`).
    """

    problem: Problem
    contraction: Contraction
    family: Family

    def best(self) -> Placement | None:
        """Finds the best placement, with ties broken as in `best_chain`; `None` if there is none."""
        chain = best_chain(self.family)
        if chain is not None and not is_within(self.problem, self._stages(chain)):
            chain = best_within(self.family, self.contraction.problem)
        if chain is None:
            return None
        return Placement.exact(self.problem, self._stages(chain), "closed sets", len(self.family))

    def least_load(self, most: float) -> float | None:
        """Returns the smallest possible bottleneck; `None` if it is above a limit."""
        chain = search(self.family, device_orders(self.family.problem), "largest", most)
        return None if chain is None else chain.value

    def front(self) -> list[tuple[Stage, ...]]:
        """Finds the placements that no other beats in both latency and bottleneck; the first has the least latency.

        A bound on the bottleneck is tightened step by step, and each time the least latency within it is found (the
        epsilon-constraint method: Haimes, Lasdon and Wismer, 1971). The problem's objective must be "latency"; with
        `overlap`, the parts of a load overlap.
        """
        found: list[tuple[Stage, ...]] = []
        orders, most = device_orders(self.family.problem), math.inf
        while (chain := search(self.family, orders, "sum", math.inf, most / ROUNDING)) is not None:
            stages = self._stages(chain)
            largest = max(stage.load for stage in stages)
            if largest >= most:  # the same except for rounding
                break
            # The same latency with a smaller bottleneck takes the place of the last one.
            if found and value_of(self.problem, stages) <= value_of(self.problem, found[-1]) * ROUNDING:
                found.pop()
            found.append(stages)
            most = largest
        return found

    def fewest_stages(self) -> int | None:
        """Returns how many devices of its only type the problem needs; `None` if no number is enough."""
        family = in_order_of_memory(self.family)
        link = next((row[0] for row in self.problem.links or ()), NO_LINK)
        # One state, to which every stage returns: for any number of devices.
        counts = np.zeros((1, 1), dtype=np.int64)
        orders = DeviceOrders(((Arc(0, 0, Kind(0, link, link)),),), counts, counts + 1, (0,), (0,), (0,))
        chain = search(family, orders, "stages", 1.0)
        return None if chain is None else round(chain.value)

    def over(self, link: Link) -> "Listed":
        """Returns the same problem with another link between all devices; keeps what is cached about closed sets."""
        rows = tuple((link,) * len(self.problem.devices) for _ in self.problem.devices)
        family = self.family.with_problem(replace(self.family.problem, links=rows))
        contraction = replace(self.contraction, problem=family.problem)
        return Listed(replace(self.problem, links=rows), contraction, family)

    def on_two_devices(self) -> tuple[Numbers, Numbers, Numbers]:
        """Returns the bottleneck for each closed set if it runs on the first device and the rest on the second.

        The bottleneck is the larger of the first result and of the second plus the third × the link's factor, shape
        (sets,) each; `inf` for an impossible placement. The last and the first set run everything on one device.
        """
        family, problem = self.family, self.family.problem
        first, second, link = 0, len(problem.devices) - 1, (problem.links or ((Link(),),))[0][0]
        costs, last, one, other = StageCosts(family, "largest"), len(family) - 1, Kind(first), Kind(second)
        busy, devices = family.busy, problem.devices
        here = family.seconds[first] + devices[first].overhead * (busy > 0)
        there = family.seconds[second, -1] - family.seconds[second] + devices[second].overhead * (busy < busy[-1])
        possible = np.ones(len(family), dtype=np.bool_)
        possible[1:] = costs.between(0, np.arange(1, last + 1), {one})[one] < np.inf
        for index in range(last):
            possible[index] &= costs.between(index, np.array([last]), {other})[other][0] < np.inf
        possible[[0, -1]] &= not problem.use_all
        possible[0] &= first != second  # identical devices: the same as everything on the first one
        for cut in family.required:
            possible &= np.arange(len(family)) == cut
        sends, receives = (family.seconds_over(replace(one, factor=0.0)) for one in (link.sending, link.receiving))
        if problem.overlap:
            flat, fixed = np.maximum(here, there), np.maximum(sends, receives)
        else:
            flat, fixed = np.zeros(len(family)), np.maximum(here + sends, there + receives)
        return flat, np.where(possible, fixed, np.inf), family.crossing_seconds

    def divided(self, index: int) -> tuple[Stage, ...]:
        """The stages with one closed set on the first device and the rest on the second one."""
        inside = self.family.inside[list(self.contraction.home), index]
        return stages_of_two(self.problem, inside, len(self.problem.devices) - 1)

    def _stages(self, chain: Chain) -> tuple[Stage, ...]:
        return stages_of(self.problem, self.contraction.parts(chain.parts), chain.replicas)


def listed(problem: Problem, cuts: Cuts | None = None, limit: int = MOST_CUTS) -> Listed | None:
    """Lists the closed sets of a problem, or uses the given cuts; `None` if there are more than a limit.

    Nodes that none of the given cuts divides are merged, so a chain of blocks has as many nodes as blocks.

    Raises:
        PlanError: Nodes that must stay together cannot.
        ValueError: One of `cuts` contains a node without all that it depends on.
    """
    if cuts is None:
        contraction = contract(problem)
        table = closed_sets(contraction.problem, limit)
    else:
        given = cuts if isinstance(cuts, np.ndarray) else table_of(len(problem.nodes), [*cuts])
        contraction, table = contract_by(problem, given)
    if table is None:
        return None
    smaller = additive(contraction.problem)
    return Listed(problem, contraction, family_of(smaller, table, device_rates(smaller)))
