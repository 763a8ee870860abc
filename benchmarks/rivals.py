"""Comparison with other ways to cut a model: which cuts are correct, and how long they take.

    pip install -e ".[test-tools]" tensorflow torch==2.13.0 torchvision onnx onnxruntime tf2onnx
    python benchmarks/rivals.py

The first table builds tails of Keras models, at up to eight tensors each, and compares their outputs with those of the
model. The second cuts a ResNet50 once with the tools of other frameworks, each on its own framework's model.
"""

# pyright: reportMissingImports=false
# The other tools are installed only for this script.

import copy
import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from build import seed_recipe
from rich.console import Console
from rich.table import Table

import kerassplit as ks
from kerassplit.zoo.random_weights import randomize

ROUNDS = 5
Array = np.ndarray


# --------------------------------------------------------------------------------------------------- Keras's own models


def application(name: str, side: int) -> keras.Model:
    return getattr(keras.applications, name)(weights=None, input_shape=(side, side, 3), classes=10)


def nested() -> keras.Model:
    backbone = application("MobileNetV2", 96)
    image = keras.Input((96, 96, 3))
    return keras.Model(image, keras.layers.Dense(5)(backbone(keras.layers.Rescaling(1 / 255)(image))))


def two_views() -> keras.Model:
    """One tower for both halves of the input, as in Siamese networks."""
    tower = [keras.layers.Dense(16, activation="relu", name=f"tower_{i}") for i in range(3)]
    image = keras.Input((2, 8))
    stem = keras.layers.Dense(8, activation="relu", name="stem")(image)
    outputs = []
    for tensor in (stem[:, 0], stem[:, 1]):
        for layer in tower:
            tensor = layer(tensor)
        outputs.append(tensor)
    joined = keras.layers.Concatenate(name="joined")(outputs)
    hidden = keras.layers.Dense(8, name="hidden")(joined)
    return keras.Model(image, keras.layers.Dense(1)(hidden))


def called_twice() -> keras.Model:
    shared = keras.layers.Dense(16, activation="relu", name="shared")
    image = keras.Input((16,))
    tensor = image
    for index in range(4):
        tensor = keras.layers.LayerNormalization(name=f"norm_{index}")(shared(tensor))
    return keras.Model(image, keras.layers.Dense(3)(tensor))


def masked() -> keras.Model:
    words = keras.Input((12,), dtype="int32")
    tensor = keras.layers.Embedding(50, 16, mask_zero=True)(words)
    for _ in range(3):
        tensor = keras.layers.LSTM(16, return_sequences=True)(tensor)
    return keras.Model(words, keras.layers.Dense(2)(keras.layers.LSTM(8)(tensor)))


def residual_operations() -> keras.Model:
    """Operators between layers, and an argument that is not the first."""
    image = keras.Input((16, 16, 8))
    tensor = image
    for _ in range(3):
        hidden = keras.layers.Conv2D(8, 3, padding="same", activation="relu")(tensor)
        gate = keras.ops.sigmoid(keras.ops.mean(hidden, axis=(1, 2), keepdims=True))
        tensor = keras.layers.LayerNormalization()(tensor + 0.5 * hidden * gate)
    return keras.Model(image, keras.layers.Dense(4)(keras.layers.GlobalAveragePooling2D()(tensor)))


MODELS: dict[str, Callable[[], keras.Model]] = {
    "ResNet50": lambda: application("ResNet50", 64),
    "InceptionV3": lambda: application("InceptionV3", 96),
    "EfficientNetB0": lambda: application("EfficientNetB0", 64),
    "MobileNetV2 in a model": nested,
    "one tower, two views": two_views,
    "layer called four times": called_twice,
    "LSTMs with a mask": masked,
    "operators between layers": residual_operations,
}


def random_input(model: keras.Model) -> np.ndarray:
    random = np.random.default_rng(0)
    [tensor] = model.inputs
    shape = (2, *tensor.shape[1:])
    if "int" in tensor.dtype:
        return random.integers(0, 3, shape)
    return (random.uniform(0, 255, shape) if shape[-1] == 3 else random.normal(size=shape)).astype("float32")


def symbol_named(model: keras.Model, name: str) -> keras.KerasTensor:
    """Returns the tensor from Keras: of a layer in a nested model, or of one of several calls."""
    *outer, last = name.split("/")
    for part in outer:
        model = model.get_layer(part)
    name, _, call = last.partition("@")
    [operation] = [one for one in model.operations if one.name == name]  # a layer, or an operator between layers
    return operation._inbound_nodes[int(call or 0)].output_tensors[0]


def keras_model(model: keras.Model, name: str) -> keras.Model:
    return keras.Model(symbol_named(model, name), model.outputs)


def keras_model_with_inputs(model: keras.Model, name: str) -> keras.Model:
    """The next thing to try: Keras then finds a path to the outputs, but it may bypass the tensor."""
    return keras.Model([symbol_named(model, name), *model.inputs], model.outputs)


def recipe(model: keras.Model, name: str) -> keras.Model:
    """The recipe from forums, which works on layers, not on calls."""
    return seed_recipe(model, name.partition("@")[0])


def kerassplit_tail(model: keras.Model, name: str) -> keras.Model:
    return ks.build_submodel(model, start=name)


WAYS = {
    "kerassplit.build_submodel": kerassplit_tail,
    "keras.Model(tensor, outputs)": keras_model,
    "keras.Model((tensor, input), outputs)": keras_model_with_inputs,
    "forum recipe": recipe,
}


def run_tail(tail: keras.Model, name: str, features: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Runs a tail on the features, and on the model's own input if the tail needs it too."""
    if isinstance(tail.input, dict):  # kerassplit's inputs are named; Keras's are lists, with the tensor first
        [result] = keras.tree.flatten(tail({key: features if key == name else x for key in tail.input}))
    else:
        [result] = keras.tree.flatten(tail([features, x] if len(tail.inputs) > 1 else features))
    return keras.ops.convert_to_numpy(result)


def outcome(
    way: Callable, model: keras.Model, name: str, x: np.ndarray, features: np.ndarray, expected: np.ndarray
) -> str:
    """A correct tail computes the model's numbers from the features, and others from other features."""
    try:
        tail = way(model, name)
        found, other = (run_tail(tail, name, array, x) for array in (features, features[::-1] * 2 + 1))
    except Exception:
        return "error"
    return "right" if np.array_equal(found, expected) and not np.array_equal(other, expected) else "wrong"


def judge_keras_ways() -> Table:
    table = Table(title="Tails of Keras models: right / wrong / error", title_justify="left")
    table.add_column("model")
    for way in WAYS:
        table.add_column(way)
    for title, make in MODELS.items():
        model = make()
        x = random_input(model)
        randomize(model, x=x)
        expected = keras.ops.convert_to_numpy(model(x))
        names = [point.name for point in ks.split_points(model)]
        names = [names[round(index)] for index in np.linspace(0, len(names) - 1, min(8, len(names)))]
        cells = []
        for way in WAYS.values():
            found = Counter()
            for name in names:
                features = keras.ops.convert_to_numpy(ks.build_submodel(model, end=name)(x))
                found[outcome(way, model, name, x, features, expected)] += 1
            cells.append(" / ".join(str(found[kind]) for kind in ("right", "wrong", "error")))
        table.add_row(title, *cells)
    return table


# ------------------------------------------------------------------------------------------------- other frameworks


def median_seconds(call: Callable, *subjects: object) -> float:
    """Each round cuts its own copy, since pipelining marks the model that it cuts and cannot trace it again."""
    seconds = []
    for _ in range(ROUNDS):
        copies = copy.deepcopy(subjects)
        began = time.perf_counter()
        call(*copies)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def row_kerassplit() -> tuple[float, str]:
    model = keras.applications.ResNet50(weights=None)
    images = np.random.default_rng(0).normal(size=(2, 224, 224, 3)).astype("float32")
    split = ks.split(model, "conv4_block6_out")
    equal = split.verify(images).identical
    return median_seconds(lambda: ks.split(model, "conv4_block6_out")), "yes" if equal else "no"


def row_feature_extractor() -> tuple[float, str]:
    import torch
    from torchvision.models import resnet50
    from torchvision.models.feature_extraction import create_feature_extractor

    model = resnet50(weights=None).eval()
    image = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        features = create_feature_extractor(model, ["layer3", "fc"])(image)
        equal = torch.equal(features["fc"], model(image))
    return median_seconds(lambda: create_feature_extractor(model, ["layer3"])), "yes" if equal else "no"


def row_pipelining() -> tuple[float, str]:
    import torch
    from torch.distributed.pipelining import SplitPoint, pipeline
    from torchvision.models import resnet50

    model = resnet50(weights=None).eval()
    untouched = copy.deepcopy(model)
    image = torch.randn(2, 3, 224, 224)
    cut = {"layer4": SplitPoint.BEGINNING}
    with torch.no_grad():
        piped = pipeline(model, mb_args=(image,), split_spec=cut)
        tensor = image
        for index in range(piped.num_stages):
            tensor = piped.get_stage_module(index)(tensor)
        tensor = tensor[0] if isinstance(tensor, tuple | list) else tensor
        equal = torch.equal(tensor, model(image))
        seconds = median_seconds(lambda copied: pipeline(copied, mb_args=(image,), split_spec=cut), untouched)
    return seconds, "yes" if equal else "no"


def row_onnx() -> tuple[float, str]:
    """Keras's ResNet50 as ONNX, cut by `onnx.utils.extract_model` at the tensor of `conv4_block6_out`."""
    import onnx
    import onnxruntime

    folder = Path(tempfile.mkdtemp())
    whole, head, tail = (str(folder / f"{name}.onnx") for name in ("whole", "head", "tail"))
    model = keras.applications.ResNet50(weights=None)
    images = np.random.default_rng(0).normal(size=(2, 224, 224, 3)).astype("float32")
    model(images)  # `export` needs a model that was called
    model.export(whole, format="onnx", verbose=False)
    graph = onnx.load(whole).graph
    source, result = graph.input[0].name, graph.output[0].name
    tensor = next(name for node in graph.node for name in node.output if "conv4_block6_out" in name)

    def cut() -> None:
        onnx.utils.extract_model(whole, head, [source], [tensor])
        onnx.utils.extract_model(whole, tail, [tensor], [result])

    seconds = median_seconds(cut)

    def run(path: str, name: str, array: np.ndarray) -> np.ndarray:
        return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {name: array})[0]

    found = run(tail, tensor, run(head, source, images))
    expected = run(whole, source, images)
    if np.array_equal(found, expected):
        return seconds, "yes"
    return seconds, f"to {np.abs(found - expected).max():.0e} (the runtime fuses each file by itself)"


ROWS = {
    "kerassplit.split": row_kerassplit,
    "torchvision create_feature_extractor (a head)": row_feature_extractor,
    "torch.distributed.pipelining.pipeline": row_pipelining,
    "onnx.utils.extract_model (file to files)": row_onnx,
}


def judge_frameworks() -> Table:
    table = Table(title="ResNet50 cut once, each tool on its own framework's model", title_justify="left")
    table.add_column("tool")
    table.add_column("median ms", justify="right")
    table.add_column("pieces equal the whole bit for bit")
    for title, row in ROWS.items():
        try:
            seconds, equal = row()
        except ImportError as error:
            table.add_row(title, "-", f"not installed: {error.name}")
            continue
        table.add_row(title, f"{seconds * 1000:.1f}", equal)
    return table


if __name__ == "__main__":
    console = Console(width=140)
    console.print(judge_keras_ways())
    console.print(judge_frameworks())
