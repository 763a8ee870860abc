"""Plans whose cuts let several tensors cross: dynamic programming, or search with a bound."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from kerassplit.errors import PlanError
from kerassplit.planning.answers import Answer
from kerassplit.planning.devices import Link
from kerassplit.planning.flow_answers import minimum_cut_of
from kerassplit.planning.graph_problem import GraphProblem
from kerassplit.planning.solver.closed_sets import Table
from kerassplit.planning.solver.listed import Listed, listed
from kerassplit.planning.solver.place import Placement, least_memory, place
from kerassplit.planning.solver.stages import Stage, stages_of

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
        table = None if limit is None else self.cuts(limit)
        if table is not None:
            return self.answer(place(self.problem(), cuts=table))
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
        best = self.answer(placement)
        if few is not None and few.value <= best.value * (1 + 1e-9):
            best = few  # as good, and fewer tensors cross
        optimal = best.value <= bound * (1 + 1e-6)
        return replace(best, lower_bound=best.value if optimal else bound, optimal=optimal)

    def listed(self) -> Listed | None:
        """The problem with all cuts that it may make; `None` where any number of tensors may cross, or of too many."""
        limit = self.task.limits.max_crossing
        table = None if limit is None else self.cuts(limit)
        return None if table is None else listed(self.problem(), MOST_CUTS, table)

    def cuts(self, limit: int, most: int = MOST_CUTS) -> Table | None:
        """What lies before each cut where at most `limit` tensors cross; `None` if there are more than `most`."""
        table = self.few(limit, most)
        if table is None:
            return None
        if self.task.limits.largest_crossing < math.inf:
            table = table[:, self.sent_behind(table) <= self.task.limits.largest_crossing]
        if self.task.inputs_move and self.task.leave_out:  # the inputs are sent, and nothing runs where they lie
            table = np.concatenate([table, self.table([()])], axis=1)
        return table

    def _best_of_few(self) -> Answer | None:
        """The best plan with as many tensors in a cut as leave few enough cuts to try them all."""
        best = None
        for limit in range(1, (self.task.limits.max_crossing or 4) + 1):
            table = self.cuts(limit, FEW_CUTS)
            if table is None:
                break
            try:
                found = self.answer(place(self.problem(), cuts=table))
            except PlanError:
                continue
            if best is None or found.value < best.value * (1 - 1e-9):
                best = found
        return best

    def some(self) -> Sequence[Stage] | None:
        """A placement with few tensors in each cut; `None` if there is none."""
        known = listed(self.problem(), MOST_CUTS, self._widest_family(self.task.limits.max_crossing or 4))
        return None if known is None else known.best()

    def least_memory(self) -> float | None:
        """The least bytes of memory that are enough if all devices have them; `None` if there is no placement."""
        limit = self.task.limits.max_crossing
        table = None if limit is None else self.cuts(limit)
        return least_memory(self.problem(), cuts=self._widest_family(limit or 4) if table is None else table)

    def sizes_of_cuts(self) -> list[float]:
        """Bytes that cross at cuts of few tensors, each size once, in increasing order."""
        limit = self.task.limits.max_crossing or 1
        table = self.few(limit, FEW_CUTS)
        table = self.few(1) if table is None else table
        return [] if table is None else sorted(set(self.sent_behind(table).tolist()))

    def _widest_family(self, limit: int) -> Table:
        """What lies before the cuts of as many tensors as leave few enough of them."""
        widest = self.table(())
        for most in range(1, limit + 1):
            table = self.cuts(most, FEW_CUTS)
            if table is None:
                break
            widest = table
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
        everything = self.cuts(limit)
        table = self._widest_family(limit) if everything is None else everything
        problem = self.problem()
        least = least_memory(problem, limit=MOST_CUTS, cuts=table)
        within = [replace(one, memory=min(one.memory, math.inf if least is None else least)) for one in problem.devices]
        try:
            placement = place(replace(problem, devices=tuple(within)), cuts=table)
        except PlanError:
            placement = place(problem, cuts=table)  # the devices' own limits are in the way, or there is none at all
        if everything is None or least is None:
            count = sum(device.count for device in problem.devices)
            least = sum(one.memory for one in (*problem.nodes, *problem.weights)) / count
        sizes = [stage.memory for stage in placement.stages]
        real = stages_of(InGraph(task).problem(), [(stage.device, stage.nodes) for stage in placement.stages])
        stages = [
            replace(part, work=size, load=size, memory=stage.memory)
            for part, size, stage in zip(self.parts_of(placement.stages), sizes, real, strict=True)
        ]
        optimal = max(sizes) <= least * (1 + 1e-9)
        return Answer(max(sizes), max(sizes) if optimal else least, optimal, placement.method, stages)

    def answer(self, found: Placement) -> Answer:
        """The stages of a placement, as a plan describes them, and how good it is."""
        return Answer(found.value, found.lower_bound, found.optimal, found.method, self.parts_of(found.stages))
