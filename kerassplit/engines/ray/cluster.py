"""The Ray cluster: connected or started, its resources checked and reserved, everything given back."""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any

from kerassplit.errors import SplitError

PATIENCE = 30.0
"""Seconds to wait for resources that others hold."""
Needs = Mapping[str, float]
"""What one process needs, by Ray's names: `{"CPU": 1, "GPU": 0.5}`."""
_REMEDY = "Lower num_cpus or num_gpus (0.5 is possible) or the number of replicas, or use a larger cluster."


def import_ray() -> Any:
    """The package `ray`.

    Raises:
        SplitError: It is not installed.
    """
    # Ray prints a paragraph to standard output for each process that dies; what matters of it is in our log.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "A worker died or was killed while executing a task")
    try:
        return import_module("ray")
    except ImportError as error:
        raise SplitError(
            f'Running on Ray needs the package ray, which cannot be imported ({error}): pip install "kerassplit[ray]".'
        ) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Ray says nothing of answers that nobody asks for: calls that wait for one that failed fail, too."""
    name = "RAY_IGNORE_UNHANDLED_ERRORS"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before


@contextlib.contextmanager
def connected(ray: Any, address: str | None) -> Iterator[None]:
    """Connected to the cluster that this process uses already, or to one at an address, or to one started for it."""
    if ray.is_initialized():
        ours = ray.get_runtime_context().gcs_address
        if address not in (None, "auto", ours):
            raise SplitError(
                f"This process is connected to the Ray cluster at {ours} already, so it cannot use that at {address}. "
                "Call ray.shutdown() before, or leave `address` out."
            )
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS")  # Ray itself sets it for submitted jobs
    try:
        if address:
            ray.init(address=address, log_to_driver=False, logging_level="error")
        else:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="error")
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        where = f"No Ray cluster can be used at {address}" if address else "Ray does not start on this machine"
        raise SplitError(f"{where}: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def reserved(ray: Any, needs: Sequence[Needs]) -> Iterator[Any]:
    """A placement group with a bundle for each process, in order: once it is there nobody waits for ever.

    Raises:
        SplitError: The cluster does not have what is needed, or others keep it.
    """
    util = import_module("ray.util")
    check_resources(ray, needs)
    group = util.placement_group([dict(one) for one in needs])
    try:
        if not group.wait(PATIENCE):
            there, free = (_amounts(have, needs) for have in (ray.cluster_resources(), ray.available_resources()))
            raise SplitError(
                f"The stages need {_amounts(_total(needs))}, and others use the cluster: it has {there}, "
                f"of which {free} were free after {PATIENCE:g} seconds. Wait for the others, or: {_REMEDY}"
            )
        yield group
    finally:
        util.remove_placement_group(group)


def check_resources(ray: Any, needs: Sequence[Needs]) -> None:
    """Compares what the processes need, together and each, with what the cluster has.

    Raises:
        SplitError: It is too little.
    """
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    total = _total(needs)
    for resource, needed in total.items():
        there = sum(machine.get(resource, 0) for machine in machines)
        if needed > there:
            raise SplitError(
                f"The {len(needs)} processes of the stages need {_amount(resource, needed)}, cluster has {there:g}. "
                f"{_REMEDY}"
            )
    for one in needs:
        if not any(all(machine.get(name, 0) >= amount for name, amount in one.items()) for machine in machines):
            has = "; ".join(_amounts(machine, needs) for machine in machines)
            raise SplitError(f"One process needs {_amounts(one)}, and no machine has that: {has}. {_REMEDY}")


def _total(needs: Sequence[Needs]) -> dict[str, float]:
    names = dict.fromkeys(name for one in needs for name in one)
    return {name: round(sum(one.get(name, 0) for one in needs), 4) for name in names}


def _amounts(resources: Needs, of: Sequence[Needs] = ()) -> str:
    names = dict.fromkeys(name for one in of for name in one) or resources
    return " and ".join(_amount(name, resources.get(name, 0)) for name in names)


def _amount(resource: str, amount: float) -> str:
    return f"{amount:g} {resource}{'' if amount == 1 else 's'}"
