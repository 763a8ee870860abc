"""Gap between the proved bound and the best value when closed sets are not listed: stages over links, any tensors.

    python benchmarks/bounds.py --time-limit 60 [--times measured]

Devices of 1 TFLOPS, all used, with links of 1, 10 and 100 GB/s; times from FLOPs, or measured here; batches of one
image. "work" is the bound that ignores transfers: all work distributed evenly.
"""

import argparse
import time

import keras
from rich.console import Console
from rich.table import Table

import kerassplit as ks
from kerassplit.graph.reading import read_graph
from kerassplit.planning.graph_problem import GraphProblem
from kerassplit.planning.options import PlanOptions, task_of
from kerassplit.planning.solver.place import place
from kerassplit.planning.solver.problem import Problem

MODELS = ("InceptionV3", "NASNetMobile", "NASNetLarge")


def problems(name: str, counts: list[int], gigabytes: list[float], measured: bool):
    """Yields the placement problem of a model for each number of devices and each bandwidth."""
    model = getattr(keras.applications, name)(weights=None)
    graph, profile = read_graph(model), ks.profile(model, measure=measured, verbose=False)
    for count in counts:
        for bandwidth in gigabytes:
            devices = ks.Device("accelerator", 1e12, count=count)
            if measured:
                devices = ks.Device("accelerator", seconds=profile, count=count)
            options = PlanOptions(links=ks.Link(bandwidth * 1e9), max_crossing="any", profile=profile, verbose=False)
            task = task_of(graph, devices, options)
            yield count, bandwidth, GraphProblem(task).problem()


def measure(problem: Problem, time_limit: float) -> list[str]:
    began, computed = time.perf_counter(), time.process_time()
    found = place(problem, limit=0, time_limit=time_limit)
    seconds, computed = time.perf_counter() - began, time.process_time() - computed
    work = sum(node.seconds[0] for node in problem.nodes) / problem.devices[0].count
    return [
        f"{found.value * 1e3:.4f}",
        f"{found.lower_bound * 1e3:.4f}",
        f"{work / found.value:.3f}",
        f"{found.lower_bound / found.value:.4f}",
        f"{seconds:.1f}",
        f"{computed:.1f}",
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--devices", nargs="+", type=int, default=[4, 8, 16])
    parser.add_argument("--gigabytes", nargs="+", type=float, default=[1, 10, 100], help="bandwidths, GB/s")
    parser.add_argument("--times", choices=["flops", "measured"], default="flops")
    parser.add_argument("--time-limit", type=float, default=60.0, help="seconds for each placement")
    arguments = parser.parse_args()
    headings = ("value ms", "bound ms", "work / value", "bound / value", "seconds", "CPU seconds")
    table = Table("model", "nodes", "devices", "GB/s", *headings)
    for name in arguments.models:
        for count, bandwidth, problem in problems(
            name, arguments.devices, arguments.gigabytes, arguments.times == "measured"
        ):
            cells = measure(problem, arguments.time_limit)
            table.add_row(name, str(len(problem.nodes)), str(count), f"{bandwidth:g}", *cells)
        table.add_section()
    Console(width=120).print(table)
