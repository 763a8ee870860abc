"""Compares exported stages with the same stages in Keras, on the same input."""

import importlib.resources
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kerassplit.cutting.arrays import wrong_batch
from kerassplit.cutting.comparison import largest_difference, numbers_in
from kerassplit.cutting.stages import Stages
from kerassplit.cutting.trial import random_input, random_refused, state_kept
from kerassplit.errors import SplitError
from kerassplit.files.arrays import read_arrays, write_arrays
from kerassplit.graph.internals.layers import all_layers
from kerassplit.graph.reading import read_graph
from kerassplit.graph.shapes import OpenSides, fixed_batch
from kerassplit.storage.exports.formats import Format
from kerassplit.storage.exports.processes import WorkerError, work
from kerassplit.storage.exports.receipt import ExportComparison
from kerassplit.text import listed
from kerassplit.zoo.names import find_architecture
from kerassplit.zoo.photos import read_photo, shipped_photo

TOLERANCES = {"float64": 1e-4, "float32": 1e-4, "float16": 3e-2, "bfloat16": 1e-1}
"""The largest difference allowed, relative to the largest number in its tensor, by the least precise dtype in which the
model computes. Runtimes sum in a different order and fuse layers: this changes the last bits of every number, and the
errors grow with depth. A tensor that was mistaken for another one differs by about its own magnitude."""

RANDOM = "random input"
"""Where arrays come from, in `ExportReceipt.compared_on`."""


def tolerance_for(split: Stages) -> float:
    """Returns the largest difference to allow, relative to the scale of its tensor."""
    layers = (layer for stage in split for layer in all_layers(stage.model))
    return max(TOLERANCES.get(layer.compute_dtype, 0.0) for layer in layers)


def input_to_compare_on(split: Stages, x: Any, seed: int, open_sides: OpenSides = None) -> tuple[dict[str, Any], str]:
    """Returns arrays by tensor name, and their origin: given input, a photo (known architectures), or random input."""
    if x is not None:
        tensors = split.named_inputs(x)
        left_out = [name for name, value in tensors.items() if value is None]
        if left_out:
            raise SplitError(f"Exported stages need every input. Pass arrays for {listed(left_out)} as well.")
        wrong = wrong_batch(tensors, fixed_batch(symbol.shape for symbol in split.model.inputs), split.name)
        if wrong is not None:
            raise SplitError(wrong)
        return tensors, "given input"
    model = split.model
    architecture = find_architecture(split.name)
    if architecture is not None and len(model.inputs) == 1 and len(model.inputs[0].shape) == 4:
        with importlib.resources.as_file(shipped_photo()) as photo:
            image = read_photo(photo, model.inputs[0].shape[1:], architecture, model.name)
        mirrored = image[:, ::-1]  # flips the first or second axis, wherever the channels are
        return split.named_inputs(np.stack([image, mirrored])), "a photograph"
    return split.named_inputs(random_input(read_graph(model), seed, open_sides)), RANDOM


def computed(split: Stages, given: Mapping[str, Any], compared_on: str, open_sides: OpenSides) -> dict[str, np.ndarray]:
    """Returns what the stages compute in Keras, by tensor name."""
    expected: dict[str, np.ndarray] = {}
    tensors = dict(given)
    try:
        with state_kept([stage.model for stage in split]):
            for stage in split:
                outputs = stage.run(tensors, training=False)
                tensors |= outputs
                expected |= {name: keras.ops.convert_to_numpy(value) for name, value in outputs.items()}
    except Exception as error:
        if compared_on == RANDOM:
            raise random_refused(split.name, error, open_sides) from error
        raise
    return expected


def compare(
    split: Stages,
    form: Format,
    folder: Path,
    scratch: Path,
    given: Mapping[str, Any],
    expected: Mapping[str, np.ndarray],
    tolerance: float,
) -> tuple[ExportComparison, ...]:
    """Runs the exported stages in their runtime, in a separate process, and compares them with those in Keras."""
    job = {"folder": str(folder), "inputs": str(scratch / "inputs.npz"), "outputs": str(scratch / "outputs.npz")}
    names = write_arrays(job["inputs"], {name: keras.ops.convert_to_numpy(value) for name, value in given.items()})
    try:
        made = work("run", scratch, **job, names=names)["value"]
    except WorkerError as error:
        raise SplitError(
            f"The stages exported as {form.title} do not run: {error}. Nothing was written. To export them "
            "anyway, pass verify=False."
        ) from error
    found = read_arrays(job["outputs"], made)
    results = set(keras.tree.flatten(split.outputs))
    return tuple(
        _comparison(name, stage.name, name in results, found[name], expected[name], tolerance)
        for stage in split
        for name in stage.outputs
    )


def _comparison(
    tensor: str, stage: str, is_output: bool, ours: np.ndarray, theirs: np.ndarray, tolerance: float
) -> ExportComparison:
    if theirs.dtype.kind in "OSU":  # strings
        difference = 0.0 if np.array_equal(ours.astype("S"), theirs.astype("S")) else float("inf")
        return ExportComparison(tensor, stage, is_output, theirs.shape, "string", difference, 0.0, 0.0, theirs.size)
    sizes = np.abs(theirs.astype("complex128" if theirs.dtype.kind == "c" else "float64"))
    scale = float(np.max(sizes, initial=0.0, where=np.isfinite(sizes)))
    allowed = 0.0 if theirs.dtype.kind in "biu" else tolerance * scale
    difference = largest_difference(ours, theirs)
    numbers = numbers_in(ours, theirs)
    return ExportComparison(
        tensor, stage, is_output, theirs.shape, theirs.dtype.name, difference, scale, allowed, numbers
    )
