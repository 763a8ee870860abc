"""Speed of stages on this machine: the plain model, two stages in this process, and two processes on Ray.

    python benchmarks/run.py [--models ResNet50 MobileNetV2] [--batch-size 8] [--batches 60] [--rounds 3]

The plain loop is the whole model, compiled as in `predict`, with all cores. `Split.predict` and the model's own
`predict` get all images in one call, after a first one that compiles: the same images in the same batches. Each model
is cut in two where its measured times balance. Rounds take turns, so that changes in the machine's speed affect all;
rates leave out the first few batches of a round, until everything is started and compiled. The bottleneck also predicts
a rate: the stages run in parallel, so the slower one sets the pace. It is measured alone, in a process like the one on
Ray.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

import kerassplit as ks
from kerassplit.engines.ray.engine import RayOptions, run
from kerassplit.engines.route import Batch
from kerassplit.graph.compiling import compiled
from kerassplit.zoo.models import load_model

WARM_UP = 8  # batches


@dataclass
class Measured:
    """Measurements of one way to run a model: lists over the rounds."""

    rates: list[float] = field(default_factory=list)  # images per second
    starts: list[float] = field(default_factory=list)  # seconds to the first result
    memory: dict[str, float] = field(default_factory=dict)  # MiB by process

    def row(self, name: str, plain: "Measured") -> tuple[str, ...]:
        ratios = [one / other for one, other in zip(self.rates, plain.rates, strict=True)]
        memory = ", ".join(f"{process} {size:.0f}" for process, size in self.memory.items())
        rate, start = statistics.median(self.rates), statistics.median(self.starts)
        return name, f"{rate:.1f}", f"{statistics.median(ratios):.2f}", f"{start:.1f}", memory


def batches(images: np.ndarray, name: str, size: int, count: int) -> Iterator[Batch]:
    """Yields the same images repeatedly."""
    for number in range(count):
        first = number * size % len(images)
        yield Batch(number, number * size, size, {name: images[first : first + size]})


def timed(results: Iterable[object], size: int, count: int, measured: Measured, last: int) -> None:
    """Returns the rate between the warm-up and the last few batches, which no longer run in parallel with others."""
    began = time.perf_counter()
    marks = [time.perf_counter() for _ in results]
    measured.starts.append(marks[0] - began)
    measured.rates.append(size * (count - WARM_UP - last) / (marks[count - 1 - last] - marks[WARM_UP - 1]))


def plain_loop(model: keras.Model, given: Iterable[Batch]) -> Iterator[object]:
    compute = compiled(model)
    for batch in given:
        yield [keras.ops.convert_to_numpy(one) for one in compute(list(batch.tensors.values()))]


def predicting(predict: Callable[..., object], images: np.ndarray, size: int, measured: Measured) -> None:
    """Returns the rate of a call with all images, after a call with one batch."""
    began = time.perf_counter()
    predict(images[:size], batch_size=size, verbose=0)
    measured.starts.append(time.perf_counter() - began)
    began = time.perf_counter()
    predict(images, batch_size=size, verbose=0)
    measured.rates.append(len(images) / (time.perf_counter() - began))


def with_memory(results: Iterable[object], memory: dict[str, float], halfway: int) -> Iterator[object]:
    """Records the private memory of each process in the middle of a run."""
    for number, result in enumerate(results):
        if number == halfway:
            stages = [
                one for one in psutil.Process().children(recursive=True) if "StageActor" in " ".join(one.cmdline())
            ]
            for place, process in enumerate([psutil.Process(), *stages]):
                memory[f"stage {place}" if place else "here"] = process.memory_full_info().uss / 2**20
        yield result


def slowest_stage(split: ks.Split, image: np.ndarray) -> float:
    """Returns the images per second of the slower stage, alone on one core."""
    with tempfile.TemporaryDirectory() as folder:
        rates = []
        given: object = image
        for stage in split:
            taken, made = stage.inputs[0], stage.outputs[0]
            ks.Split((stage,), taken, made, stage.name).save(Path(folder) / stage.name)
            count, measured = WARM_UP + 20, Measured()
            same = (Batch(number, 0, len(image), {taken: given}) for number in range(count))
            timed(run(Path(folder) / stage.name, same), len(image), count, measured, 0)
            rates += measured.rates
            given = keras.ops.convert_to_numpy(stage.run({taken: given})[made])
    return min(rates)


def compare(name: str, size: int, count: int, rounds: int) -> Table:
    model = load_model(name, weights="random", seed=7)
    profile = ks.profile(model, batch_size=size, measure=True)
    split = ks.split(model, ks.plan(model, 2, balance="time", batch_size=size, profile=profile))
    images = np.random.default_rng(0).normal(size=(4 * size, *model.input_shape[1:])).astype("float32")
    plain, whole, here, on_ray = Measured(), Measured(), Measured(), Measured()
    many = np.concatenate([images] * (count // 4))
    with tempfile.TemporaryDirectory() as folder:
        split.save(Path(folder) / "stages")
        for number in range(rounds):
            ways = [(model.predict, whole), (split.predict, here)]
            for predict, measured in ways if number % 2 else reversed(ways):
                predicting(predict, many, size, measured)
            given = batches(images, split.inputs, size, count)
            timed(with_memory(plain_loop(model, given), plain.memory, count // 2), size, count, plain, 0)
            given = batches(images, split.inputs, size, count)
            results = with_memory(run(Path(folder) / "stages", given, RayOptions()), on_ray.memory, count // 2)
            timed(results, size, count, on_ray, 4)
    predicted = slowest_stage(split, images[:size])
    table = Table("way", "images/s", "of the plain loop", "s to first result", "MiB per process")
    table.title = f"{name}, batches of {size}, cut at {', '.join(tensor.name for tensor in split.crossings[0].tensors)}"
    table.add_row(*plain.row("plain loop", plain))
    table.add_row(*whole.row("model.predict", plain))
    table.add_row(*here.row("Split.predict, this process", plain))
    table.add_row(*on_ray.row("Ray, two processes", plain))
    table.add_row(
        "predicted: 1 / slower stage", f"{predicted:.1f}", f"{predicted / statistics.median(plain.rates):.2f}"
    )
    ratio = statistics.median(one / other for one, other in zip(here.rates, whole.rates, strict=True))
    load = f"load of the machine in the last 15 minutes: {os.getloadavg()[2]:.1f}"
    table.caption = f"Split.predict / model.predict: {ratio:.3f}; {load}"
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=("ResNet50", "MobileNetV2"), help="names in keras.applications")
    parser.add_argument("--batch-size", type=int, default=8, help="images per batch")
    parser.add_argument("--batches", type=int, default=60, help="batches per round")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each variant, in turn")
    arguments = parser.parse_args()
    for name in arguments.models:
        Console(width=110).print(compare(name, arguments.batch_size, arguments.batches, arguments.rounds))


if __name__ == "__main__":
    main()
