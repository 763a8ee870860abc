"""Plans whose cuts let several tensors cross: dynamic programming, or search with a bound."""

import math
from dataclasses import replace

import numpy as np

from kerassplit.errors import PlanError
from kerassplit.frontiers import cuts as cuts_of_few_tensors
from kerassplit.planner.placing import Placement, least_memory, place
from kerassplit.planner.staging import stages_of
from kerassplit.planning.devices import Link
from kerassplit.planning.graph_problem import GraphProblem
from kerassplit.planning.in_flow import minimum_cut_of
from kerassplit.planning.stages import Answer

MOST_CUTS = 50_000
"""The most closed sets of calls that are listed. With more of them, the answer comes with a bound instead of proof."""
FEW_CUTS = 5_000
"""The most that are listed to have a good plan before the search among all of them."""


class InGraph(GraphProblem):
    """The answers to a placement problem."""

    def solve(self) -> Answer:
        """The best placement that can be found.

        Raises:
            PlanError: There is none.
        """
        task, limit = self.task, self.task.limits.max_crossing
        sets = None if limit is None else self._cuts(limit, MOST_CUTS)
        if sets is not None:
            return self._answer(place(self.problem(), cuts=sets, limit=MOST_CUTS))
        few = self._best_of_few()
        bound = self._latency_bound()
        if few is not None and few.value <= bound * (1 + 1e-9):
            return replace(few, lower_bound=few.value, optimal=True)
        problem = self.problem(limit)
        try:
            placement = place(problem, limit=MOST_CUTS, time_limit=task.time_limit)
        except PlanError as error:
            if few is not None and error.binding == ("time",):
                return replace(few, lower_bound=bound, optimal=False)
            raise
        bound = max(bound, placement.lower_bound)
        best = self._answer(placement)
        if few is not None and few.value <= best.value * (1 + 1e-9):
            best = few  # as good, and fewer tensors cross
        optimal = best.value <= bound * (1 + 1e-6)
        return replace(best, lower_bound=best.value if optimal else bound, optimal=optimal)

    def _cuts(self, limit: int, most: int) -> list[set[int]] | None:
        """What lies before each cut where at most `limit` tensors cross; `None` if there are more than `most`."""
        few = cuts_of_few_tensors(self.task.graph, limit, most=most)
        if few is None:
            return None
        sets = [nodes for nodes in map(self.before, few) if self.is_allowed(nodes)]
        if self.task.inputs_move and self.task.leave_out:
            sets.append(set(range(self.first_call)))  # the inputs are sent, and nothing runs where they lie
        return sets

    def _best_of_few(self) -> Answer | None:
        """The best plan with as many tensors in a cut as leave few enough cuts to try them all."""
        best = None
        for limit in range(1, (self.task.limits.max_crossing or 4) + 1):
            sets = self._cuts(limit, FEW_CUTS)
            if sets is None:
                break
            try:
                found = self._answer(place(self.problem(), cuts=sets, limit=FEW_CUTS))
            except PlanError:
                continue
            if best is None or found.value < best.value * (1 - 1e-9):
                best = found
        return best

    def is_possible(self) -> bool:
        """Whether there is a plan with few tensors in each cut."""
        try:
            return self._best_of_few() is not None
        except PlanError:
            return False

    def sizes_of_cuts(self) -> list[float]:
        """Bytes that cross at cuts of few tensors, each size once, in increasing order."""
        limit = self.task.limits.max_crossing or 1
        few = cuts_of_few_tensors(self.task.graph, limit, most=FEW_CUTS)
        few = few or cuts_of_few_tensors(self.task.graph, 1)
        return sorted({self.sent_by(self.before(cut)) for cut in few or ()})

    def _widest_family(self, limit: int) -> list[set[int]]:
        """What lies before the cuts of as many tensors as leave few enough of them."""
        widest: list[set[int]] = []
        for most in range(1, limit + 1):
            sets = self._cuts(most, FEW_CUTS)
            if sets is None:
                break
            widest = sets
        return widest

    def _latency_bound(self) -> float:
        """No plan has less latency than one on the first device and one that is as fast as the fastest of the others.

        Only where inputs lie on the first device and one link connects all.
        """
        task = self.task
        if task.objective != "latency" or not task.inputs_move or not isinstance(task.links, Link):
            return 0.0
        first, *others = task.work.calls
        fastest = np.min(others, axis=0) if others else first
        return minimum_cut_of(task, first, np.minimum(first, fastest)).lower_bound

    def smallest(self) -> Answer:
        """The placement whose largest stage holds as little as can be, and of these one that is even.

        Raises:
            PlanError: There is none.
        """
        task, limit = self.task, self.task.limits.max_crossing or len(self.tensors)
        everything = self._cuts(limit, MOST_CUTS)
        sets = self._widest_family(limit) if everything is None else everything
        problem = self.problem()
        least = least_memory(problem, limit=MOST_CUTS, cuts=sets)
        within = [replace(one, memory=min(one.memory, math.inf if least is None else least)) for one in problem.devices]
        try:
            placement = place(replace(problem, devices=tuple(within)), cuts=sets)
        except PlanError:
            placement = place(problem, cuts=sets)  # the devices' own limits are in the way, or there is none at all
        if everything is None or least is None:
            count = sum(device.count for device in problem.devices)
            least = sum(one.memory for one in (*problem.nodes, *problem.weights)) / count
        sizes = [stage.memory for stage in placement.stages]
        real = stages_of(InGraph(task).problem(), [(stage.device, stage.nodes) for stage in placement.stages])
        stages = [
            replace(part, work=size, load=size, memory=stage.memory)
            for part, size, stage in zip(self.parts_of(placement), sizes, real, strict=True)
        ]
        optimal = max(sizes) <= least * (1 + 1e-9)
        return Answer(max(sizes), max(sizes) if optimal else least, optimal, placement.method, stages)

    def _answer(self, placement: Placement) -> Answer:
        found = placement
        return Answer(found.value, found.lower_bound, found.optimal, found.method, self.parts_of(found))
