"""Compares two checkouts of kerassplit: reading, points, building, splitting, planning, profiling and running.

    python benchmarks/versions.py OLD NEW [--rounds 5] [--model ResNet50]

Each round starts one process for each checkout, in turn, and each process reports the median of several calls; the
table shows the medians over the rounds, and the median of the ratios within rounds.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

TIMED = """
import json, statistics, sys, time
import keras, numpy as np
import kerassplit as ks

assert ks.__file__.startswith(sys.argv[2] + "/"), ks.__file__
keras.utils.set_random_seed(0)
model = getattr(keras.applications, sys.argv[1])(weights=None)
images = np.random.default_rng(0).normal(size=(8, *model.input_shape[1:])).astype("float32")
point = ks.split_points(model)[len(ks.split_points(model)) // 2].name
profile = ks.profile(model)
devices = [ks.Device("a", "50 GFLOPS", count=2), ks.Device("b", "20 GFLOPS", count=2)]
split = ks.split(model, point)
split.predict(images)
calls = {
    "split_points": (5, lambda: ks.split_points(model)),
    "crossings, two tensors": (3, lambda: ks.crossings(model, 2)),
    "build_submodel": (5, lambda: ks.build_submodel(model, start=point)),
    "split": (5, lambda: ks.split(model, point)),
    "profile": (3, lambda: ks.profile(model)),
    "plan, 4 devices": (5, lambda: ks.plan(model, devices, links=ks.Link("1 GB/s"), profile=profile)),
    "verify": (3, lambda: split.verify(images)),
    "predict": (5, lambda: split.predict(images)),
}
found = {}
for name, (count, call) in calls.items():
    call()
    seconds = []
    for _ in range(count):
        begin = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin)
    found[name] = statistics.median(seconds)
print(json.dumps(found))
"""


def timed(checkout: str, model: str) -> dict[str, float]:
    """Returns the median seconds of each call, in a process that imports the package from this checkout."""
    there = Path(checkout).resolve()
    environment = {**os.environ, "PYTHONPATH": str(there), "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-P", "-c", TIMED, model, str(there)]  # -P: not the package in the current folder
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("old")
    parser.add_argument("new")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", default="ResNet50")
    options = parser.parse_args()
    rounds = []
    for place in range(options.rounds):
        order = (options.old, options.new) if place % 2 == 0 else (options.new, options.old)
        both = {checkout: timed(checkout, options.model) for checkout in order}
        rounds.append((both[options.old], both[options.new]))
    table = Table(title=f"{options.model}, medians of {options.rounds} rounds")
    table.add_column("call")
    for heading in ("old [ms]", "new [ms]", "new / old"):
        table.add_column(heading, justify="right")
    for name in rounds[0][0]:
        old, new = (statistics.median(both[which][name] for both in rounds) for which in (0, 1))
        ratio = statistics.median(after[name] / before[name] for before, after in rounds)
        table.add_row(name, f"{old * 1e3:.1f}", f"{new * 1e3:.1f}", f"{ratio:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
