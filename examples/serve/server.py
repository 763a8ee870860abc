"""Serve a saved split over HTTP until standard input ends (or Ctrl-C).

    python examples/serve/server.py FOLDER [--port 8000] [--stages tail] [--architecture MobileNetV2]

It does the same as `serve run kerassplit.engines.serve:app folder=FOLDER`, but stops when its parent process ends.
"""

import argparse
import logging
import os
import secrets
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Anyone with this token can connect to Ray; by default, all of a user's Ray clusters share one from the home directory.
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
