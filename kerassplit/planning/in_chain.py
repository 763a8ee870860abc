"""Plans whose cuts let one tensor cross: the model as a chain of the blocks between split points."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from kerassplit.errors import SplitError
from kerassplit.planner.chain import NO_COST, ChainDevice, ChainLimits, ChainLink, ChainPlan, ChainProblem, SharedWeight
from kerassplit.planner.chain import Links as ChainLinks
from kerassplit.planner.chain_search import plan_chain
from kerassplit.planning.devices import Device, Link
from kerassplit.planning.devices import Links as Links
from kerassplit.planning.stages import StageParts
from kerassplit.planning.task import Task
from kerassplit.points import ancestors


class Chain:
    """The pieces of a model between the cuts where one tensor crosses, and the problem that they make.

    Attributes:
        ends: The tensor that each piece but the last ends at.
        problem: For the chain planner.
    """

    def __init__(self, task: Task):
        self.task = task
        blocks = task.profile.blocks
        behind = [place for place, block in enumerate(blocks[:-1]) if len(block.crossing) == 1]
        self.ends = [blocks[place].crossing[0] for place in behind]
        self._first_block = [0, *(place + 1 for place in behind)]
        self._piece_of = self._pieces_of_calls()
        self.problem = self._problem()

    def solve(self) -> tuple[ChainPlan, list[StageParts]]:
        """The best plan, and its stages.

        Raises:
            PlanError: There is none.
        """
        plan = plan_chain(self.problem)
        return plan, self.stages_of(plan)

    def stages_of(self, plan: ChainPlan) -> list[StageParts]:
        """The stages of a plan for the problem."""
        bounds = [0, *plan.cuts, len(self._first_block)]
        last_blocks = [*self._first_block[1:], len(self.task.profile.blocks)]
        stages = []
        for place, device in enumerate(plan.devices):
            first, behind = bounds[place], bounds[place + 1]
            blocks = range(self._first_block[first], last_blocks[behind - 1])
            calls = [call for block in blocks for call in self.task.profile.blocks[block].calls]
            stages.append(
                StageParts(
                    device=device,
                    calls=tuple(sorted(calls)),
                    crossing=() if behind == bounds[-1] else (self.ends[behind - 1],),
                    work=plan.compute[place],
                    receive=plan.transfers[place],
                    send=plan.transfers[place + 1],
                    load=plan.loads[place],
                    memory=plan.memory[place],
                )
            )
        return stages

    def _pieces_of_calls(self) -> dict[int, int]:
        """The piece of each call of the graph, inputs left out."""
        pieces = np.searchsorted(self._first_block, [call.block for call in self.task.profile.calls], side="right") - 1
        return dict(zip(self.task.calls, pieces.tolist(), strict=True))

    def _pieces(self, calls: Iterable[int]) -> list[int]:
        return [self._piece_of[call] for call in calls if call in self._piece_of]

    def _problem(self) -> ChainProblem:
        task, starts = self.task, self._first_block
        sent = np.array([task.sent(end) for end in self.ends])
        for one in task.profile.inputs if task.inputs_move else ():
            # It goes along until the piece that uses it.
            sent[: min(self._pieces(task.graph.tensors[one].users), default=0)] += task.sent(one)
        limits = self._limits()
        seconds = np.add.reduceat(task.work.blocks, starts, axis=1)
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
            input_bytes=sum(task.sent(one) for one in task.profile.inputs),
            source=0 if task.inputs_move else None,
            any_order=task.any_order,
            leave_out=task.leave_out,
            limits=limits,
            cut_names=tuple(task.graph.tensors[end].name for end in self.ends),
        )

    def _peaks(self) -> np.ndarray:
        sizes = [block.peak_live_bytes for block in self.task.profile.blocks]
        if None in sizes and any(device.memory is not None for device in self.task.devices):
            for tensor in range(len(self.task.profile.tensors)):
                self.task.sent(tensor)  # names the one at fault
        return np.maximum.reduceat(np.array([float(size or 0) for size in sizes]), self._first_block)

    def _weights(self) -> tuple[np.ndarray, tuple[SharedWeight, ...]]:
        """Bytes of the weights that one piece uses, and the others with their pieces."""
        profile, pieces_of = self.task.profile, {}
        for block, cost in enumerate(profile.blocks):
            piece = int(np.searchsorted(self._first_block, block, side="right")) - 1
            for variable in cost.variables:
                pieces_of.setdefault(variable, set()).add(piece)
        own = np.zeros(len(self._first_block))
        shared = []
        for variable, pieces in pieces_of.items():
            size = profile.variables[variable].bytes
            if len(pieces) == 1:
                own[pieces.pop()] += size
            else:
                shared.append(SharedWeight(size, tuple(sorted(pieces))))
        return own, tuple(shared)

    def _limits(self) -> ChainLimits:
        limits, graph = self.task.limits, self.task.graph
        first_to, last_from = 0, None
        if limits.first_to:
            first_to = 1 + max(self._pieces(ancestors(graph, limits.first_to)), default=-1)
        if limits.last_from:
            users = {user for tensor in limits.last_from for user in graph.tensors[tensor].users}
            last_from = min(self._pieces(users), default=len(self.ends))
        return ChainLimits(
            largest_crossing=limits.largest_crossing,
            must_cut=tuple(self._cut(tensors) for tensors in limits.must_cut),
            must_not_cut=tuple(self._cut(tensors) for tensors in limits.must_not_cut if tensors[0] in self.ends),
            first_to=first_to,
            last_from=last_from,
        )

    def _cut(self, tensors: Sequence[int]) -> int:
        if len(tensors) == 1 and tensors[0] in self.ends:
            return self.ends.index(tensors[0]) + 1
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
