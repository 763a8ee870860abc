"""Time and memory of exporting the stages of ResNet50, by stage and format, compared with Keras's `model.export`.

    python benchmarks/export.py [--model ResNet50] [--at conv3_block4_out conv4_block6_out]

Each stage is exported from its `.keras` file in its own process, by kerassplit and by Keras. Seconds and peak memory
are those of the whole process, including imports; kerassplit traces in one process (the caller's if Keras runs on
TensorFlow) and converts in another, so its seconds are the sum and its peak the larger one. All files are written to a
temporary folder.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from rich.console import Console
from rich.table import Table

import kerassplit as ks
from kerassplit.files.sizes import format_bytes
from kerassplit.storage.exports.formats import FORMATS, Format
from kerassplit.storage.exports.formats.naming import exported_names
from kerassplit.storage.exports.processes import WorkerError, work
from kerassplit.zoo.models import load_model

RIVAL = """
import sys, keras
model = keras.saving.load_model(sys.argv[1], compile=False)
model([keras.ops.zeros((1, *one.shape[1:])) for one in model.inputs])  # it refuses a model that was never called
model.export(sys.argv[2], format=sys.argv[3], verbose=False)
for line in open("/proc/self/status"):
    if line.startswith("VmHWM:"):
        print(int(line.split()[1]) * 1024)
"""
SUFFIX = {"savedmodel": "", "onnx": ".onnx", "litert": ".tflite", "openvino": ".xml"}
THEIR_NAME = {"savedmodel": "tf_saved_model"}


def size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path, *path.parent.glob(f"{path.stem}.bin")]
    return sum(file.stat().st_size for file in files if file.is_file())


def ours(stage: ks.Stage, form: Format, saved: Path, scratch: Path) -> tuple[float, int, int]:
    began = time.perf_counter()
    inputs, outputs = exported_names(stage.inputs, stage.outputs)
    traced, target = scratch / "traced", scratch / f"{stage.name}{form.suffix}"
    names = {"stage": stage.name, "inputs": inputs, "outputs": outputs}
    peak = work("trace", scratch, split=str(saved), **names, target=str(traced))["peak_memory"]
    if form.name == "savedmodel":
        traced.rename(target)
    else:
        result = work("convert", scratch, form=form.name, saved_model=str(traced), target=str(target))
        peak = max(peak, result["peak_memory"])
    return time.perf_counter() - began, size(target), peak


def theirs(stage: ks.Stage, form: Format, saved: Path, scratch: Path) -> tuple[float, int, int]:
    began = time.perf_counter()
    target = scratch / f"{stage.name}{SUFFIX[form.name]}"
    arguments = [str(saved / f"{stage.name}.keras"), str(target), THEIR_NAME.get(form.name, form.name)]
    command = [sys.executable, "-c", RIVAL, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return time.perf_counter() - began, size(target), int(done.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ResNet50")
    parser.add_argument("--at", nargs="+", default=["conv3_block4_out", "conv4_block6_out"])
    parser.add_argument("--formats", nargs="+", choices=list(FORMATS), default=list(FORMATS))
    options = parser.parse_args()
    console = Console(width=140)
    split = ks.split(load_model(options.model, weights="random"), options.at)
    table = Table(title=f"{options.model} in {len(split)} stages")
    for heading in ("format", "extra", "way", "stage"):
        table.add_column(heading)
    for heading in ("weights", "written", "of weights", "seconds", "peak memory"):
        table.add_column(heading, justify="right")
    with tempfile.TemporaryDirectory() as name:
        saved = Path(name) / "saved"
        split.save(saved)
        for form in map(FORMATS.__getitem__, options.formats):
            for way, export in (("kerassplit", ours), ("model.export", theirs)):
                for stage in split:
                    weights = stage.model.count_params() * 4
                    first = [form.title, form.extra, way, stage.name, format_bytes(weights)]
                    with tempfile.TemporaryDirectory(dir=name) as scratch:
                        try:
                            seconds, written, peak = export(stage, form, saved, Path(scratch))
                        except (WorkerError, subprocess.CalledProcessError) as error:
                            output = getattr(error, "stderr", None) or str(error)
                            table.add_row(*first, output.strip().splitlines()[-1])
                            continue
                    share = f"{written / weights:.3f}"
                    table.add_row(*first, format_bytes(written), share, f"{seconds:.1f}", format_bytes(peak))
            table.add_section()
    console.print(table)


if __name__ == "__main__":
    main()
