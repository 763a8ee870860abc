"""Runs stages in this process: one after another on one device, or pipelined, each on a device of its own."""

import contextlib
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras

from kerassplit.cutting.stages import Stage, Stages
from kerassplit.cutting.submodel import build_submodel
from kerassplit.engines.prefetch import prefetch
from kerassplit.engines.route import Batch, Route, route_of
from kerassplit.errors import RunError, SplitError, UnsupportedModelError, without_graph_trace
from kerassplit.graph.backends import backend
from kerassplit.graph.backends.interface import Run
from kerassplit.graph.internals.layers import stateful_layer
from kerassplit.graph.tensor_marks import without_mask
from kerassplit.text import listed

_BETWEEN = 2  # batches in flight per stage when stages are on devices of their own


@dataclass(frozen=True)
class LocalOptions:
    """Options for running stages in this process.

    Attributes:
        devices: Device of each stage, such as `["gpu:0", "gpu:1"]`; if there are fewer than stages, they are used in
            turn. `None`: with several GPUs, each stage on its own, else all where Keras puts them. A stage that is
            assigned a device has a copy of its weights there.

    Raises:
        SplitError: A device does not exist.
    """

    devices: Sequence[str] | None = None

    def __post_init__(self) -> None:
        there = backend().devices()
        if self.devices is not None:
            wrong = [device for device in self.devices if device not in there]
            if wrong or not self.devices or isinstance(self.devices, str):
                raise SplitError(f"`devices` must name devices of this machine, {listed(there)}; got {self.devices!r}.")


def run(split: Stages, batches: Iterable[Batch], options: LocalOptions) -> Generator[Batch]:
    """Runs batches through all stages.

    Args:
        split: The stages.
        batches: The batches, read as they are needed, so that few are in memory at a time.
        options: See `LocalOptions`.

    Yields:
        For each batch, in order, a batch with the model's outputs as NumPy arrays.

    Raises:
        RunError: A stage fails on a batch.
    """
    route = route_of(split)
    gpus = [device for device in backend().devices() if not device.startswith("cpu")]
    devices = options.devices or (gpus if len(gpus) > 1 and len(split) > 1 else None)
    if devices is None:
        programs = [stage.compiled for stage in split]
        for batch in batches:
            for step, (stage, program) in enumerate(zip(split, programs, strict=True)):
                batch = through(stage, program, batch, route, step)
            yield _results(batch, route)
        return
    with contextlib.ExitStack() as stack:
        for step, stage in enumerate(split):
            run_there = _on_device(stage, devices[step % len(devices)], route, step)
            batches = stack.enter_context(contextlib.closing(prefetch(map(run_there, batches), _BETWEEN)))
        for batch in batches:
            yield _results(batch, route)


def refuse_states(
    model: keras.Model,
    what: str,
    so: str = "which is lost when a process restarts. Save it with stateful=False, or run the split in one process, in "
    "one go.",
) -> None:
    """Refuses a model whose results for a batch depend on earlier batches.

    Args:
        model: The model.
        what: Name of the model in the message.
        so: End of the message: the consequence of a state, and what to do.

    Raises:
        SplitError: A layer keeps a state from batch to batch.
    """
    layer = stateful_layer(model)
    if layer is not None:
        raise SplitError(f"Layer '{layer}' of {what} keeps a state from batch to batch, {so}")


def through(stage: Stage, compute: Run, batch: Batch, route: Route, step: int) -> Batch:
    """Runs a stage on a batch, and drops the tensors that are no longer needed.

    Raises:
        RunError: The stage fails.
    """
    try:
        results = compute([_as_tensor(batch.tensors[name]) for name in stage.inputs])
    except Exception as error:
        message = " ".join(without_graph_trace(str(error)).split())
        raise RunError(
            f"Stage '{stage.name}' fails on batch {batch.number} ({batch.span}): {type(error).__name__}: "
            f"{message[:500]}",
            stage=stage.name,
            batch=batch.number,
            rows=(batch.first, batch.first + batch.rows),
        ) from error
    made = {name: without_mask(value) for name, value in zip(stage.outputs, results, strict=True)}
    needed = route.needed_from(step + 1)
    return replace(batch, tensors={name: value for name, value in {**batch.tensors, **made}.items() if name in needed})


def _as_tensor(value: Any) -> Any:
    return value if value is None or keras.ops.is_tensor(value) else keras.ops.convert_to_tensor(value)


def _results(batch: Batch, route: Route) -> Batch:
    return replace(batch, tensors={name: keras.ops.convert_to_numpy(batch.tensors[name]) for name in route.results})


def _on_device(stage: Stage, device: str, route: Route, step: int) -> Callable[[Batch], Batch]:
    """Copies a stage to a device; returns a function that runs the copy on a batch."""
    with keras.device(device):
        try:
            model = build_submodel(stage.model, copy_weights=True, name=stage.model.name)
        except UnsupportedModelError as error:
            raise UnsupportedModelError(
                f"On a device of its own, stage '{stage.name}' would be a copy. {str(error).rpartition(chr(10))[0]}\n"
                "Leave `devices` out; where there are several GPUs, let the process see one (CUDA_VISIBLE_DEVICES)."
            ) from error
        copy = replace(stage, model=model)
        backend().keep_on(model, device)
    program = copy.compiled

    def run_there(batch: Batch) -> Batch:
        with keras.device(device):  # Keras stores the device per thread
            moved = {
                name: value if value is None else backend().moved(value, device) if name in stage.inputs else value
                for name, value in batch.tensors.items()
            }
            return through(copy, program, replace(batch, tensors=moved), route, step)

    return run_there
