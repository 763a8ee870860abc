"""What only shows in a process of its own: the memory it takes, the programs it starts, the numbers it draws."""

import hashlib
import os
import subprocess
import sys
import textwrap
import zipfile

import keras
import pytest
from checkout import ROOT

from kerassplit.zoo.models import load_model
from kerassplit.zoo.photos import IMAGE_SUFFIXES

BOMB = """
    import resource, sys, warnings
    import numpy as np, keras
    import kerassplit as ks
    from kerassplit.engines.inputs import load_input
    x = keras.Input((None,), name="x")
    model = keras.Model(x, keras.layers.Activation("relu", name="b")(keras.layers.Rescaling(2.0, name="a")(x)))
    split = ks.split(model, "a")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for read in (load_input, lambda path, model: split.predict(path)):
        for path in sys.argv[1:]:
            try:
                read(path, model)
                print("read")
            except ks.SplitError as error:
                print(error)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource")
def test_bombs_take_no_memory(tmp_path):
    """200 MB of the right shape, if unpacked: in one row, and in column order."""
    blank = b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': %s, 'shape': (%d, %d), }"
    paths = []
    for name, by_column, rows, columns in (("flat", b"False", 1, 50 << 20), ("columns", b"True", 50 << 10, 1 << 10)):
        paths.append(str(tmp_path / f"{name}.npz"))
        with zipfile.ZipFile(paths[-1], "w", zipfile.ZIP_DEFLATED) as archive:
            content = (blank % (by_column, rows, columns)).ljust(127) + b"\n" + bytes(200 << 20)
            archive.writestr("x.npy", content)
    command = [sys.executable, "-c", textwrap.dedent(BOMB), *paths]
    environment = {**os.environ, "KERASSPLIT_MAX_UNPACKED": "50 MiB"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=True)
    *answers, memory = done.stdout.splitlines()
    assert len(answers) == 4
    for answer in answers:
        assert (
            "contains a compressed array that would take 200.0 MiB of memory at a time; the limit is 50.0 MiB" in answer
        )
    assert float(memory) < 50, "megabytes"


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"


def test_no_content_starts_a_program_whatever_it_is_called(tmp_path):
    """A `gs` on the PATH leaves a mark if it is started; Pillow alone does start it."""
    marker, tools = tmp_path / "started", tmp_path / "tools"
    tools.mkdir()
    (tools / "gs").write_text(f"#!/bin/sh\ntouch '{marker}'\nexit 1\n")
    (tools / "gs").chmod(0o755)
    photos = tmp_path / "photos"
    photos.mkdir()
    for suffix in sorted(IMAGE_SUFFIXES | {".eps"}):
        (photos / f"x{suffix}").write_bytes(EPS)
    code = """
        import sys
        from pathlib import Path
        from PIL import Image
        import keras, kerassplit as ks
        from kerassplit.engines.inputs import load_input
        x = keras.Input((8, 8, 3), name="pixels")
        model = keras.Model(x, keras.layers.Flatten(name="flat")(keras.layers.Conv2D(1, 1, name="conv")(x)))
        split = ks.split(model, "conv")
        folder, refused = Path(sys.argv[1]), 0
        for path in sorted(folder.iterdir()):
            for read in (lambda: load_input(path, model), lambda: split.predict(path, preprocess="none")):
                try:
                    read()
                except ks.SplitError as error:
                    refused += "cannot be read as an image" in str(error) and "it is none of BMP, GIF" in str(error)
        try:
            split.predict(folder, preprocess="none")
        except ks.SplitError as error:
            refused += 1
        started = Path(sys.argv[2]).exists()
        try:
            Image.open(folder / "x.png").load()
        except Exception:
            pass
        print(refused, started, Path(sys.argv[2]).exists())
    """
    environment = {**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
    command = [sys.executable, "-c", textwrap.dedent(code), str(photos), str(marker)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout.split() == [str(2 * len(list(photos.iterdir())) + 1), "False", "True"]


def digest(model: keras.Model) -> str:
    values = [keras.ops.convert_to_numpy(weight).tobytes() for weight in model.weights]
    return hashlib.sha256(b"".join(values)).hexdigest()


def test_the_same_seed_gives_the_same_weights_in_another_process():
    code = (
        "import hashlib, keras\n"
        "from kerassplit.zoo.models import load_model\n"
        "keras.utils.set_random_seed(99); keras.layers.Dense(3)(keras.Input((2,)))\n"
        "model = load_model('MobileNetV2', weights='random', seed=4, input_shape=(64, 64, 3))\n"
        "parts = [keras.ops.convert_to_numpy(weight).tobytes() for weight in model.weights]\n"
        "print(hashlib.sha256(b''.join(parts)).hexdigest())\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    model = load_model("MobileNetV2", weights="random", seed=4, input_shape=(64, 64, 3))
    assert done.stdout.strip() == digest(model)
    assert digest(load_model("MobileNetV2", weights="random", seed=5, input_shape=(64, 64, 3))) != digest(model)


def test_importing_all_of_the_package_makes_no_keras_layer():
    """Keras numbers automatic names: a layer that is made on import would shift those of users' layers."""
    program = """
        import importlib, pkgutil, keras, kerassplit
        for module in pkgutil.walk_packages(kerassplit.__path__, "kerassplit."):
            if not module.name.endswith("__main__"):
                try:
                    importlib.import_module(module.name)
                except ImportError as error:
                    assert not str(error.name).startswith("kerassplit"), error  # an extra that is not installed
        layers = keras.layers
        print([layer.name for layer in (layers.Identity(), layers.Dense(1), layers.Activation("relu"), layers.Add())])
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.stdout.splitlines()[-1] == "['identity', 'dense', 'activation', 'add']"
