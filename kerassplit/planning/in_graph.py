"""Plans whose cuts let several tensors cross: every call of the model is a node."""

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

from kerassplit.costs.memory import peaks
from kerassplit.errors import PlanError
from kerassplit.frontiers import cuts as cuts_of_few_tensors
from kerassplit.planner.chain import ChainLink
from kerassplit.planner.dag import CutRules, DeviceType, Node, Problem, Tensor, Weight
from kerassplit.planner.dag import Link as TypeLink
from kerassplit.planner.minimum_cut import GraphTensor, plan_two_devices
from kerassplit.planner.placing import Placement, place
from kerassplit.planning.devices import Link
from kerassplit.planning.stages import StageParts
from kerassplit.planning.task import Task
from kerassplit.points import ancestors, leaving

MOST_CUTS = 50_000
"""The most closed sets of calls that are listed. With more of them, the answer comes with a bound instead of proof."""


class InGraph:
    """A model's calls as nodes, its inputs before them, and the placement problem that they make."""

    def __init__(self, task: Task):
        self.task = task
        self.devices = _single_devices(task)
        self._types = [type_ for type_, _ in self.devices]
        graph = task.graph
        self._first_call = len(task.used_inputs)
        self._node_of = {graph.tensors[tensor].call: node for node, tensor in enumerate(task.used_inputs)}
        self._node_of |= {call: self._first_call + place for place, call in enumerate(task.calls)}
        self.nodes = self._nodes()
        self.tensors = self._tensors()

    def _nodes(self) -> tuple[Node, ...]:
        """Inputs take no time. Where they have to be moved, they can only be on the first device."""
        task, profile = self.task, self.task.profile
        rows = [device for _, device in self.devices]
        elsewhere = math.inf if task.inputs_move and task.leave_out else 0.0
        free = tuple(0.0 if place == 0 else elsewhere for place in range(len(rows)))
        inputs = [Node(free) for _ in task.used_inputs]
        seconds = task.work.calls[rows].T
        shared = self._variables()
        live = self._live_bytes()
        calls = [
            Node(
                tuple(seconds[place].tolist()),
                memory=float(sum(profile.variables[one].bytes for one in call.variables if len(shared[one]) == 1)),
                workspace=live[place],
            )
            for place, call in enumerate(profile.calls)
        ]
        return (*inputs, *calls)

    def _variables(self) -> dict[int, list[int]]:
        """The calls (nodes) that each variable is used by."""
        users = defaultdict(list)
        for node, call in enumerate(self.task.profile.calls, self._first_call):
            for variable in call.variables:
                users[variable].append(node)
        return users

    def _live_bytes(self) -> list[float]:
        """Bytes that live while each call runs, in a run of the whole model."""
        profile = self.task.profile
        steps = [[(call.inputs, call.outputs)] for call in profile.calls]
        sizes = peaks(steps, [tensor.bytes for tensor in profile.tensors], set(profile.outputs))
        if None in sizes and any(device.memory is not None for device in self.task.devices):
            for tensor in range(len(profile.tensors)):
                self.task.sent(tensor)  # names the one at fault
        return [float(size or 0) for size in sizes]

    def _tensors(self) -> tuple[Tensor, ...]:
        task, graph = self.task, self.task.graph
        made = []
        for index, tensor in enumerate(graph.tensors):
            if tensor.users:
                consumers = tuple(sorted({self._node_of[user] for user in tensor.users}))
                size = task.sent(index)
                seconds = size if task.links else 0.0  # times seconds per byte
                buffer = size if graph.calls[tensor.call].inputs else 0.0  # inputs are among the live activations
                made.append(Tensor(self._node_of[tensor.call], consumers, seconds, buffer))
        return tuple(made)

    def solve(self) -> tuple[Placement, list[StageParts]]:
        """The best placement that can be found, and its stages.

        Raises:
            PlanError: There is none.
        """
        limit = self.task.limits.max_crossing
        few = None if limit is None else cuts_of_few_tensors(self.task.graph, limit, most=MOST_CUTS)
        sets = None if few is None else [nodes for nodes in map(self._before, few) if self._allowed(nodes)]
        if sets is not None and self.task.inputs_move and self.task.leave_out:
            sets.append(set(range(self._first_call)))  # the inputs are sent, and nothing runs where they lie
        problem = self.problem(limit if sets is None else None)
        placement = place(problem, cuts=sets, limit=MOST_CUTS, time_limit=self.task.time_limit)
        return placement, self._stages(placement)

    def problem(self, max_tensors: int | None) -> Problem:
        """The placement problem, with a limit for the tensors that cross."""
        task = self.task
        return Problem(
            nodes=self.nodes,
            tensors=self.tensors,
            devices=tuple(self._device_types()),
            classes=() if task.inputs_move else tuple(self._inputs_with_first_users()),
            weights=tuple(
                Weight(tuple(nodes), float(task.profile.variables[variable].bytes))
                for variable, nodes in self._variables().items()
                if len(nodes) > 1
            ),
            links=self._links(),
            objective=task.objective,
            overlap=task.overlap and task.objective == "throughput",
            in_order=not task.any_order,
            use_all=not task.leave_out,
            rules=self._rules(max_tensors),
        )

    def _device_types(self) -> Iterable[DeviceType]:
        for count, device in zip(self._counts(), (device for _, device in self.devices), strict=True):
            kind = self.task.devices[device]
            yield DeviceType(kind.name, count, math.inf if kind.memory is None else float(kind.memory))

    def _counts(self) -> list[int]:
        return [count for count, _ in self.devices]

    def _links(self) -> tuple[tuple[TypeLink, ...], ...] | None:
        """A link for each pair of types. What crosses is counted in bytes, so the factor is seconds per byte."""
        links, rows = self.task.links, range(len(self.devices))
        if links is None:
            return None
        if isinstance(links, Link):
            return tuple(tuple(_type_link(links) for _ in rows) for _ in rows)
        if isinstance(links, Mapping):
            names = [self.task.devices[device].name for _, device in self.devices]
            return tuple(tuple(_type_link(links.get((one, other))) for other in names) for one in names)
        return tuple(tuple(_type_link(links[one] if other == one + 1 else None) for other in rows) for one in rows)

    def _rules(self, max_tensors: int | None) -> CutRules:
        """The limits of cuts. What makes no tensor that others use can only be in the last stage: nothing leads on."""
        limits, graph = self.task.limits, self.task.graph
        first = {self._node_of[call] for call in ancestors(graph, limits.first_to)} if limits.first_to else set()
        last = {self._node_of[user] for tensor in limits.last_from for user in graph.tensors[tensor].users}
        ends = {tensor.producer for tensor in self.tensors}
        last |= {node for node in range(self._first_call, len(self.nodes)) if node not in ends}
        inputs = set(range(self._first_call)) if self.task.inputs_move else set()
        forbidden = [self._before(tensors) for tensors in limits.must_not_cut]
        if not self.task.leave_out:
            forbidden.append(set(range(self._first_call)))  # a stage of nothing but inputs is none
        return CutRules(
            max_tensors=max_tensors,
            max_memory=limits.largest_crossing,
            first=frozenset(first | inputs),
            last=frozenset(last),
            required=tuple(frozenset(self._before(tensors)) for tensors in limits.must_cut),
            forbidden=tuple(map(frozenset, forbidden)),
        )

    def _inputs_with_first_users(self) -> Iterable[tuple[int, int]]:
        """Inputs that one call uses before all others are wherever that call is: nothing is lost by that."""
        graph = self.task.graph
        for node, tensor in enumerate(self.task.used_inputs):
            users = graph.tensors[tensor].users
            if not users:
                continue
            first = min(users)
            others = [user for user in users if user != first]
            if all(first in ancestors(graph, graph.calls[user].outputs) for user in others):
                yield node, self._node_of[first]

    def _before(self, crossing: Iterable[int]) -> set[int]:
        """The nodes before a cut, given by the tensors that cross it."""
        nodes = {self._node_of[call] for call in ancestors(self.task.graph, crossing)}
        return nodes | set(range(self._first_call)) if self.task.inputs_move else nodes

    def _allowed(self, nodes: set[int]) -> bool:
        """Whether what crosses behind these nodes is small enough."""
        most = self.task.limits.largest_crossing
        if most == math.inf:
            return True
        crossing = [one for one in self.tensors if one.producer in nodes and not nodes.issuperset(one.consumers)]
        return sum(one.memory for one in crossing) <= most

    def _stages(self, placement: Placement) -> list[StageParts]:
        stages = []
        before: set[int] = set()
        fetched = 0.0
        for index, stage in enumerate(placement.stages):
            before |= set(stage.nodes)
            calls = [node - self._first_call for node in stage.nodes if node >= self._first_call]
            if not calls:
                fetched = stage.send  # the inputs alone: what follows receives them
                continue
            last = index == len(placement.stages) - 1
            stages.append(
                StageParts(
                    device=self.devices[stage.device][1],
                    calls=tuple(calls),
                    crossing=() if last else self._crossing(before),
                    work=stage.compute,
                    receive=stage.receive or fetched,
                    send=stage.send,
                    load=stage.load,
                    memory=stage.memory,
                )
            )
        return stages

    def _crossing(self, nodes: Collection[int]) -> tuple[int, ...]:
        """The tensors that cross behind these nodes, without inputs that nothing among them uses."""
        graph = self.task.graph
        calls = {self.task.calls[node - self._first_call] for node in nodes if node >= self._first_call}
        inputs = {graph.tensors[tensor].call for call in calls for tensor in graph.calls[call].inputs} - calls
        return tuple(leaving(graph, calls | inputs))


def _single_devices(task: Task) -> list[tuple[int, int]]:
    """(count, device) for each type of devices; with links from one device to the next, each is a type of its own."""
    if isinstance(task.links, Sequence):
        return [(1, index) for index, device in enumerate(task.devices) for _ in range(device.count)]
    return [(device.count, index) for index, device in enumerate(task.devices)]


def _type_link(link: Link | None) -> TypeLink:
    if link is None:
        return TypeLink(latency=math.inf)
    return TypeLink(float(link.latency), 1 / float(link.bandwidth))


def is_one_flow(task: Task) -> bool:
    """Whether a minimum cut answers: two devices, the least latency, one link, no limit."""
    limits = task.limits
    free = limits.max_crossing is None and limits.largest_crossing == math.inf
    rules = (limits.must_cut, limits.must_not_cut, limits.first_to, limits.last_from)
    return (
        task.objective == "latency"
        and len(task.devices) == 2
        and all(device.count == 1 and device.memory is None for device in task.devices)
        and isinstance(task.links, Link)
        and task.leave_out
        and not task.any_order
        and free
        and not any(rules)
        and len(_ends(task)) == 1
    )


def _ends(task: Task) -> list[int]:
    """Calls that nothing follows."""
    graph = task.graph
    return [call for call in task.calls if not any(graph.tensors[one].users for one in graph.calls[call].outputs)]


def solve_as_flow(task: Task) -> tuple[float, float, bool, str, list[StageParts]]:
    """Value, lower bound, whether optimal, method and stages of the best plan for two devices, as a minimum cut."""
    assert isinstance(task.links, Link)
    link = ChainLink(float(task.links.bandwidth), float(task.links.latency))
    graph = task.graph
    place_of = {call: place for place, call in enumerate(task.calls)}
    inputs = {graph.tensors[tensor].call for tensor in task.used_inputs}
    tensors = [
        GraphTensor(
            None if tensor.call in inputs else place_of[tensor.call],
            tuple(sorted({place_of[user] for user in tensor.users})),
            task.sent(index),
        )
        for index, tensor in enumerate(graph.tensors)
        if tensor.users
    ]
    edge, cloud = task.work.calls.tolist()
    plan = plan_two_devices(edge, cloud, tensors, link)
    on_edge = [place for place, here in enumerate(plan.on_edge) if here]
    in_cloud = [place for place, here in enumerate(plan.on_edge) if not here]
    moving = plan.moving_seconds
    found: list[StageParts] = []
    if on_edge:
        calls = {task.calls[place] for place in on_edge}
        given = {graph.tensors[one].call for call in calls for one in graph.calls[call].inputs} - calls
        crossing = tuple(leaving(graph, calls | given)) if in_cloud else ()
        sent = moving if in_cloud else 0.0
        work = float(np.sum(task.work.calls[0][on_edge]))
        found.append(StageParts(0, tuple(on_edge), crossing, work, 0.0, sent, work + sent, None))
    if in_cloud:
        work = float(np.sum(task.work.calls[1][in_cloud]))
        found.append(StageParts(1, tuple(in_cloud), (), work, moving, 0.0, work + moving, None))
    return plan.value, plan.lower_bound, plan.optimal, plan.method, found


def explain_refusal(error: PlanError, task: Task) -> PlanError:
    """The error in the words of `plan`."""
    if error.binding != ("cuts",):
        return error
    limits = task.limits
    asked = {
        f"max_crossing={limits.max_crossing}": limits.max_crossing is not None,
        "largest_crossing": limits.largest_crossing < math.inf,
        "must_cut": bool(limits.must_cut),
        "must_not_cut": bool(limits.must_not_cut),
        "first_to": bool(limits.first_to),
        "last_from": bool(limits.last_from),
    }
    names = [name for name, here in asked.items() if here]
    if not names:
        count = sum(device.count for device in task.devices)
        return PlanError(
            f"'{task.profile.model}' cannot be cut into {count} stages, one for each device. Take fewer devices, or "
            "let some stay without a stage (leave_out=True, --leave-out).",
            binding=("devices",),
        )
    return PlanError(
        f"No cuts of '{task.profile.model}' for these devices keep to {', '.join(names)}. Loosen some of them.",
        binding=[name.split("=")[0] for name in names],
    )
