"""Bounds the least crossing of all cuts with work between two limits: minimum cuts with a price on work.

A closed set is the source side of a flow network: each tensor has an arc whose capacity is the cost of moving it, and
arcs that cannot be cut lead from consumers back to producers (Picard, "Maximal closure of a graph", 1976). The limits
on work are priced: at every price, a minimum cut finds the least crossing plus price × work over closed sets. The best
price yields the lower convex hull of crossing over work at a limit: the Lagrangian bound (Everett, 1963). It is found
corner by corner.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

from kerassplit.planning.solver.problem import Problem, predecessors_of, topological_order

Nodes = NDArray[np.bool_]
ROUNDING = 1e-9  # rounding error of sums, as a share of the total work
UNITS = 2.0**29  # sum of the finite capacities: SciPy's flows have 32 bits


@dataclass(frozen=True, eq=False)
class Least:
    """Lower bound on crossing.

    Attributes:
        seconds: No closed set has less crossing; `inf` if there is no closed set.
        below: A closed set with little crossing and no more work than the limits allow, shape (nodes,).
        above: A closed set with little crossing and no less work, shape (nodes,). Contains `below`.
    """

    seconds: float
    below: Nodes
    above: Nodes


def least_seconds(problem: Problem) -> NDArray[np.float64]:
    """Returns the seconds of each tensor, with what packing and unpacking add at least, whatever the link's factor."""
    links = {link for row in problem.links or () for link in row if link.latency < np.inf and link.factor}
    if problem.objective != "latency":
        links = {end for link in links for end in (link.sending, link.receiving)}
    scales = np.array([(link.packing / link.factor, link.unpacking / link.factor) for link in links])
    costs = np.array([(tensor.packing, tensor.unpacking) for tensor in problem.tensors])
    seconds = np.array([tensor.seconds for tensor in problem.tensors])
    return seconds + (scales @ costs.T).min(axis=0) if links and len(seconds) else seconds


class Crossings:
    """Minimum cuts of one graph, with the `least_seconds` of tensors.

    Attributes:
        work: The work of each node, shape (nodes,).
        total: The total work.
        before: `before[a, b]` is 1 if b is a or a predecessor of a, direct or not, shape (nodes, nodes).
    """

    def __init__(self, problem: Problem, work: NDArray[np.float64]):
        count = len(problem.nodes)
        self.work, self.total = work, float(work.sum())
        self.slack = ROUNDING * self.total
        makers = predecessors_of(count, problem.tensors)
        self.before = np.eye(count)
        for node in topological_order(count, problem.tensors):
            for maker in makers[node]:
                np.maximum(self.before[node], self.before[maker], out=self.before[node])
        arcs, self.size = [], count
        seconds = least_seconds(problem)
        for tensor, cost in zip(problem.tensors, seconds, strict=True):
            users = [user for user in tensor.consumers if user != tensor.producer]
            arcs += [(user, tensor.producer, np.inf) for user in users]
            if len(users) == 1:
                arcs.append((tensor.producer, users[0], cost))
            elif users and cost:
                arcs.append((tensor.producer, self.size, cost))
                arcs += [(self.size, user, np.inf) for user in users]
                self.size += 1
        table = np.array(arcs, dtype=np.float64).reshape(-1, 3)
        self.tails, self.heads = table[:, 0].astype(np.int64), table[:, 1].astype(np.int64)
        self.costs = table[:, 2]
        costly = [index for index, tensor in enumerate(problem.tensors) if tensor.consumers and seconds[index]]
        moved = [problem.tensors[index] for index in costly]
        self._makers = np.array([tensor.producer for tensor in moved], dtype=np.int64)
        self._seconds = seconds[costly]
        self._users = np.array([user for tensor in moved for user in tensor.consumers], dtype=np.int64)
        self._first = np.cumsum([0, *(len(tensor.consumers) for tensor in moved)])[:-1]

    def seconds(self, nodes: Nodes) -> float:
        """Returns the seconds of the tensors that cross after a closed set."""
        if not len(self._makers):
            return 0.0
        used = np.logical_or.reduceat(~nodes[self._users], self._first)
        return float(self._seconds @ (nodes[self._makers] & used))

    def decided(self, inside: Nodes, outside: Nodes, low: float, high: float) -> tuple[Nodes, Nodes] | None:
        """Finds all nodes that must be inside, and all that must be outside, given these nodes and limits on work.

        Returns `None` if there is no such closed set.
        """
        while True:
            free = ~(inside | outside)
            least, most = self.work @ inside, self.total - self.work @ outside
            work = np.where(free, self.work, 0.0)
            # With a node come all before it; without it, all after it stay out.
            taken = inside | (free & (most - work @ self.before < low - self.slack))
            left = outside | (free & (least + self.before @ work > high + self.slack))
            if (taken & left).any() or least > high + self.slack or most < low - self.slack:
                return None
            if (taken == inside).all() and (left == outside).all():
                return inside, outside
            inside, outside = taken, left

    def least(self, inside: Nodes, outside: Nodes, low: float, high: float) -> Least:
        """Bounds the crossing of closed sets with these nodes inside and outside and work within the limits."""
        network = _Network(self, inside, outside)
        best, found = network.cut(0.0)
        if found is None:
            return Least(np.inf, inside, ~outside)
        below = above = network.corner(found)
        if below.work < low:
            limit, sign, above = low, 1.0, network.corner(~outside)
        elif above.work > high:
            limit, sign, below = high, -1.0, network.corner(inside)
        else:
            return Least(best, found, found)
        while above.work - below.work > self.slack:
            price = (above.crossing - below.crossing) / (above.work - below.work)
            price = sign * max(sign * price, 0.0)  # beyond the limit, crossing is not cheaper
            bound, found = network.cut(price)
            if found is None:
                break
            best = max(best, bound + price * limit)
            corner = network.corner(found)
            gain = below.crossing + price * (corner.work - below.work) - corner.crossing
            if gain <= 1e-9 * (below.crossing + above.crossing) or not below.work < corner.work < above.work:
                break
            below, above = (corner, above) if corner.work <= limit else (below, corner)
        return Least(best, below.nodes, above.nodes)


@dataclass(frozen=True, eq=False)
class _Corner:
    nodes: Nodes
    work: float
    crossing: float


class _Network:
    """Flow network of the undecided nodes: nodes inside form the source (0), nodes outside the sink (1)."""

    def __init__(self, crossings: Crossings, inside: Nodes, outside: Nodes):
        self._crossings, self._inside = crossings, inside
        place = np.full(crossings.size, -1)
        place[: len(inside)][inside], place[: len(inside)][outside] = 0, 1
        self._free = np.flatnonzero(~(inside | outside))
        others = np.flatnonzero(place < 0)
        place[others] = 2 + np.arange(len(others))
        size, free = 2 + len(others), place[self._free]
        tails, heads = place[crossings.tails], place[crossings.heads]
        kept = (tails != heads) & (tails != 1) & (heads != 0)
        ends = np.zeros_like(free)
        tails = np.concatenate([ends, free, tails[kept]])
        heads = np.concatenate([free, ends + 1, heads[kept]])
        costs = crossings.costs[kept]
        # Each pair of nodes once in both directions, so that the flow has the same sparse structure.
        pairs = np.concatenate([tails * size + heads, heads * size + tails])
        pairs, self._slot = np.unique(pairs, return_inverse=True)
        self._slot = self._slot[: len(tails)]
        self._endless = np.unique(self._slot[2 * len(free) :][np.isinf(costs)])
        self._costs = np.where(np.isinf(costs), 0.0, costs)
        rows, self._columns = np.divmod(pairs, size)
        self._columns = self._columns.astype(np.int32)
        self._rows = np.searchsorted(rows, np.arange(size + 1)).astype(np.int32)
        self._places, self._size = free, size
        self._work = crossings.work[self._free]
        self._decided_work = float(crossings.work @ inside)

    def cut(self, price: float) -> tuple[float, Nodes | None]:
        """Returns the least crossing minus price × work over closed sets, rounded down, and the smallest such set.

        The set is `None` if there is no closed set.
        """
        taken, left = max(-price, 0.0) * self._work, max(price, 0.0) * self._work
        constant = -price * self._decided_work - float(left.sum())
        costs = np.concatenate([left, taken, self._costs])
        scale = UNITS / (float(costs.sum()) or 1.0)
        units = np.floor(costs * scale)  # rounded down: bounds stay valid
        capacities = np.bincount(self._slot, units, minlength=len(self._columns)).astype(np.int32)
        endless = int(units.sum()) + 1
        capacities[self._endless] = endless
        graph = csr_array((capacities, self._columns, self._rows), shape=(self._size, self._size))
        flow = maximum_flow(graph, 0, 1)
        if flow.flow_value >= endless:
            return np.inf, None
        spare = capacities > flow.flow.data
        rows = np.concatenate([[0], np.cumsum(spare)])[self._rows]
        graph = csr_array((spare[spare], self._columns[spare], rows), shape=(self._size, self._size))
        side = np.zeros(self._size, dtype=np.bool_)
        side[breadth_first_order(graph, 0, return_predecessors=False)] = True
        nodes = self._inside.copy()
        nodes[self._free] = side[self._places]
        return flow.flow_value / scale + constant, nodes

    def corner(self, nodes: Nodes) -> _Corner:
        return _Corner(nodes, float(self._crossings.work @ nodes), self._crossings.seconds(nodes))
