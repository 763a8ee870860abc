"""Lower bounds if there are too many closed sets to list: dynamic programming over a partition, which is refined.

A cell stands for all closed sets that contain some nodes, exclude others, and have work between two limits. Their
crossing is bounded by minimum cuts (`least_crossing`), and the cost of a stage between two cells by the nodes that it
contains in any case (`stage_bounds`). The best chain of cells is no worse than the best chain of closed sets, so its
value is a lower bound. Its cells are split, by work or by a node, and the best chain is found again, until it is no
better than the best known placement: counterexample-guided abstraction refinement (Clarke, Grumberg, Jha, Lu and Veith,
CAV 2000) as branch and bound. In the end, cells are single closed sets, and everything is exact.

Archer et al. ("Practical Performance Guarantees for Pipelined DNN Inference", ICML 2024) bound the same problem by
relaxations of a mixed integer program.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kerassplit.planning.reporting import Report, silent
from kerassplit.planning.solver.bounds import device_rates
from kerassplit.planning.solver.closed_sets import node_work
from kerassplit.planning.solver.device_orders import device_orders
from kerassplit.planning.solver.least_crossing import Crossings, Nodes
from kerassplit.planning.solver.problem import Problem
from kerassplit.planning.solver.stage_bounds import Cell, StageBounds

START = 64  # initial cells, with equal shares of the work
CHAINS = 4  # chains whose cells are split before the best chain is found again
NEAR = 1.003  # times the bound: largest value of these chains
NARROW = 0.02  # share of the bound: cells with a narrower range of work, in seconds, are split by nodes
MOST = 4 * 10**6  # pairs of cells, fewer with many kinds of stages
SURE = 1 - 1e-9  # for rounding
Split = tuple[Nodes, Nodes, float, float]  # nodes inside, nodes outside, least work, most work


@dataclass(frozen=True)
class _Best:
    """The best chain of cells.

    Attributes:
        value: The minimized value.
        cells: Indices of the cells between its ends.
        reached: The least value of a partial chain that ends at each cell.
    """

    value: float
    cells: tuple[int, ...]
    reached: NDArray[np.float64]


class Partition:
    """Cells that cover all closed sets of chains better than the best known one.

    Args:
        problem: A problem without classes.

    Attributes:
        sets: Closed sets with little crossing: candidates for good cuts.
    """

    def __init__(self, problem: Problem):
        self._problem, self._rates = problem, device_rates(problem)
        self._orders = device_orders(problem)
        self._crossings = Crossings(problem, node_work(problem, self._rates))
        self._costs = StageBounds(problem, self._rates, self._crossings)
        self._latency = problem.objective == "latency"
        self._least = self._crossings.total if self._latency else 0.0  # counted apart from the stages
        self.sets: list[Nodes] = []
        kinds = [arc.kind for arcs in self._orders.arcs for arc in arcs]
        self._kinds = set(kinds)
        self._most = math.isqrt(MOST // max(len(self._kinds), len(kinds) // 16))
        count, total = len(problem.nodes), self._crossings.total
        none, every = np.zeros(count, dtype=np.bool_), np.ones(count, dtype=np.bool_)
        self._cells = [
            Cell(none, every, 0.0, 0.0, 0.0, np.zeros(3), False, none, none),
            Cell(every, none, total, total, 0.0, np.zeros(3), False, every, every),
        ]
        self._table = self._costs.between(self._cells, self._cells)
        before = self._crossings.before > 0
        inside: Nodes = np.logical_or.reduce(before[list(problem.rules.first)], axis=0)
        outside: Nodes = np.logical_or.reduce(before[:, list(problem.rules.last)], axis=1)
        limits = np.linspace(0.0, total, min(START, 2 * count) + 1)
        self._replace([], [(inside, outside, low, high) for low, high in itertools.pairwise(limits)])

    def refine(
        self, best: float, deadline: float, improve: Callable[[Sequence[Nodes]], float], report: Report = silent
    ) -> float:
        """Splits cells until the bound reaches the best known value, or until a deadline on `time.monotonic`.

        Args:
            best: The best known value; `inf` if none is known.
            deadline: When to stop.
            improve: Searches closed sets for a better placement and returns the best known value. Called each time the
                number of sets has doubled, with the newest last.
            report: Receives the best known value and the bound in every round.

        Returns:
            A lower bound on the value of all placements; `inf` if there is no placement.
        """
        bound = self._crossings.total * SURE
        known = len(self.sets)
        while len(self._cells) <= self._most:
            limit = best * (1 + 1e-9) - self._least
            chain = self._best(limit, squares=False)
            bound = max(bound, min((chain.value + self._least) * SURE, best))
            report(best, bound)
            if bound >= best / (1 + 1e-6) or time.monotonic() > deadline:
                break
            splits = self._splits(chain.value, min(chain.value * NEAR, (best - self._least) * (1 - 1e-8)))
            if not splits or len(self.sets) > 2 * known:
                known, before, best = len(self.sets), best, improve(self.sets)
                if not splits and best == before:
                    break
            useless = np.flatnonzero(chain.reached > limit).tolist()
            new = [half for halves in splits.values() for half in halves]
            self._replace(sorted({*useless, *splits} - {0, 1}), new)
        return bound

    def _splits(self, value: float, limit: float) -> dict[int, list[Split]]:
        """Splits in two each cell of a few chains within a limit that share no cells."""
        splits: dict[int, list[Split]] = {}
        used: list[int] = []
        for _ in range(CHAINS):
            chain = self._best(limit, squares=not self._latency, without=used)
            if not chain.cells:
                break
            used += chain.cells
            for index in chain.cells:
                if self._cells[index].free.any():
                    splits[index] = self._halves(self._cells[index], NARROW * value)
        return splits

    def _replace(self, gone: Sequence[int], splits: Sequence[Split]) -> None:
        """Replaces cells with others."""
        new = [cell for split in splits if (cell := self._cell(*split)) is not None]
        kept = np.setdiff1d(np.arange(len(self._cells)), gone)
        old = [self._cells[index] for index in kept]
        table = self._table[:, kept[:, None], kept]
        table = np.concatenate([table, self._costs.between(old, new)], axis=2)
        self._cells = [*old, *new]
        self._table = np.concatenate([table, self._costs.between(new, self._cells)], axis=1)

    def _cell(self, inside: Nodes, outside: Nodes, low: float, high: float) -> Cell | None:
        """Builds a cell; `None` if it certainly has no closed set that may be a cut."""
        crossings = self._crossings
        decided = crossings.decided(inside, outside, low, high)
        if decided is None:
            return None
        inside, outside = decided
        least = crossings.least(inside, outside, low, high)
        low = max(low, float(crossings.work @ inside))
        high = min(high, crossings.total - float(crossings.work @ outside))
        crossing = self._costs.crossing(inside.astype(np.float64), outside.astype(np.float64)) > 0
        seconds = max(least.seconds, 0.0)
        besides = self._costs.besides @ crossing
        cell = Cell(inside, outside, low, high, seconds, besides, bool(crossing.any()), least.below, least.above)
        if seconds == np.inf or not self._costs.is_cut(cell, crossing):
            return None
        self.sets += [least.below, least.above]
        return cell

    def _halves(self, cell: Cell, narrow: float) -> list[Split]:
        """Splits a cell in two: by work, if its range matters more than the uncertain crossing; otherwise by a node."""
        crossings, inside, outside = self._crossings, cell.inside, cell.outside
        factor = max((link.factor for row in self._problem.links or () for link in row), default=1.0)
        unknown = min(crossings.seconds(cell.below), crossings.seconds(cell.above)) - cell.crossing
        width = (cell.high - cell.low - crossings.slack) / self._rates.max()  # in seconds
        if width > max(narrow, factor * unknown) and not self._latency:
            middle = (cell.low + cell.high) / 2
            return [(inside, outside, cell.low, middle), (inside, outside, middle, cell.high)]
        between = cell.free & cell.above & ~cell.below
        nodes = np.flatnonzero(between if between.any() else cell.free)
        size = np.where(cell.free, crossings.work / (crossings.total or 1.0) + 1e-3 / len(cell.free), 0.0)
        decides = np.minimum(crossings.before[nodes] @ size, size @ crossings.before[:, nodes])
        node = nodes[np.argmax(decides)]
        with_node, without = crossings.before[node] > 0, crossings.before[:, node] > 0
        return [(inside | with_node, outside, cell.low, cell.high), (inside, outside | without, cell.low, cell.high)]

    def _best(self, limit: float, squares: bool, without: Sequence[int] = ()) -> _Best:
        """Finds the chain with the smallest bottleneck, or the least sum of squared costs with costs within a limit.

        For latency: the chain with the least sum of costs.
        """
        orders, count = self._orders, len(self._cells)
        reached = np.full((len(orders.arcs), count), np.inf)
        came_from = np.zeros((2, *reached.shape), dtype=np.int64)
        reached[orders.starts, 0] = 0.0
        sums = squares or self._latency
        between = np.isin(np.arange(len(orders.arcs)), orders.between)
        open_ = np.setdiff1d(np.arange(count), without)
        costs = {kind: self._costs.over_links(kind, self._cells, self._table) for kind in self._kinds}
        for source in np.argsort(orders.counts.sum(axis=1), kind="stable"):  # every stage uses a device
            if not between[source]:
                reached[source, np.arange(count) != 1] = np.inf
            rows = open_[reached[source, open_] < np.inf if squares else reached[source, open_] <= limit]
            start = reached[source, rows][:, None]
            for arc in orders.arcs[source] if len(rows) else ():
                cost = costs[arc.kind][rows[:, None], open_]
                if squares:
                    cost = np.where(cost <= limit, cost * cost, np.inf)
                values = start + cost if sums else np.maximum(start, cost)
                best = values.argmin(axis=0)
                value = values[best, np.arange(len(open_))]
                better = value < reached[arc.target, open_]
                reached[arc.target, open_[better]] = value[better]
                came_from[0, arc.target, open_[better]] = source
                came_from[1, arc.target, open_[better]] = rows[best[better]]
        end = min(orders.ends, key=lambda state: reached[state, 1])
        value = float(reached[end, 1])
        found = value < np.inf and (squares or value <= limit)
        return _Best(value, tuple(_trace(came_from, end)) if found else (), reached.min(axis=0))


def _trace(came_from: NDArray[np.int64], state: int) -> Iterator[int]:
    """Yields the cells of a chain, from the last to the first, without its ends."""
    state, cell = came_from[:, state, 1]
    while cell:
        yield int(cell)
        state, cell = came_from[:, state, cell]
