"""Time and memory of edits, compared with a sub-model of the same length and with `keras.models.clone_model`.

    python benchmarks/edit.py [--model EfficientNetV2L]

Every round runs each candidate once, in turn, so that all see the same noise; the table shows medians. Memory is
that of one result: Python objects, and weights that it does not share with the model.
"""

import argparse
import gc
import math
import os
import tracemalloc
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from build import medians
from rich.console import Console
from rich.table import Table

import kerassplit as ks

SUBMODEL = "build_submodel, the whole model"
NEW_LAYERS = "  of that, making the layers"


def with_identity_after(name: str) -> Callable[..., object]:
    """Returns a `call_function` for `clone_model` that inserts a layer after another one."""

    def call(layer: keras.Layer, *args: object, **kwargs: object) -> object:
        made = layer(*args, **kwargs)
        return keras.layers.Identity()(made) if layer.name == name else made

    return call


def candidates_of(model: keras.Model) -> dict[str, Callable[[], Any]]:
    """Returns the edits, and what they are compared with."""
    points = ks.split_points(model)
    middle = points[len(points) // 2].name
    height, width, channels = model.input_shape[1:]
    activation = next(
        layer for layer in model.layers[len(model.layers) // 2 :] if isinstance(layer, keras.layers.Activation)
    )
    insert = with_identity_after(middle)
    activations = sum(isinstance(layer, keras.layers.Activation) for layer in model.layers)
    return {
        SUBMODEL: lambda: ks.build_submodel(model),
        "insert, one layer": lambda: ks.insert(model, middle, keras.layers.Identity()),
        "replace, one activation": lambda: ks.replace(model, {activation.name: keras.layers.Activation("gelu")}),
        "replace, all activations": lambda: ks.replace(
            model, {keras.layers.Activation: lambda old: keras.layers.Activation("gelu")}
        ),
        NEW_LAYERS: lambda: [keras.layers.Activation("gelu") for _ in range(activations)],
        "remove, all dropouts": lambda: ks.remove(model, keras.layers.Dropout),
        "with_input_shape, 32 pixels more": lambda: ks.with_input_shape(model, (height + 32, width + 32, channels)),
        "clone_model, insert, layers shared": lambda: keras.models.clone_model(
            model, clone_function=lambda layer: layer, call_function=insert
        ),
        "clone_model, insert": lambda: keras.models.clone_model(model, call_function=insert),
    }


def megabytes(build: Callable[[], keras.Model], model: keras.Model) -> tuple[float, float]:
    """Returns what a result takes in MiB: its graph (Python objects), and weights that are not the model's own."""
    build()  # what only the first one takes
    gc.collect()
    tracemalloc.start()
    made = build()
    gc.collect()
    graph = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    own = {id(weight) for weight in model.variables}
    weights = sum(size_of(weight) for weight in made.variables if id(weight) not in own)
    return graph / 2**20, weights / 2**20


def size_of(weight: keras.Variable) -> int:
    """Returns the bytes of a weight."""
    return math.prod(weight.shape) * np.dtype(weight.dtype).itemsize


def main(name: str, rounds: int) -> None:
    model = getattr(keras.applications, name)(weights=None)
    candidates = candidates_of(model)
    of_keras = {way: candidates.pop(way) for way in list(candidates) if way.startswith("clone_model")}
    seconds = medians(candidates, rounds)
    memory = {way: megabytes(candidate, model) for way, candidate in candidates.items() if way != NEW_LAYERS}
    # Calling layers again leaves records in them for good, so these run last and in few rounds.
    seconds |= medians(of_keras, max(3, rounds // 8))
    memory |= {way: megabytes(candidate, model) for way, candidate in of_keras.items()}
    title = f"{name}: {len(model.layers)} layers, weights of {model.count_params() * 4 / 2**20:.0f} MiB"
    table = Table("way", "median ms", "of build_submodel", "graph MiB", "new weights MiB", title=title)
    for way in seconds:
        ratio = seconds[way] / seconds[SUBMODEL]
        table.add_row(way, f"{seconds[way] * 1000:.1f}", f"{ratio:.2f}", *(f"{one:.1f}" for one in memory.get(way, ())))
    Console(width=100).print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="EfficientNetV2L")
    parser.add_argument("--rounds", type=int, default=25)
    arguments = parser.parse_args()
    main(arguments.model, arguments.rounds)
