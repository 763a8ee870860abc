"""The complete planning task: the model, its costs, the devices and all limits."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from kerassplit.costs.profile import Profile
from kerassplit.errors import SplitError
from kerassplit.graph.model_graph import Graph
from kerassplit.graph.sides import Sides, read_sides
from kerassplit.graph.sizes import total
from kerassplit.graph.strings import behind_strings
from kerassplit.planning.devices import Device, Links
from kerassplit.planning.results import Objective, SentInput
from kerassplit.planning.transport import Transport
from kerassplit.planning.work import OPEN_SIDES, Work


@dataclass(frozen=True, eq=False)
class Limits:
    """Limits of a plan besides the memory of the devices. Tensors are indices into the graph.

    Attributes:
        max_crossing: The most tensors that may cross a cut; `None`: any number.
        largest_crossing: The most bytes that may cross a cut, as they are sent.
        must_cut: Required cuts, each given by its crossing tensors.
        must_not_cut: Forbidden cuts.
        first_to: Tensors that the first stage must produce.
        last_from: Tensors whose consumers must all be in the last stage.
        largest_latency: The most seconds of one batch, for least energy.
        largest_energy: The most joules for one batch, for least latency.
    """

    max_crossing: int | None
    largest_crossing: float
    must_cut: Sequence[Sequence[int]]
    must_not_cut: Sequence[Sequence[int]]
    first_to: Sequence[int]
    last_from: Sequence[int]
    largest_latency: float = math.inf
    largest_energy: float = math.inf


@dataclass(frozen=True, eq=False)
class Task:
    """Everything that determines the best plan.

    Attributes:
        graph: The model's graph. Its tensors have the same indices as in the profile.
        profile: The costs of the model.
        devices: The devices.
        work: The costs of calls and blocks on the devices.
        links: The links between the devices; `None` if moving is free.
        objective: The value to minimize.
        overlap: Whether transfers overlap with computing.
        transport: How tensors are sent.
        any_order: Whether devices may be used in any order.
        leave_out: Whether devices may be left out.
        replicas: Whether a stage may have several identical devices.
        limits: The limits.
        time_limit: Seconds for everything but exact dynamic programming.
    """

    graph: Graph
    profile: Profile
    devices: tuple[Device, ...]
    work: Work
    links: Links | None
    objective: Objective
    overlap: bool
    transport: Transport
    any_order: bool
    leave_out: bool
    replicas: bool
    limits: Limits
    time_limit: float

    @property
    def sizes_count(self) -> bool:
        """True if the bytes of activations matter."""
        return self.limits_memory or self.links is not None or self.limits.largest_crossing < math.inf

    @property
    def limits_memory(self) -> bool:
        """True if the memory of a device is limited."""
        return any(device.memory is not None for device in self.devices)

    @property
    def budget(self) -> float:
        """The limit beside the objective."""
        return min(self.limits.largest_latency, self.limits.largest_energy)

    @property
    def inputs_move(self) -> bool:
        """True if the model's inputs are on the first device and have to be moved to others that use them."""
        return self.links is not None and not self.any_order

    @cached_property
    def is_chain(self) -> bool:
        """True if one tensor crosses each cut, and no input of the model has to be moved.

        False if towers lie side by side, or if inputs reach later stages through earlier ones.
        """
        late = {max(self.graph.tensors[one].users) for one in self.used_inputs}
        blocks = [call.block for call, index in zip(self.profile.calls, self.calls, strict=True) if index in late]
        return (
            self.limits.max_crossing == 1
            and all(len(block.crossing) == 1 for block in self.profile.blocks[:-1])
            and not (self.inputs_move and any(blocks))
        )

    @cached_property
    def in_blocks(self) -> bool:
        """True if it is a chain whose cuts all lie between blocks, so that whole blocks lie before each.

        False if a mask goes from block to block, or if a block before the last produces outputs of the model.
        """
        if not self.is_chain:
            return False
        ends, tensors = [block.crossing for block in self.profile.blocks], self.graph.tensors
        block_of = dict(zip(self.calls, (call.block for call in self.profile.calls), strict=True))
        for call, block in block_of.items():
            made = self.graph.calls[call].outputs
            if ends[block] and not any(tensors[tensor].users for tensor in made):
                return False
            passing = [tensor for tensor in made if any(block_of[user] != block for user in tensors[tensor].users)]
            if not set(passing) <= set(ends[block]):
                return False
        return True

    def with_limits(self, **limits: object) -> "Task":
        """Returns the same task with other limits; keeps what is cached about the graph."""
        task = replace(self, limits=replace(self.limits, **limits))
        known = {name: self.__dict__[name] for name in ("sides", "calls", "used_inputs") if name in self.__dict__}
        task.__dict__.update(known)
        return task

    def require_sizes(self) -> None:
        """Checks that the bytes of all tensors are known, if memory matters.

        Raises:
            SplitError: The bytes of a tensor, which the message names, are unknown.
        """
        if self.holds == "bytes" or self.limits_memory:
            for index, tensor in enumerate(self.profile.tensors):
                if tensor.bytes is None:
                    raise self._unknown_size(index)

    @property
    def holds(self) -> Literal["bytes", "parameters"] | None:
        """The unit of what stages hold, if that is balanced; otherwise `None`."""
        unit = self.work.unit
        return unit if unit in ("bytes", "parameters") else None

    def known_size(self, tensor: int) -> float | None:
        """Returns the bytes of a tensor as sent, or of the inputs that make a mask if smaller; `None` if unknown."""
        size = self.transport.bytes(tensor)
        if self.in_blocks or tensor not in self.sides.users or self.sides.is_input(tensor):
            return size
        tensors, sources = self.profile.tensors, self.sides.sources[tensor]
        own, theirs = tensors[tensor].bytes, total(tensors[source].bytes for source in sources)
        if theirs is None or (own is not None and own <= theirs):  # as `Sides.chosen` decides
            return size
        return total(self.known_size(source) for source in sources)

    def sent(self, tensor: int) -> float:
        """Returns the bytes of a tensor as it is sent; 0 if they are unknown and do not matter.

        Raises:
            SplitError: The bytes matter and are unknown.
        """
        size = self.known_size(tensor)
        if size is None and self.sizes_count and not self.is_unsendable(tensor):
            raise self._unknown_size(tensor)
        return size or 0.0

    def is_unsendable(self, tensor: int) -> bool:
        """Checks if the form in which tensors are sent cannot hold the values of this one."""
        return self.sizes_count and self.transport.is_measured and self.known_size(tensor) is None

    def _unknown_size(self, tensor: int) -> SplitError:
        cost = self.profile.tensors[tensor]
        if cost.dtype != "string":
            return SplitError(f"The size of '{cost.name}' in bytes is unknown. {OPEN_SIDES}")
        return SplitError(
            f"The size of '{cost.name}' in bytes is unknown: it holds strings. {behind_strings(self.graph)}"
        )

    @cached_property
    def sent_inputs(self) -> tuple[SentInput, ...]:
        """How the model's inputs are sent; empty if nothing can be sent for them."""
        alone = sum(device.count for device in self.devices) == 1
        return () if alone or not self.inputs_move else self.transport.inputs(self.used_inputs)

    @cached_property
    def sides(self) -> Sides:
        """The inputs and masks, which cross cuts without being counted."""
        return read_sides(self.graph)

    @cached_property
    def calls(self) -> list[int]:
        """The graph's index of each call of the profile, in the same order."""
        return [index for index, call in enumerate(self.graph.calls) if call.inputs]

    @cached_property
    def used_inputs(self) -> list[int]:
        """The model's inputs that some call uses, as indices of tensors."""
        return [tensor for tensor in self.profile.inputs if self.graph.tensors[tensor].users]
