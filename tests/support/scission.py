"""Reads Scission's measurements: seconds and output bytes of the blocks of 18 Keras models on 5 machines."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

from chains import between_neighbours, chain

from kerassplit.planning.solver.problem import Link, Problem

_FILE = Path(__file__).parent / "published" / "scission_measurements.json"


@dataclass(frozen=True)
class Blocks:
    """Blocks of a model on a machine.

    Attributes:
        first_layers: Number of the first layer of each block.
        last_layers: Number of the last layer of each block.
        seconds: Seconds of each block.
        bytes: Bytes of each block's output.
    """

    first_layers: tuple[int, ...]
    last_layers: tuple[int, ...]
    seconds: tuple[float, ...]
    bytes: tuple[float, ...]

    def holding(self, layer: int) -> int:
        """Returns the block with this layer."""
        return next(block for block, last in enumerate(self.last_layers) if last >= layer)


@cache
def _file() -> dict:
    return json.loads(_FILE.read_text())


def models() -> list[str]:
    return list(_file()["machines"]["raspi4"])


def blocks(model: str, machine: str) -> Blocks:
    return Blocks(*(tuple(column) for column in zip(*_file()["machines"][machine][model], strict=True)))


def links() -> dict[tuple[str, str], Link]:
    """Links between machines, by bytes: a megabit per second is 10^6 bits."""
    return {
        (source, destination): Link(ping / 1e3, 8 / (megabits * 1e6))
        for source, destination, ping, megabits in _file()["links"]
    }


def triples() -> list[tuple[str, str, str]]:
    """Device, edge and cloud, if all are measured, with links from one to the next."""
    known = [pair for pair in links() if set(pair) <= set(_file()["machines"])]
    return [(one, two, three) for one, two in known for other, three in known if other == two]


def problem(model: str, machines: Sequence[str], **options) -> Problem:
    """The problem of a model on machines in this order, all of them used."""
    measured, known = [blocks(model, machine) for machine in machines], links()
    between = between_neighbours([known[pair] for pair in pairwise(machines)])
    seconds = [each.seconds for each in measured]
    return chain(seconds, measured[0].bytes[:-1], links=between, use_all=True, **options)
