"""Plans whose cuts let several tensors cross: every call of the model is a node."""

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from kerassplit.costs.memory import peaks
from kerassplit.errors import PlanError
from kerassplit.frontiers import cuts as cuts_of_few_tensors
from kerassplit.planner.chain import ChainLink
from kerassplit.planner.dag import CutRules, DeviceType, Node, Problem, Tensor, Weight
from kerassplit.planner.dag import Link as TypeLink
from kerassplit.planner.minimum_cut import GraphTensor, TwoDevicePlan, plan_two_devices
from kerassplit.planner.placing import Placement, least_memory, place
from kerassplit.planner.staging import stages_of
from kerassplit.planning.devices import Link
from kerassplit.planning.stages import Answer, StageParts
from kerassplit.planning.task import Task
from kerassplit.planning.work import Array
from kerassplit.points import ancestors, leaving

MOST_CUTS = 50_000
"""The most closed sets of calls that are listed. With more of them, the answer comes with a bound instead of proof."""
FEW_CUTS = 5_000
"""The most that are listed to have a good plan before the search among all of them."""


class InGraph:
    """A model's calls as nodes, its inputs before them, and the placement problem that they make.

    What a stage holds is counted in bytes; or, to share them out, in parameters, without what lives while it runs.
    """

    def __init__(self, task: Task, holds: Literal["bytes", "parameters"] = "bytes"):
        self.task = task
        self.devices = _single_devices(task)
        self._holds = holds
        graph = task.graph
        # Inputs that are wherever they are needed are no nodes.
        inputs = task.used_inputs if task.inputs_move else []
        self._first_call = len(inputs)
        self._node_of = {graph.tensors[tensor].call: node for node, tensor in enumerate(inputs)}
        self._node_of |= {call: self._first_call + place for place, call in enumerate(task.calls)}
        self.nodes = self._nodes()
        self.tensors = self._tensors()

    def _nodes(self) -> tuple[Node, ...]:
        """Inputs take no time. Where they have to be moved, they can only be on the first device."""
        task, profile = self.task, self.task.profile
        rows = [device for _, device in self.devices]
        elsewhere = math.inf if task.leave_out else 0.0
        free = tuple(0.0 if place == 0 else elsewhere for place in range(len(rows)))
        inputs = [Node(free)] * self._first_call
        seconds = task.work.calls[rows].T
        shared = self._variables()
        live = self._live_bytes()
        calls = [
            Node(
                tuple(seconds[place].tolist()),
                memory=sum(self._size_of(one) for one in call.variables if len(shared[one]) == 1),
                workspace=live[place],
            )
            for place, call in enumerate(profile.calls)
        ]
        return (*inputs, *calls)

    def _size_of(self, variable: int) -> float:
        cost = self.task.profile.variables[variable]
        return float(cost.bytes if self._holds == "bytes" else cost.parameters)

    def _variables(self) -> dict[int, list[int]]:
        """The calls (nodes) that each variable is used by."""
        users = defaultdict(list)
        for node, call in enumerate(self.task.profile.calls, self._first_call):
            for variable in call.variables:
                users[variable].append(node)
        return users

    def _live_bytes(self) -> list[float]:
        """Bytes that live while each call runs, in a run of the whole model block by block."""
        profile = self.task.profile
        if self._holds == "parameters":
            return [0.0] * len(profile.calls)
        order = [call for block in profile.blocks for call in block.calls]
        steps = [[(profile.calls[call].inputs, profile.calls[call].outputs)] for call in order]
        sizes = peaks(steps, [tensor.bytes for tensor in profile.tensors], set(profile.outputs))
        if None in sizes:
            self.task.require_sizes()
        live = dict(zip(order, sizes, strict=True))
        return [float(live[call] or 0) for call in range(len(profile.calls))]

    def _tensors(self) -> tuple[Tensor, ...]:
        task, graph = self.task, self.task.graph
        made = []
        self._sent: list[float] = []  # by cuts, of each tensor; inputs of the model are not counted
        for index, tensor in enumerate(graph.tensors):
            if tensor.users and tensor.call in self._node_of:
                consumers = tuple(sorted({self._node_of[user] for user in tensor.users}))
                size = task.sent(index)
                seconds = size if task.links else 0.0  # times seconds per byte
                self._sent.append(size if graph.calls[tensor.call].inputs else 0.0)
                buffer = self._sent[-1] if self._holds == "bytes" else 0.0  # inputs are among the live activations
                made.append(Tensor(self._node_of[tensor.call], consumers, seconds, buffer))
        return tuple(made)

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
        sets = [nodes for nodes in map(self._before, few) if self._allowed(nodes)]
        if self.task.inputs_move and self.task.leave_out:
            sets.append(set(range(self._first_call)))  # the inputs are sent, and nothing runs where they lie
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
        return sorted({self._sent_by(self._before(cut)) for cut in few or ()})

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
        return _minimum_cut(task, first, np.minimum(first, fastest)).lower_bound

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
            for part, size, stage in zip(self._stages(placement), sizes, real, strict=True)
        ]
        optimal = max(sizes) <= least * (1 + 1e-9)
        return Answer(max(sizes), max(sizes) if optimal else least, optimal, placement.method, stages)

    def _answer(self, placement: Placement) -> Answer:
        found = placement
        return Answer(found.value, found.lower_bound, found.optimal, found.method, self._stages(found))

    def problem(self, max_tensors: int | None = None) -> Problem:
        """The placement problem, with a limit for the tensors that cross."""
        task = self.task
        return Problem(
            nodes=self.nodes,
            tensors=self.tensors,
            devices=tuple(self._device_types()),
            weights=tuple(
                Weight(tuple(nodes), self._size_of(variable))
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
        for count, device in self.devices:
            kind = self.task.devices[device]
            limited = kind.memory is not None and self._holds == "bytes"
            yield DeviceType(kind.name, count, float(kind.memory or 0) if limited else math.inf)

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
        first = self._before(limits.first_to) if limits.first_to else set(range(self._first_call))
        last = {self._node_of[user] for tensor in limits.last_from for user in graph.tensors[tensor].users}
        ends = {tensor.producer for tensor in self.tensors}
        last |= {node for node in range(self._first_call, len(self.nodes)) if node not in ends}
        if max_tensors is not None and not self.task.inputs_move:
            # Inputs cross, too, though they are no nodes.
            shared = [one for one in self.task.used_inputs if len(graph.tensors[one].users) > 1]
            max_tensors = max(max_tensors - len(shared), 0)
        forbidden = [self._before(tensors) for tensors in limits.must_not_cut]
        if self._first_call and not self.task.leave_out:
            forbidden.append(set(range(self._first_call)))  # a stage of nothing but inputs is none
        return CutRules(
            max_tensors=max_tensors,
            max_memory=limits.largest_crossing,
            first=frozenset(first),
            last=frozenset(last),
            required=tuple(frozenset(self._before(tensors)) for tensors in limits.must_cut),
            forbidden=tuple(map(frozenset, forbidden)),
        )

    def _before(self, crossing: Iterable[int]) -> set[int]:
        """The nodes before a cut, given by the tensors that cross it."""
        before = ancestors(self.task.graph, crossing)
        return {self._node_of[call] for call in before if call in self._node_of} | set(range(self._first_call))

    def _allowed(self, nodes: set[int]) -> bool:
        """Whether what crosses behind these nodes is small enough."""
        most = self.task.limits.largest_crossing
        return most == math.inf or self._sent_by(nodes) <= most

    def _sent_by(self, nodes: set[int]) -> float:
        """Bytes that cross behind these nodes, without inputs of the model."""
        return sum(
            sent
            for tensor, sent in zip(self.tensors, self._sent, strict=True)
            if tensor.producer in nodes and not nodes.issuperset(tensor.consumers)
        )

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


def solve_as_flow(task: Task) -> Answer:
    """The best plan for two devices, as a minimum cut."""
    edge, cloud = task.work.calls
    plan = _minimum_cut(task, edge, cloud)
    graph = task.graph
    on_edge = [place for place, here in enumerate(plan.on_edge) if here]
    in_cloud = [place for place, here in enumerate(plan.on_edge) if not here]
    found: list[StageParts] = []
    if on_edge:
        calls = {task.calls[place] for place in on_edge}
        given = {graph.tensors[one].call for call in calls for one in graph.calls[call].inputs} - calls
        crossing = tuple(leaving(graph, calls | given)) if in_cloud else ()
        sent = plan.moving_seconds if in_cloud else 0.0
        work = float(np.sum(edge[on_edge]))
        found.append(StageParts(0, tuple(on_edge), crossing, work, 0.0, sent, work + sent, None))
    if in_cloud:
        work, received = float(np.sum(cloud[in_cloud])), plan.moving_seconds
        found.append(StageParts(1, tuple(in_cloud), (), work, received, 0.0, work + received, None))
    return Answer(plan.value, plan.lower_bound, plan.optimal, plan.method, found)


def _minimum_cut(task: Task, edge: Array, cloud: Array) -> TwoDevicePlan:
    """The least latency on two devices with these times, the model's inputs on the first one."""
    assert isinstance(task.links, Link)
    place_of = {call: place for place, call in enumerate(task.calls)}
    tensors = [
        GraphTensor(
            place_of.get(tensor.call),  # `None` for an input of the model
            tuple(sorted({place_of[user] for user in tensor.users})),
            task.sent(index),
        )
        for index, tensor in enumerate(task.graph.tensors)
        if tensor.users
    ]
    link = ChainLink(float(task.links.bandwidth), float(task.links.latency))
    return plan_two_devices(edge.tolist(), cloud.tolist(), tensors, link)
