"""Planning time: EfficientNetV2L, long chains of blocks, and models with up to 100,000 calls; 8 devices.

    python benchmarks/scale.py [--largest 100000] [--measure]

Planning seconds are the median of several runs; garbage collection is not timed.
"""

import argparse
import gc
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from build import long_model
from rich.console import Console
from rich.table import Table

import kerassplit as ks
from kerassplit.planning.solver.place import place
from kerassplit.planning.solver.problem import DeviceType, Link, Node, Problem, Tensor

DEVICES = 8


def seconds(what: Callable[[], object], rounds: int = 5) -> str:
    taken = []
    for _ in range(rounds):
        gc.collect()
        gc.disable()
        began = time.perf_counter()
        what()
        taken.append(time.perf_counter() - began)
        gc.enable()
    return f"{statistics.median(taken):.3f}"


def large_model(console: Console, measure: bool) -> None:
    """Times EfficientNetV2L, from the model and its profile to the plan."""
    model = keras.applications.EfficientNetV2L(weights=None)
    began = time.perf_counter()
    profile = ks.profile(model, measure=measure)
    profiled = time.perf_counter() - began
    title = f"EfficientNetV2L, {len(model.layers)} layers, {DEVICES} devices; profiled in {profiled:.1f} s"
    table = Table("plan", "s to plan", title=title)
    device = ks.Device("device", "1 TFLOPS", memory="2 GB", count=DEVICES)
    link = ks.Link("1 Gbit/s", "1 ms")
    plans: dict[str, Callable[[], object]] = {
        "balance='flops'": lambda: ks.plan(model, DEVICES, profile=profile),
        "links and memory": lambda: ks.plan(model, device, links=link, profile=profile),
        "links and memory, overlap": lambda: ks.plan(model, device, links=link, overlap=True, profile=profile),
        "links, latency": lambda: ks.plan(model, device, links=link, objective="latency", profile=profile),
        "links, latency, all devices used": lambda: ks.plan(
            model, device, links=link, objective="latency", leave_out=False, profile=profile
        ),
    }
    if measure:
        plans["balance='time'"] = lambda: ks.plan(model, DEVICES, balance="time", profile=profile)
    for name, plan in plans.items():
        table.add_row(name, seconds(plan))
    console.print(table)


def sizes(largest: int) -> Iterator[int]:
    size = 100
    while size <= largest:
        yield size
        size *= 10


def long_chains(console: Console) -> None:
    """Times the planner alone, on random numbers."""
    table = Table("cuts", "throughput s", "overlap s", "latency s", title=f"Planner alone, {DEVICES} equal devices")
    for cuts in (100, 300, 1000, 3000):
        dice = np.random.default_rng(0)
        asked = Problem(
            tuple(Node((seconds,)) for seconds in dice.random(cuts + 1).tolist()),
            tuple(Tensor(block, (block + 1,), float(dice.integers(1, 1000))) for block in range(cuts)),
            (DeviceType("machine", DEVICES),),
            links=((Link(factor=1e-3),),),
            use_all=True,
        )
        problems = (asked, replace(asked, overlap=True), replace(asked, objective="latency"))
        table.add_row(f"{cuts:,}", *(seconds(lambda: place(problem), 3) for problem in problems))
    console.print(table)


def long_models(console: Console, largest: int) -> None:
    """Times chains of residual blocks, from the Keras model to the plan."""
    title = f"Keras models, chains of residual blocks, {DEVICES} equal devices"
    table = Table("calls", "profile s", "plan s", "plan µs/call", title=title)
    for calls in sizes(largest):
        model = long_model(calls, residual=True)
        began = time.perf_counter()
        profile = ks.profile(model)
        profiled = time.perf_counter() - began
        taken = seconds(lambda: ks.plan(model, DEVICES, balance="memory", profile=profile), 3)
        table.add_row(f"{calls:,}", f"{profiled:.2f}", taken, f"{float(taken) / calls * 1e6:.1f}")
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--largest", type=int, default=100_000, help="calls in the longest model")
    parser.add_argument("--measure", action="store_true", help="measure EfficientNetV2L, too")
    arguments = parser.parse_args()
    console = Console(width=100)
    sys.setrecursionlimit(1_000_000)  # for Keras, which recurses; kerassplit does not need it
    large_model(console, arguments.measure)
    long_chains(console)
    long_models(console, arguments.largest)


if __name__ == "__main__":
    main()
