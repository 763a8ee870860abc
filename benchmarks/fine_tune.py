"""What a feature cache saves: epochs of fine-tuning ResNet50, cached against the whole model with its head frozen.

    python benchmarks/fine_tune.py [--shares 0.5 0.75 0.95] [--images 256] [--epochs 4] [--seeds 5] [--side 96]

ResNet50 with ten classes learns handwritten digits (scikit-learn's, enlarged). It is cut where its head has about the
given share of the FLOPs. Both ways train the same tail from the same weights with the same optimiser: `ks.fine_tune` on
cached features, and `model.fit` with `trainable = False` on the head. They take turns for each seed, which draws the
new classifier and the order of images. Times are those of an epoch, without the first one of each fit, which compiles;
caching itself is another column. The limit is what FLOPs predict: with a backward pass counted as two forward passes,
(head + 3 × tail) / (3 × tail). Reading is going through the cache without training on it, once it was read before.

The weights are random; with `--weights imagenet` they are those of ImageNet, where Keras can download them. On two cores it takes about a quarter of an hour; `--images 64 --epochs 2 --seeds 1` shows that it runs.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits

import kerassplit as ks
from kerassplit.zoo import load_model

LOSS = "sparse_categorical_crossentropy"


@dataclass
class Measured:
    """What was measured of one way to train: lists over epochs or seeds."""

    seconds: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)

    @property
    def epoch(self) -> float:
        return statistics.median(self.seconds)

    @property
    def accuracy(self) -> str:
        spread = statistics.stdev(self.accuracies) if len(self.accuracies) > 1 else 0.0
        return f"{statistics.mean(self.accuracies):.1%} ± {spread:.1%}"


class Clock(keras.callbacks.Callback):
    """Notes how long each epoch takes."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
        self.began = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: object = None) -> None:
        self.seconds.append(time.perf_counter() - self.began)


def digits(side: int, count: int) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """So many digits to train on and half as many others, as ResNet50 takes them."""
    pixels, labels = load_digits(return_X_y=True)
    pixels, labels = pixels[: count + count // 2], labels[: count + count // 2]
    enlarged = np.kron(pixels.reshape(-1, 8, 8), np.ones((side // 8, side // 8))) * (255 / 16)
    images = keras.applications.resnet.preprocess_input(enlarged[..., None].repeat(3, axis=-1).astype("float32"))
    return (images[:count], labels[:count]), (images[count:], labels[count:])


def with_ten_classes(backbone: keras.Model) -> keras.Model:
    head = ks.build_submodel(backbone, end="avg_pool", copy_weights=True)
    for layer in head.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.9  # Keras's 0.99 would need some 500 steps to follow; here there are 32
    return ks.join([head, keras.layers.Dense(10, "softmax", name="digit")])


def values(variables: Sequence[keras.Variable]) -> list[np.ndarray]:
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]


def assign(variables: Sequence[keras.Variable], numbers: Sequence[np.ndarray]) -> None:
    for variable, number in zip(variables, numbers, strict=True):
        variable.assign(number)


def cut_at(model: keras.Model, share: float) -> tuple[str, float]:
    """The split point before which there is about this share of the FLOPs, and the share itself."""
    blocks = ks.profile(model).blocks
    before = np.cumsum([block.flops or 0 for block in blocks])
    nearest = int(np.argmin(np.abs(before[:-1] / before[-1] - share)))
    return blocks[nearest].name, float(before[nearest] / before[-1])


def compare(backbone: keras.Model, share: float, options: argparse.Namespace) -> tuple[str, ...]:
    training, held_out = digits(options.side, options.images)
    fast, slow = with_ten_classes(backbone), with_ten_classes(backbone)
    point, exact = cut_at(fast, share)
    for layer in ks.build_submodel(slow, end=point).layers:
        layer.trainable = False
    for model in (fast, slow):
        model.compile(keras.optimizers.Adam(options.learning_rate), LOSS, metrics=["accuracy"])
    slow.optimizer.build(slow.trainable_variables)
    start, unused_steps = values(fast.weights), values(slow.optimizer.variables)
    cached, frozen, caching = Measured(), Measured(), 0.0
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.seeds):
            for model in (fast, slow):
                assign(model.weights, start)
                keras.utils.set_random_seed(seed)
                kernel = model.get_layer("digit").kernel
                kernel.assign(keras.initializers.GlorotUniform(seed)(kernel.shape))
            assign(slow.optimizer.variables, unused_steps)
            clock, began = Clock(), time.perf_counter()
            ks.fine_tune(
                fast,
                point,
                training,
                Path(folder) / "cache",
                epochs=options.epochs,
                batch_size=options.batch_size,
                seed=seed,
                callbacks=[clock],
                verbose=False,
            )
            if not seed:
                caching = time.perf_counter() - began - sum(clock.seconds)
            cached.seconds += clock.seconds[1:]
            clock = Clock()
            slow.fit(*training, batch_size=options.batch_size, epochs=options.epochs, callbacks=[clock], verbose=0)
            frozen.seconds += clock.seconds[1:]
            for model, measured in ((fast, cached), (slow, frozen)):
                measured.accuracies.append(model.evaluate(*held_out, verbose=0)[1])
        head = ks.build_submodel(fast, end=point)
        features = ks.cache_features(head, training, Path(folder) / "cache" / "training", batch_size=options.batch_size)
        seconds = []
        for _ in range(3):
            began = time.perf_counter()
            rows = sum(len(y) for _, y in features)
            seconds.append(time.perf_counter() - began)
    ratio, limit = frozen.epoch / cached.epoch, (exact + 3 * (1 - exact)) / (3 * (1 - exact))
    reading, consumed = rows / min(seconds), options.images / cached.epoch
    return (
        f"{point} ({exact:.0%})",
        f"{frozen.epoch:.2f} s",
        f"{cached.epoch:.2f} s",
        f"{caching:.1f} s",
        f"{ratio:.2f} of {limit:.2f} ({ratio / limit:.0%})",
        frozen.accuracy,
        cached.accuracy,
        f"{reading:,.0f} / {consumed:,.0f} = {reading / consumed:.1f}",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shares", nargs="+", type=float, default=(0.5, 0.75, 0.95), help="of the FLOPs, in the head")
    parser.add_argument("--images", type=int, default=256, help="to train on")
    parser.add_argument("--epochs", type=int, default=4, help="of each fit; 2 or more")
    parser.add_argument("--seeds", type=int, default=5, help="fits of each way")
    parser.add_argument("--side", type=int, default=96, help="of an image, in pixels; a multiple of 8")
    parser.add_argument("--batch-size", type=int, default=32, help="images a batch")
    parser.add_argument("--learning-rate", type=float, default=1e-4, help="of Adam")
    parser.add_argument("--weights", default="random", help="random or imagenet")
    options = parser.parse_args()
    shape = (options.side, options.side, 3)
    backbone = load_model("ResNet50", weights=options.weights, seed=7, input_shape=shape)
    table = Table("cut (head's FLOPs)", "epoch, frozen", "epoch, cached", "caching", "ratio of limit")
    for heading in ("accuracy, frozen", "accuracy, cached", "images/s read / trained on"):
        table.add_column(heading)
    table.title = f"ResNet50, {options.images} images of {options.side}×{options.side}, {options.seeds} seeds"
    console = Console(width=150)
    for share in options.shares:
        table.add_row(*compare(backbone, share, options))
        console.print(table)
    console.print(f"Load of the machine in the last 15 minutes: {os.getloadavg()[2]:.1f}.")


if __name__ == "__main__":
    main()
