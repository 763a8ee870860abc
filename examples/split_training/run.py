"""Split training: a client that keeps its images and a server that keeps its labels train one model together.

Two processes share a small network for handwritten digits. The client (client.py) has the images and the head, up to
the cut; the server (server.py) has the labels and the tail. In each step the head's output goes to the server, and the
gradient with respect to it comes back: neither process ever sees the other's data or weights. This is the plain SplitNN
of Gupta & Raskar, "Distributed learning of deep neural network over multiple agents" (2018). (The crossing tensors are
not secret: much of an image can be reconstructed from the output of a shallow head.)

This script cuts and saves the model, runs both processes, and then takes the same steps in one process, with
`ks.train_step`: the resulting weights are the same. Needs scikit-learn, for the digits.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from client import BATCH, images, rows_of_steps
from sklearn.datasets import load_digits

import kerassplit as ks

STEPS = 40
CUT = "pooled"
TOLERANCE = 1e-5  # of weights; in a single process they would be equal bit for bit


def network() -> keras.Model:
    image = keras.Input((8, 8, 1), name="image")
    x = keras.layers.Conv2D(8, 3, padding="same", activation="relu", name="edges")(image)
    x = keras.layers.MaxPooling2D(2, name=CUT)(x)
    x = keras.layers.Conv2D(16, 3, padding="same", use_bias=False, name="shapes")(x)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.Activation("relu", name="active")(x)
    x = keras.layers.Flatten(name="flat")(x)
    return keras.Model(image, keras.layers.Dense(10, activation="softmax", name="digit")(x), name="digits")


def train_apart(folder: Path) -> None:
    """Starts both processes and waits for them; both end, whatever happens."""
    here = Path(__file__).resolve().parent
    command = [sys.executable, str(here / "server.py"), str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        try:
            ready = server.stdout.readline().split() if server.stdout else []
            if len(ready) != 2:
                raise SystemExit("The server did not start.")
            steps = ["--port", ready[1], "--steps", str(STEPS)]
            subprocess.run([sys.executable, str(here / "client.py"), str(folder), *steps], check=True, timeout=300)
            said, _ = server.communicate(timeout=60)  # closes its input, which ends it
            print(said, end="")
        finally:
            server.kill()


def main() -> int:
    keras.utils.set_random_seed(3)
    split = ks.split(network(), CUT, names=["head", "tail"])
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        split.save(folder / "stages")
        train_apart(folder / "stages")
        apart = ks.load(folder / "stages")
        for stage in apart:
            stage.model.load_weights(folder / "stages" / f"{stage.name}.weights.h5")

    pixels, labels = images(), load_digits().target
    optimizers = ks.stage_optimizers(split, keras.optimizers.Adam(0.01))
    for rows in rows_of_steps(STEPS, len(pixels)):
        ks.train_step(split, pixels[rows], labels[rows], "sparse_categorical_crossentropy", optimizers)

    weights = [[weight for stage in one for weight in stage.model.get_weights()] for one in (apart, split)]
    difference = max(float(np.abs(one - other).max()) for one, other in zip(*weights, strict=True))
    right = np.mean(apart.predict(pixels).argmax(axis=-1) == labels)
    print(f"after {STEPS} steps of {BATCH} digits: {right:.0%} are classified correctly")
    print(f"largest difference from training in one process: {difference:.1e}, allowed {TOLERANCE:.0e}")
    return 0 if difference <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
