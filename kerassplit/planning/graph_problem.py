"""Placement problem of a model and its devices: every call of the model, or every block, is a node."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, reduce
from operator import or_
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kerassplit.costs.memory import peaks
from kerassplit.cutting.crossings import cuts as cuts_of_few_tensors
from kerassplit.planning.devices import Link
from kerassplit.planning.solver.closed_sets import Table, table_of_bits
from kerassplit.planning.solver.problem import CutRules, DeviceType, Link as TypeLink, Node, Problem, Tensor, Weight
from kerassplit.planning.task import Task


class GraphProblem:
    """Placement problem of a model: its inputs, then its calls, as nodes.

    If all cuts lie between blocks (`Task.in_blocks`), the blocks are the nodes.

    The memory of a stage is counted in bytes; or, to balance parameters, in parameters, without live activations.

    Attributes:
        task: The planning task.
        devices: (count, index into the task's devices) for each device type.
        first_call: Number of input nodes; the nodes of the calls come after them.
        members: The calls of each node, as indices into the profile.
        nodes: The nodes.
        tensors: The edges.
    """

    def __init__(self, task: Task, holds: Literal["bytes", "parameters"] = "bytes"):
        self.task = task
        self.devices = _single_devices(task)
        self._holds = holds
        graph = task.graph
        # Inputs that are available on every device are not nodes.
        inputs = task.used_inputs if task.inputs_move else []
        self.first_call = len(inputs)
        blocks, calls = task.profile.blocks, task.calls
        groups = [block.calls for block in blocks] if task.in_blocks else [(place,) for place in range(len(calls))]
        self.members: list[tuple[int, ...]] = [()] * len(inputs) + groups
        self._node_of = {graph.tensors[tensor].call: node for node, tensor in enumerate(inputs)}
        self._node_of |= {calls[place]: node for node, group in enumerate(self.members) for place in group}
        self.nodes = self._nodes()
        self.tensors = self._tensors()

    def _nodes(self) -> tuple[Node, ...]:
        """Builds the nodes. Inputs take no time; if they have to be moved, they can only be on the first device."""
        task, work = self.task, self.task.work
        rows = [device for _, device in self.devices]
        elsewhere = math.inf if task.leave_out else 0.0
        free = tuple(0.0 if place == 0 else elsewhere for place in range(len(rows)))
        held = [0.0] * len(self.members)
        for variable, (node, *others) in self._users.items():
            held[node] += 0.0 if others else self._sizes[variable]
        seconds = (work.blocks if task.in_blocks else work.calls)[rows].T.tolist()
        made = zip(seconds, held[self.first_call :], self._live_bytes(), strict=True)
        masks = set() if task.in_blocks else set(task.sides.calls)
        idle = [task.calls[group[0]] in masks for group in self.members[self.first_call :]]
        calls = (Node(tuple(times), *bytes_, idle=mask) for (times, *bytes_), mask in zip(made, idle, strict=True))
        return (*[Node(free, idle=True)] * self.first_call, *calls)

    @cached_property
    def _sizes(self) -> list[float]:
        variables = self.task.profile.variables
        return [float(one.bytes if self._holds == "bytes" else one.parameters) for one in variables]

    @cached_property
    def _users(self) -> dict[int, list[int]]:
        """The nodes that use each variable."""
        calls, users = tuple(self.task.profile.calls), defaultdict[int, dict[int, None]](dict)
        for node, group in enumerate(self.members):
            for call in group:
                for variable in calls[call].variables:
                    users[variable][node] = None
        return {variable: list(nodes) for variable, nodes in users.items()}

    def _live_bytes(self) -> list[float]:
        """Returns the live bytes during each call, or block, in a run of the whole model block by block."""
        profile = self.task.profile
        if self._holds == "parameters":
            return [0.0] * (len(self.members) - self.first_call)
        if self.task.in_blocks:
            sizes = [block.peak_live_bytes for block in profile.blocks]
        else:
            order = [call for block in profile.blocks for call in block.calls]
            steps = [[(profile.calls[call].inputs, profile.calls[call].outputs)] for call in order]
            found = peaks(steps, [tensor.bytes for tensor in profile.tensors], set(profile.outputs))
            sizes = [size for _, size in sorted(zip(order, found, strict=True))]
        if None in sizes:
            self.task.require_sizes()
        return [float(size or 0) for size in sizes]

    def _tensors(self) -> tuple[Tensor, ...]:
        task, graph = self.task, self.task.graph
        made = []
        self._sent: list[float] = []  # bytes over cuts, of each tensor; inputs of the model are not counted
        self._inseparable: list[tuple[int, ...]] = []
        for index, tensor in enumerate(graph.tensors):
            node = self._node_of.get(tensor.call)
            consumers = () if node is None else sorted({self._node_of[user] for user in tensor.users} - {node})
            if node is not None and consumers:
                size = task.sent(index)
                if task.is_unsendable(index):
                    self._inseparable.append((node, *consumers))
                seconds = size if task.links else 0.0  # times seconds per byte
                self._sent.append(size if graph.calls[tensor.call].inputs else 0.0)
                buffer = self._sent[-1] if self._holds == "bytes" else 0.0  # inputs are among the live activations
                counts = bool(self.members[node]) if task.in_blocks else tensor.call not in task.sides.calls
                ends = task.transport.ends(index) if task.links else (0.0, 0.0)
                made.append(Tensor(node, tuple(consumers), seconds, buffer, counts, *ends))
        return tuple(made)

    def problem(self, max_tensors: int | None = None) -> Problem:
        """Builds the placement problem, with a limit on the number of crossing tensors."""
        task = self.task
        return Problem(
            nodes=self.nodes,
            tensors=self.tensors,
            devices=tuple(self._device_types()),
            classes=tuple(self._inseparable),
            weights=tuple(
                Weight(tuple(nodes), self._sizes[variable]) for variable, nodes in self._users.items() if len(nodes) > 1
            ),
            links=self._links(),
            objective=task.objective,
            budget=task.budget,
            overlap=task.overlap and task.objective == "throughput",
            in_order=not task.any_order,
            use_all=not task.leave_out,
            replicas=task.replicas,
            rules=self._rules(max_tensors),
        )

    def _device_types(self) -> Iterable[DeviceType]:
        for count, device in self.devices:
            kind = self.task.devices[device]
            limited = kind.memory is not None and self._holds == "bytes"
            yield DeviceType(
                kind.name,
                count,
                float(kind.memory or 0) if limited else math.inf,
                overhead=float(self.task.work.overheads[device]),
                watts=float(kind.watts or 0),
                sending_watts=float(kind.sending_watts or 0),
            )

    def _links(self) -> tuple[tuple[TypeLink, ...], ...] | None:
        """Returns a link for each pair of types."""
        links, rows = self.task.links, range(len(self.devices))
        if links is None:
            return None
        if isinstance(links, Link):
            back = Link(links.bandwidth if links.down is None else links.down, links.latency)
            return tuple(tuple(self.type_link(links if one <= other else back) for other in rows) for one in rows)
        if isinstance(links, Mapping):
            names = [self.task.devices[device].name for _, device in self.devices]
            return tuple(tuple(self.type_link(links.get((one, other))) for other in names) for one in names)
        return tuple(tuple(self.type_link(links[one] if other == one + 1 else None) for other in rows) for one in rows)

    def type_link(self, link: Link | None) -> TypeLink:
        """Returns a link of the problem. Crossing is counted in bytes, so the factor is seconds per byte.

        The bytes of a message besides its tensors count as latency: both are there once if anything crosses.
        """
        if link is None:
            return TypeLink(latency=math.inf)
        per_byte = 1 / float(link.bandwidth)
        return TypeLink(float(link.latency) + self.task.transport.message_bytes * per_byte, per_byte)

    def _rules(self, max_tensors: int | None) -> CutRules:
        """Returns the rules for cuts. A node whose outputs no other node uses can only be in the last stage."""
        limits, graph = self.task.limits, self.task.graph
        first = self.before(limits.first_to) if limits.first_to else set(range(self.first_call))
        last = {self._node_of[user] for tensor in limits.last_from for user in graph.tensors[tensor].users}
        ends = {tensor.producer for tensor in self.tensors}
        last |= {node for node in range(self.first_call, len(self.nodes)) if node not in ends}
        forbidden = [before for tensors in limits.must_not_cut if (before := self._before_cut(tensors)) is not None]
        return CutRules(
            max_tensors=max_tensors,
            max_memory=max(0.0, limits.largest_crossing - self.task.transport.message_bytes),
            first=frozenset(first),
            last=frozenset(last),
            required=tuple(frozenset(self.before(tensors)) for tensors in limits.must_cut),
            forbidden=tuple(map(frozenset, forbidden)),
        )

    def before(self, crossing: Iterable[int]) -> set[int]:
        """Returns the nodes before a cut, given by the tensors that cross it."""
        before = self.task.graph.ancestors(crossing)
        return {self._node_of[call] for call in before if call in self._node_of} | set(range(self.first_call))

    def _before_cut(self, crossing: Iterable[int]) -> set[int] | None:
        """Returns the nodes before a cut; `None` if the cut divides a node."""
        nodes, inside = self.before(crossing), self.task.graph.ancestors(crossing)
        whole = all(self.task.calls[place] in inside for node in nodes for place in self.members[node])
        return nodes if whole else None

    def few(self, limit: int, most: int | None = None) -> Table | None:
        """Returns the nodes before each cut with at most `limit` tensors; `None` if there are more than `most` cuts."""
        if self.task.in_blocks and limit == 1:
            count = len(self.nodes)
            if most is not None and count - self.first_call > most:
                return None
            return np.arange(count)[:, None] < np.arange(self.first_call + 1, count)[None, :]
        found = cuts_of_few_tensors(self.task.sides, limit, most=most)
        return None if found is None else self.table(found)

    def table(self, cuts: Iterable[Iterable[int]]) -> Table:
        """Returns the nodes before each of several cuts, given by their crossing tensors; shape (nodes, cuts)."""
        graph, calls = self.task.graph, self._bits_before
        held = (reduce(or_, (calls[graph.tensors[tensor].call] for tensor in cut), 0) for cut in cuts)
        table = table_of_bits(len(self.nodes), held)
        table[: self.first_call] = True
        return table

    @cached_property
    def _bits_before(self) -> list[int]:
        """For each call of the graph, its own node and those of all its ancestors, as bits of an integer."""
        graph, found = self.task.graph, []
        for index, call in enumerate(graph.calls):
            own = 1 << self._node_of[index] if index in self._node_of else 0
            found.append(reduce(or_, (found[graph.tensors[tensor].call] for tensor in call.inputs), own))
        return found

    def sent_behind(self, table: Table) -> NDArray[np.float64]:
        """Returns the bytes of a message after each set of nodes, without inputs of the model; shape (sets,)."""
        sent = np.zeros(table.shape[1])
        for tensor, size in zip(self.tensors, self._sent, strict=True):
            if size:
                sent += size * (table[tensor.producer] & ~table[list(tensor.consumers)].all(axis=0))
        return sent + self.task.transport.message_bytes * (sent > 0)


def _single_devices(task: Task) -> list[tuple[int, int]]:
    """Returns (count, device) for each device type; with a list of links, each device is a type of its own."""
    if isinstance(task.links, Sequence):
        return [(1, index) for index, device in enumerate(task.devices) for _ in range(device.count)]
    return [(device.count, index) for index, device in enumerate(task.devices)]
