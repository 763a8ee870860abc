"""Measures the seconds of each block of a model on this device, compiled as a stage of a split would be."""

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from kerassplit.costs.profile import Profile
from kerassplit.costs.records import Timing
from kerassplit.costs.running import cleaned_up, failures_of
from kerassplit.cutting.blocks import Region
from kerassplit.cutting.submodel import build_part
from kerassplit.cutting.trial import drawn
from kerassplit.display.progress import progress
from kerassplit.errors import SplitError
from kerassplit.graph.backends import backend
from kerassplit.graph.backends.interface import Run
from kerassplit.graph.compiling import compiled
from kerassplit.graph.model_graph import Graph
from kerassplit.graph.strings import behind_strings
from kerassplit.graph.tensor_marks import without_mask

_WARM_UP = 2  # runs, the first of which compiles
_LEAST_RUNS, _MOST_RUNS = 5, 60
_ENOUGH_SECONDS = 0.3  # of total run time: after these, only the least number of runs is needed
_EMPTY_RUNS = 10  # of the model that computes nothing, before and after each block
_BLOCKS_BETWEEN_COLLECTIONS = 8  # models are cycles of references: only the collector frees their memory


@dataclass(frozen=True, slots=True)
class _Durations:
    """Seconds of each run of a function, and of the runs of the empty model right before and after it."""

    own: list[float]
    empty: list[float]

    def __add__(self, other: "_Durations") -> "_Durations":
        return _Durations(self.own + other.own, self.empty + other.empty)

    @property
    def seconds(self) -> float:
        """The median without the overhead; varying load of the machine affects both."""
        return max(statistics.median(self.own) - statistics.median(self.empty), 0.0)


def measure(counted: Profile, graph: Graph, regions: Sequence[Region], *, seed: int, verbose: bool | None) -> Profile:
    """Adds seconds to a profile: runs the whole model and each block several times, on random input.

    Each block receives the outputs of the blocks before it. Blocks are built one at a time, and tensors are dropped
    after their last use: at most the whole model, one block and the crossing tensors are in memory. The model's state
    (of random generators, of recurrent layers) does not change.

    Args:
        counted: The profile without seconds.
        graph: The model. It must have calls.
        regions: Its blocks.
        seed: Seed of the random input.
        verbose: Whether to show a progress bar; `None`: on a terminal.

    Raises:
        SplitError: The model takes strings, or cannot be compiled or run.
    """
    return cleaned_up(lambda: _measure(counted, graph, regions, seed, verbose))


def _measure(counted: Profile, graph: Graph, regions: Sequence[Region], seed: int, verbose: bool | None) -> Profile:
    inputs = list(dict.fromkeys(graph.flat_inputs()))
    shapes = [counted.tensors[tensor].shape for tensor in inputs]
    values = {tensor: _random(graph, tensor, shapes[place], seed + place) for place, tensor in enumerate(inputs)}
    last_use = {tensor: place for place, region in enumerate(regions) for tensor in region.given}
    everything = sorted(call for region in regions for call in region.calls)
    outputs = [tensor for tensor in dict.fromkeys(graph.flat_outputs()) if tensor not in values]
    used = [tensor for tensor in inputs if tensor in last_use]
    blocks: list[_Durations] = []
    with progress(f"Measuring {graph.model.name}", len(regions) + 2, verbose, unit="") as show:
        show(0, 0)
        whole, taken, _ = _runnable(graph, everything, used, outputs)
        given = [values[tensor] for tensor in taken]
        with failures_of(f"'{graph.model.name}'"):
            empty = _empty(graph)
            runs = _between(empty, whole, given)
        show(1, 1)
        for place, region in enumerate(regions):
            blocks.append(_measure_block(graph, region, values, empty))
            for tensor in [tensor for tensor in values if last_use.get(tensor, -1) <= place]:
                del values[tensor]
            if place % _BLOCKS_BETWEEN_COLLECTIONS == 0:
                gc.collect()
            show(place + 2, place + 2)
        with failures_of(f"'{graph.model.name}'"):
            runs += _between(empty, whole, given)
        show(len(regions) + 2, len(regions) + 2)
    overhead = [duration for one in (runs, *blocks) for duration in one.empty]
    return replace(
        counted,
        blocks=tuple(
            replace(block, time=_timing(found.own), seconds=found.seconds)
            for block, found in zip(counted.blocks, blocks, strict=True)
        ),
        device=backend().device_name(),
        whole=_timing(runs.own),
        whole_seconds=runs.seconds,
        overhead=_timing(overhead),
    )


def _measure_block(
    graph: Graph, region: Region, values: dict[int, Any], empty: Callable[[], list[float]]
) -> _Durations:
    """Measures one block and adds its outputs to `values`."""
    run, taken, made = _runnable(graph, region.calls, region.given, region.made)
    given = [values[tensor] for tensor in taken]
    with failures_of(f"The block of '{graph.model.name}' that ends at '{graph.tensors[region.end].name}'"):
        durations = _between(empty, run, given)
        values.update(zip(made, map(without_mask, run(given)), strict=True))
    return durations


def _runnable(
    graph: Graph, calls: Sequence[int], given: Sequence[int], made: Sequence[int]
) -> tuple[Run, list[int], list[int]]:
    """Compiles these calls into a function; returns it with its input and output tensors, in order."""
    model, taken, results = build_part(graph, calls, given, made, graph.model.name, only_to_run=True)
    return compiled(model, _mode(graph), stateful=False, wait=True), taken, results


def _mode(graph: Graph) -> bool | None:
    """Returns the `jit_compile` that the model was compiled with; `None` if it was not compiled."""
    return graph.model.jit_compile if graph.model.compiled else None


def _empty(graph: Graph) -> Callable[[], list[float]]:
    """Returns a function that runs a compiled identity model on one number and returns the seconds of each run.

    The model's parts are named explicitly, so that the automatic names of the user's next layers do not change.
    """
    source = keras.Input(batch_shape=(1, 1), name="number")
    model = keras.Model(source, keras.layers.Identity(name="same_number")(source), name="nothing")
    run, number = compiled(model, _mode(graph), stateful=False, wait=True), keras.ops.ones((1, 1))
    for _ in range(_WARM_UP):
        run([number])
    return lambda: [_duration(run, [number]) for _ in range(_EMPTY_RUNS)]


def _between(empty: Callable[[], list[float]], run: Run, given: Sequence[Any]) -> _Durations:
    for _ in range(_WARM_UP):
        run(given)
    before = empty()
    own = _durations(run, given)
    return _Durations(own, before + empty())


def _durations(run: Run, given: Sequence[Any]) -> list[float]:
    durations: list[float] = []
    while len(durations) < _LEAST_RUNS or (sum(durations) < _ENOUGH_SECONDS and len(durations) < _MOST_RUNS):
        durations.append(_duration(run, given))
    return durations


def _duration(run: Run, given: Sequence[Any]) -> float:
    began = time.perf_counter()
    run(given)
    return time.perf_counter() - began


def _timing(durations: Sequence[float]) -> Timing:
    low, median, high = statistics.quantiles(durations, n=4, method="inclusive")
    return Timing(median, low, high, len(durations))


def _random(graph: Graph, tensor: int, shape: Any, seed: int) -> Any:
    """Draws random values as `verify` does."""
    name, dtype = graph.tensors[tensor].name, graph.tensors[tensor].symbol.dtype
    if dtype == "string":
        raise SplitError(
            f"'{name}' takes strings, and random input has none: '{graph.model.name}' cannot be measured. "
            f"{behind_strings(graph)}"
        )
    return keras.ops.convert_to_tensor(drawn(shape, dtype, np.random.default_rng([seed, 17])), dtype)
