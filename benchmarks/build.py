"""Time to find split points and to build a sub-model, compared with other ways to build one.

    python benchmarks/build.py [--largest 100000]

Every round runs each candidate once, in turn, so that all see the same noise; the tables show medians.
"""

import argparse
import gc
import os
import statistics
import sys
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import psutil
from rich.console import Console
from rich.table import Table

import kerassplit as ks
from kerassplit.graph.building import Builder


def seed_recipe(model: keras.Model, start: str) -> keras.Model:
    """The recipe from forums: from the output backwards, calls every layer again on the new tensors."""
    fresh = keras.Input(batch_shape=model.get_layer(start).output.shape)
    made = {start: fresh}

    def call(layer: keras.Layer):
        if layer.name not in made:
            node = layer._inbound_nodes[0]
            arguments = [call(symbol._keras_history.operation) for symbol in node.input_tensors]
            made[layer.name] = layer(arguments[0] if len(arguments) == 1 else arguments)
        return made[layer.name]

    return keras.Model(fresh, call(model.get_layer(model.output_names[0])))


def medians(candidates: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Returns the median seconds of each candidate over interleaved rounds; garbage collection is not timed."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, candidate in candidates.items():
            gc.collect()
            gc.disable()
            began = time.perf_counter()
            result = candidate()
            seconds[name].append(time.perf_counter() - began)
            gc.enable()
            del result
    return {name: statistics.median(values) for name, values in seconds.items()}


def beside_others(name: str, start: str, rounds: int) -> None:
    model = getattr(keras.applications, name)(weights=None)
    tensor = model.get_layer(start).output
    process = psutil.Process()
    before = process.memory_info().rss
    tails = [ks.build_submodel(model, start=start) for _ in range(10)]
    each = (process.memory_info().rss - before) / len(tails) / 2**20
    del tails
    candidates: dict[str, Callable[[], object]] = {
        "kerassplit.build_submodel": lambda: ks.build_submodel(model, start=start),
        "keras.Model(tensor, model.output)": lambda: keras.Model(tensor, model.output),
        "kerassplit.split_points": lambda: ks.split_points(model),
    }
    result = medians(candidates, rounds)
    # These two are slow, and calling layers again leaves nodes in them for good, so run them last and in few rounds.
    result |= medians(
        {
            "every layer called again": lambda: seed_recipe(model, start),
            "keras.models.clone_model (whole)": lambda: keras.models.clone_model(model),
        },
        max(3, rounds // 8),
    )
    table = Table("way", "median ms", "of keras.Model", title=f"{name} from {start}: {len(model.layers)} layers")
    for way, seconds in result.items():
        ratio = seconds / result["keras.Model(tensor, model.output)"]
        table.add_row(way, f"{seconds * 1000:.1f}", f"{ratio:.2f}")
    console.print(
        table, f"A tail takes {each:.1f} MiB; the weights of {name}: {model.count_params() * 4 / 2**20:.0f} MiB.\n"
    )


def long_model(calls: int, residual: bool) -> keras.Model:
    """Builds a chain of layers, or of residual blocks of three, without Keras's recursion and quadratic time."""
    with Builder() as builder:
        inputs = keras.Input((4,), name="x")
        x = inputs
        for _ in range(calls // 3 if residual else calls):
            y = keras.layers.Identity()(x)
            x = keras.layers.Add()([x, keras.layers.Identity()(y)]) if residual else y
        return builder.model({"x": inputs, "y": x}, "x", "y", "long", like=keras.Sequential())


def growth(largest: int) -> None:
    for residual in (False, True):
        shape = "chain of residual blocks" if residual else "chain"
        table = Table("calls", "split_points µs/call", "build_submodel µs/call", title=shape)
        size = 100
        while size <= largest:
            model = long_model(size, residual)
            points = ks.split_points(model)
            start = points[len(points) // 10].name
            result = medians(
                {"points": lambda: ks.split_points(model), "build": lambda: ks.build_submodel(model, start=start)}, 5
            )
            table.add_row(str(size), *(f"{seconds / size * 1e6:.1f}" for seconds in result.values()))
            del model
            gc.collect()
            size *= 10
        console.print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--largest", type=int, default=100_000, help="calls of the longest chain")
    parser.add_argument("--rounds", type=int, default=25)
    arguments = parser.parse_args()
    console = Console(width=100)
    sys.setrecursionlimit(1_000_000)  # for the recipe and Keras, which recurse; kerassplit does not need it
    beside_others("ResNet50", "conv2_block1_out", arguments.rounds)
    beside_others("EfficientNetV2L", "block1d_add", arguments.rounds)
    growth(arguments.largest)
