"""Run one stage of a saved split behind HTTP until standard input ends.

    python server.py FOLDER STAGE

Answers tensors, packed with kerassplit.wire, with tensors. It shows the principle and listens on this machine only;
../serve is a server for others to use.
"""

import os
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras

import kerassplit as ks
from kerassplit.wire import pack, unpack


class Handler(BaseHTTPRequestHandler):
    """Answers with what the stage computes; no tensors with no tensors, so that the way alone can be timed."""

    protocol_version = "HTTP/1.1"  # keeps connections open
    disable_nagle_algorithm = True
    stage: ks.Stage
    compute: Callable[[list], list]  # an object with `__call__`, so not bound

    def do_POST(self) -> None:
        tensors = unpack(self.rfile.read(int(self.headers["Content-Length"])))
        outputs = self.compute([tensors[name] for name in self.stage.inputs]) if tensors else []
        body = pack(dict(zip(self.stage.outputs, map(keras.ops.convert_to_numpy, outputs), strict=False)))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Prints nothing."""


if __name__ == "__main__":
    folder, name = sys.argv[1:]
    Handler.stage = ks.load(folder, stages=[name])[0]
    Handler.compute = Handler.stage.compiled
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        print(server.server_port, flush=True)
        sys.stdin.read()
        server.shutdown()
