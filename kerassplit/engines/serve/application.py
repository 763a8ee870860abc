"""Serves a saved split at one HTTP address, on Ray Serve: each stage is a deployment, and requests run in batches.

    serve run kerassplit.engines.serve:app folder=out

The processes that run the stages read them from the folder: on a cluster it must be on a shared disk.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kerassplit.engines.ray.actor import environment
from kerassplit.engines.ray.cluster import check_resources, import_ray
from kerassplit.engines.route import Route, route_in
from kerassplit.errors import SplitError
from kerassplit.graph.unsupported import told_of_own_prediction
from kerassplit.storage.manifest import OWN_PREDICTION, described, preprocessor_of, read_manifest
from kerassplit.text import listed, warn
from kerassplit.zoo.names import architectures, find_architecture

ray = import_ray()
try:
    from ray import serve

    from kerassplit.engines.serve.batches import PIPELINED
    from kerassplit.engines.serve.door import Door
    from kerassplit.engines.serve.options import Options, options_in
    from kerassplit.engines.serve.stage import Pinned, StageServer
except ImportError as error:
    raise SplitError(f'Serving needs Ray Serve ({error}). Run pip install "kerassplit[ray]".') from error

__all__ = ["Options", "app"]
_DOOR = "door"
_REFUSED = 100  # requests to the door beyond `max_connections`: refusals and health checks


def app(args: Mapping[str, Any]) -> serve.Application:
    """Builds the application.

    Args:
        args: See `Options`; numbers may be strings, as `serve run` passes them.

    Raises:
        SplitError: An option is unknown or invalid, or a running cluster has too few resources.
        StoreError: The folder holds no split.

    Example:

    >>> serve.run(app({"folder": "out", "architecture": "ResNet50", "replicas": {"middle": 2}}))
    """
    options, token = options_in(args)
    folder = Path(options.folder).resolve()
    manifest = read_manifest(folder)
    for text in told_of_own_prediction(manifest["model"], manifest.get(OWN_PREDICTION, [])):
        warn(text)
    if options.architecture and options.architecture not in architectures():
        known = find_architecture(options.architecture) or "one of keras.applications, such as ResNet50"
        raise SplitError(f"There is no architecture '{options.architecture}'; expected {known}.")
    route = _served(manifest, options.stages)
    options.limits(stackable=True)  # refuses invalid sizes now
    if route.warning is not None and options.architecture is None:
        warn(
            f"'{route.model}' applies a preprocessor in its own `predict`, '{route.preprocessor}', which is not "
            "served: clients must send preprocessed inputs, `model.preprocessor(x)`."
        )
    names = [step.name for step in route.steps]
    replicas = options.replicas if isinstance(options.replicas, dict) else dict.fromkeys(names, options.replicas)
    unknown = [name for name in replicas if name not in names]
    if unknown or any(count < 1 for count in replicas.values()):
        raise SplitError(f"`replicas` must be at least 1, for stages out of {listed(names)}; got {options.replicas}.")
    wanted = {name: replicas.get(name, 1) for name in names}
    needs = {"CPU": options.num_cpus, "GPU": options.num_gpus}
    if ray.is_initialized():
        check_resources(ray, [needs for count in wanted.values() for _ in range(count)])
    pinned = Pinned(folder, manifest)
    stages = []
    for number, step in enumerate(route.steps):
        deployment = serve.deployment(
            StageServer,
            name=step.name,
            num_replicas=wanted[step.name],
            max_ongoing_requests=2 * PIPELINED,
            ray_actor_options=_resources(options.num_cpus, options.num_gpus),
        )
        kept = route.needed_from(number + 1)
        stages.append(deployment.bind(pinned, step, kept, options.safe_mode))
    door = serve.deployment(
        Door,
        name=_DOOR if _DOOR not in names else f"{_DOOR}{len(max(names, key=len)) * '_'}",
        max_ongoing_requests=options.max_connections + _REFUSED,
        max_queued_requests=_REFUSED,
        ray_actor_options=_resources(0, 0),
    )
    return door.bind(route, options, token, pinned, wanted, *stages)


def _resources(num_cpus: float, num_gpus: float) -> dict[str, Any]:
    return {"num_cpus": num_cpus, "num_gpus": num_gpus, "runtime_env": {"env_vars": environment(num_gpus)}}


def _served(manifest: Mapping[str, Any], stages: Sequence[str] | str | None) -> Route:
    """Returns the route through the served stages; it takes the tensors that no served stage computes."""
    route = route_in(manifest)
    names = [step.name for step in route.steps]
    chosen = [one.strip() for one in stages.split(",")] if isinstance(stages, str) else list(stages or names)
    first = names.index(chosen[0]) if chosen[0] in names else -1
    if first < 0 or names[first : first + len(chosen)] != chosen:
        raise SplitError(f"`stages` must name stages one after another out of {listed(names)}; got {listed(chosen)}.")
    steps = route.steps[first : first + len(chosen)]
    made = {name for step in steps for name in step.outputs}
    specs = {spec["tensor"]: spec for entry in manifest["stages"] for spec in (*entry["inputs"], *entry["outputs"])}
    inputs = [name for name in dict.fromkeys(name for step in steps for name in step.inputs) if name not in made]
    behind = {name for step in route.steps[first + len(chosen) :] for name in step.inputs}
    outputs = [name for step in steps for name in step.outputs if name in {*behind, *route.results}]
    taken = tuple(described(specs[name]) for name in inputs)
    return Route(route.model, inputs, outputs, steps, taken, preprocessor_of(manifest, inputs))
