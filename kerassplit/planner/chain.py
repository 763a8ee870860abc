"""A chain of blocks, the devices it can run on, and what a plan for it says.

Blocks 0 to n-1 follow one another. Cut c lies before block c, so there are cuts 1 to n-1; a plan names some of them.
Cut 0 stands for the input and cut n for the output. Where more than one tensor crosses, a cut's bytes are their sum.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Objective = Literal["throughput", "latency"]


@dataclass(frozen=True)
class ChainLink:
    """What moving bytes takes.

    Attributes:
        bandwidth: Bytes per second; `inf` where only the latency counts.
        latency: Seconds that every crossing takes on top, however many tensors it has.
    """

    bandwidth: float = np.inf
    latency: float = 0.0

    def __post_init__(self):
        if not self.bandwidth > 0:
            raise ValueError(f"A link has a bandwidth of {self.bandwidth} bytes per second. It must be more than 0.")
        if not 0 <= self.latency < np.inf:
            raise ValueError(f"A link has a latency of {self.latency} s. It must be 0 or more, and finite.")

    def seconds(self, count: ArrayLike) -> NDArray[np.float64]:
        """Seconds to move so many bytes.

        >>> float(ChainLink(bandwidth=1e6, latency=0.01).seconds(500_000))
        0.51
        """
        return self.latency + np.asarray(count, dtype=np.float64) / self.bandwidth


NO_COST = ChainLink()
"""The link that takes no time."""


@dataclass(frozen=True, eq=False)
class ChainDevice:
    """A device, or several equal ones.

    Attributes:
        name: For messages.
        seconds: Seconds of each block here, shape (n,); `inf` for a block that cannot run here.
        memory: Bytes it has; `inf` for no limit.
        count: How many equal ones there are, next to each other in the given order.
    """

    name: str
    seconds: NDArray[np.float64]
    memory: float = np.inf
    count: int = 1

    def __post_init__(self):
        object.__setattr__(self, "seconds", _numbers(self.seconds, f"seconds of device '{self.name}'", infinite=True))
        if not self.memory >= 0:
            raise ValueError(f"Device '{self.name}' has a memory of {self.memory} bytes. It must be 0 or more.")
        if self.count < 1:
            raise ValueError(f"Device '{self.name}' has a count of {self.count}. It must be 1 or more.")


@dataclass(frozen=True)
class SharedWeight:
    """A weight that several blocks use: a stage holds it once, however many of them it has.

    Attributes:
        bytes: Its size.
        blocks: The blocks that use it.
    """

    bytes: float
    blocks: tuple[int, ...]


@dataclass(frozen=True)
class ChainLimits:
    """What a plan must keep to, besides the memory of the devices.

    Attributes:
        largest_crossing: Most bytes that may cross at a cut.
        must_cut: Cuts that must be made.
        must_not_cut: Cuts that must not be made.
        first_to: The first stage holds at least the blocks before this cut.
        last_from: The last stage holds at least the blocks from this cut on; `None` for no such limit.
        fewest_stages: With devices that may be left out: at least so many are used.
        most_stages: And at most so many; `None` for all.
    """

    largest_crossing: float = np.inf
    must_cut: tuple[int, ...] = ()
    must_not_cut: tuple[int, ...] = ()
    first_to: int = 0
    last_from: int | None = None
    fewest_stages: int = 1
    most_stages: int | None = None


Links = ChainLink | Sequence[ChainLink] | Mapping[tuple[int, int], ChainLink]


@dataclass(frozen=True, eq=False)
class ChainProblem:
    """Which cuts are best for this chain on these devices?

    The time of a stage on a device is what it receives, computes and sends, one after another: both ends are busy while
    tensors move. Its memory is its parameters, the largest of its blocks' peaks, and a buffer for what crosses at each
    of its two ends; the input and the output are among the live activations.

    Attributes:
        devices: In the order in which they are used, unless `any_order`.
        crossing: Bytes that cross at cuts 1 to n-1, shape (n-1,); a tuple of bytes for a cut with several tensors.
        links: One link for all; or one between each device and the next, in order (each of `count` equal devices counts
            as one); or one for each pair of indices into `devices` that is connected, `(d, d)` for two equal ones.
        objective: `"throughput"`: the time of the slowest stage is least. `"latency"`: the time of one sample through
            all stages, each transfer counted once, is least.
        overlap: For throughput: tensors move while devices compute. The time of a stage is then the longest of
            receiving, computing and sending. Latency is that of one sample; nothing overlaps there.
        parameters: Bytes of the weights that only one block uses, shape (n,).
        shared: The other weights.
        peaks: Peak bytes of live activations while each block runs, shape (n,).
        buffers: Bytes that a stage holds for what crosses at cuts 1 to n-1, where that is not `crossing` (compressed
            on the way, say).
        input_bytes: Bytes of the input.
        output_bytes: Bytes of the output.
        source: The device (an index) where the input lies. Another first device receives it over the link between the
            two. `None`: it is wherever it is needed.
        sink: The device where the output is wanted, likewise.
        any_order: The devices may be used in any order.
        leave_out: Devices may be left out.
        limits: Other limits.
        cut_names: What to call cuts 1 to n-1 in messages; by default their numbers.

    Example:

    >>> device = ChainDevice("cpu", np.array([3.0, 1.0, 1.0, 3.0]), count=2)
    >>> problem = ChainProblem((device,), crossing=np.array([10.0, 20.0, 10.0]), links=ChainLink(bandwidth=100.0))
    >>> problem.number_of_blocks
    4
    """

    devices: tuple[ChainDevice, ...]
    crossing: NDArray[np.float64]
    links: Links = NO_COST
    objective: Objective = "throughput"
    overlap: bool = False
    parameters: NDArray[np.float64] | None = None
    shared: tuple[SharedWeight, ...] = ()
    peaks: NDArray[np.float64] | None = None
    buffers: NDArray[np.float64] | None = None
    input_bytes: float = 0.0
    output_bytes: float = 0.0
    source: int | None = None
    sink: int | None = None
    any_order: bool = False
    leave_out: bool = False
    limits: ChainLimits = field(default_factory=ChainLimits)
    cut_names: tuple[str, ...] | None = None

    def __post_init__(self):
        object.__setattr__(self, "devices", tuple(self.devices))
        if not self.devices:
            raise ValueError("There is no device. Give one or more.")
        blocks = self.number_of_blocks
        if blocks == 0:
            raise ValueError("There is no block. Give the seconds of one or more.")
        for name, size in (
            ("crossing", blocks - 1),
            ("parameters", blocks),
            ("peaks", blocks),
            ("buffers", blocks - 1),
        ):
            value = getattr(self, name)
            if value is None:
                value = self.crossing if name == "buffers" else np.zeros(size)
            object.__setattr__(self, name, _numbers(value, name, size=size))
        _check(self)

    @property
    def number_of_blocks(self) -> int:
        return len(self.devices[0].seconds)

    @property
    def number_of_devices(self) -> int:
        return sum(device.count for device in self.devices)

    def name_of(self, cut: int) -> str:
        """What to call a cut."""
        if self.cut_names is None:
            return str(cut)
        return f"'{self.cut_names[cut - 1]}'" if cut < self.number_of_blocks else "the end"

    @property
    def chain_links(self) -> bool:
        """Whether the links are given between each device and the next."""
        return not isinstance(self.links, ChainLink | Mapping)


@dataclass(frozen=True)
class ChainPlan:
    """The best cuts of a chain.

    Attributes:
        cuts: In order; one fewer than stages.
        devices: Indices into the problem's devices, one for each stage.
        compute: Seconds that each stage computes.
        transfers: Seconds of each crossing: before the first stage (where the input has to be fetched), between the
            stages, and after the last.
        loads: Seconds of each stage, transfers counted as the problem says.
        memory: Bytes that each stage needs.
        moved: Bytes that go over links.
        value: What was made least: the largest load, or the latency.
        lower_bound: No plan has less.
        optimal: Whether the two are the same.
        even: Whether the plan is the evenest of the best ones, too: fewest stages, then the smallest sum of squares of
            the loads. Not known for very long chains in which very many plans are equally good.
        method: The algorithm that found it.
    """

    cuts: tuple[int, ...]
    devices: tuple[int, ...]
    compute: tuple[float, ...]
    transfers: tuple[float, ...]
    loads: tuple[float, ...]
    memory: tuple[float, ...]
    moved: float
    value: float
    lower_bound: float
    optimal: bool
    even: bool
    method: str

    @property
    def bottleneck(self) -> float:
        """Seconds of the slowest stage."""
        return max(self.loads)

    @property
    def latency(self) -> float:
        """Seconds of one sample through all stages."""
        return sum(self.compute) + sum(self.transfers)


def _numbers(values: ArrayLike, name: str, *, size: int | None = None, infinite: bool = False) -> NDArray[np.float64]:
    """A read-only copy, checked."""
    if not isinstance(values, np.ndarray):
        values = [sum(value) if isinstance(value, tuple | list) else value for value in values]  # type: ignore[union-attr]
    array = np.array(values, dtype=np.float64)
    if array.ndim != 1 or (size is not None and len(array) != size):
        expected = "one dimension" if size is None else f"shape ({size},)"
        raise ValueError(f"The {name} have shape {array.shape}. Expected {expected}.")
    wrong = np.flatnonzero(~(array >= 0) | (np.isinf(array) & (not infinite)))
    if len(wrong):
        kind = "0 or more" if infinite else "finite and 0 or more"
        raise ValueError(f"Number {wrong[0]} of the {name} is {array[wrong[0]]}. It must be {kind}.")
    array.flags.writeable = False
    return array


def _check(problem: ChainProblem) -> None:
    """Refuse what makes no sense, whatever the limits are."""
    blocks = problem.number_of_blocks
    for device in problem.devices:
        if len(device.seconds) != blocks:
            raise ValueError(
                f"Device '{device.name}' has seconds for {len(device.seconds)} blocks, "
                f"'{problem.devices[0].name}' for {blocks}. Give each device one number for each block."
            )
    if problem.objective not in ("throughput", "latency"):
        raise ValueError(f"The objective is '{problem.objective}'. It must be 'throughput' or 'latency'.")
    limits = problem.limits
    for name in ("must_cut", "must_not_cut"):
        outside = [cut for cut in getattr(limits, name) if not 0 < cut < blocks]
        if outside:
            raise ValueError(f"`{name}` has cut {outside[0]}. The cuts are 1 to {blocks - 1}.")
    for shared in problem.shared:
        if any(not 0 <= block < blocks for block in shared.blocks) or not 0 <= shared.bytes < np.inf:
            raise ValueError(f"No weight has {shared.bytes} bytes in the blocks {shared.blocks} of {blocks}.")
    for name in ("source", "sink"):
        place = getattr(problem, name)
        if place is not None and not 0 <= place < len(problem.devices):
            raise ValueError(f"The {name} is device {place}. The devices are 0 to {len(problem.devices) - 1}.")
    if problem.chain_links:
        if problem.any_order or problem.leave_out:
            raise ValueError(
                "Links between neighbours say nothing about devices in another order, or with some left out. "
                "Give one link for all, or one for each pair of devices."
            )
        if len(problem.links) != problem.number_of_devices - 1:  # type: ignore[arg-type]
            raise ValueError(
                f"There are {len(problem.links)} links for {problem.number_of_devices} devices. "  # type: ignore[arg-type]
                f"Expected {problem.number_of_devices - 1}, one between each and the next."
            )
        if problem.source not in (None, 0) or problem.sink not in (None, len(problem.devices) - 1):
            raise ValueError(
                "Links between neighbours say nothing about a source other than the first device or a sink other than "
                "the last. Give one link for all, or one for each pair of devices."
            )
