"""Accuracy of a measured profile: predicted and measured times of stages, on this machine.

    python benchmarks/predict.py [--models ResNet50 MobileNetV2 DenseNet121] [--stages 2 3 4]

Each model is profiled, planned from the profile and cut; its stages are compiled and run in the same way as the profile
runs blocks. The predicted time of a stage is that of the plan plus the overhead of a call, which plans leave out.

Profiles and rounds of runs take turns, so that changes in the machine's speed affect both, and within a round
everything runs in turn. All figures are medians.
"""

import argparse
import gc
import os
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

import kerassplit as ks
from kerassplit.graph.compiling import compiled
from kerassplit.planning.work import measured_seconds

MODELS = ("ResNet50", "MobileNetV2", "DenseNet121")
WARM_UP, TIMED = 2, 3  # runs of each stage per round


@dataclass(frozen=True)
class Runner:
    """Something to run repeatedly, with the seconds of each run."""

    run: Callable[[], object]
    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def runner(model: keras.Model, values: Sequence[object]) -> Runner:
    compute = compiled(model)
    for _ in range(3):  # the first run compiles
        compute(values)
    return Runner(lambda: compute(values))


def stage_runners(model: keras.Model, plan: ks.Plan, images: object) -> list[Runner]:
    """Creates a runner for each stage, on the outputs of the stages before."""
    stages = ks.split(model, plan)
    made = {stages.inputs: images}
    runners = []
    for stage in stages:
        runners.append(runner(stage.model, [made[name] for name in stage.inputs]))
        made |= stage.run(made)
    return runners


def play(runners: Iterable[Runner], rounds: int) -> None:
    """Runs each in turn, in every round, after warm-up runs, since a stage on its own device would never pause."""
    gc.collect()
    gc.disable()
    for _ in range(rounds):
        for one in runners:
            for _ in range(WARM_UP):
                one.run()
            for _ in range(TIMED):
                began = time.perf_counter()
                one.run()
                one.seconds.append(time.perf_counter() - began)
    gc.enable()


def middle(profiles: Sequence[ks.Profile]) -> tuple[ks.Profile, float]:
    """Returns a profile with the median times of these, for the whole and for blocks, and the median overhead."""
    seconds = np.median([[block.seconds or 0.0 for block in one.blocks] for one in profiles], axis=0)
    blocks = [replace(block, seconds=float(one)) for block, one in zip(profiles[0].blocks, seconds, strict=True)]
    overhead = statistics.median(one.overhead.median for one in profiles if one.overhead)
    whole = statistics.median(one.whole_seconds or 0.0 for one in profiles)
    return replace(profiles[0], blocks=tuple(blocks), whole_seconds=whole), overhead


def stage_seconds(profile: ks.Profile, plan: ks.Plan) -> list[float]:
    """Returns the predicted seconds of each stage of a plan from this profile: the sum of its blocks."""
    block_of = {call.name: call.block for call in profile.calls}
    stages = [{block_of[name] for name in stage.calls} for stage in plan.stages]
    seconds = measured_seconds(profile)
    return [float(seconds[list(blocks)].sum()) for blocks in stages]


def compare(name: str, numbers: Sequence[int], profiles: int, rounds: int) -> Iterable[tuple[str, ...]]:
    """Returns the rows of the table: the whole model, then each stage of each plan."""
    model = getattr(keras.applications, name)(weights=None)
    dice = np.random.default_rng(0)
    images = keras.ops.convert_to_tensor(dice.standard_normal((1, *model.input_shape[1:])).astype("float32"))
    first = ks.profile(model, measure=True)
    plans = [ks.plan(model, number, balance="time", profile=first) for number in numbers]
    whole = runner(model, [images])
    stages = [stage_runners(model, plan, images) for plan in plans]
    everything = [whole, *(one for runners in stages for one in runners)]
    taken = []
    for _ in range(profiles):
        play(everything, rounds)
        taken.append(ks.profile(model, measure=True))
        play(everything, rounds)
    profile, overhead = middle(taken)

    def row(stage: str, seconds: float, one: Runner) -> tuple[str, ...]:
        predicted = seconds + overhead
        return stage, f"{predicted * 1e3:.2f}", f"{one.median * 1e3:.2f}", f"{predicted / one.median - 1:+.1%}"

    yield row("whole model", profile.whole_seconds or 0.0, whole)
    for plan, runners in zip(plans, stages, strict=True):
        for place, (seconds, one) in enumerate(zip(stage_seconds(profile, plan), runners, strict=True), 1):
            yield row(f"{place} of {len(runners)}", seconds, one)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS, help="names in keras.applications")
    parser.add_argument("--stages", nargs="+", type=int, default=(2, 3, 4), help="numbers of stages")
    parser.add_argument("--profiles", type=int, default=5, help="how often to measure a profile")
    parser.add_argument("--rounds", type=int, default=4, help="rounds before and after each of them")
    arguments = parser.parse_args()
    for name in arguments.models:
        table = Table("stage", "predicted ms", "measured ms", "error", title=f"{name}, batches of one image")
        for cells in compare(name, arguments.stages, arguments.profiles, arguments.rounds):
            table.add_row(*cells)
        Console(width=100).print(table)


if __name__ == "__main__":
    main()
