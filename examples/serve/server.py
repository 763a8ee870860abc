"""Serve a saved split over HTTP until standard input ends (or Ctrl-C).

    python examples/serve/server.py FOLDER [--port 8000] [--stages tail] [--architecture MobileNetV2]

It does what `serve run kerassplit.engines.serve:app folder=FOLDER` does, and stops when whoever started it is gone.
"""

import argparse
import logging
import os
import secrets
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Who knows this may talk to this Ray; by default it is kept in the home directory, for all Rays of a user.
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))

import ray
from ray import serve

from kerassplit.engines.serve import app

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("folder")
parser.add_argument("--port", type=int, default=8000)
parser.add_argument("--stages")
parser.add_argument("--architecture")
arguments = parser.parse_args()

ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
try:
    serve.start(http_options={"port": arguments.port}, logging_config={"log_level": "ERROR"})
    options = {"folder": arguments.folder, "stages": arguments.stages, "architecture": arguments.architecture}
    serve.run(app({**options, "num_cpus": 0.5}))
    print(f"ready: http://127.0.0.1:{arguments.port}/", flush=True)
    sys.stdin.read()
except KeyboardInterrupt:
    pass
finally:
    serve.shutdown()
    ray.shutdown()
