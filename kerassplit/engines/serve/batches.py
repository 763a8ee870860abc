"""Batches concurrent requests and runs them through the stages, with retries when a process dies."""

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
from ray import exceptions, serve
from ray.serve.exceptions import RayServeException

from kerassplit.engines.route import Route
from kerassplit.engines.serve.health import Health
from kerassplit.engines.serve.limits import Refused
from kerassplit.engines.serve.options import Options
from kerassplit.engines.serve.stage import LOGGER, Failed

PIPELINED = 4
"""Batches in flight, so that no stage waits for another."""
_ATTEMPTS = 5  # per batch whose process dies: the batch itself may cause it
_PATIENCE = 2.0  # seconds without an answer before health is checked

Tensors = dict[str, np.ndarray]


class Batches:
    """Runs requests through the stages.

    Args:
        route: Order and tensors of the stages.
        options: Batch size and timeouts.
        health: Tells if waiting is hopeless.
        stages: Handles of the stages.
    """

    def __init__(self, route: Route, options: Options, health: Health, stages: Sequence[Any]):
        self.route, self.options, self.health, self.stages = route, options, health, stages
        self.stackable = is_stackable(route)

        async def together(requests: list[Tensors]) -> list[Any]:
            return await self.run_together(requests)

        self._run = serve.batch(
            max_batch_size=options.max_batch_size,
            batch_wait_timeout_s=options.batch_wait_timeout_s,
            max_concurrent_batches=PIPELINED,
        )(together)

    async def run(self, tensors: Tensors) -> Tensors:
        """Runs one request.

        Raises:
            Refused: A stage fails on its values or does not answer.
        """
        results = await self._run(tensors)
        if isinstance(results, Refused):
            raise results
        return results

    async def run_together(self, requests: Sequence[Tensors]) -> list[Any]:
        """Runs requests whose rows stack as one batch; returns results or a `Refused` for each."""
        groups: dict[Any, list[list[int]]] = {}
        for number, tensors in enumerate(requests):
            shapes = tuple((tensor.shape[1:], tensor.dtype.kind) for tensor in tensors.values())
            batches = groups.setdefault(shapes if self.stackable else number, [])
            rows = sum(_rows(requests[one]) for one in batches[-1]) if batches else 0
            if not batches or rows + _rows(tensors) > self.options.max_batch_size:
                batches.append([])
            batches[-1].append(number)
        batches = [batch for some in groups.values() for batch in some]
        results = await asyncio.gather(*(self.run_batch([requests[one] for one in batch]) for batch in batches))
        by_number = {
            number: result
            for batch, some in zip(batches, results, strict=True)
            for number, result in zip(batch, some, strict=True)
        }
        return [by_number[number] for number in range(len(requests))]

    async def run_batch(self, requests: Sequence[Tensors]) -> list[Any]:
        """Runs requests as one batch; if a stage fails on it, runs each alone, so that only the faulty one fails."""
        stacked = {name: np.concatenate([one[name] for one in requests]) for name in requests[0]}
        try:
            results = await self.through_stages(stacked)
        except Refused as refusal:
            if len(requests) == 1 or refusal.status == 504:
                return [refusal] * len(requests)
            return [result for one in requests for result in await self.run_batch([one])]
        ends = np.cumsum([_rows(one) for one in requests])[:-1]
        parts = {name: np.split(results[name], ends) for name in self.route.outputs}
        return [{name: part[number] for name, part in parts.items()} for number in range(len(requests))]

    async def through_stages(self, tensors: Tensors) -> Tensors:
        """Runs one batch; tensors go from stage to stage without passing through this process."""
        deadline = asyncio.get_running_loop().time() + self.options.run_timeout
        for attempt in range(_ATTEMPTS):
            carried: Any = tensors
            for stage in self.stages:
                carried = stage.run.remote(carried)
            try:
                results = await self._awaited(carried, deadline)
            except (exceptions.RayError, RayServeException) as error:
                LOGGER.warning("A stage cannot be reached: %s.", type(error).__name__)
                await asyncio.sleep(attempt)
            else:
                if isinstance(results, Failed):
                    raise Refused(422, results.sentence)
                return results
        raise Refused(503, "A stage cannot be reached. Try again.")

    async def _awaited(self, response: Any, deadline: float) -> Any:
        """Awaits the last stage, unless it takes too long or is down for good."""
        task = asyncio.ensure_future(response)
        try:
            while True:
                left = deadline - asyncio.get_running_loop().time()
                done, _ = await asyncio.wait([task], timeout=max(0, min(left, _PATIENCE)))
                if done:
                    return task.result()
                state = await self.health.state()
                if state.lost:
                    raise Refused(503, "A stage is down and cannot restart; see /health.")
                if left <= 0:
                    raise Refused(504, f"The stages did not answer within {self.options.run_timeout:g} seconds.")
        finally:
            if not task.done():
                task.cancel()
                response.cancel()


def is_stackable(route: Route) -> bool:
    """True if rows of several requests can form one batch."""
    return all(one.shape[0] is None for one in route.takes)


def _rows(tensors: Tensors) -> int:
    return len(next(iter(tensors.values())))
