"""Fine-tune a network at the cost of its last part: the first part runs over the images only once.

    pip install "kerassplit[tensorflow]" scikit-learn
    python examples/cache_and_fine_tune.py

A network that was trained on photographs recognizes edges, corners and textures. Its first part, the head, can stay as
it is for a new task; only the last part needs to learn. So the head produces the same features for an image in every
epoch, and it is enough to compute them once and keep them on disk. The task here is to classify 8×8 images of
handwritten digits, which come with scikit-learn. Nothing is downloaded, so the weights are random, and the model learns
less from them than it would from ImageNet's. Everything is written to a temporary folder, which is removed at the end.
"""

import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from sklearn.datasets import load_digits

import kerassplit as ks
from kerassplit.zoo import load_model

# The images: 1,797 digits with values from 0 to 16. MobileNetV2 expects larger color images with values from 0 to 255,
# so every pixel becomes 4×4 pixels with three equal colors. The last 297 are held out for evaluation.
pixels, labels = load_digits(return_X_y=True)
images = np.kron(pixels.reshape(-1, 8, 8), np.ones((4, 4)))[..., None].repeat(3, axis=-1).astype("float32") * (255 / 16)
training, held_out = (images[:1500], labels[:1500]), (images[1500:], labels[1500:])

# The network, without ImageNet's classifier. With an internet connection,
# keras.applications.MobileNetV2(input_shape=(32, 32, 3), include_top=False) has ImageNet's weights.
backbone = load_model("MobileNetV2", weights="random", seed=7, input_shape=(32, 32, 3))

# Where to cut? `ks.split_points(backbone)` lists the places where a single tensor goes from one part to the other.
# After block 3, an image is 4×4 positions with 32 values each: 2 KiB, less than the image itself.
head = ks.build_submodel(backbone, end="block_3_project_BN")
print(f"The head gives {head.output.shape[1:]} for each image.")

# A new last part, joined with the head to the model that learns the task. The head's layers are those of `backbone`.
tail = keras.Sequential(
    [
        keras.Input(head.output.shape[1:], name="features"),
        keras.layers.Conv2D(64, 3, padding="same", activation="relu", name="new_conv"),
        keras.layers.Flatten(name="new_flat"),
        keras.layers.Dropout(0.3, name="new_dropout"),
        keras.layers.Dense(10, activation="softmax", name="digit"),
    ]
)
model = ks.join([head, tail])
model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])

with tempfile.TemporaryDirectory() as folder:
    # One call does everything: it runs the head over the images, writes its features to the folder (half as large, as
    # bfloat16), and trains the tail on them. `preprocess` selects MobileNetV2's preprocessing of the pixels.
    began = time.perf_counter()
    recipe = {"validation_data": held_out, "preprocess": "MobileNetV2", "storage": "bfloat16", "seed": 0}
    history = ks.fine_tune(
        model, "block_3_project_BN", training, Path(folder) / "cache", epochs=8, verbose=False, **recipe
    )
    print(f"Features and 8 epochs: {time.perf_counter() - began:.1f} s.")
    print(f"Accuracy on digits that it was not trained on: {history.history['val_accuracy'][-1]:.1%}.")

    # The features are still there, so more epochs cost only the tail. If the head or the images had changed, the cache
    # would be refused, with a message that says what differs.
    began = time.perf_counter()
    history = ks.fine_tune(
        model, "block_3_project_BN", training, Path(folder) / "cache", epochs=4, verbose=False, **recipe
    )
    print(f"Four epochs more: {time.perf_counter() - began:.1f} s, {history.history['val_accuracy'][-1]:.1%}.")

    # The tail shares its weights with the model, so the whole model is now fine-tuned.
    prepared = keras.applications.mobilenet_v2.preprocess_input(held_out[0].copy())
    print(f"The whole model on the images: {model.evaluate(prepared, held_out[1], verbose=0)[1]:.1%}.")

    # To train in another way, use the features themselves: batches for `fit`, or for a loop of your own.
    features = ks.cache_features(
        head, training, Path(folder) / "features", preprocess="MobileNetV2", batch_size=64, verbose=False
    )
    print(features)
    for x, y in features:
        print(f"The first of {len(features)} batches: features {x.shape}, labels {y.shape}.")
        break
