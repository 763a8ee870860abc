"""Writes files as this version of kerassplit writes them, for `test_old_files.py`, which reads them ever after.

    python tests/support/written_by/write.py tests/support/written_by/0.1.0

Those of a version are written once, by that version, and never again.
"""

import contextlib
import json
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import keras
import ml_dtypes
import numpy as np

import kerassplit as ks
from kerassplit import wire

DTYPES = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
DTYPES += ("bfloat16", "float16", "float32", "float64")


def images() -> np.ndarray:
    """Five images: numbers that every machine computes alike."""
    return (np.arange(5 * 6 * 6 * 3, dtype="float32").reshape(5, 6, 6, 3) % 29 - 14) / 16


def labels() -> np.ndarray:
    """A class for each image."""
    return np.array([0, 2, 1, 1, 0], "int32")


def model() -> keras.Model:
    """A nested model with batch normalisation, and a layer that is called before the cut and behind it."""
    inner = keras.Input((6, 6, 3), name="inner_in")
    x = keras.layers.Conv2D(4, 3, padding="same", name="conv")(inner)
    x = keras.layers.BatchNormalization(name="norm")(x)
    block = keras.Model(inner, keras.layers.ReLU(name="relu")(x), name="block")
    shared = keras.layers.Dense(4, activation="tanh", name="shared")
    x = image = keras.Input((6, 6, 3), name="image")
    x = keras.layers.GlobalAveragePooling2D(name="pool")(block(x))
    x = keras.layers.Dense(4, name="middle")(shared(x))
    x = keras.layers.Dense(3, activation="softmax", name="classes")(shared(x))
    made = keras.Model(image, x, name="small")
    for number, variable in enumerate(made.weights):
        values = np.arange(np.prod(variable.shape), dtype="float32").reshape(variable.shape)
        variable.assign((values * 7 % 11 - 4) / 8 + (2 + number / 16 if variable.name == "moving_variance" else 0))
    return made


def tensors() -> dict[str, np.ndarray]:
    """One of each type that can be sent."""
    types = {"bfloat16": ml_dtypes.bfloat16}
    plain = {name: (np.arange(2 * 3 * 40).reshape(2, 3, 40) % 61).astype(types.get(name, name)) for name in DTYPES}
    wide = {"large": np.array([[1e38, -3.0, 0.1]], "float32"), "halves": plain["float32"] / 7 - 2}
    return {**plain, **wide, "vector": np.arange(3.0), "scalar": np.array(4, "int64"), "empty": np.zeros((0, 2), "f4")}


def batches(last: int) -> Any:
    """Batches of images, and an error behind the last one."""
    for start in range(0, last, 2):
        yield images()[start : start + 2]
    if last < 5:
        raise KeyboardInterrupt


def main(folder: Path) -> None:
    from kerassplit.engines.running import run_stages

    split = ks.split(model(), "middle", names=["head", "tail"])
    folder.mkdir(parents=True, exist_ok=True)
    split.save(folder / "split")
    loaded = ks.load(folder / "split")
    features = ks.cache_features(
        loaded[0], (images(), labels()), folder / "features", batch_size=2, storage="float16", shuffle=False
    )
    ks.profile(split.model, 2).save(folder / "profile.json")
    ks.profile(split.model, 2, measure=True).save(folder / "measured.json")
    devices = [ks.Device("phone", "1 GFLOPS"), ks.Device("server", "9 GFLOPS")]
    plan = ks.plan(split.model, devices, links=ks.Link("20 Mbit/s"))
    plan.save(folder / "plan.json")
    for form in wire.FORMS:
        (folder / f"{form}.wire").write_bytes(wire.pack(tensors(), form))
    run_stages(folder / "split", images(), folder / "result.npy", batch_size=2)
    with contextlib.suppress(KeyboardInterrupt):
        run_stages(folder / "split", batches(4), folder / "part.npy", batch_size=2)
    split.export(folder / "onnx", format="onnx", x=images())
    expected = {
        "keras": keras.__version__,
        "outputs": keras.ops.convert_to_numpy(split(images())).tolist(),
        "features": [keras.ops.convert_to_numpy(batch[0]).tolist() for batch in features],
        "tensors": {
            form: {name: sha256(value.tobytes()).hexdigest() for name, value in wire.unpack(sent.read_bytes()).items()}
            for form, sent in ((form, folder / f"{form}.wire") for form in wire.FORMS)
        },
        "shared": loaded.shared_variables,
    }
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
