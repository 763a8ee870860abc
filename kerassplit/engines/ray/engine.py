"""Runs stages as Ray Core actors, each in one process or several: `run`.

The driver reads the files of a saved split and ships them through Ray's object store: the folder need not be on a
shared disk, but `kerassplit` and the backend must be installed on every machine of the cluster.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from kerassplit.engines.ray.actor import Shipment, StageActor, environment
from kerassplit.engines.ray.cluster import Needs, check_resources, connected, import_ray, quiet, reserved
from kerassplit.engines.ray.pipeline import Flight, Pipeline
from kerassplit.engines.route import Batch, Route, route_in
from kerassplit.errors import SplitError
from kerassplit.files.untrusted import other_file
from kerassplit.files.values import as_count
from kerassplit.storage.loading import open_stage
from kerassplit.storage.manifest import MANIFEST, read_manifest
from kerassplit.text import listed


@dataclass(frozen=True)
class RayOptions:
    """Options for running stages on Ray.

    Attributes:
        replicas: Number of processes of each stage, one after another as in `Plan.replicas`, or by stage name (one for
            stages not named).
        num_cpus: CPUs that Ray reserves for each process: one number for all stages, or by stage name (one for stages
            not named). They need not be whole: 0.5 lets three stages run on two cores. Ray only counts them; it does
            not limit what a process uses.
        num_gpus: GPUs, likewise; none by default. A stage without a GPU sees none.
        max_restarts: Maximum number of times that each process is restarted after it died.
        max_retries: Maximum number of times that a stage retries a batch that failed, or during which its process died.
        in_flight: Maximum number of batches in flight; by default two per process.
        address: Address of a Ray cluster, such as `"auto"` or `"10.0.0.1:6379"`. `None`: the cluster that this process
            is connected to or that `RAY_ADDRESS` names, else one started on this machine and stopped afterwards.
    """

    replicas: Sequence[int] | Mapping[str, int] = field(default_factory=dict)
    num_cpus: float | Mapping[str, float] = 1
    num_gpus: float | Mapping[str, float] = 0
    max_restarts: int = 3
    max_retries: int = 3
    in_flight: int | None = None
    address: str | None = None

    def needs(self, stage: str) -> Needs:
        """Returns the resources that Ray reserves for one process of a stage."""
        cpus, gpus = (
            amount.get(stage, default) if isinstance(amount, Mapping) else amount
            for amount, default in ((self.num_cpus, 1), (self.num_gpus, 0))
        )
        return {"CPU": cpus, "GPU": gpus} if gpus else {"CPU": cpus}

    def processes(self, stages: Sequence[str]) -> list[int]:
        """Returns the number of processes of each stage.

        Raises:
            SplitError: There is not one for each.
        """
        if isinstance(self.replicas, Mapping):
            return [self.replicas.get(name, 1) for name in stages]
        if not isinstance(self.replicas, (list, tuple)) or len(self.replicas) != len(stages):
            raise SplitError(
                f"`replicas` must be one number for each of {listed(stages)}, or numbers by stage name; "
                f"got {self.replicas!r}."
            )
        return list(self.replicas)

    def check(self, stages: Sequence[str]) -> None:
        """Checks the options for a split with these stages.

        Raises:
            SplitError: An option names an unknown stage or has an invalid value.
        """
        for option in ("replicas", "num_cpus", "num_gpus"):
            given = getattr(self, option)
            unknown = [name for name in given if name not in stages] if isinstance(given, Mapping) else []
            if unknown:
                raise SplitError(f"`{option}` names {listed(unknown)}; the stages are {listed(stages)}.")
        as_count(self.max_restarts, "max_restarts", least=0)
        as_count(self.max_retries, "max_retries", least=0)
        if self.in_flight is not None:
            as_count(self.in_flight, "in_flight")
        for stage, count in zip(stages, self.processes(stages), strict=True):
            as_count(count, f"replicas['{stage}']")
            needs = self.needs(stage)
            for option, amount, least in (("num_cpus", needs["CPU"], 0.001), ("num_gpus", needs.get("GPU", 0), 0)):
                in_range = isinstance(amount, (int, float)) and least <= amount < float("inf")
                if not in_range or (amount > 1 and amount != int(amount)):
                    raise SplitError(
                        f"`{option}` must be a whole number or a fraction of 1, at least {least}; got {amount!r} for "
                        f"stage '{stage}'."
                    )


def run(
    folder: str | Path, batches: Iterable[Batch], options: RayOptions | None = None, *, safe_mode: bool = True
) -> Generator[Batch]:
    """Runs batches through a saved split, each stage in processes of its own.

    Batches are read from `batches` as there is room for them, never more than `in_flight` ahead of those yielded.
    When a process dies or a stage fails, its work is repeated, as often as the options allow. The processes end when
    the iterator is exhausted or closed.

    Args:
        folder: Folder that `Split.save` wrote.
        batches: Batches with the model's inputs.
        options: See `RayOptions`.
        safe_mode: As in `kerassplit.load`.

    Returns:
        An iterator over the batches, in order, with the model's outputs as NumPy arrays.

    Raises:
        SplitError: Ray is missing, an option is invalid, or the cluster has too few resources.
        StoreError: The folder is missing or damaged.
        RunError: A stage keeps failing on a batch. All batches before it have been yielded by then.

    Example:

    >>> images = np.zeros((2, 224, 224, 3), "float32")
    >>> for batch in run("out", [Batch(0, 0, 2, {"input_layer": images})], RayOptions(replicas={"middle": 2})):
    ...     print(batch.tensors["predictions"].shape)
    (2, 1000)
    """
    options = options or RayOptions()
    ray = import_ray()
    folder = Path(folder)
    manifest = read_manifest(folder)
    route = route_in(manifest)
    options.check([step.name for step in route.steps])
    for entry in manifest["stages"]:
        content_of(folder, entry)  # finds damage before any work is done; checked again when a stage is shipped
    shipments = [
        partial(Shipment, entry["name"], entry["file"], (folder / MANIFEST).read_bytes(), safe_mode)
        for entry in manifest["stages"]
    ]
    contents = (content_of(folder, entry) for entry in manifest["stages"])  # one at a time in this process
    return _run(ray, route, contents, shipments, batches, options)


def content_of(folder: Path, entry: Mapping[str, Any]) -> np.ndarray:
    """Reads the bytes of a stage's file, as an array, so that Ray need not copy them."""
    with open_stage(folder, entry) as file:
        content = np.frombuffer(file.read(), np.uint8)
    if hashlib.sha256(content.data).hexdigest() != entry["sha256"]:
        raise other_file(folder / entry["file"], "saved", MANIFEST)
    return content


def _run(
    ray: Any,
    route: Route,
    contents: Iterable[np.ndarray],
    shipments: Sequence[Callable[..., Shipment]],
    batches: Iterable[Batch],
    options: RayOptions,
) -> Generator[Batch]:
    counts = options.processes([step.name for step in route.steps])
    places = [number for number, count in enumerate(counts) for _ in range(count)]
    needs = [options.needs(route.steps[number].name) for number in places]
    with quiet(), connected(ray, options.address), reserved(ray, needs) as group:
        files = [ray.put(content) for content in contents]
        starts = []
        for bundle, number in enumerate(places):
            actor = actor_in(ray, group, bundle, needs[bundle])
            starts.append((number, partial(_start, actor, shipments[number](), files[number])))
        pipeline = Pipeline(route, options.max_restarts, options.max_retries, lambda: check_resources(ray, needs))
        pipeline.start(starts)
        yield from _in_order(pipeline, batches, options.in_flight or 2 * len(places))


def actor_in(ray: Any, group: Any, bundle: int, needs: Needs, kind: type = StageActor) -> Any:
    """Builds the actor class of a process, for its bundle of a placement group."""
    strategies = import_module("ray.util.scheduling_strategies")
    gpus = needs.get("GPU", 0)
    return ray.remote(kind).options(
        num_cpus=needs["CPU"],
        num_gpus=gpus,
        scheduling_strategy=strategies.PlacementGroupSchedulingStrategy(group, bundle),
        runtime_env={"env_vars": environment(gpus)},
    )


def _start(actor: Any, shipment: Shipment, file: Any) -> tuple[Any, Any]:
    process = actor.remote()
    return process, process.load.remote(shipment, file)


def _in_order(pipeline: Pipeline, batches: Iterable[Batch], in_flight: int) -> Generator[Batch]:
    source = iter(batches)
    flights: deque[Flight] = deque()
    exhausted, trouble = False, None
    while True:
        while not exhausted and len(flights) < in_flight and not any(flight.error for flight in flights):
            try:
                batch = next(source)
            except StopIteration:
                exhausted = True
            except Exception as error:  # batches read before it are yielded first
                exhausted, trouble = True, error
            else:
                flights.append(pipeline.send(batch))
        if not flights:
            break
        first = flights[0]
        while not first.settled:
            pipeline.advance(flights)
        if first.error:
            raise first.error
        results = pipeline.results(first)
        if results is not None:
            flights.popleft()
            yield replace(first.batch, tensors=results)
    if trouble:
        raise trouble
