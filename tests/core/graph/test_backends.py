"""Only one package checks which backend is in use, and each backend's properties are in one file."""

import re
import subprocess
import sys
from pathlib import Path

import keras
import pytest

import kerassplit
from kerassplit.graph.backends import backend
from kerassplit.graph.backends.interface import Backend

PACKAGE = Path(kerassplit.__file__).parent
ROOM = "graph/backends/"
ASKED = re.compile(
    r"backend\.backend\(\)|backend\(\)\.name\s*[!=]=|^\s*(?:from|import) (?:tensorflow|jax|torch)\b"
    r"|import_module\(\W?(?:tensorflow|jax|torch)\b",
    re.MULTILINE,
)
MAY_ASK = {
    "costs/profiling.py": "a profile names the backend that it is measured on",
    "storage/exports/formats/litert.py": "TensorFlow makes the format",
    "storage/exports/formats/onnx.py": "TensorFlow makes the format",
    "storage/exports/formats/savedmodel.py": "TensorFlow makes the format",
    "storage/exports/export.py": "on another backend, a process with Keras on TensorFlow makes the export",
}


def test_no_other_room_asks_which_backend_runs():
    files = {path.relative_to(PACKAGE).as_posix(): path.read_text() for path in PACKAGE.rglob("*.py")}
    asking = {name for name, text in files.items() if not name.startswith(ROOM) and ASKED.search(text)}
    assert asking == set(MAY_ASK), asking ^ set(MAY_ASK)


def test_the_backend_is_that_of_keras():
    assert backend().name == keras.backend.backend()
    assert backend() is backend()


def test_another_backend_is_refused_by_name():
    """Keras has more backends; models can be cut on them, but not run in stages."""
    openvino = Backend("openvino")
    assert openvino.strategy_of(keras.Sequential()) is None
    with pytest.raises(kerassplit.SplitError, match="^Keras runs on 'openvino' here, on which kerassplit does not com"):
        openvino.compiled(keras.Sequential(), False, True, False, lambda: None)
    with pytest.raises(kerassplit.SplitError, match="'openvino' here, on which kerassplit does not train"):
        openvino.record(lambda tensors: (tensors, None), [])


def test_no_other_backend_is_imported():
    """Not even if it is installed."""
    program = (
        "import sys, keras, kerassplit as ks\n"
        "before = set(sys.modules)\n"
        "for name in ks.__all__: getattr(ks, name)\n"
        "model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(2, name='last')])\n"
        "ks.split(model, [0]).predict(keras.ops.ones((2, 4)), verbose=False)\n"
        "found = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "others = {'tensorflow', 'jax', 'torch'} - {keras.backend.backend()}\n"
        "print(sorted(found & others))\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
