"""Writes stages in the formats of other runtimes, runs them there, and compares the results with those of Keras.

Each stage is traced into a SavedModel, which is then converted to the other formats in a separate process: the
converters use gigabytes of memory and never release them. If Keras runs on TensorFlow, the stage is traced in this
process, because layers defined by this program exist nowhere else.
"""

import importlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import keras

from kerassplit._version import __version__
from kerassplit.cutting.comparison import check_tolerance
from kerassplit.cutting.stages import Stage, Stages
from kerassplit.display.progress import progress
from kerassplit.errors import SplitError, VerificationError
from kerassplit.files.atomic_folder import placed, resolved, scratch_folder
from kerassplit.files.untrusted import sha256
from kerassplit.graph.shapes import OpenSides
from kerassplit.graph.sizes import bytes_in
from kerassplit.storage.exports.comparing import compare, computed, input_to_compare_on, tolerance_for
from kerassplit.storage.exports.formats import Format, distribution, find_format
from kerassplit.storage.exports.formats.naming import exported_names
from kerassplit.storage.exports.manifest import EXPORT_MANIFEST, FORMAT_VERSION, check_export, files_of
from kerassplit.storage.exports.processes import WorkerError, work
from kerassplit.storage.exports.reasons import reason
from kerassplit.storage.exports.receipt import ExportedStage, ExportReceipt
from kerassplit.storage.saving import save
from kerassplit.storage.structure import described_ends, free_name
from kerassplit.text import warn

Names = tuple[Sequence[str], Sequence[str]]
"""Names of a stage's inputs and outputs in the exported file."""


def export(
    split: Stages,
    directory: str | os.PathLike[str],
    *,
    format: str,  # noqa: A002 (as in `keras.Model.export`)
    verify: bool = True,
    x: Any = None,
    tolerance: float | None = None,
    overwrite: bool = False,
    seed: int = 0,
    open_sides: OpenSides = None,
    verbose: bool | None = None,
) -> ExportReceipt:
    """Exports a split; see `Split.export`."""
    replaced = check_export(directory, format, verify=verify, overwrite=overwrite, x=x)
    for text in split.notes_on_prediction():
        warn(text)
    if tolerance is not None:
        check_tolerance(tolerance)
    form, target = find_format(format), resolved(directory)
    if split.preprocessor is not None and len(split.model.inputs) == 1:
        warn(
            f"The `predict` of '{split.name}' applies its preprocessor, '{split.preprocessor}', which is not exported. "
            "Pass preprocessed input, `model.preprocessor(x)`, to the exported stages."
        )
    given, expected, compared_on = {}, {}, None
    if verify:
        given, compared_on = input_to_compare_on(split, x, seed, open_sides)
        expected = computed(split, given, compared_on, open_sides)
    allowed = tolerance_for(split) if tolerance is None else tolerance
    old = (lambda: files_of(target)) if replaced else None
    bar = progress(f"Exporting {split.name} as {form.title}", len(split) + verify, verbose, unit="")
    with placed(target, EXPORT_MANIFEST, old) as folder, scratch_folder(folder.parent) as scratch, bar as show:
        written = []
        for one in _write(split, form, folder, scratch, target):
            written.append(one)
            show(len(written), len(written))
        entries, stages = zip(*written, strict=True)
        manifest = json.dumps(_manifest(split, form, entries), indent=2, ensure_ascii=False)
        (folder / EXPORT_MANIFEST).write_text(manifest + "\n", encoding="utf-8")
        receipt = ExportReceipt(
            model=split.name,
            format=form.name,
            directory=str(directory),
            stages=stages,
            comparisons=compare(split, form, folder, scratch, given, expected, allowed) if verify else (),
            compared_on=compared_on,
            runtime=f"{form.to_run[-1]} {_version(form.to_run[-1])}" if verify else None,
            tolerance=allowed,
        )
        if not receipt.ok:
            remedy = "a larger `tolerance` or verify=False" if receipt.compared else "verify=False"
            raise VerificationError(
                f"{receipt.verdict()} Nothing was written. To export the stages anyway, pass {remedy}.", receipt=receipt
            )
    return receipt


def _write(
    split: Stages, form: Format, folder: Path, scratch: Path, target: Path
) -> Iterator[tuple[dict[str, Any], ExportedStage]]:
    """Exports the stages one by one; yields the manifest entry and the receipt entry of each."""
    saved = None if keras.backend.backend() == "tensorflow" else _saved(split, scratch)
    known: set[Path] = set()
    for stage in split:
        names = exported_names(stage.inputs, stage.outputs)
        path, traced = free_name(stage.name, form.suffix, target, {EXPORT_MANIFEST}), scratch / "traced"
        began = time.perf_counter()
        memory = _trace(stage, names, form, traced, saved)
        if form.name == "savedmodel":
            traced.rename(folder / path)
        else:
            peaks = (memory, _convert(stage, form, traced, folder / path))
            memory = max((peak for peak in peaks if peak is not None), default=None)
            shutil.rmtree(traced)
        seconds = time.perf_counter() - began
        files = sorted({file for file in folder.rglob("*") if file.is_file()} - known)
        known.update(files)
        entry = {
            "name": stage.name,
            "path": path,
            "files": [
                {"path": file.relative_to(folder).as_posix(), "bytes": file.stat().st_size, "sha256": sha256(file)}
                for file in files
            ],
            "inputs": described_ends(stage.inputs, stage.model.inputs),
            "outputs": described_ends(stage.outputs, stage.model.outputs),
        }
        for spec, name in zip((*entry["inputs"], *entry["outputs"]), (*names[0], *names[1]), strict=True):
            spec["name"] = name
        size = sum(file["bytes"] for file in entry["files"])
        weights = bytes_in(stage.model.weights)
        yield entry, ExportedStage(stage.name, path, size, weights, seconds, memory)


def _saved(split: Stages, scratch: Path) -> Path:
    """Saves the split in Keras's own format, for a process in which Keras runs on TensorFlow."""
    folder = scratch / "split"
    save(split, folder, tells_of_shared=False)  # exported stages are not trained
    return folder


def _trace(stage: Stage, names: Names, form: Format, traced: Path, saved: Path | None) -> int | None:
    """Writes a stage as a SavedModel; returns the peak memory of the other process, if there was one."""
    hint = ""
    try:
        if saved is None:
            from kerassplit.storage.exports.formats import savedmodel

            savedmodel.trace(stage.model, *names, traced)
            return None
        hint = (
            " It was traced in a process in which Keras runs on TensorFlow and does not know your custom layers. If "
            "the model has any, run your program with KERAS_BACKEND=tensorflow."
        )
        job = {"split": str(saved), "stage": stage.name, "inputs": names[0], "outputs": names[1]}
        return work("trace", traced.parent, **job, target=str(traced))["peak_memory"]
    except OSError:
        raise
    except Exception as error:
        why = error if isinstance(error, WorkerError) else reason(error)
        raise _refusal(stage, form, f"TensorFlow cannot trace it: {why}.{hint}") from error


def _convert(stage: Stage, form: Format, traced: Path, path: Path) -> int | None:
    """Converts the SavedModel of a stage; returns the peak memory of the process that did so."""
    try:
        job = {"form": form.name, "saved_model": str(traced), "target": str(path)}
        return work("convert", traced.parent, **job)["peak_memory"]
    except WorkerError as error:
        raise _refusal(stage, form, f"{error}.") from error


def _refusal(stage: Stage, form: Format, reason: str) -> SplitError:
    return SplitError(f"Stage '{stage.name}' cannot be exported as {form.title}: {reason} Nothing was written.")


def _manifest(split: Stages, form: Format, entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    packages = dict.fromkeys(("keras", *form.to_write))
    return {
        "format_version": FORMAT_VERSION,
        "format": form.name,
        "model": split.name,
        "inputs": split.inputs,
        "outputs": split.outputs,
        "stages": list(entries),
        "versions": {"kerassplit": __version__, **{distribution(name): _version(name) for name in packages}},
    }


def _version(package: str) -> str:
    try:
        return metadata.version(distribution(package))
    except metadata.PackageNotFoundError:  # TensorFlow is distributed under several names, such as tensorflow-cpu
        return str(getattr(importlib.import_module(package), "__version__", "unknown"))
