"""Stages in this process: one after another on one device, or each on a device of its own with batches in between."""

import contextlib
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

import keras

from kerassplit.compiling import Run
from kerassplit.engines.ahead import ahead
from kerassplit.engines.route import Batch, Route, route_of
from kerassplit.errors import RunError, SplitError
from kerassplit.graph import all_layers
from kerassplit.names import listed
from kerassplit.rebuild import without_mask
from kerassplit.stages import Split, Stage
from kerassplit.submodel import build_submodel

_BETWEEN = 2  # batches that wait between one device and the next


@dataclass(frozen=True)
class LocalOptions:
    """How stages run in this process.

    Attributes:
        devices: The device of each stage, such as `["gpu:0", "gpu:1"]`; fewer than stages are taken in turn. `None`: on
            several GPUs each stage on its own, else all where Keras puts them. On devices of their own stages have
            copies of their weights.

    Raises:
        SplitError: There is no such device.
    """

    devices: Sequence[str] | None = None

    def __post_init__(self) -> None:
        there = devices_here()
        if self.devices is not None:
            wrong = [device for device in self.devices if device not in there]
            if wrong or not self.devices or isinstance(self.devices, str):
                raise SplitError(f"`devices` must name devices of this machine, {listed(there)}; got {self.devices!r}.")


def run(split: Split, batches: Iterable[Batch], options: LocalOptions) -> Generator[Batch]:
    """Runs batches through all stages.

    Args:
        split: The stages.
        batches: Taken as they are needed: never more of them in memory than there are places for.
        options: See `LocalOptions`.

    Yields:
        For each batch, in order, one with the model's outputs as NumPy arrays.

    Raises:
        RunError: A stage fails on a batch.
    """
    route = route_of(split)
    gpus = [device for device in devices_here() if not device.startswith("cpu")]
    devices = options.devices or (gpus if len(gpus) > 1 and len(split) > 1 else None)
    if devices is None:
        for batch in batches:
            for step, stage in enumerate(split):
                batch = through(stage, stage.compiled, batch, route, step)
            yield _results(batch, route)
        return
    with contextlib.ExitStack() as stack:
        for step, stage in enumerate(split):
            run_there = _on_device(stage, devices[step % len(devices)], route, step)
            batches = stack.enter_context(contextlib.closing(ahead(map(run_there, batches), _BETWEEN)))
        for batch in batches:
            yield _results(batch, route)


def refuse_states(stage: Stage) -> None:
    """Sees that a stage can be started anew between two batches.

    Raises:
        SplitError: It keeps a state from batch to batch.
    """
    for layer in all_layers(stage.model):
        if getattr(layer, "stateful", False):
            raise SplitError(
                f"Layer '{layer.name}' of stage '{stage.name}' keeps a state from batch to batch, which a process that "
                "is started again would have lost. Save it with stateful=False, or run the split in one process, in "
                "one go."
            )


def devices_here() -> tuple[str, ...]:
    """The devices of Keras's backend, such as `("gpu:0", "gpu:1", "cpu:0")`.

    >>> devices_here()
    ('cpu:0',)
    """
    if keras.backend.backend() == "torch":
        torch = import_module("torch")

        return (*(f"cuda:{number}" for number in range(torch.cuda.device_count())), "cpu")
    names = [name.lower() for name in keras.distribution.list_devices()]
    gpus = [name for name in names if not name.startswith("cpu")]
    if keras.backend.backend() == "jax":
        jax = import_module("jax")

        cpus = [f"cpu:{device.id}" for device in jax.devices("cpu")]
    else:
        tf = import_module("tensorflow")

        cpus = [f"cpu:{number}" for number in range(len(tf.config.list_logical_devices("CPU")))]
    return (*gpus, *cpus)


def through(stage: Stage, compute: Run, batch: Batch, route: Route, step: int) -> Batch:
    """A batch behind a stage, without the tensors that nobody needs any more.

    Raises:
        RunError: The stage fails on it.
    """
    try:
        results = compute([_as_tensor(batch.tensors[name]) for name in stage.inputs])
    except Exception as error:
        message = " ".join(str(error).split())
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
    """A stage with weights of its own on a device."""
    with keras.device(device):
        copy = replace(stage, model=build_submodel(stage.model, copy_weights=True, name=stage.model.name))
        if keras.backend.backend() == "jax":  # where a value is, its variable stays
            for variable in copy.model.variables:
                variable.assign(_moved(variable.value, device))

    def run_there(batch: Batch) -> Batch:
        with keras.device(device):  # Keras keeps it by thread
            moved = {
                name: value if value is None else _moved(value, device) if name in stage.inputs else value
                for name, value in batch.tensors.items()
            }
            return through(copy, copy.compiled, replace(batch, tensors=moved), route, step)

    return run_there


def _moved(value: Any, device: str) -> Any:
    if keras.backend.backend() == "jax":
        jax = import_module("jax")

        kind, _, number = device.partition(":")
        return jax.device_put(value, next(one for one in jax.devices(kind) if one.id == int(number)))
    if keras.backend.backend() == "torch" and keras.ops.is_tensor(value):
        return value.to(device)
    return value  # TensorFlow copies what a function takes to where it runs
