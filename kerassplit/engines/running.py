"""Runs input through the stages: `Split.predict` and `kerassplit run`."""

import contextlib
import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import keras

from kerassplit.cutting.arrays import as_taken, packed_tensors
from kerassplit.cutting.crossing import CrossingTensor
from kerassplit.cutting.stages import Stages
from kerassplit.display.progress import progress
from kerassplit.engines import local
from kerassplit.engines.inputs import EndedEarly, Source, source_of
from kerassplit.engines.output_paths import OutputPaths, check_free, finished, output_paths
from kerassplit.engines.outputs import InFiles, InMemory, in_files
from kerassplit.engines.route import Batch, Route, RunBatches, route_in, route_of
from kerassplit.engines.whole_batches import in_whole_batches, refuse_rest
from kerassplit.errors import SplitError
from kerassplit.files.atomic_file import refuse_same
from kerassplit.files.values import as_count
from kerassplit.graph.fingerprint import digest_of_calls, digest_of_weights
from kerassplit.graph.unsupported import told_of_own_prediction
from kerassplit.storage.loading import load
from kerassplit.storage.manifest import OWN_PREDICTION, read_manifest
from kerassplit.storage.saving import save
from kerassplit.text import listed, warn


@dataclass(frozen=True)
class RunResult:
    """Result of a run.

    Attributes:
        results: Results in the structure of the model's outputs.
        rows: Number of rows.
        computed: Number of rows that this run computed; the others come from an interrupted run.
        seconds: Duration, including the start of the engine.
        files: File of each output, by tensor name; empty if no files were written.
        shapes: Shape of each output, by tensor name.
    """

    results: Any
    rows: int
    computed: int
    seconds: float
    files: dict[str, Path]
    shapes: dict[str, tuple[int, ...]]


def run_stages(
    stages: Stages | Path,
    x: Any,
    output: str | os.PathLike[str] | None,
    *,
    batch_size: int = 32,
    preprocess: str | None = None,
    exif: bool = True,
    resume: bool = False,
    overwrite: bool = False,
    verbose: bool | None = None,
    engine: str = "local",
    options: Mapping[str, Any] | None = None,
    safe_mode: bool = True,
    note: Callable[[str], None] = warn,
) -> RunResult:
    """Runs input through stages. With Ray, saved stages are loaded only in the processes that run them.

    Args:
        stages: A split, or the folder that `Split.save` wrote.
        safe_mode: See `kerassplit.load`.
        note: Called with each hint that the user should see unasked.

    All other arguments are those of `Split.predict`.
    """
    if output is None and (resume or overwrite):
        raise SplitError("`resume` and `overwrite` apply to result files. Say where these are, with `output`.")
    if isinstance(stages, Stages):
        route, notes = route_of(stages), stages.notes_on_prediction()
        digests = (digest(stage.model) for stage in stages for digest in (digest_of_calls, digest_of_weights))
    else:
        manifest = read_manifest(stages)
        route, notes = route_in(manifest), told_of_own_prediction(manifest["model"], manifest.get(OWN_PREDICTION, []))
        digests = (entry["sha256"] for entry in manifest["stages"])
    source = checked_source(x, route, batch_size, preprocess, exif=exif)
    for text in [*source.notes, *notes]:
        note(text)
    places = None
    if output is not None:
        if not isinstance(output, (str, os.PathLike)):
            raise SplitError(f"`output` must be the path of a .npy file; got {output!r}.")
        job = {
            "model": route.model,
            "stages": [step.name for step in route.steps],
            "content of stages": hashlib.sha256("".join(digests).encode()).hexdigest(),
            "batch_size": int(batch_size),
            "input": source.identify and source.identify(),
            "files": [name for name, *_ in source.files],
            "states of files": [status for _, *status in source.files],
        }
        places = output_paths(Path(output), route.results, job)
    started = _engine(stages, route, source, engine, options or {}, safe_mode=safe_mode, resume=resume)
    return _run(route, source, started, places, resume, overwrite, verbose)


def checked_source(x: Any, route: Route, batch_size: int, preprocess: str | None, *, exif: bool = True) -> Source:
    """Builds a source from the input that a user passes, with hints about the preprocessor; see `source_of`."""
    batch_size = as_count(batch_size, "batch_size")
    note = route.note if preprocess is None else None
    try:
        source = source_of(x, route, route.batch or batch_size, preprocess, exif=exif)
    except SplitError as error:
        if note is not None:
            error.args = (f"{error}\n{note}", *error.args[1:])
        raise
    source = source if note is None or route.warning is None else replace(source, notes=(note, *source.notes))
    both = [one for one in route.takes if one.name in route.results]
    return replace(source, batches=lambda row: _as_given_back(source.batches(row), both)) if both else source


def _as_given_back(batches: Generator[Batch], both: Sequence[CrossingTensor]) -> Generator[Batch]:
    """Yields batches in which tensors that are both inputs and outputs have the form that the model returns."""
    with contextlib.closing(batches):
        for batch in batches:
            taken = {one.name: as_taken(batch.tensors[one.name], one) for one in both}
            given = {name: None if one is None else keras.ops.convert_to_numpy(one) for name, one in taken.items()}
            yield replace(batch, tensors=batch.tensors | given)


@contextlib.contextmanager
def _engine(
    stages: Stages | Path,
    route: Route,
    source: Source,
    engine: str,
    options: Mapping[str, Any],
    *,
    safe_mode: bool,
    resume: bool,
) -> Iterator[RunBatches]:
    """Opens the engine that runs batches through stages, in memory or in a folder."""
    if engine == "local":
        here = _options(local.LocalOptions, engine, options)
        split = load(stages, safe_mode=safe_mode) if isinstance(stages, Path) else stages
        refuse_rest(split, route, source.rows)
        if resume:
            for stage in split:
                local.refuse_states(stage.model, f"stage '{stage.name}'")
        yield in_whole_batches(lambda batches: local.run(split, batches, here), route)
    elif engine == "ray":
        from kerassplit.engines.ray import engine as ray_core

        there = _options(ray_core.RayOptions, engine, options)
        with contextlib.ExitStack() as stack:
            if isinstance(stages, Path):
                folder = stages
            else:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kerassplit."))) / "stages"
                save(stages, folder, tells_of_shared=False)  # sharing does not matter without training
            yield in_whole_batches(lambda batches: ray_core.run(folder, batches, there, safe_mode=safe_mode), route)
    else:
        raise SplitError(f"There is no engine {engine!r}. Expected 'local' or 'ray'.")


def _options(kind: Any, engine: str, options: Mapping[str, Any]) -> Any:
    known = [field.name for field in fields(kind)]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise SplitError(f"The engine '{engine}' has no option {listed(unknown)}. It has {listed(known)}.")
    return kind(**options)


def _run(
    route: Route,
    source: Source,
    engine: contextlib.AbstractContextManager[RunBatches],
    places: OutputPaths | None,
    resume: bool,
    overwrite: bool,
    verbose: bool | None,
) -> RunResult:
    began = time.monotonic()
    if places is not None:
        refuse_same([*places.paths.values(), places.record], source.reads)
    arrays, computed = (finished(places) if places and resume else None), 0
    if arrays is None:
        if places is not None:
            check_free(places, resume=resume, overwrite=overwrite)
        files = None if places is None else in_files(places, resume=resume, most=source.rows)
        # The bar also covers the start of the engine, which takes time.
        bar = progress(f"{route.model}, {len(route.steps)} stages", source.rows, verbose)
        with bar as show, engine as run_batches, files or contextlib.nullcontext(InMemory(route.results)) as output:
            computed = _compute(source, run_batches, output, show)
            if not output.rows:
                raise SplitError("The input holds no rows. Expected at least one.")
            arrays = output.finish()
    return RunResult(
        results=packed_tensors(arrays, route.outputs),
        rows=len(next(iter(arrays.values()))),
        computed=computed,
        seconds=time.monotonic() - began,
        files={} if places is None else places.paths,
        shapes={name: array.shape for name, array in arrays.items()},
    )


def _compute(
    source: Source, run_batches: RunBatches, output: InMemory | InFiles, show: Callable[[int, int], None]
) -> int:
    """Runs the batches that are not computed yet; returns their number of rows."""
    computed = 0
    with contextlib.closing(source.batches(output.rows)) as batches:
        try:
            with contextlib.closing(run_batches(batches)) as results:
                for batch in results:
                    output.add(batch)
                    computed += batch.rows
                    show(output.rows, computed)
        except SplitError as error:
            if isinstance(error, EndedEarly):
                way_out = "It was a different input: pass overwrite=True (--overwrite) to start over."
                error.args = (f"{error} {way_out}", *error.args[1:])
            elif output.rows and isinstance(output, InFiles):
                kept = f"The {output.rows} rows before it are kept: continue with resume=True (--resume)."
                error.args = (f"{error} {kept}", *error.args[1:])
            raise
    return computed
