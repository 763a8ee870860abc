"""Time to place published graphs on devices, including the proof that no placement is better.

    python benchmarks/place.py

The graphs and devices are from Tarnawski et al. (NeurIPS 2020), in `tests/support/published`. Seconds are the minimum
of several runs, from the problem to the placement.
"""

import argparse
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))

from placement_files import BEST_LOADS, published_problem  # pyright: ignore[reportMissingImports]

from kerassplit.planning.solver.place import place


def measure(name: str, rounds: int) -> list[str]:
    problem = published_problem(name)
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        placement = place(problem)
        seconds.append(time.perf_counter() - began)
    return [
        name,
        str(len(problem.nodes)),
        f"{placement.closed_sets:,}" if placement.closed_sets else "too many",
        f"{placement.value:.4f}",
        f"{placement.lower_bound:.4f}",
        f"{BEST_LOADS[name]:.4f}" if name in BEST_LOADS else "none",
        placement.method,
        f"{min(seconds):.3f}",
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    table = Table("graph", "nodes", "closed sets", "largest load", "lower bound", "published", "method", "seconds")
    for name in (*BEST_LOADS, "inceptionv3"):
        table.add_row(*measure(name, arguments.rounds))
    Console(width=110).print(table)
