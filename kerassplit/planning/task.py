"""What is to be planned, in one place: the model, its costs, the devices and all limits."""

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
from kerassplit.planning.results import Objective
from kerassplit.planning.work import OPEN_SIDES, Work, wire_bytes


@dataclass(frozen=True, eq=False)
class Limits:
    """What a plan must keep to, besides the memory of the devices. Tensors are indices into the graph.

    Attributes:
        max_crossing: The most tensors that may cross a cut; `None`: any number.
        largest_crossing: The most bytes that may cross a cut, as they are sent.
        must_cut: Cuts that must be made: for each the tensors that cross.
        must_not_cut: Cuts that must not be made.
        first_to: The first stage makes at least these tensors.
        last_from: The last stage holds all that uses these tensors.
    """

    max_crossing: int | None
    largest_crossing: float
    must_cut: Sequence[Sequence[int]]
    must_not_cut: Sequence[Sequence[int]]
    first_to: Sequence[int]
    last_from: Sequence[int]


@dataclass(frozen=True, eq=False)
class Task:
    """All that decides what the best plan is.

    Attributes:
        graph: The model's graph. Its tensors have the indices that they have in the profile.
        profile: What the model costs.
        devices: The devices.
        work: What everything takes on them.
        links: What connects them; `None` where moving takes nothing.
        objective: What is to be least.
        overlap: Whether transfers overlap with computing.
        compression: How tensors are sent.
        any_order: Whether devices may be used in any order.
        leave_out: Whether devices may be left out.
        limits: The limits.
        time_limit: Seconds for what is not exact dynamic programming.
    """

    graph: Graph
    profile: Profile
    devices: tuple[Device, ...]
    work: Work
    links: Links | None
    objective: Objective
    overlap: bool
    compression: float | str | None
    any_order: bool
    leave_out: bool
    limits: Limits
    time_limit: float

    @property
    def sizes_count(self) -> bool:
        """Whether the bytes of activations play a part."""
        memory = any(device.memory is not None for device in self.devices)
        return memory or self.links is not None or self.limits.largest_crossing < float("inf")

    @property
    def inputs_move(self) -> bool:
        """Whether the model's inputs lie on the first device and have to be moved where another one uses them."""
        return self.links is not None and not self.any_order

    @cached_property
    def is_chain(self) -> bool:
        """Whether at each cut one tensor crosses, and no input of the model has to be moved.

        It is no chain where towers lie side by side, or where inputs go to later stages by way of the earlier ones.
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
        """Whether it is a chain whose cuts are those between blocks: what lies before each is whole blocks.

        It is not where a mask goes from block to block, or where outputs of the model are made on the way.
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
        """The same with other limits; what is known of the graph stays."""
        task = replace(self, limits=replace(self.limits, **limits))
        known = {name: self.__dict__[name] for name in ("sides", "calls", "used_inputs") if name in self.__dict__}
        task.__dict__.update(known)
        return task

    def require_sizes(self) -> None:
        """Raises where the bytes of a tensor are not known and memory plays a part.

        Raises:
            SplitError: Names the tensor.
        """
        if self.holds == "bytes" or any(device.memory is not None for device in self.devices):
            for index, tensor in enumerate(self.profile.tensors):
                if tensor.bytes is None:
                    raise self._unknown_size(index)

    @property
    def holds(self) -> Literal["bytes", "parameters"] | None:
        """What is shared out, where that is what stages hold."""
        unit = self.work.unit
        return unit if unit in ("bytes", "parameters") else None

    def known_size(self, tensor: int) -> float | None:
        """Bytes of a tensor as it is sent, of a mask no more than of the inputs it is made of; `None` where unknown."""
        size = wire_bytes(self.profile.tensors[tensor], self.compression)
        if self.in_blocks or tensor not in self.sides.users or self.sides.is_input(tensor):
            return size
        sources = [self.known_size(source) for source in self.sides.sources[tensor]]
        sizes = [one for one in (size, total(sources)) if one is not None]
        return min(sizes, default=None)

    def sent(self, tensor: int) -> float:
        """Bytes of a tensor as it is sent; 0 where they are not known and play no part.

        Raises:
            SplitError: They play a part and are not known.
        """
        size = self.known_size(tensor)
        if size is None and self.sizes_count:
            raise self._unknown_size(tensor)
        return size or 0.0

    def _unknown_size(self, tensor: int) -> SplitError:
        cost = self.profile.tensors[tensor]
        if cost.dtype != "string":
            return SplitError(f"The bytes of '{cost.name}' are not known. {OPEN_SIDES}")
        return SplitError(f"The bytes of '{cost.name}' are not known: it holds strings. {behind_strings(self.graph)}")

    @cached_property
    def sides(self) -> Sides:
        """The inputs and masks that cross cuts without being counted."""
        return read_sides(self.graph)

    @cached_property
    def calls(self) -> list[int]:
        """The calls of the graph that the profile's calls are, in the same order."""
        return [index for index, call in enumerate(self.graph.calls) if call.inputs]

    @cached_property
    def used_inputs(self) -> list[int]:
        """The model's inputs that some call uses, as tensors."""
        return [tensor for tensor in self.profile.inputs if self.graph.tensors[tensor].users]
