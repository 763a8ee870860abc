"""Runs `kerassplit demo`: the whole workflow with ResNet50 and a photograph."""

import importlib.resources
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
from rich.text import Text

import kerassplit as ks
from kerassplit.cli.framework import Show, working
from kerassplit.cli.tables import points_table, split_data
from kerassplit.display.rich_table import right
from kerassplit.display.table import FittedTable
from kerassplit.engines.inputs import load_input
from kerassplit.errors import SplitError
from kerassplit.storage.manifest import check_target
from kerassplit.zoo.downloads import impatient, unreachable
from kerassplit.zoo.models import architecture_module, load_model
from kerassplit.zoo.photos import shipped_photo

_ARCHITECTURE = "ResNet50"
_CUTS = ("conv3_block4_out", "conv4_block6_out")
_STAGES = ("features", "middle", "classifier")
_PICTURE = "split.svg"
_FRESH_PROCESS_SECONDS = 600


def run_demo(directory: Path, show: Show, *, overwrite: bool = False) -> dict[str, Any]:
    """Cuts ResNet50 into three stages, verifies, saves and draws them.

    Args:
        directory: Folder for all output.
        show: Called with each table or line as soon as it is available.
        overwrite: Allows replacing a split in the folder.

    Returns:
        The results as plain values; `"ok"` is true if all numbers were equal.

    Raises:
        SplitError: The folder contains something else, or cannot be written.
    """
    check_target(directory, overwrite)
    model, weights = _model(show)
    points = ks.split_points(model)
    cuts = [point.index for point in points if point.name in _CUTS]
    shown = {0, 1, len(points) - 1, *(index + step for index in cuts for step in (-1, 0, 1))}
    show(points_table(model.name, points, shown=shown, cuts=cuts))
    stages = ks.split(model, list(_CUTS), names=list(_STAGES))
    show(stages.__rich__())
    with importlib.resources.as_file(shipped_photo()) as photo:
        x = load_input(photo, model, _ARCHITECTURE)
        receipt = ks.verify(model, stages, x)
        show(receipt.__rich__())
        labels = _labels(keras.ops.convert_to_numpy(stages(x)), show) if weights == "imagenet" else None
        with working(f"Writing {directory}"):
            stages.save(directory, overwrite=overwrite)
        show(Text(f"Saved the stages in {directory}."))
        with working("Loading them in a fresh process"):
            fresh = _verify_in_fresh_process(directory, weights, photo)
    show(_verdict(fresh))
    ks.plot(stages, directory / _PICTURE)
    show(Text(f"Drew {directory / _PICTURE}."))
    return {
        **split_data(stages),
        "directory": str(directory),
        "weights": weights,
        "labels": labels,
        "receipt": receipt.to_dict(),
        "fresh_process": fresh["receipt"],
        "picture": str(directory / _PICTURE),
        "ok": receipt.ok and fresh["ok"],
    }


def _model(show: Show) -> tuple[keras.Model, str]:
    """Loads ResNet50, with ImageNet weights if available."""
    try:
        return load_model(_ARCHITECTURE, weights="imagenet"), "imagenet"
    except SplitError as error:
        reason = str(error).split(" Pass a weights file")[0]
    show(Text(f"{reason} Using random weights instead (seed 0, with random batch-norm statistics).", style="yellow"))
    with working(f"Building {_ARCHITECTURE}"):
        return load_model(_ARCHITECTURE, weights="random", seed=0), "random"


def _labels(scores: np.ndarray, show: Show) -> list[dict[str, Any]] | None:
    try:
        with impatient(reachable=unreachable() is None):
            decoded = architecture_module(_ARCHITECTURE).decode_predictions(scores, top=5)[0]
    except Exception as error:  # Keras downloads the labels, and raises a bare Exception if that fails
        show(Text(f"The names of the ImageNet classes could not be downloaded: {error}", style="yellow"))
        return None
    table = FittedTable("The photograph shows", "label", right("probability"), whole=2)
    for _, label, score in decoded:
        table.add_row(label.replace("_", " "), f"{score:.1%}")
    show(table)
    return [{"label": label, "probability": float(score)} for _, label, score in decoded]


def _verify_in_fresh_process(directory: Path, weights: str, photo: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "kerassplit", "verify", str(directory), "--model", _ARCHITECTURE]
    command += ["--weights", weights, "--seed", "0", "--input", str(photo), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_FRESH_PROCESS_SECONDS, check=False)
    if done.returncode not in (0, 1) or not done.stdout:
        raise SplitError(f"The fresh process that verifies the stages failed: {done.stderr.strip()}")
    return json.loads(done.stdout)


def _verdict(fresh: dict[str, Any]) -> Text:
    receipt = fresh["receipt"]
    difference, problems = receipt["max_difference"], receipt["problems"]
    if not fresh["ok"]:
        text = " ".join([f"In a fresh process the loaded stages differ by {difference}.", *problems])
        return Text(text, style="bold red")
    return Text(
        f"A fresh process loaded the stages and rebuilt {_ARCHITECTURE}: on the photograph, the largest difference "
        f"is {difference:g}, and all {receipt['weights_equal']} weights are equal.",
        style="green",
    )
