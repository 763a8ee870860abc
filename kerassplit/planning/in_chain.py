"""Plans whose cuts let one tensor cross: the model as a chain of the blocks between split points."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from kerassplit.errors import PlanError, SplitError
from kerassplit.planner.chain import NO_COST, ChainDevice, ChainLimits, ChainLink, ChainPlan, ChainProblem, SharedWeight
from kerassplit.planner.chain import Links as ChainLinks
from kerassplit.planner.chain_search import plan_chain
from kerassplit.planning.devices import Device, Link, Links
from kerassplit.planning.stages import Answer, StageParts
from kerassplit.planning.task import Task
from kerassplit.points import ancestors


def is_chain(task: Task) -> bool:
    """Whether at each cut one tensor crosses, and nothing else has to be moved.

    It is no chain where towers lie side by side, or where inputs go to later stages by way of the earlier ones.
    """
    profile = task.profile
    first_users = {min(task.graph.tensors[one].users) for one in task.used_inputs}
    ends = [call.block for call, index in zip(profile.calls, task.calls, strict=True) if index in first_users]
    return (
        task.limits.max_crossing == 1
        and all(len(block.crossing) == 1 for block in profile.blocks[:-1])
        and not (task.inputs_move and any(ends))
    )


class Chain:
    """The blocks of a model, and the problem that they make.

    Attributes:
        ends: The tensor that each block but the last ends at.
        problem: For the chain planner.
    """

    def __init__(self, task: Task):
        self.task = task
        self.ends = [block.crossing[0] for block in task.profile.blocks[:-1]]
        self._cut_of = {end: cut for cut, end in enumerate(self.ends, 1)}
        self._block_of = dict(zip(task.calls, (call.block for call in task.profile.calls), strict=True))
        self.problem = self._problem()

    def solve(self) -> Answer:
        """The best plan.

        Raises:
            PlanError: There is none.
        """
        devices, stages = self.problem.number_of_devices, len(self.ends) + 1
        if devices > stages and not self.task.leave_out:
            raise PlanError(
                f"'{self.task.profile.model}' has {len(self.ends)} split points, so {stages} stages at most, and there "
                f"are {devices} devices. Take fewer, let some stay without a stage (leave_out=True, --leave-out), or "
                "let more tensors cross (max_crossing=2, --max-crossing 2).",
                binding=("devices",),
                enough={"devices": stages},
            )
        plan = plan_chain(self.problem)
        return Answer(plan.value, plan.lower_bound, plan.optimal, plan.method, self.stages_of(plan))

    def stages_of(self, plan: ChainPlan) -> list[StageParts]:
        """The stages of a plan for the problem."""
        blocks = self.task.profile.blocks
        bounds = [0, *plan.cuts, len(blocks)]
        stages = []
        for place, device in enumerate(plan.devices):
            first, behind = bounds[place], bounds[place + 1]
            calls = [call for block in blocks[first:behind] for call in block.calls]
            stages.append(
                StageParts(
                    device=device,
                    calls=tuple(sorted(calls)),
                    crossing=() if behind == len(blocks) else (self.ends[behind - 1],),
                    work=plan.compute[place],
                    receive=plan.transfers[place],
                    send=plan.transfers[place + 1],
                    load=plan.loads[place],
                    memory=plan.memory[place],
                )
            )
        return stages

    def _blocks(self, calls: Iterable[int]) -> list[int]:
        return [self._block_of[call] for call in calls if call in self._block_of]

    def _problem(self) -> ChainProblem:
        task = self.task
        sent = np.array([task.sent(end) for end in self.ends])
        limits = self._limits()
        seconds = task.work.blocks.copy()
        if task.inputs_move and limits.first_to:
            seconds[1:, : limits.first_to] = np.inf  # the first stage is the first device's
        parameters, shared = self._weights()
        return ChainProblem(
            devices=tuple(
                ChainDevice(device.name, row, np.inf if device.memory is None else float(device.memory), device.count)
                for device, row in zip(task.devices, seconds, strict=True)
            ),
            crossing=sent,
            links=chain_links(task.links, task.devices),
            objective=task.objective,
            overlap=task.overlap and task.objective == "throughput",
            parameters=parameters,
            shared=shared,
            peaks=self._peaks(),
            input_bytes=sum(task.sent(one) for one in task.used_inputs) if task.inputs_move else 0.0,
            source=0 if task.inputs_move else None,
            any_order=task.any_order,
            leave_out=task.leave_out,
            limits=limits,
            cut_names=tuple(task.graph.tensors[end].name for end in self.ends),
        )

    def _peaks(self) -> np.ndarray:
        sizes = [block.peak_live_bytes for block in self.task.profile.blocks]
        if None in sizes:
            self.task.require_sizes()
        return np.array([float(size or 0) for size in sizes], dtype=np.float64)

    def _weights(self) -> tuple[np.ndarray, tuple[SharedWeight, ...]]:
        """Bytes of the weights that one block uses, and the others with their blocks."""
        profile = self.task.profile
        blocks_of: dict[int, list[int]] = defaultdict(list)
        for block, cost in enumerate(profile.blocks):
            for variable in cost.variables:
                blocks_of[variable].append(block)
        own = np.zeros(len(profile.blocks))
        shared = []
        for variable, blocks in blocks_of.items():
            size = profile.variables[variable].bytes
            if len(blocks) == 1:
                own[blocks[0]] += size
            else:
                shared.append(SharedWeight(size, tuple(blocks)))
        return own, tuple(shared)

    def _limits(self) -> ChainLimits:
        limits, graph = self.task.limits, self.task.graph
        first_to, last_from = 0, None
        if limits.first_to:
            first_to = 1 + max(self._blocks(ancestors(graph, limits.first_to)), default=-1)
        if limits.last_from:
            users = {user for tensor in limits.last_from for user in graph.tensors[tensor].users}
            last_from = min(self._blocks(users), default=len(self.ends))
        return ChainLimits(
            largest_crossing=limits.largest_crossing,
            must_cut=tuple(self._cut(tensors) for tensors in limits.must_cut),
            must_not_cut=tuple(self._cut(tensors) for tensors in limits.must_not_cut if tensors[0] in self._cut_of),
            first_to=first_to,
            last_from=last_from,
        )

    def _cut(self, tensors: Sequence[int]) -> int:
        if len(tensors) == 1 and tensors[0] in self._cut_of:
            return self._cut_of[tensors[0]]
        names = ", ".join(f"'{name}'" for name in self.task.graph.names(tensors))
        raise SplitError(
            f"A cut at {names} lets more than one tensor cross. Allow it with max_crossing={max(2, len(tensors))} "
            f"(--max-crossing {max(2, len(tensors))}), or cut at a split point."
        )


def chain_links(links: Links | None, devices: Sequence[Device]) -> ChainLinks:
    """The links as the chain planner takes them."""
    if links is None:
        return NO_COST
    if isinstance(links, Link):
        return _chain_link(links)
    if isinstance(links, Mapping):
        place = {device.name: index for index, device in enumerate(devices)}
        return {(place[one], place[other]): _chain_link(link) for (one, other), link in links.items()}
    return [_chain_link(link) for link in links]


def _chain_link(link: Link) -> ChainLink:
    return ChainLink(float(link.bandwidth), float(link.latency))


def at_bandwidth(problem: ChainProblem, bandwidth: float) -> ChainProblem:
    """The same with another bandwidth of its one link."""
    assert isinstance(problem.links, ChainLink)
    return replace(problem, links=replace(problem.links, bandwidth=bandwidth))
