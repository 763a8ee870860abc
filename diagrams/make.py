"""Redraws the pictures in this folder; with `--check`, reports which committed sources are stale.

Run it from anywhere, with kerassplit installed: `python diagrams/make.py`.
"""

import argparse
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras

from kerassplit import Device, Link, plan, plan_sweep, split
from kerassplit.display.chart import Chart
from kerassplit.pictures import Drawing, plot

FOLDER = Path(__file__).resolve().parent
SOURCES = ("dot", "mmd")
CUTS = ("conv3_block4_out", "conv4_block6_out")
NAMES = ("features", "middle", "classifier")
NARROW = 400  # points: readable on a phone


def build(name: str) -> keras.Model:
    """Builds an architecture of `keras.applications`, with layers named as in a new process."""
    keras.utils.clear_session()
    return getattr(keras.applications, name)(weights=None)


def drawings() -> Iterator[tuple[str, Drawing]]:
    """Yields the pictures and their file names, without extension."""
    resnet = build("ResNet50")
    in_three = split(resnet, list(CUTS), names=list(NAMES))
    yield "resnet50", plot(resnet, title="ResNet50")
    yield "resnet50_split", replace(plot(in_three, title="ResNet50"), widest=NARROW)
    yield "resnet50_middle_layers", plot(in_three["middle"], detail="layers", title="ResNet50, middle")
    for name in ("MobileNetV2", "DenseNet121", "EfficientNetB0"):
        yield name.lower(), plot(build(name), title=name)


def charts() -> Iterator[tuple[str, Chart]]:
    """Yields the charts. They are not checked, because their drawing differs between versions of matplotlib."""
    phone, server = Device("phone", "20 GFLOPS"), Device("server", "5 TFLOPS")
    sweep = plan_sweep(
        build("MobileNetV2"),
        [phone, server],
        bandwidths=("1 Mbit/s", "100 Mbit/s"),
        latency="5 ms",
        input_bytes="30 KB",
        compression="int8",
    )
    yield "mobilenetv2_sweep", sweep.plot()
    boards = Device("board", "10 GFLOPS", memory="64 MiB", count=4)
    yield "resnet50_plan", plan(build("ResNet50"), boards, links=Link("200 Mbit/s"), max_crossing=2).plot()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a source is stale")
    check = parser.parse_args().check
    stale = []
    for name, drawing in drawings():
        for extension in SOURCES if check else (*SOURCES, "svg"):
            path = FOLDER / f"{name}.{extension}"
            content = drawing.render(extension)
            if not check:
                path.write_bytes(content)
                print(path.name)
            elif not path.exists() or path.read_bytes() != content:
                stale.append(path.name)
    for name, chart in () if check else charts():
        chart.save(FOLDER / f"{name}.png")
        print(f"{name}.png")
    if stale:
        print(f"Stale: {', '.join(stale)}. `python diagrams/make.py` makes them again.", file=sys.stderr)
    return int(bool(stale))


if __name__ == "__main__":
    sys.exit(main())
