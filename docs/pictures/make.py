"""Redraws the pictures of the documentation: `python docs/pictures/make.py`.

A test compares the words in the stored pictures with those in new ones.
"""

import os
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras

import kerassplit as ks
from kerassplit.display.chart import Chart
from kerassplit.pictures import Drawing
from kerassplit.pictures.render import render

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]


def build(name: str) -> keras.Model:
    """Builds an architecture of `keras.applications`, with layers named as in a new process."""
    keras.utils.clear_session()
    return getattr(keras.applications, name)(weights=None)


def edited() -> keras.Model:
    """MobileNetV2 with one layer inserted, and one replaced."""
    model = ks.insert(build("MobileNetV2"), "block_12_add", keras.layers.SpatialDropout2D(0.1, name="dropped"))
    return ks.replace(model, {"predictions": lambda old: keras.layers.Dense(old.units, name="scores")})


def residual() -> keras.Model:
    """The model in explanation/cutting.md."""
    image = keras.Input((32, 32, 3), name="image")
    x = keras.layers.Conv2D(16, 3, padding="same", name="stem")(image)
    for block in ("first", "second"):
        y = keras.layers.Conv2D(16, 3, padding="same", name=f"{block}_conv")(x)
        y = keras.layers.BatchNormalization(name=f"{block}_norm")(y)
        x = keras.layers.Add(name=f"{block}_add")([x, y])
    pooled = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, keras.layers.Dense(10, name="scores")(pooled), name="residual")


class House:
    """Picture of the package's rooms by floor, from the import contract in pyproject.toml."""

    def render(self, extension: str) -> bytes:
        settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
        floors = settings["tool"]["importlinter"]["contracts"][0]["layers"]
        rows = "".join(f'<tr><td border="0">{self._floor(one.split(" | "))}</td></tr>' for one in floors)
        table = f'<table border="0" cellspacing="0" cellpadding="3">{rows}</table>'
        return render(f"digraph {{ house [shape=plain label=<{table}>] }}", extension)

    def _floor(self, rooms: list[str]) -> str:
        cells = "".join(
            f'<td bgcolor="#e8eef7" color="#6b7f99" width="{480 // len(rooms)}"><font face="Helvetica">'
            f"{room}{'/' if (ROOT / 'kerassplit' / room).is_dir() else '.py'}</font></td>"
            for room in rooms
        )
        return f'<table border="0" cellborder="1" cellspacing="4" cellpadding="4"><tr>{cells}</tr></table>'


def pictures() -> Iterator[tuple[str, Drawing | House]]:
    """Yields the pictures of models and of the house, with their file names."""
    yield "house", House()
    stages = ["features", "middle", "classifier"]
    yield "resnet50_split", ks.plot(ks.split(build("ResNet50"), ["conv3_block4_out", "conv4_block6_out"], names=stages))
    split = ks.split(build("MobileNetV2"), "block_6_project_BN", names=["phone", "server"])
    yield "mobilenetv2_split", ks.plot(split, title="MobileNetV2")
    yield "mobilenetv2_edited", ks.plot(edited(), title="MobileNetV2, edited")
    model = residual()
    yield "residual_layers", ks.plot(model, detail="layers")
    yield "residual_crossing", ks.plot(ks.split(model, "first_conv", allow_crossing=True))


def charts() -> Iterator[tuple[str, Chart]]:
    """Yields the charts, which matplotlib draws."""
    mobilenet = build("MobileNetV2")
    yield "mobilenetv2_profile", ks.profile(mobilenet).plot()
    phone, server = ks.Device("phone", "20 GFLOPS"), ks.Device("server", "5 TFLOPS")
    sweep = ks.plan_sweep(
        mobilenet,
        [phone, server],
        bandwidths=("1 Mbit/s", "100 Mbit/s"),
        latency="5 ms",
        input_bytes="30 KB",
        compression="int8",
    )
    yield "mobilenetv2_sweep", sweep.plot()


def main() -> int:
    for name, drawing in pictures():
        (FOLDER / f"{name}.svg").write_bytes(drawing.render("svg"))
    for name, chart in charts():
        chart.save(FOLDER / f"{name}.svg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
