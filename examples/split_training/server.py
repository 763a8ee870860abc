"""The server: it has the tail of the model and the labels, and never sees an image.

A request holds the crossing tensors of some rows, and the row numbers, by which the server finds their labels. The
server runs the tail, computes the loss and backpropagates through the tail. It answers with the gradient at the cut,
and applies the tail's gradients with its own optimizer. Tensors are sent in kerassplit's wire format, which holds
numbers but no code.

It runs until its standard input ends, so it ends with its parent process.
"""

import argparse
import http.server
import os
import sys
import threading
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
from sklearn.datasets import load_digits

import kerassplit as ks
from kerassplit.training.steps.loss import OutputLoss
from kerassplit.training.steps.stage_trainer import StageTrainer
from kerassplit.wire import pack, unpack

MOST_BYTES = 2**24


class Tail:
    """Trains the tail."""

    def __init__(self, folder: Path):
        [self.stage] = ks.load(folder, stages=["tail"])
        self.trainer = StageTrainer(self.stage, keras.optimizers.Adam(0.01), judged=self.stage.outputs)
        self.judge = OutputLoss("sparse_categorical_crossentropy", self.stage.outputs[0])
        self.labels = load_digits().target
        self.losses: list[float] = []
        self.seen: set[str] = set()

    def step(self, body: bytes) -> bytes:
        """Runs one training step: takes the crossing tensors and returns their gradients."""
        tensors = unpack(body)
        self.seen.update(f"{name} {value.shape}" for name, value in tensors.items())
        labels = self.labels[tensors.pop("rows")]
        made = self.trainer.forward(tensors)
        loss, [gradients] = self.judge([made], labels)
        crossing = self.trainer.backward(gradients)
        self.trainer.apply()
        self.losses.append(loss)
        return pack({name: keras.ops.convert_to_numpy(gradient) for name, gradient in crossing.items()})


def handler(tail: Tail) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 60

        def do_POST(self) -> None:
            size = self.headers.get("Content-Length", "")
            if not size.isdigit() or int(size) > MOST_BYTES:
                self.answer(413, f"Expected a body of at most {MOST_BYTES} bytes.".encode())
                self.close_connection = True
                return
            try:
                self.answer(200, tail.step(self.rfile.read(int(size))))
            except (ValueError, KeyError, IndexError) as error:  # the request is not a valid step
                tail.trainer.forget()
                self.answer(400, f"{type(error).__name__}: {error}".encode())

        def answer(self, status: int, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Logs no requests."""

    return Handler


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder

    tail = Tail(folder)
    with http.server.HTTPServer(("127.0.0.1", 0), handler(tail)) as server:
        print(f"ready {server.server_port}", flush=True)

        def stop() -> None:
            sys.stdin.read()
            server.shutdown()

        threading.Thread(target=stop, daemon=True).start()
        server.serve_forever(poll_interval=0.1)
    tail.stage.model.save_weights(folder / "tail.weights.h5")
    seen = ", ".join(sorted(tail.seen))
    print(f"the server saw {seen}; loss {tail.losses[0]:.2f} at first, {tail.losses[-1]:.2f} at last")


if __name__ == "__main__":
    main()
