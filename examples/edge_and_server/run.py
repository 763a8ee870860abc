"""Run half a model here and half on a server, and send the tensor in between as float32, float16 and int8.

A phone can run the beginning of a model and send its output instead of the photograph: it may be smaller, and the
server has less to do. With fewer bits it is smaller still, and the result is slightly less accurate. This script
measures by how much.

The head of MobileNetV2 runs in this process, the edge; the tail runs in another one behind HTTP (../serve/server.py),
on the loopback interface. A table shows how many bytes cross, how long it takes, and how much the result differs from
that of the whole model, which must be within the tolerance. The weights are random (seeded). Needs `pip install
"kerassplit[ray]"`.
"""

import http.client
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

import kerassplit as ks
from kerassplit.engines.inputs import load_input
from kerassplit.wire import Form, pack, unpack
from kerassplit.zoo import load_model
from kerassplit.zoo.photos import shipped_photo

CUT = "block_6_project_BN"
ROUNDS = 20
TOLERANCES: dict[Form, float] = {"float32": 1e-6, "float16": 1e-5, "int8": 2e-4}  # of probabilities
TENSORS = "application/x-kerassplit"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return one.getsockname()[1]


def milliseconds(seconds: list[float]) -> str:
    return f"{1000 * statistics.median(seconds):.1f}"


def ask(connection: http.client.HTTPConnection, body: bytes) -> np.ndarray:
    """Sends the crossing tensors to the tail and returns its answer."""
    connection.request("POST", "/", body, {"Content-Type": TENSORS, "Accept": TENSORS})
    answer = connection.getresponse()
    content = answer.read()
    if answer.status != 200:
        sys.exit(f"the server says {answer.status}: {content.decode()}")
    return unpack(content)["predictions"]


def compare(folder: Path, port: int, image: np.ndarray, expected: np.ndarray) -> bool:
    """Prints the table, and returns True if all results are within their tolerances."""
    head = ks.load(folder, stages=["head"])[0].model
    table = Table("sent as", "bytes", "head ms", "rest ms", "largest difference", "tolerance", title=f"cut at {CUT}")
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    good = True
    for dtype, tolerance in TOLERANCES.items():
        heads, rests, differences, sent = [], [], [], 0
        for _ in range(ROUNDS):
            began = time.perf_counter()
            features = keras.ops.convert_to_numpy(head.predict_on_batch(image))
            middle = time.perf_counter()
            body = pack({CUT: features}, dtype)
            result = ask(connection, body)
            heads.append(middle - began)
            rests.append(time.perf_counter() - middle)
            differences.append(float(np.abs(result - expected).max()))
            sent = len(body)
        good = good and max(differences) <= tolerance
        cells = (f"{sent:,}", milliseconds(heads), milliseconds(rests), f"{max(differences):.1e}", f"{tolerance:.0e}")
        table.add_row(dtype, *cells)
    connection.close()
    Console(width=100).print(table)
    return good


def main() -> int:
    model = load_model("MobileNetV2", weights="random", seed=7)
    image = load_input(Path(str(shipped_photo())), model, "MobileNetV2")
    expected = keras.ops.convert_to_numpy(model(image))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "stages"
        ks.split(model, [CUT], names=["head", "tail"]).save(folder)
        port = free_port()
        server = Path(__file__).resolve().parents[1] / "serve" / "server.py"
        command = [sys.executable, str(server), str(folder), "--port", str(port), "--stages", "tail"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            if not process.stdout or not process.stdout.readline().startswith("ready"):
                return 1
            good = compare(folder, port, image, expected)
            print(f"largest probability {expected.max():.3f}; within the tolerances: {good}")
            process.communicate()
        return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
