"""Cut ResNet50 in three, verify that the stages compute the same numbers, save them and load one of them.

Start here: `python examples/cut_and_compare.py`. A model can be cut where a single tensor connects everything before
with everything after. This script lists such places, asks about a place that is not one, and cuts at two. Then it
compares every tensor that a stage outputs with the one inside the whole model, bit for bit; and finally it loads one
stage on its own, as another machine would.

Everything is written to a temporary folder. The weights are random (seeded): no download is needed.
"""

import os
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import kerassplit as ks

keras.utils.set_random_seed(0)
resnet = keras.applications.ResNet50(weights=None)
images = np.random.default_rng(0).uniform(0, 255, (2, 224, 224, 3)).astype("float32")

# Where can it be cut? After every residual block, for example.
blocks = [point for point in ks.split_points(resnet) if point.name.endswith("_out")]
for point in blocks[::4]:
    print(f"{point.name:<18} {point.shape!s:<24} {point.params_before:>10,} parameters before")

# Inside a block it cannot be cut, and kerassplit says what else would cross.
print(ks.explain(resnet, "conv4_block6_2_relu"))

# Only the tail, on a new Input: the layers and weights are ResNet50's own.
tail = ks.build_submodel(resnet, start="conv4_block6_out")
print(f"{tail.name}: {tail.input.shape} -> {tail.output.shape}")

# Three stages, the same numbers.
split = ks.split(resnet, ["conv3_block4_out", "conv4_block6_out"], names=["features", "middle", "classifier"])
split.summary()
print(split.verify(images).check())

with tempfile.TemporaryDirectory() as folder:
    split.save(Path(folder) / "stages")
    split.plot(Path(folder) / "split.svg")
    # On another machine: one stage, without the model and without the other stages.
    classifier = ks.load(Path(folder) / "stages", stages=["classifier"])[0].model
    features = split["middle"].model(split["features"].model(images))
    ours, theirs = (keras.ops.convert_to_numpy(scores) for scores in (classifier(features), resnet(images)))
    print("loaded classifier equal:", np.array_equal(ours, theirs))
