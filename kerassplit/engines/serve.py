"""A saved split behind one HTTP address, on Ray Serve: each stage a deployment, requests run together.

    serve run kerassplit.engines.serve:app folder=out

Stages are read from the folder by the processes that run them: on a cluster it has to be on a shared disk.
"""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kerassplit.compiling import compiled
from kerassplit.engines.bodies import GIVEN, TAKEN, Refused, read, wanted, write
from kerassplit.engines.ray_actor import StageFailure, environment, in_words
from kerassplit.engines.ray_cluster import check_resources, import_ray
from kerassplit.engines.route import Route, Step, route_in
from kerassplit.errors import SplitError
from kerassplit.manifest import described, read_manifest
from kerassplit.names import listed
from kerassplit.store import load
from kerassplit.units import parse_bytes
from kerassplit.zoo import architectures, find_architecture

import_ray()
try:
    import pydantic
    import ray
    from ray import exceptions, serve
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response
except ImportError as error:
    raise SplitError(f'Serving needs Ray Serve ({error}): pip install "kerassplit[ray]".') from error

_ATTEMPTS = 3  # runs of a batch whose process dies; Serve starts another one
_PIPELINED = 4  # batches on their way at a time, so that no stage waits for another


class Options(pydantic.BaseModel, extra="forbid"):
    """What `app` can be told.

    Attributes:
        folder: Where `Split.save` wrote the split.
        stages: Which stages to serve, one after another in the model, by name (with commas, or as a list); all by
            default. Those of a tail take what crosses, by tensor name.
        architecture: Such as `"ResNet50"`: its own preprocessing is applied to images.
        max_batch_size: Most rows that run at a time, and most rows of a request.
        batch_wait_timeout_s: Seconds that a request waits for others.
        max_body: Most bytes of a request, such as `"16 MiB"`.
        replicas: Processes of each stage, or by the stage's name.
        num_cpus: CPUs for each process of a stage.
        num_gpus: GPUs, likewise. Stages without see none.
        safe_mode: As in `kerassplit.load`.
    """

    folder: str
    stages: list[str] | str | None = None
    architecture: str | None = None
    max_batch_size: int = pydantic.Field(32, ge=1)
    batch_wait_timeout_s: float = pydantic.Field(0.01, ge=0)
    max_body: str | int = "32 MiB"
    replicas: int | dict[str, int] = 1
    num_cpus: float = pydantic.Field(1, ge=0)
    num_gpus: float = pydantic.Field(0, ge=0)
    safe_mode: bool = True


def app(args: Mapping[str, Any]) -> serve.Application:
    """Builds the application.

    Args:
        args: See `Options`; strings are taken for numbers, too, as `serve run` passes them.

    Raises:
        SplitError: An option is unknown or makes no sense, or a running cluster has too little.
        StoreError: The folder holds no split.

    Example:

    >>> serve.run(app({"folder": "out", "architecture": "ResNet50", "replicas": {"middle": 2}}))
    """
    try:
        options = Options.model_validate(dict(args))
    except pydantic.ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        known = listed(Options.model_fields)
        raise SplitError(f"These options cannot be used: {problems}. The options are {known}.") from error
    folder = Path(options.folder).resolve()
    manifest = read_manifest(folder)
    if options.architecture and options.architecture not in architectures():
        known = find_architecture(options.architecture) or "one of keras.applications, such as ResNet50"
        raise SplitError(f"There is no architecture '{options.architecture}'; expected {known}.")
    most_bytes = int(parse_bytes(options.max_body, "max_body"))
    route = _served(manifest, options.stages)
    names = [step.name for step in route.steps]
    replicas = options.replicas if isinstance(options.replicas, dict) else dict.fromkeys(names, options.replicas)
    unknown = [name for name in replicas if name not in names]
    if unknown or any(count < 1 for count in replicas.values()):
        raise SplitError(f"`replicas` must be at least 1, for stages out of {listed(names)}; got {options.replicas}.")
    needs = {"CPU": options.num_cpus, "GPU": options.num_gpus}
    if ray.is_initialized():
        check_resources(ray, [needs for name in names for _ in range(replicas.get(name, 1))])
    backend = keras.backend.backend()
    stages = []
    for number, step in enumerate(route.steps):
        deployment = serve.deployment(
            _StageServer,
            name=step.name,
            num_replicas=replicas.get(step.name, 1),
            max_ongoing_requests=2 * _PIPELINED,
            ray_actor_options=_resources(options.num_cpus, options.num_gpus, backend),
        )
        kept = route.needed_from(number + 1)
        stages.append(deployment.bind(str(folder), step, kept, options.safe_mode))
    door = serve.deployment(_Door, name="door", max_ongoing_requests=1000, ray_actor_options=_resources(0, 0, backend))
    return door.bind(route, options, most_bytes, *stages)


def _resources(num_cpus: float, num_gpus: float, backend: str) -> dict[str, Any]:
    variables = dict(environment(backend, num_gpus))
    return {"num_cpus": num_cpus, "num_gpus": num_gpus, "runtime_env": {"env_vars": variables}}


def _served(manifest: Mapping[str, Any], stages: Sequence[str] | str | None) -> Route:
    """The route through the stages that are served; it takes what has to come from outside."""
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
    return Route(route.model, inputs, outputs, steps, taken)


class _StageServer:
    """One stage."""

    def __init__(self, folder: str, step: Step, kept: frozenset[str], safe_mode: bool):
        self.step, self.kept = step, kept
        self.compute = compiled(load(folder, [step.name], safe_mode=safe_mode)[0].model)

    def run(self, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Adds the stage's outputs, and leaves out what nobody needs any more."""
        try:
            results = self.compute([tensors[name] for name in self.step.inputs])
            outputs = dict(zip(self.step.outputs, map(keras.ops.convert_to_numpy, results), strict=True))
        except Exception as error:
            raise StageFailure(f"Stage '{self.step.name}' fails on these values: {in_words(error)}") from None
        return {name: value for name, value in (tensors | outputs).items() if name in self.kept}


class _Door:
    """Takes requests, checks them, runs those together that come together, and answers."""

    def __init__(self, route: Route, options: Options, most_bytes: int, *stages: Any):
        self.route, self.options, self.most_bytes = route, options, most_bytes
        self.stages = stages
        self.stackable = all(one.shape[0] is None for one in route.takes)

        async def together(requests: list[dict[str, np.ndarray]]) -> list[Any]:
            return await self.run_together(requests)

        self.run = serve.batch(
            max_batch_size=options.max_batch_size,
            batch_wait_timeout_s=options.batch_wait_timeout_s,
            max_concurrent_batches=_PIPELINED,
        )(together)

    async def __call__(self, request: Request) -> Response:
        path = request.scope["path"].removeprefix(request.scope.get("root_path", "")) or "/"
        try:
            if request.method == "POST" and path == "/":
                return await self.answer(request)
            if request.method in ("GET", "HEAD") and path == "/":
                return JSONResponse(self.description())
            if request.method in ("GET", "HEAD") and path == "/health":
                return JSONResponse({"status": "ok"})
            if path in ("/", "/health"):
                raise Refused(405, f"{request.method} is not for {path}: POST /, GET / or GET /health.")
            raise Refused(404, f"There is nothing at {path}: POST / runs the stages, GET / describes them.")
        except Refused as refusal:
            text = str(refusal).encode("utf-8", "backslashreplace").decode()  # names may be no text
            return JSONResponse({"error": text}, refusal.status)

    async def answer(self, request: Request) -> Response:
        """Runs the stages on a body."""
        kind = wanted(request.headers.get("accept", ""))
        body = await self.body(request)
        content_type = request.headers.get("content-type", "")
        options = self.options
        tensors = await asyncio.to_thread(
            read, content_type, body, self.route.takes, self.most_bytes, options.architecture
        )
        rows = len(next(iter(tensors.values())))
        if rows > options.max_batch_size and self.stackable:
            raise Refused(422, f"The body holds {rows} rows; up to {options.max_batch_size} can be sent at a time.")
        results = await self.run(tensors)
        if isinstance(results, Refused):
            raise results
        return Response(await asyncio.to_thread(write, results, kind), media_type=kind)

    async def body(self, request: Request) -> bytes:
        """The body, unless it is too long: a little of what is too much is read, for the client to see the answer."""
        length = request.headers.get("content-length", "")
        parts, size = [], 0
        announced = int(length) if length.isdigit() else 0
        async for part in request.stream():
            size += len(part)
            if size > 2 * self.most_bytes:
                break
            if max(size, announced) <= self.most_bytes:
                parts.append(part)
            else:
                parts.clear()
        if max(size, announced) > self.most_bytes:
            raise Refused(413, f"The body has {max(size, announced)} bytes or more; up to {self.most_bytes} are taken.")
        return b"".join(parts)

    def description(self) -> dict[str, Any]:
        """What is served."""
        return {
            "model": self.route.model,
            "stages": [step.name for step in self.route.steps],
            "takes": {one.name: {"shape": one.shape, "dtype": one.dtype} for one in self.route.takes},
            "gives": self.route.outputs,
            "content_types": TAKEN,
            "accepts": GIVEN,
            "max_rows": self.options.max_batch_size,
            "max_body_bytes": self.most_bytes,
        }

    async def run_together(self, requests: Sequence[dict[str, np.ndarray]]) -> list[Any]:
        """Runs requests whose rows stack as one batch; gives for each its results, or why it has none."""
        groups: dict[Any, list[list[int]]] = {}
        for number, tensors in enumerate(requests):
            shapes = tuple(tensor.shape[1:] for tensor in tensors.values())
            batches = groups.setdefault(shapes if self.stackable else number, [])
            rows = sum(_rows(requests[one]) for one in batches[-1]) if batches else 0
            if not batches or rows + _rows(tensors) > self.options.max_batch_size:
                batches.append([])
            batches[-1].append(number)
        batches = [batch for some in groups.values() for batch in some]
        results = await asyncio.gather(*(self.run_batch([requests[one] for one in batch]) for batch in batches))
        by_number = {
            number: result
            for batch, some in zip(batches, results, strict=True)
            for number, result in zip(batch, some, strict=True)
        }
        return [by_number[number] for number in range(len(requests))]

    async def run_batch(self, requests: Sequence[dict[str, np.ndarray]]) -> list[Any]:
        """Runs requests as one batch; alone if a stage fails on it, so that nobody suffers for another's values."""
        stacked = {name: np.concatenate([one[name] for one in requests]) for name in requests[0]}
        try:
            results = await self.through_stages(stacked)
        except Refused as refusal:
            if len(requests) == 1:
                return [refusal]
            return [result for one in requests for result in await self.run_batch([one])]
        ends = np.cumsum([_rows(one) for one in requests])[:-1]
        parts = {name: np.split(results[name], ends) for name in self.route.outputs}
        return [{name: part[number] for name, part in parts.items()} for number in range(len(requests))]

    async def through_stages(self, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Sends tensors from stage to stage; they do not come here in between."""
        for attempt in range(_ATTEMPTS):
            carried: Any = tensors
            for stage in self.stages:
                carried = stage.run.remote(carried)
            try:
                return await carried
            except exceptions.RayTaskError as error:
                failure = _failure(error)
                if failure:
                    raise Refused(422, str(failure)) from error
                problem = error
            except exceptions.RayError as error:
                problem = error
            await asyncio.sleep(attempt)
        raise Refused(503, f"A stage cannot be reached just now: {type(problem).__name__}. Try again.")


def _rows(tensors: dict[str, np.ndarray]) -> int:
    return len(next(iter(tensors.values())))


def _failure(error: Any) -> StageFailure | None:
    while error is not None and not isinstance(error, StageFailure):
        error = getattr(error, "cause", None)
    return error
