"""Sends batches through stages that run as processes on Ray, watches them, and sends them again after failures.

Each batch is sent to all stages at once: a stage's call receives references to the future results of earlier calls, so
tensors go from process to process and only the results come here. Calls are watched in stage order: if a call fails
after all earlier ones succeeded, its own stage is at fault.

Ray can restart processes and retry calls by itself. But it would count the death of a process against every batch that
waits there, and would not tell which batch caused it. This is why it is done here.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any

import numpy as np

from kerassplit.engines.ray.actor import in_words
from kerassplit.engines.route import Batch, Route, Step
from kerassplit.errors import RunError, SplitError

_LOG = logging.getLogger("kerassplit")
_LOOK_AROUND = 30.0  # seconds without an answer after which to check that the cluster still has enough resources


@dataclass(eq=False)
class Worker:
    """A slot for a process of a stage.

    Attributes:
        step: The stage.
        start: Starts a process; returns the actor and a reference to the result of its `load`.
        actor: The process; replaced at a restart.
        loading: Reference that is ready once the stage is loaded; `None` from then on.
        process: Its process ID, once known.
        restarts: Number of earlier processes in this slot that died.
        calls: Batches sent to it that it has not answered yet, oldest first, by number.
    """

    step: Step
    start: Callable[[], tuple[Any, Any]]
    actor: Any = None
    loading: Any = None
    process: int | None = None
    restarts: int = 0
    calls: "dict[int, Flight]" = field(default_factory=dict)

    def launch(self) -> None:
        """Starts a process in this slot."""
        self.process = None
        self.actor, self.loading = self.start()


@dataclass(eq=False)
class Flight:
    """A batch on its way through the stages.

    Attributes:
        batch: The batch, with references as tensors.
        tensors: References to its inputs and to the future outputs of the stages.
        calls: For each stage, the worker that runs it and a reference that is ready once it succeeded.
        passed: Number of stages that it is known to have passed.
        failures: Number of failures of each stage on it.
        error: The error, if it was given up.
    """

    batch: Batch
    tensors: dict[str, Any]
    calls: list[tuple[Worker, Any]]
    passed: int = 0
    failures: Counter[int] = field(default_factory=Counter)
    error: RunError | None = None

    @property
    def settled(self) -> bool:
        """True if it has passed all stages or was given up."""
        return self.error is not None or self.passed == len(self.calls)


class Pipeline:
    """The processes of all stages, connected."""

    def __init__(self, route: Route, max_restarts: int, max_retries: int, look_around: Callable[[], None]):
        self._ray = import_module("ray")
        self._route = route
        self._max_restarts = max_restarts
        self._max_retries = max_retries
        self._look_around = look_around
        self._workers: list[list[Worker]] = [[] for _ in route.steps]

    def start(self, starts: Iterable[tuple[int, Callable[[], tuple[Any, Any]]]]) -> None:
        """Starts all processes and waits until they have loaded their stages.

        Args:
            starts: For each process, the number of its stage and the function that starts it.
        """
        for number, start in starts:
            worker = Worker(self._route.steps[number], start)
            self._workers[number].append(worker)
            worker.launch()
        while any(worker.loading for workers in self._workers for worker in workers):
            self.advance(())

    def send(self, batch: Batch) -> Flight:
        """Sends a batch to all stages."""
        needed = self._route.needed_from(0)
        inputs = {
            name: None if value is None else self._ray.put(value)
            for name, value in batch.tensors.items()
            if name in needed
        }
        flight = Flight(replace(batch, tensors=inputs), dict(inputs), [])
        self._send_from(flight, 0)
        return flight

    def results(self, flight: Flight) -> dict[str, np.ndarray] | None:
        """Fetches the model's outputs for a batch; `None` if they were lost and the batch had to be sent again."""
        names = self._route.results
        try:
            values = self._ray.get([flight.tensors[name] for name in names])
        except self._ray.exceptions.ObjectLostError as error:
            self._from_the_beginning(flight, error)
            return None
        return {
            name: np.array(value) for name, value in zip(names, values, strict=True)
        }  # copies, not the object store's

    def advance(self, flights: Iterable[Flight]) -> None:
        """Waits until a process has loaded or a stage has answered, and handles that."""
        answers: dict[Any, Worker | Flight] = {
            worker.loading: worker for workers in self._workers for worker in workers if worker.loading
        }
        answers.update((flight.calls[flight.passed][1], flight) for flight in flights if not flight.settled)
        ready, _ = self._ray.wait(list(answers), num_returns=1, timeout=_LOOK_AROUND)
        if not ready:
            self._look_around()
        for answer in ready:
            one = answers[answer]
            if isinstance(one, Worker):
                self._loaded(one)
            else:
                self._passed(one)

    def _send_from(self, flight: Flight, first: int) -> None:
        """Sends a batch to a stage and to all later ones."""
        for worker, _ in flight.calls[first:]:
            worker.calls.pop(flight.batch.number, None)
        del flight.calls[first:]
        for number in range(first, len(self._route.steps)):
            step = self._route.steps[number]
            worker = min(self._workers[number], key=lambda one: len(one.calls))
            inputs = [flight.tensors[name] for name in step.inputs]
            done, *outputs = worker.actor.run.options(num_returns=1 + len(step.outputs)).remote(*inputs)
            flight.tensors.update(zip(step.outputs, outputs, strict=True))
            flight.calls.append((worker, done))
            worker.calls[flight.batch.number] = flight

    def _from_the_beginning(self, flight: Flight, error: Exception) -> None:
        """Sends a batch again from the start, after tensors were lost with the machine that held them."""
        number = min(flight.passed, len(self._route.steps) - 1)
        _LOG.warning("Tensors of batch %d (%s) were lost; it runs again.", flight.batch.number, flight.batch.span)
        if self._count_failure(flight, number, in_words(error)):
            flight.passed = 0
            flight.tensors = dict(flight.batch.tensors)
            self._send_from(flight, 0)

    def _passed(self, flight: Flight) -> None:
        number, batch = flight.passed, flight.batch
        worker, done = flight.calls[number]
        exceptions = self._ray.exceptions
        try:
            self._ray.get(done)
        except signs_of_death(self._ray) as error:
            self._died(worker, error)
        except exceptions.ObjectLostError as error:
            self._from_the_beginning(flight, error)
        except exceptions.RayError as error:
            cause = cause_of(error)
            if isinstance(cause, exceptions.ObjectLostError):
                self._from_the_beginning(flight, cause)
                return
            if self._count_failure(flight, number, str(cause)):
                _LOG.warning(
                    "Stage '%s' failed on batch %d (%s), which runs again: %s",
                    *(worker.step.name, batch.number, batch.span, cause),
                )
                self._send_from(flight, number)
        else:
            worker.calls.pop(batch.number)
            flight.passed += 1
            kept = self._route.needed_from(flight.passed)
            flight.tensors = {name: value for name, value in flight.tensors.items() if name in kept}

    def _count_failure(self, flight: Flight, number: int, reason: str) -> bool:
        """Counts a failure of a stage on a batch; returns True if the stage may retry, else gives the batch up."""
        flight.failures[number] += 1
        if flight.failures[number] <= self._max_retries:
            return True
        failed = f"failed {_times(flight.failures[number])}, with max_retries={self._max_retries}"
        self._give_up(flight, number, f"{failed}. The last time: {reason}")
        return False

    def _give_up(self, flight: Flight, number: int, why: str) -> None:
        name, batch = self._route.steps[number].name, flight.batch
        message = f"Stage '{name}', batch {batch.number} ({batch.span}): {why}"
        rows = (batch.first, batch.first + batch.rows)
        flight.error = RunError(message, stage=name, batch=batch.number, rows=rows)
        for worker, _ in flight.calls:
            worker.calls.pop(batch.number, None)

    def _loaded(self, worker: Worker) -> None:
        try:
            worker.process = self._ray.get(worker.loading)
            worker.loading = None
            _LOG.info("Stage '%s' runs in process %d.", worker.step.name, worker.process)
        except signs_of_death(self._ray) as error:
            self._died(worker, error)
        except self._ray.exceptions.RayError as error:
            raise SplitError(f"Stage '{worker.step.name}' cannot be loaded: {cause_of(error)}") from error

    def _died(self, worker: Worker, error: Exception) -> None:
        """Replaces a process that died, and sends the batches that it had not answered again."""
        self._ray.kill(worker.actor)
        number = self._route.steps.index(worker.step)
        reason = cause_of_death(error)
        lost = [flight for flight in worker.calls.values() if not self._went_well(flight.calls[number][1])]
        if lost and not worker.loading and self._has_reached(lost[0], number):  # it died while running this batch
            self._count_failure(lost[0], number, f"its process died ({reason})")
        again = [flight for flight in lost if not flight.error]
        if worker.restarts == self._max_restarts:
            died = f"its process died {_times(worker.restarts + 1)}, with max_restarts={self._max_restarts}"
            if worker.loading and not lost:
                raise SplitError(f"Stage '{worker.step.name}': {died}. The last time: {reason}")
            worker.loading = None
            for flight in again:
                self._give_up(flight, number, f"{died}. The last time: {reason}")
            return
        worker.restarts += 1
        _LOG.warning(
            "Stage '%s'%s died; restarted (%d of %d times). %s.",
            worker.step.name,
            f" (process {worker.process})" if worker.process else "",
            worker.restarts,
            self._max_restarts,
            "; ".join(f"Batch {one.batch.number} ({one.batch.span}) runs again" for one in again) or "It had no batch",
        )
        worker.launch()
        for flight in again:
            self._send_from(flight, number)

    def _has_reached(self, flight: Flight, number: int) -> bool:
        """True if all stages before this one succeeded on a batch, even if that is not recorded yet."""
        return all(self._went_well(done) for _, done in flight.calls[flight.passed : number])

    def _went_well(self, done: Any) -> bool:
        ready, _ = self._ray.wait([done], timeout=0)
        try:
            self._ray.get(ready)
        except self._ray.exceptions.RayError:
            return False
        return bool(ready)


def signs_of_death(ray: Any) -> tuple[type[Exception], ...]:
    """Returns the types of errors that Ray raises for calls of a dead process."""
    exceptions = ray.exceptions
    return (
        exceptions.RayActorError,
        exceptions.OutOfMemoryError,
        exceptions.WorkerCrashedError,
        exceptions.NodeDiedError,
    )


def cause_of(error: Any) -> Exception:
    """Unwraps a stage's own error from the errors that Ray wraps around it."""
    while getattr(error, "cause", None) is not None:
        error = error.cause
    return error


def cause_of_death(error: Exception) -> str:
    """Returns the reason why a process died, without Ray's list of common causes."""
    return str(error).partition("Some common causes")[0].strip().splitlines()[-1]


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
