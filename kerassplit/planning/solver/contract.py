"""Merges nodes that must be, or may as well be, in one stage.

- A class stays together. So do the nodes of a cycle between classes: if class A feeds class B and B feeds A, neither
  can come before the other.
- Nodes that must be in the first stage pull all their predecessors in; nodes that must be in the last, all successors.
- A node that takes no time and no memory may join its only producer, or its only consumer, if that never makes a cut
  between them more expensive, nor an idle stage busy. In any placement, the node can then be moved there without making
  any stage worse.
"""

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from kerassplit.errors import PlanError
from kerassplit.planning.solver.closed_sets import Table, table_of
from kerassplit.planning.solver.problem import (
    CutRules,
    Node,
    Problem,
    Tensor,
    Weight,
    links_differ,
    memory_binds,
    predecessors_of,
    successors_of,
    topological_order,
)


@dataclass(frozen=True)
class Contraction:
    """A problem with fewer nodes and no classes.

    Attributes:
        problem: The smaller problem. Its nodes are in topological order.
        members: Original nodes of each of its nodes.
        home: Node of the smaller problem for each original node.
    """

    problem: Problem
    members: tuple[tuple[int, ...], ...]
    home: tuple[int, ...]

    def parts(self, parts: Sequence[tuple[int, Collection[int]]]) -> list[tuple[int, list[int]]]:
        """Translates stages to nodes of the original problem."""
        return [(device, sorted(node for group in nodes for node in self.members[group])) for device, nodes in parts]


def contract(problem: Problem) -> Contraction:
    """Merges all nodes that stay together into one node.

    Nodes without time join their neighbors, too, if that is known to lose nothing.

    Raises:
        PlanError: A required cut divides nodes that must stay together, or no device can run all of them.
    """
    home = _home(problem, problem.classes)
    _check_runs(problem, home, "must stay in one stage", "devices")
    home = _home(problem, [*problem.classes, *_ends(problem)])
    _check_runs(problem, home, "are in one stage by the rules for the first and the last stage", "cuts")
    problem = _without_idle_memory(problem)
    contraction = _contraction(problem, home)
    while _may_fold(problem) and (pairs := _foldable(contraction.problem)):
        joined = _home(contraction.problem, pairs)
        contraction = _contraction(problem, [joined[group] for group in contraction.home])
    return contraction


def contract_by(problem: Problem, cuts: Table) -> tuple[Contraction, Table]:
    """Merges all nodes that no cut divides, and returns the cuts of the smaller problem as well.

    Args:
        problem: Any problem.
        cuts: The closed sets that may be cuts, shape (nodes, cuts). Cuts that divide nodes that must stay together are
            left out; required cuts are added.

    Raises:
        PlanError: A required cut divides nodes that must stay together, or no device can run nodes that no cut divides.
        ValueError: A cut contains a node without all that it depends on.
    """
    count = len(problem.nodes)
    cuts = np.concatenate([cuts, table_of(count, problem.rules.required)], axis=1)
    rows = np.packbits(cuts, axis=1)
    edges = [(tensor.producer, user) for tensor in problem.tensors for user in tensor.consumers]
    makers, users = np.array(edges, dtype=np.int64).reshape(-1, 2).T
    if (rows[users] & ~rows[makers]).any():
        raise ValueError("One of `cuts` contains a node without all that the node depends on.")
    for nodes in problem.classes:
        cuts = cuts[:, (cuts[list(nodes)] == cuts[nodes[0]]).all(axis=0)]
    home = list(range(count))
    first: dict[bytes, int] = {}
    for node, row in enumerate(np.packbits(cuts, axis=1)):
        home[node] = first.setdefault(row.tobytes(), node)
    _check_runs(problem, home, "must stay in one stage", "devices")
    roots = list(first.values())
    # The predecessors of a node are in at least as many sets as the node.
    order = [roots[place] for place in np.argsort(-cuts[roots].sum(axis=1), kind="stable")]
    return _contraction(_without_idle_memory(problem), home, order), cuts[order]


def _without_idle_memory(problem: Problem) -> Problem:
    """Drops the memory of nodes if every device could hold everything."""
    if memory_binds(problem):
        return problem
    return replace(problem, nodes=tuple(Node(node.seconds, idle=node.idle) for node in problem.nodes), weights=())


def _ends(problem: Problem) -> list[list[int]]:
    """Returns the nodes of the first stage and those of the last by the rules, with all that must join them."""
    count, tensors, rules = len(problem.nodes), problem.tensors, problem.rules
    return [
        sorted(_reached(rules.first, predecessors_of(count, tensors))),
        sorted(_reached(rules.last, successors_of(count, tensors))),
    ]


def _reached(start: Collection[int], following: Sequence[Sequence[int]]) -> set[int]:
    seen, waiting = set(start), list(start)
    while waiting:
        for node in following[waiting.pop()]:
            if node not in seen:
                seen.add(node)
                waiting.append(node)
    return seen


def _home(problem: Problem, sets: Iterable[Sequence[int]]) -> list[int]:
    """Returns a representative of each node's group, its smallest node, if these sets stay together.

    Groups are strongly connected: by a circle through each set, and by cycles between sets.
    """
    count = len(problem.nodes)
    arcs = [(tensor.producer, user) for tensor in problem.tensors for user in tensor.consumers]
    arcs += [arc for nodes in sets if nodes for arc in pairwise([*nodes, nodes[0]])]
    rows, columns = np.array(arcs, dtype=np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(len(arcs)), (rows, columns)), shape=(count, count))
    _, labels = connected_components(graph, directed=True, connection="strong")
    smallest: dict[int, int] = {}
    return [smallest.setdefault(label, node) for node, label in enumerate(labels.tolist())]


def _check_runs(problem: Problem, home: Sequence[int], why: str, binding: str) -> None:
    """Raises a `PlanError` if no device type can run a whole group."""
    members: dict[int, list[int]] = defaultdict(list)
    for node, group in enumerate(home):
        members[group].append(node)
    for nodes in members.values():
        if min(_merged([problem.nodes[node] for node in nodes]).seconds) == math.inf:
            raise PlanError(f"The nodes {nodes} {why}, and no type of device can run them all.", binding=(binding,))


def _between(home: Sequence[int], tensors: Sequence[Tensor]) -> list[Tensor]:
    """Returns the tensors between groups, without those inside one group."""
    kept = []
    for tensor in tensors:
        producer = home[tensor.producer]
        consumers = tuple(sorted({home[user] for user in tensor.consumers} - {producer}))
        if consumers:
            kept.append(replace(tensor, producer=producer, consumers=consumers))
    return kept


def _contraction(problem: Problem, home: Sequence[int], order: Sequence[int] | None = None) -> Contraction:
    """Builds the smaller problem from nodes assigned to groups; `order` is a topological order of the groups."""
    if order is None:
        roots = set(home)
        order = [group for group in topological_order(len(home), _between(home, problem.tensors)) if group in roots]
    if list(order) == list(range(len(home))) and not problem.classes:
        return Contraction(problem, tuple((node,) for node in order), tuple(order))
    place = {group: index for index, group in enumerate(order)}
    groups = tuple(place[group] for group in home)
    members: list[list[int]] = [[] for _ in order]
    for node, group in enumerate(groups):
        members[group].append(node)
    smaller = replace(
        problem,
        nodes=tuple(_merged([problem.nodes[node] for node in nodes]) for nodes in members),
        tensors=tuple(_between(groups, problem.tensors)),
        classes=(),
        weights=tuple(
            Weight(tuple(sorted({groups[node] for node in weight.nodes})), weight.memory) for weight in problem.weights
        ),
        rules=_rules(problem.rules, members, groups),
    )
    return Contraction(smaller, tuple(map(tuple, members)), groups)


def _merged(nodes: Sequence[Node]) -> Node:
    if len(nodes) == 1:
        return nodes[0]
    return Node(
        tuple(sum(times) for times in zip(*(node.seconds for node in nodes), strict=True)),
        sum(node.memory for node in nodes),
        max(node.workspace for node in nodes),
        all(node.idle for node in nodes),
    )


def _rules(rules: CutRules, members: Sequence[Sequence[int]], home: Sequence[int]) -> CutRules:
    def closed_set(nodes: Collection[int]) -> frozenset[int] | None:
        """Translates a closed set to groups; `None` if it divides one."""
        groups = frozenset(home[node] for node in nodes)
        return groups if sum(len(members[group]) for group in groups) == len(set(nodes)) else None

    required = [closed_set(cut) for cut in rules.required]
    if None in required:
        raise PlanError("A required cut divides nodes that must stay in one stage.", binding=("cuts",))
    forbidden = [closed_set(cut) for cut in rules.forbidden]  # cuts that divide groups are impossible anyway
    return replace(
        rules,
        first=frozenset(home[node] for node in rules.first),
        last=frozenset(home[node] for node in rules.last),
        required=tuple(cut for cut in required if cut is not None),
        forbidden=tuple(cut for cut in forbidden if cut is not None),
    )


def _may_fold(problem: Problem) -> bool:
    """Checks that moving a node without time cannot break a rule.

    It may leave a stage empty, and so make two devices neighbors that no link, or a slower one, connects.
    """
    rules = problem.rules
    ruled = problem.use_all or rules.first or rules.last or rules.required or rules.forbidden
    return not ruled and not links_differ(problem)


def _foldable(problem: Problem) -> list[tuple[int, int]]:
    """Returns pairs of a node without time and the neighbor that it may join; no node is in two pairs."""
    sharing = {node for weight in problem.weights for node in weight.nodes}
    made: list[list[Tensor]] = [[] for _ in problem.nodes]
    used: list[list[Tensor]] = [[] for _ in problem.nodes]
    for tensor in problem.tensors:
        made[tensor.producer].append(tensor)
        for user in tensor.consumers:
            used[user].append(tensor)
    pairs, taken, overhead = [], set(), any(device.overhead for device in problem.devices)
    for index, node in enumerate(problem.nodes):
        if any(node.seconds) or node.memory or node.workspace or index in sharing:
            continue
        makers = {tensor.producer for tensor in used[index]}
        users = {user for tensor in made[index] for user in tensor.consumers}
        private = all(tensor.consumers == (index,) for tensor in used[index])
        choices = []
        if len(makers) == 1 and (not made[index] or (private and _no_more(made[index], used[index]))):
            choices += makers
        if len(users) == 1 and _no_more(used[index], made[index]):
            choices += users
        for other in choices:
            wakes = overhead and problem.nodes[other].idle and not node.idle
            if not wakes and not {index, other} & taken:
                pairs.append((index, other))
                taken |= {index, other}
                break
    return pairs


def _no_more(some: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    """Checks that these tensors cost no more than the others at a cut: in count, seconds and memory."""
    one, other = (
        [
            sum(getattr(tensor, cost) for tensor in tensors)
            for cost in ("counts", "seconds", "packing", "unpacking", "memory")
        ]
        for tensors in (some, others)
    )
    return all(mine <= theirs for mine, theirs in zip(one, other, strict=True))
