"""The client: it has the images and the head of the model, but no labels.

In every step it draws some of its images, runs them through the head, and sends the head's output, the crossing: no
image ever leaves this process. It receives the gradient of the loss with respect to the crossing, which is all that
the head needs to learn.
"""

import argparse
import http.client
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from sklearn.datasets import load_digits

import kerassplit as ks
from kerassplit.training.steps.stage_trainer import StageTrainer
from kerassplit.wire import pack, unpack

BATCH = 64


def rows_of_steps(steps: int, rows: int) -> np.ndarray:
    """Returns the row numbers of the images for each step: random, but the same in every run."""
    return np.random.default_rng(5).integers(0, rows, (steps, BATCH))


def images() -> np.ndarray:
    """Returns 1,797 handwritten digits of 8×8 pixels from 0 to 1."""
    return load_digits().images[..., None].astype("float32") / 16


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    options = parser.parse_args()

    [stage] = ks.load(options.folder, stages=["head"])
    head = StageTrainer(stage, keras.optimizers.Adam(0.01), back_to=())  # the gradient of the images is not needed
    mine = images()
    connection = http.client.HTTPConnection("127.0.0.1", options.port, timeout=60)
    sent = received = 0
    for rows in rows_of_steps(options.steps, len(mine)):
        crossing = head.forward({"image": mine[rows]})
        body = pack({**{name: keras.ops.convert_to_numpy(one) for name, one in crossing.items()}, "rows": rows})
        connection.request("POST", "/", body)
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise SystemExit(f"The server says {answer.status}: {content.decode(errors='replace')}")
        head.backward(unpack(content))
        head.apply()
        sent, received = sent + len(body), received + len(content)
    connection.close()
    stage.model.save_weights(options.folder / "head.weights.h5")
    print(f"{sent // options.steps:,} bytes to the server and {received // options.steps:,} back in every step")


if __name__ == "__main__":
    main()
