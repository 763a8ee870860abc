"""Connects to a Ray cluster or starts one, checks and reserves its resources, and releases everything at the end."""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any

from kerassplit.errors import SplitError

PATIENCE = 30.0
"""Seconds to wait for resources that others hold."""
Needs = Mapping[str, float]
"""Resources that one process needs, by Ray's names: `{"CPU": 1, "GPU": 0.5}`."""
_REMEDY = "Lower num_cpus or num_gpus (0.5 is possible) or the number of replicas, or use a larger cluster."


def import_ray() -> Any:
    """Imports the package `ray`.

    Raises:
        SplitError: It is not installed.
    """
    # Ray prints a paragraph to standard output for each process that dies; our log has the important part.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "A worker died or was killed while executing a task")
    try:
        return import_module("ray")
    except ImportError as error:
        raise SplitError(
            f"Running on Ray needs the package ray, which cannot be imported ({error}). Run "
            'pip install "kerassplit[ray]".'
        ) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences Ray's messages about unretrieved errors: every call that depends on a failed one fails, too."""
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
    """Connects to the cluster that this process already uses, else to one at `address`, else to a newly started one."""
    if ray.is_initialized():
        ours = ray.get_runtime_context().gcs_address
        if address not in (None, "auto", ours):
            raise SplitError(
                f"This process is already connected to the Ray cluster at {ours}, so it cannot use the one at "
                f"{address}. Call ray.shutdown() first, or leave `address` out."
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
        where = f"Cannot use a Ray cluster at {address}" if address else "Ray does not start on this machine"
        raise SplitError(f"{where}: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def reserved(ray: Any, needs: Sequence[Needs]) -> Iterator[Any]:
    """Reserves a placement group with a bundle for each process, in order, so that no process waits forever.

    Raises:
        SplitError: The cluster has too few resources, or others hold them.
    """
    util = import_module("ray.util")
    check_resources(ray, needs)
    group = util.placement_group([dict(one) for one in needs])
    try:
        if not group.wait(PATIENCE):
            there, free = (_amounts(have, needs) for have in (ray.cluster_resources(), ray.available_resources()))
            raise SplitError(
                f"The stages need {_amounts(_total(needs))}, but others use the cluster: it has {there}, "
                f"of which {free} were free after {PATIENCE:g} seconds. Wait for the others, or: {_REMEDY}"
            )
        yield group
    finally:
        util.remove_placement_group(group)


def check_resources(ray: Any, needs: Sequence[Needs]) -> None:
    """Checks that the cluster has what the processes need, in total and each.

    Raises:
        SplitError: It has too little.
    """
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    total = _total(needs)
    for resource, needed in total.items():
        there = sum(machine.get(resource, 0) for machine in machines)
        if needed > there:
            raise SplitError(
                f"The {len(needs)} processes of the stages need {_amount(resource, needed)}; the cluster has "
                f"{there:g}. {_REMEDY}"
            )
    for one in needs:
        if not any(all(machine.get(name, 0) >= amount for name, amount in one.items()) for machine in machines):
            has = "; ".join(_amounts(machine, needs) for machine in machines)
            raise SplitError(f"One process needs {_amounts(one)}, but no machine has that: {has}. {_REMEDY}")


def _total(needs: Sequence[Needs]) -> dict[str, float]:
    names = dict.fromkeys(name for one in needs for name in one)
    return {name: round(sum(one.get(name, 0) for one in needs), 4) for name in names}


def _amounts(resources: Needs, of: Sequence[Needs] = ()) -> str:
    names = dict.fromkeys(name for one in of for name in one) or resources
    return " and ".join(_amount(name, resources.get(name, 0)) for name in names)


def _amount(resource: str, amount: float) -> str:
    return f"{amount:g} {resource}{'' if amount == 1 else 's'}"
