"""Answer easy images early: add exits to a network, train them with it, and run only the stages that are needed.

Most digits are easy to read, and a small part of a network is enough for them; only some need all of it. So the network
gets exits along the way: additional small classifiers. It is cut after each exit, and a batch of images goes on to the
next stage only if some image in it has no confident answer yet (BranchyNet, Teerapittayanon, McDanel and Kung, ICPR
2016).

The data are the 1,797 handwritten digits that come with scikit-learn, 8×8 pixels each. Nothing is downloaded or
written. Needs `pip install scikit-learn`.
"""

import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import kerassplit as ks

keras.utils.set_random_seed(1)
layers = keras.layers

digits = load_digits()
pixels = (digits.images / 16).astype("float32")[..., None]
x, test_x, y, test_y = train_test_split(pixels, digits.target, test_size=0.4, stratify=digits.target, random_state=0)

# The network: six convolutions, without exits.
image = keras.Input((8, 8, 1), name="image")
features = image
for number, width in enumerate((8, 16, 64, 64, 128, 128), start=1):
    strides = 2 if number == 3 else 1
    features = layers.Conv2D(width, 3, strides, padding="same", use_bias=False, name=f"conv{number}")(features)
    features = layers.BatchNormalization(momentum=0.9, name=f"norm{number}")(features)
    features = layers.ReLU(name=f"block{number}")(features)
pooled = layers.GlobalAveragePooling2D(name="pool")(features)
network = keras.Model(image, layers.Dense(10, "softmax", name="digit")(pooled), name="reader")


def exit_layers(name):
    """Creates a classifier for features of any width, whose last tensor has the given name."""
    return [layers.Flatten(name=f"{name}_features"), layers.Dense(10, "softmax", name=name)]


# Two exits: after the second and the fourth block. `network` itself stays unchanged; the layers are shared.
reader = ks.with_outputs(network, {"block2": exit_layers("exit_2"), "block4": exit_layers("exit_4")})
print("outputs:", {name: tensor.shape for name, tensor in reader.output.items()})

# All three learn together, from the same labels. (To train only the exits: `network.trainable = False`.)
reader.compile("adam", loss=dict.fromkeys(reader.output, "sparse_categorical_crossentropy"))
reader.fit(x, dict.fromkeys(reader.output, y), epochs=12, batch_size=64, verbose=0)

# Three stages. An exit that is listed together with the crossing tensor is computed before the cut.
split = ks.split(reader, [["block2", "exit_2"], ["block4", "exit_4"]], names=["first", "middle", "last"])
split.summary()

# Batches of one: each image goes only as far as it needs to. In larger batches, the hardest image decides for all.
split.predict_early(test_x[:2], 1.0, batch_size=1)  # compiles the stages, so that the times below do not include it
print()
print("threshold   answered at exits   accuracy   last stage run   time")
for confidence in (1.0, 0.999, 0.99, 0.95, 0.9, 0.7):
    began = time.perf_counter()
    early = split.predict_early(test_x, confidence, batch_size=1)
    seconds = time.perf_counter() - began
    share = np.mean(early.exits != "digit")
    accuracy = np.mean(early.outputs.argmax(axis=-1) == test_y)
    print(
        f"{confidence:>9}   {share:>17.1%}   {accuracy:>8.1%}   {early.ran['last']:>7} of {early.batches}   "
        f"{seconds:.2f} s"
    )

# Which exit answered, at 95 %?
early = split.predict_early(test_x, 0.95, batch_size=1)
print()
print(early)
for name, rows in early.answered.items():
    theirs = early.exits == name
    if rows:
        right = np.mean(early.outputs[theirs].argmax(axis=-1) == test_y[theirs])
        print(f"{name}: {rows} images, {right:.1%} of them right")
