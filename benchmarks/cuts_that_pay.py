"""When does a cut between a phone and a server pay? Architectures, inputs as they travel, crossings as they are sent.

    python benchmarks/cuts_that_pay.py [--models MobileNetV2 ResNet50 ...] [--phone "20 GFLOPS"] [--server "5 TFLOPS"]

For each architecture, input and form of the crossing, a sweep finds the best cut at every bandwidth. The table shows
the range of bandwidths in which a cut is best, and by how much it is faster than the better of the two devices alone,
at the bandwidth at which these are equally fast: nowhere is the gain larger.

The input is the photograph shipped with kerassplit at the size of the model's input: as float32, as uint8, and as JPEG
of quality 90 and 75. How well crossings pack depends on the data, so the packed ones are measured on that photograph,
with random weights: trained weights make other activations.
"""

import argparse
import gc
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.resources import as_file

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

import kerassplit as ks
from kerassplit.costs.records import TensorCost
from kerassplit.engines.inputs import load_input
from kerassplit.wire import MESSAGE_BYTES, Form, pack, unpack
from kerassplit.zoo import load_model
from kerassplit.zoo.photos import shipped_photo

MODELS = (
    *("MobileNet", "MobileNetV2", "MobileNetV3Small", "MobileNetV3Large", "NASNetMobile", "EfficientNetB0"),
    *("EfficientNetB3", "EfficientNetV2B0", "EfficientNetV2S", "ResNet50", "ResNet101V2", "DenseNet121"),
    *("DenseNet201", "InceptionV3", "Xception", "ConvNeXtTiny", "VGG16", "VGG19"),
)
FORMS: tuple[Form, ...] = ("float32", "float16", "int8", "int4")
PACKED: tuple[Form, ...] = ("float32+zlib", "float16+zlib", "int8+zlib", "int4+zlib")
LATENCY = 0.005


def inputs_of(model: keras.Model) -> Iterator[tuple[str, float]]:
    """Yields each kind of input with its bytes."""
    height, width, channels = model.input_shape[1:]
    yield "float32", 4 * height * width * channels
    yield "uint8", height * width * channels
    with as_file(shipped_photo()) as photo:
        for quality in (90, 75):
            yield f"JPEG {quality}", ks.encoded_bytes(photo, "jpeg", quality=quality, size=(height, width)).mean()


def profiles_of(model: keras.Model, photo: np.ndarray) -> dict[str, ks.Profile]:
    """Returns a profile for each form of a crossing, plain and packed."""
    plain = ks.profile(model)
    points = [point.name for point in ks.split_points(model)]
    features = dict(zip(points, map(keras.ops.convert_to_numpy, ks.tap(model, points)(photo).values()), strict=True))
    return {**dict.fromkeys(FORMS, plain), **{form: as_packed(plain, features, form) for form in PACKED}}


def as_packed(plain: ks.Profile, features: dict[str, np.ndarray], form: Form) -> ks.Profile:
    """Returns what `profile(sample=..., wire=form)` returns, at the split points only and without errors of scores."""

    def measured(tensor: TensorCost) -> TensorCost:
        if tensor.name not in features:
            return tensor
        began = time.perf_counter()
        data = pack({tensor.name: features[tensor.name]}, form)
        middle = time.perf_counter()
        unpack(data)
        seconds = {"pack_seconds": middle - began, "unpack_seconds": time.perf_counter() - middle}
        return replace(tensor, wire_bytes=len(data) - MESSAGE_BYTES, **seconds)

    return replace(plain, wire=form, tensors=tuple(map(measured, plain.tensors)))


def cell(sweep: ks.Sweep, alone: Sequence[float], input_bytes: float) -> str:
    """Returns the bandwidths at which a cut is best, in Mbit/s, and the largest gain.

    Args:
        sweep: The best cuts at every bandwidth.
        alone: Seconds on the phone alone, and on the server alone without the bytes of the input.
        input_bytes: Bytes of the input.
    """
    cut = [one for one in sweep.ranges if len(one.devices) > 1]
    if not cut:
        return "-"
    equal = input_bytes / (alone[0] - alone[1])  # bandwidth at which the phone alone is as fast as the server alone
    low, high = (f"{rate * 8e-6:.3g}" if rate < 1e8 else f"{rate * 8e-6:,.0f}" for rate in (cut[0].low, cut[-1].high))
    return f"{low}-{high}: {1 - sweep.best(equal).value(equal) / alone[0]:.0%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--phone", default="20 GFLOPS")
    parser.add_argument("--server", default="5 TFLOPS")
    options = parser.parse_args()
    devices = [ks.Device("phone", options.phone), ks.Device("server", options.server)]
    forms = [*FORMS, *PACKED]
    table = Table(
        "model", "input", "bytes", *forms, title="bandwidths [Mbit/s] at which a cut is best, and largest gain"
    )
    for name in options.models:
        sides = (224, 224, 3) if name.startswith("MobileNetV3") else None  # these have open sides
        model = load_model(name, weights="random", seed=0, input_shape=sides)
        with as_file(shipped_photo()) as path:
            photo = load_input(path, model, name)
        profiles = profiles_of(model, photo)
        phone, server = ((profiles["float32"].flops or 0) / float(one.flops_per_second or 1) for one in devices)
        for input_name, sent in inputs_of(model):
            cells = []
            for form in forms:
                sweep = ks.plan_sweep(
                    *(model, devices), latency=LATENCY, input_bytes=sent, compression=form, profile=profiles[form]
                )
                cells.append(cell(sweep, (phone, server + LATENCY), sent))
            table.add_row(name, input_name, f"{sent:,.0f}", *cells)
        table.add_section()
        keras.backend.clear_session()
        gc.collect()
    Console(width=190).print(table)


if __name__ == "__main__":
    main()
