"""Plan a cut between an edge device and a server, run it over a slow network, and compare the times.

A phone can run the beginning of a model and send its output instead of the photograph. Whether that pays depends on the
network, on how the tensors are sent and on how fast the two are. `ks.plan` predicts the latency from times measured
block by block, and from what a call costs besides; this script measures it. The head runs in this process, the edge;
the tail in another one behind HTTP (server.py). The network is the loopback interface, throttled to the given
bandwidths.

A table shows, for each form in which tensors can be sent, how many bytes cross, the predicted and the measured latency,
and how much the result differs from that of the whole model, which must be within the tolerance. The weights are random
(seeded).
"""

import argparse
import http.client
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
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

TOLERANCES: dict[Form, float] = {"float32": 1e-6, "float16": 1e-5, "int8": 2e-4, "int4": 5e-3}  # of probabilities


def throttled(body: bytes, bandwidth: float, chunk: int = 1400) -> Iterator[bytes]:
    """Yields bytes no faster than a bandwidth in bytes per second: a token bucket that holds one chunk."""
    began = time.perf_counter()
    for start in range(0, len(body), chunk):
        part = body[start : start + chunk]
        # A packet has arrived when its last byte has.
        time.sleep(max(0.0, began + (start + len(part)) / bandwidth - time.perf_counter()))
        yield part


def ask(connection: http.client.HTTPConnection, body: bytes, bandwidth: float = float("inf")) -> dict[str, np.ndarray]:
    """Sends packed tensors to the tail and returns its answer."""
    connection.request("POST", "/", throttled(body, bandwidth), {"Content-Length": str(len(body))})
    answer = connection.getresponse()
    content = answer.read()
    if answer.status != 200:
        sys.exit(f"the server says {answer.status}: {content.decode()}")
    return unpack(content)


def in_turns(calls: Mapping[str, tuple[float, Callable[[], object]]], turns: int) -> dict[str, float]:
    """Returns the median seconds of each call; each comes with the seconds to wait before it.

    They are made in turns of several calls, the first of which is not timed, so that changes in the machine's speed
    affect all alike.
    """
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(turns):
        for name, (wait, call) in calls.items():
            call()
            for _ in range(5):
                time.sleep(wait)
                began = time.perf_counter()
                call()
                found[name].append(time.perf_counter() - began)
    return {name: statistics.median(seconds) for name, seconds in found.items()}


def devices(blocks: ks.Profile, seconds: Mapping[str, float]) -> list[ks.Device]:
    """Returns the edge and the server: the times of their blocks, and what a call of each costs besides.

    Blocks are measured one call right after another. In use, each device waits for the other and for the network, and
    then computes more slowly: its caches are cold, and its processor has slowed down. How much is measured on each.
    """
    assert blocks.overhead and blocks.seconds
    speed = (seconds["whole"] - blocks.overhead.median) / blocks.seconds  # the machine's, since blocks were measured
    table = {block.name: (block.seconds or 0.0) * speed for block in blocks.blocks}
    waking = {stage: max(0.0, seconds[f"{stage} later"] - seconds[stage]) for stage in ("head", "tail")}
    calling = blocks.overhead.median
    return [
        ks.Device("edge", seconds=table, overhead=calling + waking["head"]),
        ks.Device("server", seconds=table, overhead=calling + waking["tail"] + seconds["request"]),
    ]


def compare(
    model: keras.Model, image: np.ndarray, cut: str, folder: Path, port: int, options: argparse.Namespace
) -> bool:
    """Prints the table, and returns True if all results are within their tolerances."""
    expected = keras.ops.convert_to_numpy(model(image))
    whole = ks.Stage("whole", model, ("image",), ("scores",)).compiled
    head = ks.load(folder, stages=["head"])[0].compiled
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    blocks = ks.profile(model, measure=True, verbose=False)
    table = Table(
        *("bandwidth", "sent as", "bytes", "predicted ms", "measured ms", "measured / predicted"),
        *("largest difference", "tolerance"),
        title=f"{model.name}, cut at {cut}",
    )

    def features() -> np.ndarray:
        return keras.ops.convert_to_numpy(head([image])[0])

    good = True
    for form, tolerance in TOLERANCES.items():
        packing = ks.profile(model, sample=image, wire=form)  # how long it takes, too
        for bandwidth in options.bandwidth:
            link, answers = ks.Link(bandwidth), []

            def answer(form: Form = form, rate: float = float(link.bandwidth), answers: list = answers) -> None:
                (scores,) = ask(connection, pack({cut: features()}, form), rate).values()
                answers.append(scores)

            answer()  # compiles
            packed = pack({cut: features()}, form)
            wait = len(packed) / float(link.bandwidth) + (blocks.whole_seconds or 0) / 2
            calls = {
                "whole": (0.0, lambda: whole([image])),
                "head": (0.0, features),
                "head later": (wait, features),
                "tail": (0.0, lambda packed=packed: ask(connection, packed)),
                "tail later": (wait, lambda packed=packed: ask(connection, packed)),
                "request": (0.0, lambda: ask(connection, pack({}))),
                "answer": (0.0, answer),
            }
            seconds = in_turns(calls, options.turns)
            plan = ks.plan(
                model,
                devices(blocks, seconds),
                links=link,
                objective="latency",
                leave_out=False,
                must_cut=cut,
                compression=form,
                profile=packing,
            )
            difference = max(float(np.abs(scores - expected).max()) for scores in answers)
            good = good and difference <= tolerance
            table.add_row(
                *(bandwidth, form, f"{plan.stages[0].crossing_bytes:,.0f}"),
                *(f"{1000 * plan.value:.1f}", f"{1000 * seconds['answer']:.1f}"),
                *(f"{seconds['answer'] / plan.value:.2f}", f"{difference:.1e}", f"{tolerance:.0e}"),
            )
    connection.close()
    Console(width=120).print(table)
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="MobileNetV2")
    parser.add_argument("--cut", default="block_6_project_BN")
    parser.add_argument("--bandwidth", nargs="+", default=["20 Mbit/s"])
    parser.add_argument("--turns", type=int, default=4)
    options = parser.parse_args()
    model = load_model(options.model, weights="random", seed=7)
    image = load_input(Path(str(shipped_photo())), model, options.model)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "stages"
        ks.split(model, [options.cut], names=["head", "tail"]).save(folder)
        command = [sys.executable, str(Path(__file__).with_name("server.py")), str(folder), "tail"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            port = process.stdout.readline() if process.stdout else ""
            if not port:
                return 1
            good = compare(model, image, options.cut, folder, int(port), options)
            process.communicate()
    print(f"within the tolerances: {good}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
