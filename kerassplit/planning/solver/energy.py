"""Latency and energy as one sum: problems of energy become problems of latency."""

import math
from dataclasses import replace

from kerassplit.planning.solver.problem import Link, Problem


def weighted(problem: Problem, seconds: float, joules: float) -> Problem:
    """Returns the problem of latency whose value is `seconds` × the latency + `joules` × the energy.

    Energy is the sum of all times of computing and sending, each multiplied by watts, so it is a latency with other
    times: packing and unpacking is computing. Receiving takes no energy.
    """
    computing = [seconds + joules * device.watts for device in problem.devices]
    sending = [seconds + joules * device.sending_watts for device in problem.devices]
    # Links that differ for nothing would make the search longer.
    packing = computing if any(tensor.packing for tensor in problem.tensors) else [1.0] * len(computing)
    unpacking = computing if any(tensor.unpacking for tensor in problem.tensors) else [1.0] * len(computing)
    return replace(
        problem,
        nodes=tuple(replace(node, seconds=tuple(map(_times, node.seconds, computing))) for node in problem.nodes),
        devices=tuple(
            replace(device, overhead=device.overhead * one, send=device.send * other, receive=device.receive * seconds)
            for device, one, other in zip(problem.devices, computing, sending, strict=True)
        ),
        links=problem.links
        and tuple(
            tuple(
                Link(_times(link.latency, rate), link.factor * rate, link.packing * here, link.unpacking * there)
                for link, there in zip(row, unpacking, strict=True)
            )
            for row, rate, here in zip(problem.links, sending, packing, strict=True)
        ),
        objective="latency",
        budget=math.inf,
    )


def additive(problem: Problem) -> Problem:
    """Returns the same problem as one of latency, if its objective is energy."""
    return weighted(problem, 0.0, 1.0) if problem.objective == "energy" else problem


def _times(time: float, factor: float) -> float:
    return time if time == math.inf else time * factor
