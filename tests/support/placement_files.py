"""Reads the published placement problems: `published/place_*.json`."""

import json
import math
from collections import defaultdict
from pathlib import Path

from kerassplit.planning.solver.problem import DeviceType, Node, Problem, Tensor

PUBLISHED = Path(__file__).parent / "published"

BEST_LOADS = {  # found by the authors' exact program, and again by an independent one
    "resnet50": 33.7747,
    "gnmt": 32.9107,
    "bert24": 17.7899,
    "op_resnet50": 124.349,
    "op_bert_l-3": 27.9186,
    "op_bert_l-6": 29.5795,
}


def published_problem(name: str) -> Problem:
    """Reads the problem of `place_NAME.json`: accelerators pay for transfers, CPUs do not.

    An edge's cost belongs to its source: the node's output is one tensor, however many nodes use it.
    """
    file = json.loads((PUBLISHED / f"place_{name}.json").read_text())
    place = {node["id"]: index for index, node in enumerate(file["nodes"])}
    users, seconds = defaultdict(list), {}
    for edge in file["edges"]:
        producer = place[edge["sourceId"]]
        users[producer].append(place[edge["destId"]])
        seconds[producer] = edge["cost"]
    classes = defaultdict(list)
    for index, node in enumerate(file["nodes"]):
        if "colorClass" in node:
            classes[node["colorClass"]].append(index)
    return Problem(
        nodes=tuple(
            Node(
                (node["fpgaLatency"] if node["supportedOnFpga"] else math.inf, node["cpuLatency"]),
                memory=node["size"],
            )
            for node in file["nodes"]
        ),
        tensors=tuple(Tensor(producer, tuple(users[producer]), seconds[producer]) for producer in sorted(users)),
        devices=(
            DeviceType("accelerator", count=file["maxFPGAs"], memory=file["maxSizePerFPGA"]),
            DeviceType("CPU", count=file["maxCPUs"], send=0.0, receive=0.0),
        ),
        classes=tuple(tuple(nodes) for nodes in classes.values() if len(nodes) > 1),
    )
