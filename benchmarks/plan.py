"""Distance of other rules' cuts from the optimum: the slowest stage relative to that of the best plan.

    python benchmarks/plan.py [--gigabits 1]

Measured blocks of 18 Keras models on up to 7 machines (`tests/support/published/scission_blocks.json`), on 2 to 8
identical devices, with and without transfer times. The rules are implemented here in a few lines each, from their
descriptions; the optimum comes from an exact search through all pairs of cuts that shares no code with the planner.
"""

import argparse
import json
import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from kerassplit.planning.solver.place import place
from kerassplit.planning.solver.problem import DeviceType, Link, Node, Problem, Tensor

BLOCKS = Path(__file__).parent.parent / "tests" / "support" / "published" / "scission_blocks.json"
Bounds = list[int]
FREE = Link(factor=0.0)
"""The link that takes no time."""


def equal_layers(layers: Sequence[float], stages: int) -> Bounds:
    """Equal numbers of layers in each stage, as far as blocks allow."""
    return even_shares(layers, stages)


def even_shares(weights: Sequence[float], stages: int) -> Bounds:
    """Cuts where the running sum is closest to an even share; no stage is empty."""
    running = np.cumsum(weights)
    bounds = [0]
    for stage in range(1, stages):
        nearest = int(np.argmin(np.abs(running - running[-1] * stage / stages))) + 1
        bounds.append(min(max(nearest, bounds[-1] + 1), len(running) - (stages - stage)))
    return [*bounds, len(running)]


def block_partition(seconds: Sequence[float], stages: int) -> Bounds:
    """torchgpipe's rule (Bárány and Grinberg, "Block partitions of sequences", 2015).

    Starts from equal counts: as long as the largest block exceeds the smallest by more than the largest element, the
    smallest block nearest to the largest one takes an element from its neighbor on that side.
    """
    bounds = [len(seconds) * stage // stages for stage in range(stages)] + [len(seconds)]
    most = max(seconds)

    def sums() -> list[float]:
        return [math.fsum(seconds[one:two]) for one, two in pairwise(bounds)]

    while True:
        largest = int(np.argmax(sums()))
        while True:
            now = sums()
            if now[largest] <= min(now) + most * (1 + 1e-12):
                return bounds
            smallest = min((stage for stage in range(stages) if now[stage] == min(now)), key=lambda s: abs(s - largest))
            giver = smallest + 1 if smallest < largest else smallest - 1
            # The boundary between the two moves by one element.
            bounds[max(giver, smallest)] += 1 if smallest < giver else -1
            if giver == largest:
                break


def partition_balanced(weights: Sequence[float], stages: int) -> Bounds:
    """DeepSpeed's rule for a list of layers: minimizes the largest sum of weights, by bisection with a greedy probe.

    (By default, its pipeline module uses the layers' parameters as weights.)
    """
    running = np.concatenate([[0.0], np.cumsum(weights)])

    def probe(most: float) -> Bounds | None:
        bounds = [0]
        for _ in range(stages):
            bounds.append(bisect_right(running, running[bounds[-1]] + most) - 1)
        return bounds if bounds[-1] == len(weights) else None

    low, high = max(weights), float(running[-1])
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if probe(middle) else (middle, high)
    found = probe(high * (1 + 1e-9))
    assert found
    # Remaining stages at the end would be empty: each takes one block from the stages before.
    for stage in range(stages - 1, 0, -1):
        found[stage] = min(found[stage], found[stage + 1] - 1)
    return found


def ours(case: "Case", stages: int, link: Link) -> Bounds:
    problem = Problem(
        tuple(Node((seconds,)) for seconds in case.seconds),
        tuple(Tensor(block, (block + 1,), size) for block, size in enumerate(case.crossing)),
        (DeviceType("machine", stages),),
        links=((link,),),
        use_all=True,
    )
    return [0, *accumulate(len(stage.nodes) for stage in place(problem).stages)]


def moving_seconds(case: "Case", link: Link) -> NDArray[np.float64]:
    """Seconds to transfer what crosses before each block and after the last one."""
    return np.array([0.0, *(link.latency + link.factor * size for size in case.crossing), 0.0])


def slowest(case: "Case", link: Link, bounds: Bounds) -> float:
    """Returns the seconds of the slowest stage: receive, compute and send."""
    moving, seconds = moving_seconds(case, link), case.seconds
    # An empty stage does not count: nothing is transferred to or from it.
    stages = [(one, two) for one, two in pairwise(bounds) if one < two]
    return max(math.fsum([moving[one], *seconds[one:two], moving[two]]) for one, two in stages)


def least(case: "Case", stages: int, link: Link) -> float:
    """Finds the optimum by trying all pairs of cuts."""
    moving, running = moving_seconds(case, link), np.concatenate([[0.0], np.cumsum(case.seconds)])
    loads = running[None, :] - running[:, None] + moving[:, None] + moving[None, :]
    loads[np.tril_indices(len(running))] = np.inf
    best = np.where(np.arange(len(running)) == 0, 0.0, np.inf)
    for _ in range(stages):
        best = np.maximum(best[:, None], loads).min(axis=0)
    return float(best[-1])


@dataclass(frozen=True)
class Case:
    """The costs of a model's blocks on a machine.

    Attributes:
        layers: Layers in each block.
        parameters: Parameters of each block.
        seconds: Seconds of each block.
        crossing: Bytes that cross after each block except the last.
    """

    layers: Sequence[float]
    parameters: Sequence[float]
    seconds: Sequence[float]
    crossing: Sequence[float]


def layer_counts(names: Sequence[str]) -> list[float]:
    """Returns the number of layers in each block, whose name is a layer's number, or the first and the last one."""
    counts = []
    for name in names:
        first, *last = name.split("-")
        counts.append(float(int(last[-1]) - int(first) + 1 if last else 1))
    return counts


def published_cases() -> Iterable[Case]:
    for model in json.loads(BLOCKS.read_text()).values():
        crossing = [mebibytes * 2**20 for mebibytes in model["output_mib"][:-1]]
        for milliseconds in model["ms"].values():
            seconds = [one / 1e3 for one in milliseconds]
            yield Case(layer_counts(model["layers"]), model["params"], seconds, crossing)


def ratios(case: Case, stages: int, link: Link) -> dict[str, float]:
    """Returns the slowest stage relative to the optimum, for each rule."""
    rules = {
        "kerassplit": ours(case, stages, link),
        "equal layer counts": equal_layers(case.layers, stages),
        "equal parameters": even_shares(case.parameters, stages),
        "torchgpipe: block partition of times": block_partition(case.seconds, stages),
        "DeepSpeed: balanced parameters": partition_balanced(case.parameters, stages),
        "DeepSpeed's search with times": partition_balanced(case.seconds, stages),
    }
    best = least(case, stages, link)
    return {name: slowest(case, link, bounds) / best for name, bounds in rules.items()}


def show(console: Console, cases: Iterable[Case], link: Link, title: str) -> None:
    """Prints the mean and worst ratio over all cases with enough blocks, for each rule."""
    cases = list(cases)
    made = Table("rule", title=title)
    columns = []
    for stages in (2, 3, 4, 8):
        found = [ratios(case, stages, link) for case in cases if len(case.layers) >= stages]
        made.add_column(f"k={stages} ({len(found)} cases)\nmean  worst")
        columns.append(found)
    for name in columns[0][0]:
        values = [[one[name] for one in found] for found in columns]
        made.add_row(name, *(f"{np.mean(some):.3f}  {max(some):.3f}" for some in values))
    console.print(made)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabits", type=float, default=1.0, help="bandwidth of the link, Gbit/s")
    arguments = parser.parse_args()
    console = Console(width=130)
    show(console, published_cases(), FREE, "Slowest stage over the optimum, moving takes no time")
    link = Link(factor=8 / (arguments.gigabits * 1e9))
    show(console, published_cases(), link, f"Slowest stage over the optimum, {arguments.gigabits:g} Gbit/s")


if __name__ == "__main__":
    main()
