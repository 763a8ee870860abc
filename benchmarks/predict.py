"""How well a measured profile predicts the time of stages: predicted against measured, on this machine.

    python benchmarks/predict.py [--models ResNet50 MobileNetV2 DenseNet121] [--stages 2 3 4] [--plot-nothing]

Each model is profiled, planned from the profile, cut and run. The stages are compiled and timed as the profile times
blocks. Profiles and rounds of runs take turns, so that a machine that gets slower or faster does so for both; in a
round everything runs once, in turn. All figures are medians. What the call of a compiled model takes by itself is taken
off the measured time, as it is off the seconds of a block.
"""

import argparse
import gc
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

import kerassplit as ks
from kerassplit.costs.timing import _compiled

MODELS = ("ResNet50", "MobileNetV2", "DenseNet121")


@dataclass(frozen=True)
class Runner:
    """Something that can be run again and again, with the seconds that it took."""

    run: Callable[[], object]
    seconds: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def runner(model: keras.Model, values: Sequence[object]) -> Runner:
    compute = _compiled(model)
    return Runner(lambda: compute(values), [])


def empty_runner() -> Runner:
    """A compiled model that hands one number on: what a call takes by itself."""
    source = keras.Input(batch_shape=(1, 1))
    return runner(keras.Model(source, keras.layers.Identity()(source)), [keras.ops.ones((1, 1))])


def stage_runners(model: keras.Model, plan: ks.Plan, images: object) -> list[Runner]:
    """One for each stage, with what the stages before it made."""
    stages = ks.split(model, plan)
    made = {stages.inputs: images}
    runners = []
    for stage in stages:
        inputs = [made[name] for name in stage.inputs]
        runners.append(runner(stage.model, inputs))
        made |= stage.run(made)
    return runners


def play(runners: Sequence[Runner], rounds: int) -> None:
    """Runs each once a round, in turn; each time once more before, so that it finds its own weights in the cache."""
    gc.collect()
    gc.disable()
    for _ in range(rounds):
        for one in runners:
            one.run()
            began = time.perf_counter()
            one.run()
            one.seconds.append(time.perf_counter() - began)
    gc.enable()


def middle(profiles: Sequence[ks.Profile]) -> ks.Profile:
    """A profile with the median of the seconds that several of the same model have for each block."""
    seconds = np.median([[block.seconds for block in one.blocks] for one in profiles], axis=0)
    blocks = [replace(block, seconds=float(one)) for block, one in zip(profiles[0].blocks, seconds, strict=True)]
    return replace(profiles[0], blocks=tuple(blocks))


def predicted_seconds(profile: ks.Profile, plan: ks.Plan) -> list[float]:
    """What the profile says of each stage: its blocks, added up."""
    block_of = {call.name: profile.blocks[call.block] for call in profile.calls}
    stages = [dict.fromkeys(block_of[name] for name in stage.calls) for stage in plan.stages]
    return [sum(block.seconds or 0.0 for block in blocks) for blocks in stages]


def compare(name: str, numbers: Sequence[int], profiles: int, rounds: int) -> list[list[str]]:
    """Rows of the table: each stage of each plan."""
    model = getattr(keras.applications, name)(weights=None)
    dice = np.random.default_rng(0)
    images = keras.ops.convert_to_tensor(dice.standard_normal((1, *model.input_shape[1:])).astype("float32"))
    first = ks.profile(model, measure=True)
    plans = [ks.plan(model, number, balance="time", profile=first) for number in numbers]
    stages = [stage_runners(model, plan, images) for plan in plans]
    empty, whole = empty_runner(), runner(model, [images])
    everything = [empty, whole, *(one for runners in stages for one in runners)]
    play(everything, 2)  # compiles
    for one in everything:
        one.seconds.clear()
    taken = []
    for _ in range(profiles):
        play(everything, rounds)
        taken.append(ks.profile(model, measure=True))
        play(everything, rounds)
    profile = middle(taken)
    rows = [row(name, "whole", 0, sum(block.seconds or 0 for block in profile.blocks), whole.median - empty.median)]
    for plan, runners in zip(plans, stages, strict=True):
        pairs = zip(predicted_seconds(profile, plan), runners, strict=True)
        for place, (predicted, one) in enumerate(pairs):
            rows.append(row(name, f"{place + 1} of {len(runners)}", 0, predicted, one.median - empty.median))
    return rows


def row(model: str, stage: str, calls: int, predicted: float, measured: float) -> list[str]:
    return [model, stage, f"{predicted * 1e3:.2f}", f"{measured * 1e3:.2f}", f"{predicted / measured - 1:+.1%}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS, help="names in keras.applications")
    parser.add_argument("--stages", nargs="+", type=int, default=(2, 3, 4), help="numbers of stages")
    parser.add_argument("--profiles", type=int, default=3, help="how often to measure a profile")
    parser.add_argument("--rounds", type=int, default=10, help="runs of everything before and after each of them")
    arguments = parser.parse_args()
    table = Table("model", "stage", "predicted ms", "measured ms", "error")
    for name in arguments.models:
        for cells in compare(name, arguments.stages, arguments.profiles, arguments.rounds):
            table.add_row(*cells)
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
