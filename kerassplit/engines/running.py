"""From input to output through the stages: `Split.predict` and `kerassplit run`."""

import contextlib
import hashlib
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from numbers import Integral
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
from kerassplit.engines.outputs import InMemory, Output, in_files
from kerassplit.engines.route import Batch, Route, RunBatches, route_in, route_of
from kerassplit.engines.whole_batches import in_whole_batches, refuse_rest
from kerassplit.errors import SplitError
from kerassplit.files.atomic_file import refuse_same
from kerassplit.graph.fingerprint import digest_of_calls, digest_of_weights
from kerassplit.graph.unsupported import told_of_own_prediction
from kerassplit.storage.manifest import OWN_PREDICTION, read_manifest
from kerassplit.storage.saving import load, save
from kerassplit.text import listed, warn


@dataclass(frozen=True)
class Ran:
    """A run that has ended.

    Attributes:
        results: In the structure of the model's outputs.
        rows: How many.
        computed: How many of them this run computed; the others were there from one that was interrupted.
        seconds: That it took, with starting the engine.
        files: The file of each output, by tensor name, where files were written.
        shapes: The shape of each output, likewise.
    """

    results: Any
    rows: int
    computed: int
    seconds: float
    files: dict[str, Path]
    shapes: dict[str, tuple[int, ...]]


def predict(
    split: Stages,
    x: Any,
    batch_size: int,
    verbose: bool | None,
    *,
    output: Any,
    resume: bool,
    overwrite: bool,
    preprocess: str | None,
    exif: bool,
    engine: str,
    options: Mapping[str, Any],
) -> Any:
    """Runs input through the stages of a split; see `Split.predict`."""
    if output is None and (resume or overwrite):
        raise SplitError("`resume` and `overwrite` are about files of results: say where they are, with `output`.")
    route = route_of(split)
    source = checked_source(x, route, batch_size, preprocess, exif=exif)
    for text in [*source.notes, *split.notes_on_prediction()]:
        warn(text)
    places = None
    if output is not None:
        if not isinstance(output, (str, os.PathLike)):
            raise SplitError(f"`output` must be the path of a .npy file; got {output!r}.")
        places = _places(Path(output), route, source, batch_size, _digest(split))
    # The stages are the caller's own objects: what is saved for Ray may bring their code.
    started = _engine(split, route, source, engine, options, safe_mode=False, resume=resume)
    return _run(route, source, started, places, resume, overwrite, verbose).results


def run_folder(
    folder: Path,
    x: Any,
    output: Path,
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
    note: Callable[[str], None] = warnings.warn,
) -> Ran:
    """Runs input through saved stages. With Ray they are loaded where they run, and not here.

    Args:
        folder: What `Split.save` wrote.
        safe_mode: See `kerassplit.load`.
        note: Is told what somebody should know who did not ask.

    All others are those of `Split.predict`.
    """
    manifest = read_manifest(folder)
    route = route_in(manifest)
    source = checked_source(x, route, batch_size, preprocess, exif=exif)
    for text in [*source.notes, *told_of_own_prediction(route.model, manifest.get(OWN_PREDICTION, []))]:
        note(text)
    digest = hashlib.sha256("".join(entry["sha256"] for entry in manifest["stages"]).encode()).hexdigest()
    places = _places(output, route, source, batch_size, digest)
    started = _engine(folder, route, source, engine, options or {}, safe_mode=safe_mode, resume=resume)
    return _run(route, source, started, places, resume, overwrite, verbose)


def checked_source(x: Any, route: Route, batch_size: int, preprocess: str | None, *, exif: bool = True) -> Source:
    """The rows that a user passes; see `source_of`."""
    if not isinstance(batch_size, Integral) or batch_size < 1:
        raise SplitError(f"`batch_size` must be a whole number, at least 1; got {batch_size!r}.")
    note = route.note if preprocess is None else None
    try:
        source = source_of(x, route, route.batch or int(batch_size), preprocess, exif=exif)
    except SplitError as error:
        if note is not None:
            error.args = (f"{error}\n{note}", *error.args[1:])
        raise
    source = source if note is None or route.warning is None else replace(source, notes=(note, *source.notes))
    both = [one for one in route.takes if one.name in route.results]
    return replace(source, batches=lambda row: _as_given_back(source.batches(row), both)) if both else source


def _as_given_back(batches: Generator[Batch], both: Sequence[CrossingTensor]) -> Generator[Batch]:
    """Batches with what are inputs and outputs of a model as the model gives them."""
    with contextlib.closing(batches):
        for batch in batches:
            taken = {one.name: as_taken(batch.tensors[one.name], one) for one in both}
            given = {name: None if one is None else keras.ops.convert_to_numpy(one) for name, one in taken.items()}
            yield replace(batch, tensors=batch.tensors | given)


def _places(output: Path, route: Route, source: Source, batch_size: int, digest: str) -> OutputPaths:
    job = {
        "model": route.model,
        "stages": [step.name for step in route.steps],
        "content of stages": digest,
        "batch_size": int(batch_size),
        "input": source.identify and source.identify(),
        "files": [name for name, *_ in source.files],
        "states of files": [status for _, *status in source.files],
    }
    return output_paths(output, route.results, job)


def _digest(split: Stages) -> str:
    """What tells a split from others: its calls and weights."""
    digests = [digest(stage.model) for stage in split for digest in (digest_of_calls, digest_of_weights)]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


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
    """What runs batches through stages, which are in memory or in a folder."""
    if engine == "local":
        here = _options(local.LocalOptions, engine, options)
        split = load(stages, safe_mode=safe_mode) if isinstance(stages, Path) else stages
        refuse_rest(split, route, source.rows)
        if resume:
            for stage in split:
                local.refuse_states(stage)
        yield in_whole_batches(lambda batches: local.run(split, batches, here), route)
    elif engine == "ray":
        from kerassplit.engines.ray import engine as ray_core

        there = _options(ray_core.RayOptions, engine, options)
        with contextlib.ExitStack() as stack:
            if isinstance(stages, Path):
                folder = stages
            else:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kerassplit."))) / "stages"
                with warnings.catch_warnings(action="ignore"):  # of weights that stages share: these do not learn
                    save(stages, folder)
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
) -> Ran:
    began = time.monotonic()
    if places is not None:
        refuse_same([*places.paths.values(), places.record], source.reads)
    arrays, computed = (finished(places) if places and resume else None), 0
    if arrays is None:
        if places is not None:
            check_free(places, resume=resume, overwrite=overwrite)
        files = None if places is None else in_files(places, resume=resume, most=source.rows)
        with engine as run_batches, files or contextlib.nullcontext(InMemory(route.results)) as output:
            what = f"{route.model}, {len(route.steps)} stages"
            computed = _compute(source, run_batches, output, what, verbose)
            if not output.rows:
                raise SplitError("The input holds no rows. Expected at least one.")
            arrays = output.finish()
    return Ran(
        results=packed_tensors(arrays, route.outputs),
        rows=len(next(iter(arrays.values()))),
        computed=computed,
        seconds=time.monotonic() - began,
        files={} if places is None else places.paths,
        shapes={name: array.shape for name, array in arrays.items()},
    )


def _compute(source: Source, run_batches: RunBatches, output: Output, what: str, verbose: bool | None) -> int:
    """Runs the batches that are not there yet; gives how many rows they had."""
    computed = 0
    with contextlib.closing(source.batches(output.rows)) as batches, progress(what, source.rows, verbose) as show:
        try:
            with contextlib.closing(run_batches(batches)) as results:
                for batch in results:
                    output.add(batch)
                    computed += batch.rows
                    show(output.rows, computed)
        except SplitError as error:
            if isinstance(error, EndedEarly):
                way_out = "It was another one: pass overwrite=True (--overwrite) to begin again."
                error.args = (f"{error} {way_out}", *error.args[1:])
            elif output.rows and not isinstance(output, InMemory):
                kept = f"The {output.rows} rows before it are kept: go on with resume=True (--resume)."
                error.args = (f"{error} {kept}", *error.args[1:])
            raise
    return computed
