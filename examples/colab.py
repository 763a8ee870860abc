# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Cut a Keras model in two
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/kerassplit/kerassplit/blob/main/examples/colab.ipynb)
#
# ResNet50 is one model with 177 layers. In the next ten minutes you will cut it into pieces that run by themselves, see
# proof that they compute the same numbers, find out where a cut is worth most, and train one half of it without ever
# running the other half twice.
#
# Press Shift+Enter to run a cell and go to the next one.

# %% [markdown]
# ## Install
#
# This adds kerassplit to what Colab has, and leaves TensorFlow and Keras as they are.

# %%
import importlib.util
import subprocess
import sys

WHERE = "git+https://github.com/kerassplit/kerassplit"
if importlib.util.find_spec("kerassplit") is None:
    done = subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", f"kerassplit @ {WHERE}"])
    if done.returncode:
        raise SystemExit(
            f"kerassplit could not be installed from {WHERE}; pip says why above. It needs git and a network. In a "
            f"checkout, `pip install -e .` in its folder does the same; then run this cell again."
        )

# %%
import os
import shutil

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow says less

import keras
import matplotlib.pyplot as plt
import numpy as np

import kerassplit as ks

# %% [markdown]
# ## What it runs on
#
# Everything below works on a CPU. For a GPU: *Runtime → Change runtime type*.

# %%
backend = keras.backend.backend()
has_gpu = backend == "torch" or bool(keras.distribution.list_devices("gpu"))
question = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
if has_gpu and shutil.which("nvidia-smi"):
    device = subprocess.run(question, capture_output=True, text=True, check=True).stdout.strip()
else:
    device = "GPU" if has_gpu and backend != "torch" else "CPU"
print(f"Keras {keras.__version__} with {backend} on: {device}")

# %% [markdown]
# ## A model and a photograph
#
# ResNet50 with the weights that it learned on ImageNet. Where these cannot be downloaded, random ones do: no number
# below depends on what the model knows, only its opinion of the cat does.

# %%
from kerassplit.engines.inputs import load_input
from kerassplit.zoo import load_model
from kerassplit.zoo.photos import shipped_photo

try:
    resnet, weights = load_model("ResNet50", weights="imagenet"), "imagenet"
except ks.SplitError:
    print("The weights cannot be downloaded here.")
    resnet, weights = load_model("ResNet50", weights="random", seed=7), "random"
print(f"{resnet.count_params():,} parameters, weights: {weights}")

# %%
photo = load_input(str(shipped_photo()), resnet, "ResNet50")
scores = keras.ops.convert_to_numpy(resnet(photo))

seen = f"class {scores[0].argmax()}, says a network that has learned nothing"
if weights == "imagenet":
    seen = keras.applications.resnet50.decode_predictions(scores, top=1)[0][0][1].replace("_", " ")
plt.figure(figsize=(4, 3))
plt.imshow(plt.imread(str(shipped_photo())))
plt.title(seen)
plt.axis("off")
plt.show()

# %% [markdown]
# ## Where can it be cut?
#
# A model is a graph, and tensors go along its edges. You can cut where a single tensor connects what comes before with
# what comes after: a *split point*. The picture shows the blocks of the model, and in red the split points.

# %%
points = ks.split_points(resnet)
print(f"{len(points)} split points in {len(resnet.layers)} layers")
ks.plot(resnet)

# %% [markdown]
# Inside a residual block, a shortcut runs beside the convolutions, so two tensors would cross. kerassplit says which:

# %%
print(ks.explain(resnet, "conv4_block6_2_relu"))

# %% [markdown]
# ## Cut
#
# Three stages, with names. Each is a `keras.Model` on the layers of ResNet50: nothing is copied.

# %%
split = ks.split(resnet, ["conv3_block4_out", "conv4_block6_out"], names=["features", "middle", "classifier"])
split.plot()

# %% [markdown]
# The thick red edges are the cuts, with the tensor that crosses and its size. The stages run one after another:

# %%
features = split["features"](photo)
middle = split["middle"](features)
print(tuple(features.shape), "→", tuple(middle.shape), "→", tuple(split["classifier"](middle).shape))

# %% [markdown]
# Here is what the first two hand on: a few channels of each, of the same cat.

# %%
figure, axes = plt.subplots(2, 6, figsize=(10, 3.6))
for row, tensor, name in ((0, features, "features →"), (1, middle, "middle →")):
    channels = keras.ops.convert_to_numpy(tensor)[0]
    strongest = channels.std(axis=(0, 1)).argsort()[::-1]
    for place in range(6):
        axes[row, place].imshow(channels[:, :, strongest[place]])
        axes[row, place].set_xticks([])
        axes[row, place].set_yticks([])
    axes[row, 0].set_ylabel(name)
figure.tight_layout()
plt.show()

# %% [markdown]
# ## Proof
#
# Do the stages compute what the model computes? Equal means equal: every bit.

# %%
receipt = split.verify(photo).check()
receipt.summary()

# %% [markdown]
# As a picture: each dot is one of 1,000 classes. On the line, model and stages give it the same score.

# %%
theirs, ours = scores[0], keras.ops.convert_to_numpy(split(photo))[0]
plt.figure(figsize=(3.6, 3.6))
plt.loglog([theirs.min(), theirs.max()], [theirs.min(), theirs.max()], color="lightsteelblue", linewidth=5)
plt.loglog(theirs, ours, ".", color="tab:red", markersize=3)
plt.xlabel("score, the whole model")
plt.ylabel("score, three stages")
plt.show()

# %% [markdown]
# ## What does it cost, and where?
#
# Parameters, bytes and FLOPs of every block. Each bar is a place to cut: above, how much of the work lies before it;
# below, how much would have to cross. Low is good; red is lower than all before. (`measure=True` measures seconds on this
# device as well.)

# %%
costs = ks.profile(resnet)
print(f"{costs.known_flops / 1e9:.1f} GFLOPs, {costs.parameters:,} parameters")
costs.plot()

# %% [markdown]
# ## Plan two even stages
#
# Two equal devices: which cut keeps the slower of them least busy? A plan is proved to be the best, or says how far it
# may be from it.

# %%
plan = ks.plan(resnet, 2, profile=costs)
print(f"Cut at {plan.at[0]}. Proved best: {plan.optimal}")
plan.plot()

# %% [markdown]
# Half on a phone, half on a server? Then it depends on the network between them, and on what is sent. A photograph
# travels as a JPEG file, say of 30 KB, and few tensors inside a model are smaller: as float32, no cut pays. With one byte
# per value, one does, on some networks. This finds the best cut at *every* bandwidth, here for MobileNetV2, which was
# made for phones:

# %%
mobilenet = keras.applications.MobileNetV2(weights=None)
phone, server = ks.Device("phone", "20 GFLOPS"), ks.Device("server", "5 TFLOPS")
ks.plan_sweep(
    mobilenet,
    [phone, server],
    bandwidths=("1 Mbit/s", "100 Mbit/s"),
    latency="5 ms",
    input_bytes="30 KB",
    compression="int8",
).plot()

# %% [markdown]
# ## Train one half only
#
# Now the reason why most people cut a model: to train its end on something new. Our something new is handwritten
# digits. They come with scikit-learn: 8×8 pixels, which we enlarge to 64×64.

# %%
from sklearn.datasets import load_digits

digits = load_digits()
small = np.repeat(digits.images[:1400, :, :, None], 3, axis=-1) * (255 / 16)
images = keras.ops.convert_to_numpy(keras.ops.image.resize(small.astype("float32"), (64, 64)))
labels = digits.target[:1400]
train, test = (images[:1200], labels[:1200]), (images[1200:], labels[1200:])

figure, axes = plt.subplots(1, 10, figsize=(10, 1.4))
for number, axis in enumerate(axes):
    axis.imshow(images[labels == number][0].astype("uint8"))
    axis.set_title(number)
    axis.axis("off")
plt.show()

# %% [markdown]
# A new model: the first 80 % of ResNet50 for small images, with the weights of ours (these do not care how large an
# image is), joined with a few new layers for ten digits.

# %%
CUT = "conv4_block6_out"

keras.utils.set_random_seed(0)
head = ks.build_submodel(keras.applications.ResNet50(weights=None, input_shape=(64, 64, 3)), end=CUT)
head.set_weights(ks.build_submodel(resnet, end=CUT).get_weights())
new_tail = keras.Sequential(
    [
        keras.layers.LayerNormalization(name="norm"),
        keras.layers.Conv2D(32, 1, activation="relu", name="mix"),
        keras.layers.Flatten(name="flat"),
        keras.layers.Dense(10, "softmax", name="digit"),
    ],
    name="new_tail",
)
model = ks.join([head, new_tail])
model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])

# %% [markdown]
# In every epoch the frozen head would compute the same features again. How much of an epoch is that? Going backwards
# takes about twice as much as going forwards, and only the tail does.

# %%
frozen = ks.profile(head).known_flops
trained = 3 * (ks.profile(model).known_flops - frozen)
plt.figure(figsize=(8, 1.3))
plt.barh([0], [frozen / 1e6], color="lightsteelblue", label="frozen head: the same every time")
plt.barh([0], [trained / 1e6], left=[frozen / 1e6], color="tab:red", label="tail: what is trained")
plt.yticks([])
plt.xlabel("million FLOPs an image, in each epoch")
plt.legend(loc="upper center", bbox_to_anchor=(0.5, 1.6), ncols=2, frameon=False)
plt.show()

# %% [markdown]
# So `fine_tune` runs the head once over the images, keeps its features on the disk, and trains the tail on these. The
# layers are shared, so `model` itself has learned when it returns.

# %%
import tempfile
import time
from pathlib import Path

folder = tempfile.TemporaryDirectory()
cache = Path(folder.name) / "cache"
start = time.perf_counter()
history = ks.fine_tune(
    model, CUT, train, cache, validation_data=test, epochs=15, preprocess="ResNet50", seed=0, verbose=False
)
print(f"{time.perf_counter() - start:.0f} seconds in all, 15 epochs")
size = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
print(f"{size / 2**20:.0f} MiB of features of {len(images)} images on the disk")

# %%
epochs = range(1, len(history.history["loss"]) + 1)
plt.figure(figsize=(6, 3.4))
plt.plot(epochs, history.history["accuracy"], "o-", label="1,200 digits it was trained on")
plt.plot(epochs, history.history["val_accuracy"], "o-", label="200 digits it never saw")
plt.axhline(0.1, color="grey", linestyle=":", label="guessing")
plt.xlabel("epoch")
plt.ylabel("accuracy")
plt.ylim(0, 1.02)
plt.legend(loc="lower right")
plt.show()

# %% [markdown]
# Is it the *whole* model that has learned? Ask it, with images and not with features:

# %%
loss, accuracy = model.evaluate(keras.applications.resnet50.preprocess_input(test[0].copy()), test[1], verbose=0)
print(f"The whole model, on images: {accuracy:.1%}. The tail, on features: {history.history['val_accuracy'][-1]:.1%}")

# %%
read = model.predict(keras.applications.resnet50.preprocess_input(test[0].copy()), verbose=0).argmax(-1)
right = read == test[1]
figure, axes = plt.subplots(2, 12, figsize=(10, 2.6))
for place, axis in enumerate(axes.flat):
    axis.imshow(test[0][place].astype("uint8"))
    axis.set_title(read[place], color="green" if right[place] else "red")
    axis.axis("off")
figure.suptitle(f"It reads {right.sum()} of {len(right)} digits right that it never saw (red: wrong)", y=1.06)
plt.show()

# %% [markdown]
# ## Tidy up
#
# The cache was in a temporary folder.

# %%
folder.cleanup()

# %% [markdown]
# ## Where to go from here
#
# - Your own model: `ks.split_points(model)`, then `ks.split(model, name)`. Subclassed models go through `ks.trace` first.
# - On disk: `split.save("out")`, `ks.load("out")`; or from a shell, `kerassplit split ResNet50 --stages 3 -o out`.
# - For other runtimes: `split.export("exported", format="onnx")`.
# - The [documentation](https://github.com/kerassplit/kerassplit/tree/main/docs) has a page for each wish.
