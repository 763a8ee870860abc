"""Time saved by a feature cache: epochs of fine-tuning ResNet50, cached and with the whole model and a frozen head.

    python benchmarks/fine_tune.py [--images 256] [--rounds 7] [--seeds 5] [--shares 0.5 0.75 0.95]

ResNet50 with ten classes learns handwritten digits (scikit-learn's, enlarged). It is cut where its head has about the
given share of the FLOPs. Both variants train the same tail from the same weights with the same optimizer, one on cached
features, the other with `model.fit` on the images and `trainable = False` on the head.

Times: epochs of both variants in turn, and of the same tail on the features as an array in memory; the ratio is the
median of the rounds' ratios. The limit is predicted from FLOPs: (head + 3 × tail) / (3 × tail), with a backward pass
counted as two forward passes. "Reading" iterates over the cache without training. Accuracies: `ks.fine_tune` and
`model.fit` on held-out images, for each seed, which determines the new classifier and the order of images.

The weights are random; with `--weights imagenet` they are ImageNet's, if Keras can download them. On two cores it takes
about half an hour; `--images 64 --rounds 1 --seeds 1 --epochs 1` is a quick test that it runs.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits

import kerassplit as ks
from kerassplit.zoo.models import load_model

LOSS = "sparse_categorical_crossentropy"


class Clock(keras.callbacks.Callback):
    """Records how long each epoch takes."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
        self.began = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: object = None) -> None:
        self.seconds.append(time.perf_counter() - self.began)


def digits(side: int, count: int) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Returns `count` digits to train on and half as many others, preprocessed for ResNet50."""
    pixels, labels = load_digits(return_X_y=True)
    pixels, labels = pixels[: count + count // 2], labels[: count + count // 2]
    enlarged = np.kron(pixels.reshape(-1, 8, 8), np.ones((side // 8, side // 8))) * (255 / 16)
    images = keras.applications.resnet.preprocess_input(enlarged[..., None].repeat(3, axis=-1).astype("float32"))
    return (images[:count], labels[:count]), (images[count:], labels[count:])


def with_ten_classes(backbone: keras.Model) -> keras.Model:
    head = ks.build_submodel(backbone, end="avg_pool", copy_weights=True)
    for layer in head.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.9  # Keras's 0.99 would need about 500 steps to adapt; here there are 32
    return ks.join([head, keras.layers.Dense(10, "softmax", name="digit")])


def values(variables: Sequence[keras.Variable]) -> list[np.ndarray]:
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]


def assign(variables: Sequence[keras.Variable], numbers: Sequence[np.ndarray]) -> None:
    for variable, number in zip(variables, numbers, strict=True):
        variable.assign(number)


def cut_at(model: keras.Model, share: float) -> tuple[str, float]:
    """Returns the split point with about this share of the FLOPs before it, and its exact share."""
    blocks = ks.profile(model).blocks
    before = np.cumsum([block.flops or 0 for block in blocks])
    nearest = int(np.argmin(np.abs(before[:-1] / before[-1] - share)))
    return blocks[nearest].name, float(before[nearest] / before[-1])


def two_models(backbone: keras.Model, share: float, options: argparse.Namespace) -> tuple[keras.Model, ...]:
    """Returns two equal models, the second one frozen up to the cut, the name of the cut and its share of the FLOPs."""
    fast, slow = with_ten_classes(backbone), with_ten_classes(backbone)
    point, exact = cut_at(fast, share)
    for layer in ks.build_submodel(slow, end=point).layers:
        layer.trainable = False
    for model in (fast, slow):
        model.compile(keras.optimizers.Adam(options.learning_rate), LOSS, metrics=["accuracy"])
    return fast, slow, point, exact


def accuracies(backbone: keras.Model, share: float, options: argparse.Namespace) -> tuple[str, ...]:
    """Returns the accuracies of both variants over several seeds."""
    training, held_out = digits(options.side, options.images)
    fast, slow, point, exact = two_models(backbone, share, options)
    slow.optimizer.build(slow.trainable_variables)
    start, unused_steps = values(fast.weights), values(slow.optimizer.variables)
    of_both: tuple[list[float], list[float]] = ([], [])
    fit = {"epochs": options.epochs, "batch_size": options.batch_size}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.seeds):
            for model in (fast, slow):
                assign(model.weights, start)
                kernel = model.get_layer("digit").kernel
                kernel.assign(keras.initializers.GlorotUniform(seed)(kernel.shape))
            assign(slow.optimizer.variables, unused_steps)
            keras.utils.set_random_seed(seed)
            ks.fine_tune(fast, point, training, folder, seed=seed, verbose=False, **fit)
            slow.fit(*training, verbose=0, **fit)
            for model, found in zip((fast, slow), of_both, strict=True):
                found.append(model.evaluate(*held_out, verbose=0)[1])
    shown = [f"{statistics.mean(one):.1%} ± {statistics.stdev(one) if len(one) > 1 else 0:.1%}" for one in of_both]
    return f"{point} ({exact:.0%})", *shown


def times(backbone: keras.Model, share: float, options: argparse.Namespace) -> tuple[str, ...]:
    """Times epochs of both variants in turn, and reading the cache."""
    training, _ = digits(options.side, options.images)
    fast, slow, point, exact = two_models(backbone, share, options)
    head = ks.build_submodel(fast, end=point)
    tail, same = (ks.build_submodel(model, start=point) for model in (fast, with_ten_classes(backbone)))
    for model in (tail, same):
        model.compile(keras.optimizers.Adam(options.learning_rate), LOSS, metrics=["accuracy"])
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        features = ks.cache_features(head, training, folder, batch_size=options.batch_size, verbose=False)
        caching = time.perf_counter() - began
        arrays = np.concatenate([x for x, _ in features.with_batches(shuffle=False)])
        cached, frozen, in_memory, reading = [], [], [], []
        for number in range(options.rounds + 1):  # the first epoch compiles
            clock = Clock()
            tail.fit(features, callbacks=[clock], verbose=0)
            slow.fit(*training, batch_size=options.batch_size, callbacks=[clock], verbose=0)
            same.fit(arrays, training[1], batch_size=options.batch_size, callbacks=[clock], verbose=0)
            began = time.perf_counter()
            rows = sum(len(y) for _, y in features)
            if number:
                cached.append(clock.seconds[0])
                frozen.append(clock.seconds[1])
                in_memory.append(clock.seconds[2])
                reading.append(time.perf_counter() - began)
    ratio = statistics.median(slower / faster for slower, faster in zip(frozen, cached, strict=True))
    limit = (exact + 3 * (1 - exact)) / (3 * (1 - exact))
    consumed, read = options.images / statistics.median(cached), rows / statistics.median(reading)
    return (
        f"{point} ({exact:.0%})",
        f"{caching:.1f} s",
        f"{statistics.median(frozen):.2f} s",
        f"{statistics.median(cached):.2f} s",
        f"{statistics.median(in_memory):.2f} s",
        f"{ratio:.2f}",
        f"{limit:.2f}",
        f"{ratio / limit:.0%}",
        f"{read:,.0f} / {consumed:,.0f} = {read / consumed:.0f}",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shares", nargs="+", type=float, default=(0.5, 0.75, 0.95), help="share of FLOPs in the head")
    parser.add_argument("--images", type=int, default=256, help="number of images to train on")
    parser.add_argument("--side", type=int, default=96, help="side of an image in pixels; a multiple of 8")
    parser.add_argument("--batch-size", type=int, default=32, help="images per batch")
    parser.add_argument("--learning-rate", type=float, default=1e-4, help="learning rate of Adam")
    parser.add_argument("--rounds", type=int, default=7, help="timed epochs of each variant; 0: no times")
    parser.add_argument("--seeds", type=int, default=5, help="fits of each variant for the accuracy; 0: no accuracies")
    parser.add_argument("--epochs", type=int, default=4, help="epochs of each of these fits")
    parser.add_argument("--weights", default="random", help="random or imagenet")
    options = parser.parse_args()
    shape = (options.side, options.side, 3)
    backbone = load_model("ResNet50", weights=options.weights, seed=7, input_shape=shape)
    what = f"ResNet50, {options.images} images of {options.side}×{options.side}"
    timed = Table("cut (head's FLOPs)", "caching", "epoch, frozen", "cached", "in memory", "ratio", "limit", "of limit")
    timed.add_column("images/s read / trained on")
    timed.title = f"{what}: seconds, {options.rounds} rounds"
    learned = Table("cut (head's FLOPs)", "accuracy, frozen", "accuracy, cached")
    learned.title = f"{what}: {options.seeds} seeds, {options.epochs} epochs each"
    console = Console(width=130)
    for table, row, wanted in ((timed, times, options.rounds), (learned, accuracies, options.seeds)):
        if wanted:
            for share in options.shares:
                table.add_row(*row(backbone, share, options))
            console.print(table)
    console.print(f"Load of the machine in the last 15 minutes: {os.getloadavg()[2]:.1f}.")


if __name__ == "__main__":
    main()
