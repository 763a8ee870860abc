"""The examples, besides that they run, which CI sees to."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

EXAMPLES = Path(__file__).parent.parent / "examples"


def example(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_grad_cam_weighs_the_maps_by_the_gradient_of_the_class():
    grad_cam = example("grad_cam")
    generator = np.random.default_rng(0)
    kernel = generator.normal(size=(4, 6)).astype("float32")
    backbone = keras.Sequential(
        [keras.Input((12, 12, 3)), keras.layers.Conv2D(4, 3, 2, activation="relu", name="out_relu")], name="backbone"
    )
    model = keras.Sequential(
        [
            keras.Input((12, 12, 3)),
            backbone,
            keras.layers.GlobalAveragePooling2D(name="pool"),
            keras.layers.Dense(6, name="scores"),
        ]
    )
    model.get_layer("scores").set_weights([kernel, np.zeros(6, "float32")])
    photo = generator.uniform(0, 1, (12, 12, 3)).astype("float32")
    heat, best = grad_cam.grad_cam(model, photo)
    maps = keras.ops.convert_to_numpy(backbone(photo[None]))[0]
    assert best == (maps.mean(axis=(0, 1)) @ kernel).argmax()
    # The score is the mean of the maps times a column of the kernel, which is the gradient but for a factor.
    expected = np.maximum(maps @ kernel[:, best], 0)
    np.testing.assert_allclose(heat, expected / expected.max(), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_grad_cam_draws_one_picture_and_leaves_nothing_else(tmp_path):
    command = [sys.executable, str(EXAMPLES / "grad_cam.py"), "-o", "heat.png"]
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES.parent)}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, timeout=300)
    assert [path.name for path in tmp_path.iterdir()] == ["heat.png"]
    with Image.open(tmp_path / "heat.png") as picture:
        assert picture.size == (912, 912)
        pixels = np.asarray(picture, dtype="float32")
    photo, drawn = pixels[:448, :448], pixels[:448, 464:]
    assert np.abs(photo - drawn).mean() > 20  # there is heat over it
    assert drawn.std() > 30
