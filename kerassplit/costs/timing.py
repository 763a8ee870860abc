"""Seconds: each block of a model run on this device, compiled as a stage of a split would be."""

import contextlib
import gc
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import keras
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from kerassplit.costs.concrete import Shape
from kerassplit.costs.records import Timing
from kerassplit.costs.regions import Region
from kerassplit.errors import SplitError
from kerassplit.graph import Graph
from kerassplit.submodel import build_part

_WARM_UP = 2  # runs, the first of which compiles
_LEAST_RUNS, _MOST_RUNS = 5, 60
_ENOUGH_SECONDS = 0.3  # for what is run between the least and the most times
_BLOCKS_BETWEEN_COLLECTIONS = 8  # models are cycles of references: only the collector frees their memory

Run = Callable[[Sequence[Any]], list[Any]]


@dataclass(frozen=True, slots=True)
class Measurement:
    """Seconds of a model and of its blocks.

    Attributes:
        device: What ran them.
        whole: The whole model, in runs before and after those of the blocks.
        overhead: The call of a compiled model that computes nothing.
        blocks: Each block by itself.
    """

    device: str
    whole: Timing
    overhead: Timing
    blocks: tuple[Timing, ...]


def measure(
    graph: Graph, regions: Sequence[Region], shapes: Sequence[Shape], *, seed: int, verbose: bool | None
) -> Measurement:
    """Runs the whole model and each block several times, on random input.

    Each block gets what the blocks before it made. One block is built at a time, and the tensors are dropped after
    their last use: at most the whole model, one block and what crosses are in memory. The model's state (of random
    generators, of recurrent layers) does not change.

    Raises:
        SplitError: The model takes strings, or cannot be compiled or run.
    """
    inputs = list(dict.fromkeys(graph.flat_inputs()))
    values = {tensor: _random(graph, tensor, shapes[tensor], seed + place) for place, tensor in enumerate(inputs)}
    last_use = {tensor: place for place, region in enumerate(regions) for tensor in region.given}
    everything = sorted(call for region in regions for call in region.calls)
    outputs = [tensor for tensor in dict.fromkeys(graph.flat_outputs()) if tensor not in values]
    used = [tensor for tensor in inputs if tensor in last_use]
    blocks = []
    with _progress(f"Measuring {graph.model.name}", len(regions) + 2, verbose) as advance:
        try:
            whole, taken, _ = _runnable(graph, everything, used, outputs)
            given = [values[tensor] for tensor in taken]
            before = _durations(whole, given)
            advance()
            for place, region in enumerate(regions):
                blocks.append(_measure_block(graph, region, values))
                for tensor in [tensor for tensor in values if last_use.get(tensor, -1) <= place]:
                    del values[tensor]
                if place % _BLOCKS_BETWEEN_COLLECTIONS == 0:
                    gc.collect()
                advance()
            after = _durations(whole, given)
            advance()
            return Measurement(_device(), _timing(before + after), _overhead(), tuple(blocks))
        finally:
            whole = None
            gc.collect()


def _measure_block(graph: Graph, region: Region, values: dict[int, Any]) -> Timing:
    """Runs one block; adds what it makes to `values`."""
    run, taken, made = _runnable(graph, region.calls, region.given, region.made)
    given = [values[tensor] for tensor in taken]
    try:
        durations = _durations(run, given)
        values.update(zip(made, run(given), strict=True))
    except Exception as error:
        name = graph.tensors[region.end].name
        raise SplitError(
            f"The block of '{graph.model.name}' that ends at '{name}' cannot be run on random input: "
            f"{type(error).__name__}: {error}"
        ) from error
    return _timing(durations)


def _runnable(
    graph: Graph, calls: Sequence[int], given: Sequence[int], made: Sequence[int]
) -> tuple[Run, list[int], list[int]]:
    """These calls as a compiled function, with the tensors that it takes and gives in order."""
    model, taken, results = build_part(graph, calls, given, made, graph.model.name, only_to_run=True)
    return _compiled(model), taken, results


def _durations(run: Run, given: Sequence[Any]) -> list[float]:
    for _ in range(_WARM_UP):
        run(given)
    durations: list[float] = []
    while len(durations) < _LEAST_RUNS or (sum(durations) < _ENOUGH_SECONDS and len(durations) < _MOST_RUNS):
        began = time.perf_counter()
        run(given)
        durations.append(time.perf_counter() - began)
    return durations


def _timing(durations: Sequence[float]) -> Timing:
    low, median, high = statistics.quantiles(durations, n=4, method="inclusive")
    return Timing(median, low, high, len(durations))


def _overhead() -> Timing:
    """The call of a compiled model that hands one number on."""
    source = keras.Input(batch_shape=(1, 1))
    model = keras.Model(source, keras.layers.Identity()(source))
    return _timing(_durations(_compiled(model), [keras.ops.ones((1, 1))]))


def _random(graph: Graph, tensor: int, shape: Any, seed: int) -> Any:
    """Random values as `verify` takes them: floats are normal, integers 0 or 1, small enough for any vocabulary."""
    name, dtype = graph.tensors[tensor].name, graph.tensors[tensor].symbol.dtype
    if dtype == "string":
        raise SplitError(f"'{name}' takes strings, and random input has none: '{graph.model.name}' cannot be measured.")
    generator = np.random.default_rng([seed, 17])
    if "float" in dtype:
        return keras.ops.convert_to_tensor(generator.standard_normal(shape).astype("float32"), dtype)
    return keras.ops.convert_to_tensor(generator.integers(0, 2, shape).astype("int32"), dtype)


def _compiled(model: keras.Model) -> Run:
    """A model as a function of its inputs in order, compiled as `predict` compiles it; it waits for its results."""
    return {"tensorflow": _by_tensorflow, "jax": _by_jax, "torch": _by_torch}[keras.backend.backend()](model)


def _outputs(model: keras.Model, tensors: Sequence[Any]) -> list[Any]:
    """Calls the model; what it would assign to variables is dropped."""
    with keras.StatelessScope():
        return keras.tree.flatten(model(keras.tree.pack_sequence_as(model.input, tensors), training=False))


def _by_tensorflow(model: keras.Model) -> Run:
    tf = import_module("tensorflow")

    compute = tf.function(lambda tensors: _outputs(model, tensors), jit_compile=model.jit_compile, autograph=False)
    on_gpu = bool(tf.config.list_logical_devices("GPU"))

    def run(tensors: Sequence[Any]) -> list[Any]:
        results = compute(list(tensors))
        if on_gpu:
            tf.test.experimental.sync_devices()
        return results

    return run


def _by_jax(model: keras.Model) -> Run:
    jax = import_module("jax")

    trainable, others = (
        [variable.value for variable in some] for some in (model.trainable_variables, model.non_trainable_variables)
    )

    @jax.jit
    def compute(trainable: Any, others: Any, tensors: Any) -> Any:
        inputs = keras.tree.pack_sequence_as(model.input, tensors)
        outputs, _ = model.stateless_call(trainable, others, inputs, training=False)
        return keras.tree.flatten(outputs)

    return lambda tensors: jax.block_until_ready(compute(trainable, others, list(tensors)))


def _by_torch(model: keras.Model) -> Run:
    torch = import_module("torch")

    on_gpu = torch.cuda.is_available()

    def run(tensors: Sequence[Any]) -> list[Any]:
        with torch.no_grad():
            results = _outputs(model, tensors)
        if on_gpu:
            torch.cuda.synchronize()
        return results

    return run


def _device() -> str:
    """The first device of Keras's backend, by the backend's name for it."""
    backend = keras.backend.backend()
    names = keras.distribution.list_devices() if backend != "torch" else []
    if backend == "torch":
        torch = import_module("torch")

        return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    gpus = [name for name in names if not name.startswith("cpu")]
    return (gpus or names or ["cpu:0"])[0]


@contextlib.contextmanager
def _progress(what: str, steps: int, verbose: bool | None) -> Iterator[Callable[[], None]]:
    """A progress bar on standard error; gives a function that takes it one step on."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    shown = sys.stderr.isatty() if verbose is None else verbose
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not shown) as progress:
        task = progress.add_task(what, total=steps)
        yield lambda: progress.advance(task)
