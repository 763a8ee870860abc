"""A served split under load: rate, latency and memory; checks every answer against the model's.

    python benchmarks/serve.py [--seconds 60] [--clients 8] [--kill-every 15] [--replicas 2]

MobileNetV2 with 96×96 pixels in two stages, served over HTTP on this machine. Threads of this process send photographs
(JPEG) and arrays (`.npy`, `.npz`, packed, JSON) of one to four rows; each sends its next request as soon as it has the
answer, which is compared with the whole model's on the same rows. There are three runs: alone; together with as many
clients that send a byte at a time, stop in the middle of a body, or leave before their answer; and with these while
processes of each stage are killed in turn. Any status other than 200, or none, is an error. Memory is the total private
memory of the processes at the beginning and at the end of each run.
"""

import argparse
import collections
import http.client
import io
import itertools
import json
import logging
import os
import random
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import keras
import numpy as np
import psutil
import ray
from ray import serve
from rich.console import Console
from rich.table import Table

import kerassplit as ks
from kerassplit.engines.inputs import load_input
from kerassplit.engines.serve.application import app
from kerassplit.wire import pack
from kerassplit.zoo.models import load_model
from kerassplit.zoo.photos import shipped_photo

SIDE, ROWS = 96, 16
NPY, NPZ, WIRE = "application/x-npy", "application/x-npz", "application/x-kerassplit"


@dataclass(frozen=True)
class Asked:
    """A request and the right answer."""

    body: bytes
    kind: str
    answer: np.ndarray


@dataclass
class Seen:
    """The results."""

    seconds: list[float] = field(default_factory=list)
    wrong: int = 0
    errors: collections.Counter[str] = field(default_factory=collections.Counter)
    killed: int = 0
    lost: int = 0  # requests of slow and vanishing clients


def requests(model: keras.Model, name: str) -> list[Asked]:
    """Creates requests with all kinds of bodies, of one to four rows, for the input with this name."""
    images = np.random.default_rng(0).uniform(-1, 1, (ROWS, SIDE, SIDE, 3)).astype("float32")
    photo = Path(str(shipped_photo()))
    pixels = load_input(photo, model, "MobileNetV2")
    found = [Asked(photo.read_bytes(), "image/jpeg", keras.ops.convert_to_numpy(model(pixels)))]
    for rows in (1, 2, 4):
        for first in range(0, ROWS - rows, 3):
            some = images[first : first + rows]
            answer = keras.ops.convert_to_numpy(model(some))
            found += [Asked(saved(np.save, some), NPY, answer), Asked(pack({name: some}), WIRE, answer)]
            found.append(Asked(saved(np.savez_compressed, **{name: some}), NPZ, answer))
            if rows == 1:
                found.append(Asked(json.dumps(some.tolist()).encode(), "application/json", answer))
    return found


def saved(save: Callable[..., None], *arrays: np.ndarray, **named: np.ndarray) -> bytes:
    stream = io.BytesIO()
    save(stream, *arrays, **named)
    return stream.getvalue()


def client(port: int, asked: list[Asked], seen: Seen, until: float, seed: int) -> None:
    """Sends one request after another, and checks the answers."""
    draw = random.Random(seed)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=180)
    while time.monotonic() < until:
        one = draw.choice(asked)
        began = time.monotonic()
        try:
            connection.request("POST", "/", one.body, {"Content-Type": one.kind, "Accept": NPY})
            answer = connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException) as error:
            seen.errors[type(error).__name__] += 1
            connection.close()
            continue
        seen.seconds.append(time.monotonic() - began)
        if answer.status != 200:
            seen.errors[f"{answer.status} {content[:100]!r}"] += 1
        elif not np.allclose(np.load(io.BytesIO(content)), one.answer, rtol=1e-4, atol=1e-6):
            seen.wrong += 1
    connection.close()


def bad_client(port: int, asked: list[Asked], seen: Seen, until: float, seed: int) -> None:
    """Sends slowly, stops in the middle, or disconnects."""
    draw = random.Random(seed)
    while time.monotonic() < until:
        one = draw.choice(asked)
        head = f"POST / HTTP/1.1\r\nHost: here\r\nContent-Type: {one.kind}\r\nContent-Length: {len(one.body)}\r\n\r\n"
        seen.lost += 1
        try:
            with closing(socket.create_connection(("127.0.0.1", port), timeout=60)) as stream:
                stream.sendall(head.encode())
                way = draw.choice(("slow", "half", "gone"))
                if way == "slow":
                    for place in range(30):
                        stream.sendall(one.body[place : place + 1])
                        time.sleep(0.1)
                else:
                    stream.sendall(one.body if way == "gone" else one.body[: len(one.body) // 2])
                    time.sleep(draw.uniform(0, 0.1))
        except OSError:
            time.sleep(0.1)  # the server closed the connection


def kill(every: float, seen: Seen, until: float) -> None:
    """Kills a process of a stage at intervals."""
    for stage in itertools.cycle(("head", "tail")):
        if time.monotonic() + every > until:
            return
        time.sleep(every)
        found = processes(f"ServeReplica:default:{stage}")
        if found:
            found[0].kill()
            seen.killed += 1


def processes(name: str) -> list[psutil.Process]:
    return [one for one in psutil.Process().children(recursive=True) if name in one.name()]


def memory() -> float:
    """Returns the MiB of the application's processes and of Serve's proxy."""
    total = 0
    for one in [*processes("ServeReplica"), *processes("ProxyActor")]:
        try:
            total += one.memory_full_info().uss
        except psutil.NoSuchProcess:
            continue  # it was killed
    return total / 2**20


def load(port: int, asked: list[Asked], arguments: argparse.Namespace, bad: bool, killing: bool) -> tuple[str, ...]:
    """Runs the load once, and returns a row of the table."""
    seen, until = Seen(), time.monotonic() + arguments.seconds
    threads = [threading.Thread(target=client, args=(port, asked, seen, until, n)) for n in range(arguments.clients)]
    if bad:
        threads += [
            threading.Thread(target=bad_client, args=(port, asked, seen, until, n)) for n in range(arguments.clients)
        ]
    if killing:
        threads.append(threading.Thread(target=kill, args=(arguments.kill_every, seen, until)))
    before, began = memory(), time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.monotonic() - began
    for error, count in seen.errors.items():
        print(count, error)
    p50, p99 = np.percentile(seen.seconds, [50, 99]) * 1000
    beside = "processes killed, too" if killing else "slow and vanishing clients" if bad else "nothing"
    counts = (len(seen.seconds), seen.lost, seen.killed, seen.wrong, sum(seen.errors.values()))
    rates = (f"{len(seen.seconds) / took:.1f}", f"{p50:.0f}", f"{p99:.0f}")
    return beside, *rates, *map(str, counts), f"{before:.0f} → {memory():.0f}"


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--seconds", type=float, default=60)
parser.add_argument("--clients", type=int, default=8)
parser.add_argument("--kill-every", type=float, default=15)
parser.add_argument("--replicas", type=int, default=2)
arguments = parser.parse_args()

model = load_model("MobileNetV2", weights="random", seed=7, input_shape=(SIDE, SIDE, 3))
split = ks.split(model, ["block_6_expand_relu"], names=["head", "tail"])
asked = requests(model, split[0].inputs[0])
with tempfile.TemporaryDirectory() as folder:
    split.save(Path(folder) / "stages")
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    ray.init(address="local", num_cpus=8, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    serve.start(http_options={"port": port}, logging_config={"log_level": "ERROR", "enable_access_log": False})
    options = {"folder": str(Path(folder) / "stages"), "architecture": "MobileNetV2", "replicas": arguments.replicas}
    serve.run(app({**options, "num_cpus": 0.5, "body_timeout": 5}), route_prefix="/")
    client(port, asked, Seen(), time.monotonic() + 5, 0)  # each number of rows is compiled once
    table = Table(
        title=f"{arguments.clients} clients, {arguments.seconds:g} s each, {arguments.replicas} processes a stage"
    )
    columns = ("beside", "requests/s", "p50 ms", "p99 ms", "requests", "bad ones", "kills", "wrong", "errors", "MiB")
    for column in columns:
        table.add_column(column)
    for bad, killing in ((False, False), (True, False), (True, True)):
        table.add_row(*load(port, asked, arguments, bad, killing))
    serve.shutdown()
    ray.shutdown()
Console(width=140).print(table)
