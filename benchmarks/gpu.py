"""The cost of cutting on a GPU: stages and whole models, kerassplit's and Keras's training; names the card.

    KERAS_BACKEND=jax python benchmarks/gpu.py [--minutes 8] [--batches 1 32 256] [--small]

Only Keras, JAX and NumPy are needed. Each model and dtype runs in separate processes, one for the whole model and one
for each number of stages, because JAX reports the peak memory of a process, not of a call. Anything that does not
finish within the given minutes is left out, and the tables say so. `--small` is for trying the script without a GPU:
small images, short texts, few layers.
"""

import argparse
import contextlib
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # else the peak is always three quarters
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

import kerassplit as ks
from kerassplit.zoo import load_model

STAGES = (1, 2, 4)
MODELS = ("ResNet50", "BERT")
DTYPES = ("float32", "bfloat16")


def bert(layers: int, width: int, length: int) -> keras.Model:
    """Builds an encoder like BERT (BERT base: 12 layers, width 768) from Keras's layers only."""
    words = keras.Input((length,), dtype="int32", name="words")
    places = keras.ops.cumsum(keras.ops.ones_like(words), axis=1) - 1
    x = keras.layers.Embedding(30522, width, name="word")(words)
    x = x + keras.layers.Embedding(length, width, name="place")(places)
    x = keras.layers.LayerNormalization(name="norm")(x)
    for layer in range(layers):
        heads = keras.layers.MultiHeadAttention(width // 64, 64, name=f"attention_{layer}")(x, x)
        x = keras.layers.LayerNormalization(name=f"attended_{layer}")(x + heads)
        y = keras.layers.Dense(4 * width, "gelu", name=f"wide_{layer}")(x)
        y = keras.layers.Dense(width, name=f"narrow_{layer}")(y)
        x = keras.layers.LayerNormalization(name=f"out_{layer}")(x + y)
    return keras.Model(words, keras.layers.Dense(2, name="scores")(x[:, 0]), name="bert")


def build(name: str, small: bool) -> keras.Model:
    """Builds the model, with seeded random weights."""
    keras.utils.set_random_seed(7)
    if name == "BERT":
        return bert(2, 128, 32) if small else bert(12, 768, 128)
    side = 64 if small else 224
    return load_model(name, weights="random", seed=7, input_shape=(side, side, 3))


def inputs_of(model: keras.Model, rows: int) -> np.ndarray:
    generator = np.random.default_rng(0)
    if model.name == "bert":
        return generator.integers(0, 30522, (rows, *model.input_shape[1:])).astype("int32")
    return generator.normal(0, 50, (rows, *model.input_shape[1:])).astype("float32")


def seconds(call: Callable[[], Any], times: int) -> float:
    """Returns the median seconds of a call, after one warm-up call."""
    call()
    found = []
    for _ in range(times):
        begin = time.perf_counter()
        call()
        found.append(time.perf_counter() - begin)
    return statistics.median(found)


def most_memory() -> int | None:
    """Returns the peak bytes of this process on the device; `None` if the backend does not report it."""
    stats = importlib.import_module("jax").local_devices()[0].memory_stats()
    return stats["peak_bytes_in_use"] if stats else None


def run_stages(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Measures a model in this number of stages, for each batch size in ascending order."""
    keras.config.set_dtype_policy(options.dtype)
    model = build(options.model, options.small)
    runs: Any = model if options.stages == 1 else ks.split(model, stages=options.stages)
    quiet = {"verbose": 0} if options.stages == 1 else {}
    for batch in sorted(options.batches):
        many = inputs_of(model, batch * options.repeats)
        latency = seconds(lambda one=many[:batch], batch=batch: runs.predict(one, batch_size=batch, **quiet), 5)
        all_of_it = seconds(lambda many=many, batch=batch: runs.predict(many, batch_size=batch, **quiet), 3)
        scores = np.asarray(runs.predict(many[:batch], batch_size=batch, **quiet), "float32")
        np.save(Path(options.folder) / f"{options.model}-{options.dtype}-{batch}-{options.stages}.npy", scores)
        yield {"batch": batch, "latency": latency, "throughput": len(many) / all_of_it, "memory": most_memory()}


def run_others(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Measures building, profiling, cached features and a step through stages, each against its alternative."""
    batch = max(options.batches)
    resnet = build("ResNet50", options.small)
    tail = "conv4_block6_out"
    rival = seconds(lambda: keras.Model(resnet.get_layer(tail).output, resnet.output), 5)
    ours = seconds(lambda: ks.build_submodel(resnet, start=tail), 5)
    yield {"what": "building a tail [s]", "ours": ours, "rival": rival, "beside": "keras.Model(tensor, output)"}

    profile = ks.profile(resnet, measure=True, batch_size=batch, verbose=False)
    beside = "the whole, measured with them"
    yield {"what": "sum of blocks [s]", "ours": profile.seconds, "rival": profile.whole_seconds, "beside": beside}

    split = ks.split(resnet, tail)
    rows = inputs_of(resnet, batch)
    labels = np.arange(len(rows)) % 1000
    loss = keras.losses.SparseCategoricalCrossentropy()
    optimizers = ks.stage_optimizers(split, keras.optimizers.SGD(1e-4))
    ours = seconds(lambda: ks.train_step(split, rows, labels, loss, optimizers), 3)
    resnet.compile(keras.optimizers.SGD(1e-4), loss)
    rival = seconds(lambda: resnet.train_on_batch(rows, labels), 3)
    yield {"what": "a training step [s]", "ours": ours, "rival": rival, "beside": "train_on_batch, compiled"}

    many = inputs_of(resnet, 4 * batch)
    targets = np.arange(len(many)) % 1000
    head, end = ks.build_submodel(resnet, end="conv5_block1_out"), ks.build_submodel(resnet, start="conv5_block1_out")
    head.trainable = False
    whole = ks.join([head, end])
    end.compile("sgd", loss)
    whole.compile("sgd", loss)
    cached = ks.cache_features(head, (many, targets), Path(options.folder) / "cache", preprocess="none", verbose=False)
    ours = seconds(lambda: end.fit(cached, epochs=1, verbose=0), 3)
    rival = seconds(lambda: whole.fit(many, targets, batch_size=32, epochs=1, verbose=0), 3)
    yield {"what": "an epoch on cached features [s]", "ours": ours, "rival": rival, "beside": "frozen head, each time"}
    point = next(point for point in ks.split_points(resnet) if point.name == "conv5_block1_out")
    trained = 3 * (point.flops_after or 0)  # forward, and twice as much backward
    rival = trained + (point.flops_before or 0)
    yield {"what": "FLOPs of a row there", "ours": trained, "rival": rival, "beside": "the limit of the gain"}


def child(options: argparse.Namespace, most: float, **more: Any) -> list[dict[str, Any]]:
    """Returns the rows from a separate process that may take this many seconds."""
    command = [sys.executable, __file__, "--child", "--repeats", str(options.repeats), "--folder", options.folder]
    command += ["--batches", *map(str, options.batches), *(["--small"] if options.small else [])]
    for name, value in more.items():
        command += [f"--{name}", str(value)]
    try:
        told = subprocess.run(command, stdout=subprocess.PIPE, timeout=max(most, 1), check=True).stdout
    except subprocess.TimeoutExpired as error:
        told = error.stdout or b""
    return [json.loads(line) for line in told.splitlines() if line.startswith(b"{")]


def compare(options: argparse.Namespace, console: Console, end: float) -> None:
    """Prints the tables that compare whole models with stages."""
    for model in MODELS:
        for dtype in DTYPES:
            table = Table("batch", "stages", "latency [ms]", "per second", "memory [MiB]", "largest difference")
            table.title = f"{model}, {dtype}"
            for stages in STAGES:
                found = child(options, end - time.monotonic(), model=model, dtype=dtype, stages=stages)
                if len(found) < len(options.batches):
                    table.add_row("", str(stages), "no time was left")
                for row in found:
                    memory = "-" if row["memory"] is None else f"{row['memory'] / 2**20:.0f}"
                    table.add_row(
                        str(row["batch"]),
                        str(stages),
                        f"{row['latency'] * 1e3:.1f}",
                        f"{row['throughput']:.0f}",
                        memory,
                        difference(Path(options.folder), f"{model}-{dtype}-{row['batch']}", stages),
                    )
            console.print(table)


def difference(folder: Path, name: str, stages: int) -> str:
    """Returns the largest difference between the scores of stages and whole model, and the largest score."""
    with contextlib.suppress(FileNotFoundError):
        whole, cut = np.load(folder / f"{name}-1.npy"), np.load(folder / f"{name}-{stages}.npy")
        return f"{np.abs(whole - cut).max():.1e} of {np.abs(whole).max():.1e}"
    return "-"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32, 256])
    parser.add_argument("--repeats", type=int, default=8, help="batches in a row, for throughput")
    parser.add_argument("--small", action="store_true")
    for hidden in ("--model", "--dtype", "--folder"):
        parser.add_argument(hidden, default="", help=argparse.SUPPRESS)
    parser.add_argument("--stages", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        for row in run_stages(options) if options.model else run_others(options):
            print(json.dumps(row), flush=True)
        return
    jax = importlib.import_module("jax")  # the other backends do not need it
    end = time.monotonic() + 60 * options.minutes
    console = Console()
    device = jax.local_devices()[0]
    console.print(
        f"{device.device_kind}, Keras {keras.__version__}, JAX {jax.__version__}, kerassplit {ks.__version__}"
    )
    with tempfile.TemporaryDirectory() as options.folder:
        table = Table("what", "kerassplit", "alternative", "which is", title="ResNet50, float32")
        for row in child(options, 20 * options.minutes) or [{"what": "no time was left"}]:  # a third of it
            ours, rival = (f"{row[key]:.3g}" if key in row else "" for key in ("ours", "rival"))
            table.add_row(row["what"], ours, rival, row.get("beside", ""))
        console.print(table)
        compare(options, console, end)


if __name__ == "__main__":
    main()
