"""Solves the placement problem of a model: dynamic programming, a minimum cut, or search with a bound."""

import math
from dataclasses import replace

import numpy as np

from kerassplit.errors import PlanError, SplitError
from kerassplit.planning.devices import Link
from kerassplit.planning.graph_problem import GraphProblem
from kerassplit.planning.reporting import Report, silent
from kerassplit.planning.solver.closed_sets import Table
from kerassplit.planning.solver.energy import additive
from kerassplit.planning.solver.listed import MOST_CUTS, Listed, listed
from kerassplit.planning.solver.minimum_cut import on_first_device
from kerassplit.planning.solver.place import least_memory, no_placement, place, required
from kerassplit.planning.solver.problem import CutRules, DeviceType, Problem
from kerassplit.planning.solver.stages import Placement, stages_of, stages_of_two

FEW_CUTS = 5_000
"""The most closed sets that are listed to find a good plan before the search among all of them."""


class InGraph(GraphProblem):
    """Placement problem of a model, with its solutions."""

    def solve(self, report: Report = silent) -> Placement:
        """Finds the best possible placement; `report` receives the progress of the search.

        Raises:
            PlanError: There is no placement.
        """
        task, limit = self.task, self.task.limits.max_crossing
        if task.holds is not None:
            return self._smallest()
        problem = self.problem(limit)
        if self._is_one_flow(problem):
            return _by_minimum_cut(problem)
        known = self.listed()
        if known is not None:
            return required(known.best())
        if task.budget < math.inf:
            return self._within_budget(problem)
        known, bound = self.few_listed(), self._latency_bound()
        few = None if known is None else known.best()
        if few is not None and few.value <= bound * (1 + 1e-9):
            return few
        try:
            best = place(problem, limit=MOST_CUTS, time_limit=task.time_limit, report=report)
        except PlanError as error:
            if few is not None and error.binding == ("time",):
                return replace(few, lower_bound=bound, optimal=False)
            raise
        bound = max(bound, best.lower_bound)
        if few is not None and few.value <= best.value * (1 + 1e-9):
            best = few  # as good, and fewer tensors cross
        optimal = best.value <= bound * (1 + 1e-6)
        return replace(best, lower_bound=best.value if optimal else bound, optimal=optimal)

    def _within_budget(self, problem: Problem) -> Placement:
        known = listed(problem, limit=MOST_CUTS)
        if known is None:
            limit = "largest_latency" if self.task.objective == "energy" else "largest_energy"
            option = limit.replace("_", "-")
            raise SplitError(
                f"With `{limit}` (--{option}), all cuts are compared, and '{self.task.profile.model}' has more than "
                f"{MOST_CUTS} if so many tensors may cross. Let fewer cross (max_crossing=1, --max-crossing 1)."
            )
        return required(known.best())

    def _is_one_flow(self, problem: Problem) -> bool:
        """Checks if a minimum cut solves it: a sum for two devices over one link, without limits, with one end."""
        task, limits = self.task, self.task.limits
        return (
            task.objective != "throughput"
            and task.budget == math.inf
            and [(device.count, device.memory) for device in problem.devices] == [(1, math.inf)] * 2
            and isinstance(task.links, Link)
            and task.leave_out
            and not task.any_order
            and limits.max_crossing is None
            and limits.largest_crossing == math.inf
            and not any((limits.must_cut, limits.must_not_cut, limits.first_to, limits.last_from))
            and not problem.classes
            and len(problem.rules.last) == 1
        )

    def listed(self) -> Listed | None:
        """Lists all allowed cuts; `None` if any number of tensors may cross, or if there are too many cuts."""
        table = self._all_cuts()
        return None if table is None else listed(self.problem(), table)

    def _all_cuts(self) -> Table | None:
        limit = self.task.limits.max_crossing
        return None if limit is None else self.cuts(limit)

    def cuts(self, limit: int, most: int | None = None) -> Table | None:
        """Returns the nodes before each cut of at most `limit` tensors; `None` if there are more than `most` cuts."""
        table = self.few(limit, MOST_CUTS if most is None else most)
        return None if table is None else self.permitted(table)

    def permitted(self, table: Table) -> Table:
        """Keeps the cuts within the limit on crossing bytes; adds the cut after all inputs where that is allowed."""
        if self.task.limits.largest_crossing < math.inf:
            table = table[:, self.sent_behind(table) <= self.task.limits.largest_crossing]
        if self.task.inputs_move and self.task.leave_out:  # inputs are sent on, and nothing runs on the first device
            table = np.concatenate([table, self.table([()])], axis=1)
        return table

    def few_listed(self) -> Listed | None:
        """Lists the cuts of few tensors: up to the largest number of tensors with few enough cuts to try them all."""
        return listed(self.problem(), self._widest_family(self.task.limits.max_crossing or 4))

    def least_memory(self) -> float | None:
        """Returns the least memory in bytes that suffices if all devices have it; `None` if there is no placement."""
        table = self._all_cuts()
        if table is None:
            table = self._widest_family(self.task.limits.max_crossing or 4)
        return least_memory(self.problem(), table)

    def sizes_of_cuts(self) -> list[float]:
        """Returns the bytes that cross at cuts of few tensors, each size once, in increasing order."""
        limit = self.task.limits.max_crossing or 1
        table = self.few(limit, FEW_CUTS)
        table = self.few(1) if table is None else table
        return [] if table is None else sorted(set(self.sent_behind(table).tolist()))

    def _widest_family(self, limit: int) -> Table:
        """Returns the nodes before each cut, for the largest number of tensors with few enough cuts."""
        widest = self.table(())
        for most in range(1, limit + 1):
            table = self.cuts(most, FEW_CUTS)
            if table is None:
                break
            widest = table
        return widest

    def _latency_bound(self) -> float:
        """Returns a lower bound on latency: with a second device that runs each node as fast as the fastest device.

        Only if inputs are on the first device and one link connects all devices; otherwise 0.
        """
        task, problem = self.task, self.problem()
        if task.objective != "latency" or not task.inputs_move or not isinstance(task.links, Link):
            return 0.0
        pairs = [(node.seconds[0], min(node.seconds)) for node in problem.nodes]
        pairs[: self.first_call] = [(0.0, math.inf)] * self.first_call
        two = replace(
            problem,
            nodes=tuple(replace(node, seconds=seconds) for node, seconds in zip(problem.nodes, pairs, strict=True)),
            devices=tuple(
                DeviceType(name, overhead=min(device.overhead for device in devices))
                for name, devices in (("first", problem.devices[:1]), ("fastest", problem.devices))
            ),
            links=None if problem.links is None else ((problem.links[0][0],) * 2,) * 2,
            use_all=False,
            rules=CutRules(),
        )
        return _by_minimum_cut(two).lower_bound

    def _smallest(self) -> Placement:
        """Finds the placement whose largest stage holds as little as possible and, among these, a balanced one."""
        limit = self.task.limits.max_crossing or len(self.tensors)
        everything = self.cuts(limit)
        table = self._widest_family(limit) if everything is None else everything
        problem = self.problem()
        least = least_memory(problem, table)
        within = [replace(one, memory=min(one.memory, math.inf if least is None else least)) for one in problem.devices]
        try:
            placement = place(replace(problem, devices=tuple(within)), cuts=table)
        except PlanError:
            placement = place(problem, cuts=table)  # the devices' own limits prevent it, or there is no placement
        if everything is None or least is None:
            count = sum(device.count for device in problem.devices)
            least = sum(one.memory for one in (*problem.nodes, *problem.weights)) / count
        real = stages_of(InGraph(self.task).problem(), [(stage.device, stage.nodes) for stage in placement.stages])
        stages = tuple(
            replace(stage, compute=held.memory, load=held.memory)
            for stage, held in zip(real, placement.stages, strict=True)
        )
        value = max(stage.load for stage in stages)
        optimal = value <= least * (1 + 1e-9)
        return replace(placement, value=value, lower_bound=value if optimal else least, optimal=optimal, stages=stages)


def _by_minimum_cut(problem: Problem) -> Placement:
    first = on_first_device(additive(problem))
    if first is None:
        raise no_placement()
    return Placement.exact(problem, stages_of_two(problem, first), "minimum cut")
