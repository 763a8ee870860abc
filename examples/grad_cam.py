"""See what a classifier looks at: Grad-CAM through a nested model, drawn over a photograph.

Transfer learning puts a backbone *inside* a model: preprocessing, backbone, new classifier. Keras shows that backbone
as one layer, and gives no access to the feature maps in it; kerassplit names them `backbone/...` and cuts there.
Grad-CAM (Selvaraju et al., "Grad-CAM: Visual explanations from deep networks", ICCV 2017) needs three things:

1. the feature maps of the last convolution (a *tap*),
2. the class score as a function of these maps alone (the *tail* after the tap),
3. the gradient of the score with respect to the maps: how much each of them contributes to the class.

The maps, weighted by their mean gradients and summed, are the heat map: it shows where the evidence for the class is.

The photographs are the two from scikit-learn, a temple and a flower. By default the weights are random and seeded, so
that nothing is downloaded: the picture then shows only the computation, not what a trained network sees. For that, use
`--weights imagenet`. Without `-o` the picture is drawn and discarded. Needs `pip install scikit-learn pillow`.

    python grad_cam.py -o heat.png --weights imagenet
"""

import argparse
import os
import tempfile
from importlib import import_module
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

import kerassplit as ks

SIDE = 224  # of the model's input
SHOWN = 448  # of the photographs in the picture
TAP = "backbone/out_relu"  # MobileNetV2's last feature maps, 7×7×1280
CLASSES = 1000


def transfer_model(weights: str) -> keras.Model:
    """Builds a classifier as in transfer learning: the backbone is one of its layers."""
    keras.utils.set_random_seed(0)
    imagenet = weights == "imagenet"
    whole = keras.applications.MobileNetV2(weights="imagenet" if imagenet else None, input_shape=(SIDE, SIDE, 3))
    backbone = ks.build_submodel(whole, end="out_relu", name="backbone")
    if not imagenet:
        from kerassplit.zoo.random_weights import randomize

        randomize(backbone, seed=7)  # also sets batch-norm statistics, so that features vary like trained ones
    classifier = keras.layers.Dense(CLASSES, name="scores")
    model = keras.Sequential(
        [
            keras.Input((SIDE, SIDE, 3), name="pixels"),
            keras.layers.Rescaling(1 / 127.5, offset=-1, name="preprocess"),
            backbone,
            keras.layers.GlobalAveragePooling2D(name="pool"),
            classifier,
        ],
        name="classifier",
    )
    if imagenet:
        classifier.set_weights(whole.get_layer("predictions").get_weights())
    return model


def gradient(score, maps):
    """Computes the gradient of the number `score(maps)` with respect to the maps, on any backend."""
    if keras.backend.backend() == "tensorflow":
        tf = import_module("tensorflow")
        with tf.GradientTape() as tape:
            tape.watch(maps)
            value = score(maps)
        return tape.gradient(value, maps)
    if keras.backend.backend() == "jax":
        return import_module("jax").grad(score)(maps)
    leaf = maps.detach().requires_grad_()
    return import_module("torch").autograd.grad(score(leaf), leaf)[0]


def grad_cam(model: keras.Model, photo: np.ndarray) -> tuple[np.ndarray, int]:
    """Returns the heat map of the strongest class, from 0 to 1 and as large as the feature maps, and that class."""
    ops = keras.ops
    head = ks.tap(model, TAP)  # from the photograph to the maps
    tail = ks.build_submodel(model, start=TAP)  # from the maps to the scores
    maps = head(photo[None])[TAP]
    scores = tail(maps)
    best = int(ops.argmax(scores[0]))
    weights = ops.mean(gradient(lambda maps: tail(maps)[0, best], maps), axis=(0, 1, 2))
    heat = ops.convert_to_numpy(ops.relu(ops.sum(maps[0] * weights, axis=-1)))
    return heat / max(float(heat.max()), 1e-9), best


def square(photo: np.ndarray, side: int) -> np.ndarray:
    """Crops the middle of a photograph and resizes it to a square of this many pixels."""
    shorter = min(photo.shape[:2])
    top, left = ((size - shorter) // 2 for size in photo.shape[:2])
    middle = Image.fromarray(photo[top : top + shorter, left : left + shorter])
    return np.asarray(middle.resize((side, side), Image.Resampling.LANCZOS), dtype="float32")


def colored(heat: np.ndarray) -> np.ndarray:
    """Maps heat from 0 to 1 to colors from deep blue through green and yellow to red."""
    stops = np.array([[48, 18, 99], [41, 107, 196], [32, 190, 155], [246, 213, 71], [214, 45, 32]], "float32")
    places = np.linspace(0, 1, len(stops))
    return np.stack([np.interp(heat, places, stops[:, channel]) for channel in range(3)], axis=-1)


def drawn_over(photo: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Draws the heat over the faded photograph: the hotter, the more of its color."""
    smooth = Image.fromarray((heat * 255).astype("uint8")).resize(photo.shape[1::-1], Image.Resampling.BICUBIC)
    large = np.asarray(smooth, dtype="float32") / 255
    grey = photo @ np.array([0.299, 0.587, 0.114], "float32")
    veil = 0.2 + 0.5 * large[..., None]
    return (1 - veil) * (0.3 * photo + 0.7 * grey[..., None]) + veil * colored(large)


def main() -> None:
    parser = argparse.ArgumentParser(description="Draws what a classifier looks at over two photographs.")
    parser.add_argument("-o", "--output", type=Path, help="the PNG; by default in a temporary folder that is removed")
    parser.add_argument("--weights", choices=["random", "imagenet"], default="random", help="by default random")
    arguments = parser.parse_args()

    model = transfer_model(arguments.weights)
    print(f"{model.name}: {[layer.name for layer in model.layers]}")
    print(ks.explain(model, TAP))
    gap, rows = np.full((SHOWN, 16, 3), 255.0), []
    for photo in load_sample_images().images:
        heat, best = grad_cam(model, square(photo, SIDE))
        row, column = np.unravel_index(heat.argmax(), heat.shape)
        print(f"class {best}: the hottest of {heat.shape[0]}×{heat.shape[1]} places is row {row}, column {column}")
        shown = square(photo, SHOWN)
        rows.append(np.concatenate([shown, gap, drawn_over(shown, heat)], axis=1))
    line = np.full((16, rows[0].shape[1], 3), 255.0)
    picture = Image.fromarray(np.concatenate([rows[0], line, rows[1]]).clip(0, 255).astype("uint8"))

    with tempfile.TemporaryDirectory() as folder:
        output = arguments.output or Path(folder) / "grad_cam.png"
        picture.save(output)
        print(f"{output.name}: {picture.width}×{picture.height} pixels, photograph and heat map side by side")


if __name__ == "__main__":
    main()
