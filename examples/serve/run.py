"""Serve MobileNetV2 in two stages over HTTP, send it a photo, then a few mistakes, and stop.

The server is a separate process (server.py next to this file). The weights are random (seeded), so the predicted class
is meaningless, but the answer is compared with the model's. Needs `pip install "kerassplit[ray]"`.
"""

import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import kerassplit as ks
from kerassplit.engines.inputs import load_input
from kerassplit.zoo import load_model
from kerassplit.zoo.photos import shipped_photo


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return one.getsockname()[1]


def post(port: int, body: bytes, content_type: str) -> tuple[int, dict]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request("POST", "/", body, {"Content-Type": content_type})
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


model = load_model("MobileNetV2", weights="random", seed=7)
photo = Path(str(shipped_photo()))
expected = keras.ops.convert_to_numpy(model(load_input(photo, model, "MobileNetV2")))

with tempfile.TemporaryDirectory() as folder:
    stages = Path(folder) / "stages"
    ks.split(model, ["block_6_project_BN"], names=["head", "tail"]).save(stages)
    port = free_port()
    server = Path(__file__).with_name("server.py")
    command = [sys.executable, str(server), str(stages), "--port", str(port), "--architecture", "MobileNetV2"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        print((process.stdout and process.stdout.readline().strip()) or sys.exit("the server did not start"))

        status, answer = post(port, photo.read_bytes(), "image/jpeg")
        scores = np.array(answer["outputs"]["predictions"])
        best = ", ".join(f"class {place} {scores[0, place]:.4f}" for place in scores[0].argsort()[:-4:-1])
        print(f"{photo.name}: {status}, {best}")
        same = np.allclose(scores, expected, rtol=1e-4, atol=1e-6)
        print("equal to the whole model here:", same)

        for body, content_type in (
            (b"hello", "text/plain"),
            (b"hello", "image/png"),
            (b"[[1, 2]]", "application/json"),
        ):
            status, answer = post(port, body, content_type)
            print(f"{body!r} as {content_type}: {status}, {answer['error']}")
        process.communicate()
sys.exit(not same)
