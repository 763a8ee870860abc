"""When does a cut between a phone and a server pay? Architectures, inputs as they travel, crossings as they are sent.

    python benchmarks/cuts_that_pay.py [--models MobileNetV2 ResNet50 ...] [--phone "20 GFLOPS"] [--server "5 TFLOPS"]

For each architecture, input and form of the crossing, a sweep finds the best cut at every bandwidth. The table shows the
range of bandwidths in which a cut is best, and by how much it is faster than the better of the two devices alone, at
the bandwidth at which these are equally fast: nowhere is the gain larger.

The input is the photograph shipped with kerassplit at the size of the model's input: as float32, as uint8, and as JPEG
of quality 90 and 75. How well crossings pack depends on the data, so the packed ones are measured on that photograph,
with random weights: trained weights make other activations.
"""

import argparse
import gc
import os
from collections.abc import Iterator, Sequence
from importlib.resources import as_file

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

import kerassplit as ks
from kerassplit.engines.inputs import load_input
from kerassplit.zoo import load_model
from kerassplit.zoo.photos import shipped_photo

MODELS = (
    *("MobileNet", "MobileNetV2", "MobileNetV3Small", "MobileNetV3Large", "NASNetMobile", "EfficientNetB0"),
    *("EfficientNetB3", "EfficientNetV2B0", "EfficientNetV2S", "ResNet50", "ResNet101V2", "DenseNet121"),
    *("DenseNet201", "InceptionV3", "Xception", "ConvNeXtTiny", "VGG16", "VGG19"),
)
FORMS = ("float32", "float16", "int8", "int4")
PACKED = "zlib"
LATENCY = "5 ms"


def inputs_of(model: keras.Model) -> Iterator[tuple[str, float | None]]:
    """Yields each kind of input with its bytes; `None` stands for the tensor."""
    height, width, channels = model.input_shape[1:]
    yield "float32", None
    yield "uint8", height * width * channels
    with as_file(shipped_photo()) as photo:
        for quality in (90, 75):
            encoded = ks.encoded_bytes(photo, "jpeg", quality=quality, size=(height, width))
            yield f"JPEG {quality}", float(encoded.mean())


def profiles_of(model: keras.Model, photo: np.ndarray) -> dict[str, ks.Profile]:
    """Returns a profile for each form of a crossing, plain and packed."""
    plain = ks.profile(model)
    packed = {f"{form}+{PACKED}": ks.profile(model, sample=photo, wire=f"{form}+{PACKED}") for form in FORMS}
    return {**dict.fromkeys(FORMS, plain), **packed}


def gain(sweep: ks.Sweep, alone: Sequence[float], input_bytes: float, latency: float) -> tuple[str, str, str]:
    """Returns the bandwidths at which a cut is best, the largest gain, and the cut there.

    Args:
        sweep: The best cuts at every bandwidth.
        alone: Seconds on the phone alone, and on the server alone without the transfer.
        input_bytes: Bytes of the input.
        latency: Seconds of a transfer besides its bytes.
    """
    cut = [one for one in sweep.ranges if len(one.devices) > 1]
    if not cut:
        return "never", "", ""
    equal = input_bytes / (alone[0] - alone[1] - latency)  # the phone alone is as fast as the server alone
    best = next(one for one in sweep.ranges if one.low <= equal <= one.high)
    span = f"{cut[0].low * 8e-6:.3g} to {cut[-1].high * 8e-6:.3g}"
    return span, f"{1 - best.value(equal) / alone[0]:.1%}", ", ".join(map(str, best.at))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--phone", default="20 GFLOPS")
    parser.add_argument("--server", default="5 TFLOPS")
    options = parser.parse_args()
    devices = [ks.Device("phone", options.phone), ks.Device("server", options.server)]
    table = Table("model", "input", "bytes", "crossing", "best from .. to [Mbit/s]", "gain", "cut", title="cuts that pay")
    for name in options.models:
        model = load_model(name, weights="random", seed=0)
        with as_file(shipped_photo()) as path:
            photo = load_input(path, model, name)
        tensor_bytes = 4 * photo.size
        profiles = profiles_of(model, photo)
        flops = profiles["float32"].flops or 0
        alone = [flops / float(device.flops_per_second or 1) for device in devices]
        for input_name, sent in inputs_of(model):
            for form, profile in profiles.items():
                sweep = ks.plan_sweep(
                    model, devices, latency=LATENCY, input_bytes=sent, compression=form, profile=profile
                )
                found = gain(sweep, alone, sent or tensor_bytes, 0.005)
                table.add_row(name, input_name, f"{sent or tensor_bytes:,.0f}", form, *found)
        table.add_section()
        keras.backend.clear_session()
        gc.collect()
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
