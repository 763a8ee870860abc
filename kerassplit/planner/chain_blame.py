"""Why a chain has no plan: which limits are in the way, and what would be enough.

Each limit is lifted on its own, and where that does not help, in pairs. What would be enough is then found by bisection
with the same exact search, the other limits as they are.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import combinations

import numpy as np

from kerassplit.errors import PlanError
from kerassplit.planner.chain import NO_COST, ChainProblem
from kerassplit.planner.chain_reach import allowed_cuts, prepare, reach
from kerassplit.planner.chain_slots import number_of_states
from kerassplit.units import format_bytes

_MOST_DEVICES = 64
_MOST_STATES = 10_000


def refusal(problem: ChainProblem) -> PlanError:
    """The error for a problem that has no plan."""
    lifts = _in_force(problem)
    mending = [name for name, lift in lifts.items() if _possible(lift(problem))]
    if mending:
        enough = {name: _enough(name, problem) for name in mending}
        first, *others = [_way_out(name, problem, enough[name]) for name in mending]
        mend = f"{first[0].upper()}{first[1:]}" + "".join(f"; or {way}" for way in others)
        return PlanError(
            f"No plan for {_asked(problem)} keeps to all limits. {mend}.",
            binding=mending,
            enough={name: number for name, number in enough.items() if number is not None},
        )
    together = _together(problem, lifts)
    if not together:
        return PlanError(f"No plan for {_asked(problem)} keeps to all limits. Loosen several of them.")
    names = [name.replace("_", " ") for name in together]
    return PlanError(
        f"No plan for {_asked(problem)} keeps to all limits. These are in the way together: "
        f"{', '.join(names[:-1])} and {names[-1]}. Loosen all of them.",
        binding=together,
    )


def _together(problem: ChainProblem, lifts: Mapping[str, Callable[[ChainProblem], ChainProblem]]) -> tuple[str, ...]:
    """The fewest limits that have to be lifted together; none if only more devices help, of too many kinds to try."""
    for size in range(2, len(lifts) + 1):
        for names in combinations(lifts, size):
            lifted = problem
            for name in names:
                lifted = lifts[name](lifted)
            if _possible(lifted):
                return names
    return ()


def too_many_orders(problem: ChainProblem) -> PlanError:
    """The error for devices of too many kinds in any order."""
    return PlanError(
        f"There are too many orders of devices for {_asked(problem)} to try them all. "
        "Give equal devices as one with a count, or fix the order."
    )


def _possible(problem: ChainProblem) -> bool:
    """Whether there is any plan, however slow."""
    ground = prepare(problem)
    reached = reach(ground, 2**60)
    return any(reached[number][-1] for number, border in enumerate(ground.slots.borders) if border.place == "end")


def _without_memory(problem: ChainProblem) -> ChainProblem:
    return replace(problem, devices=tuple(replace(device, memory=np.inf) for device in problem.devices))


def _with_memory(problem: ChainProblem, least: float) -> ChainProblem:
    devices = tuple(replace(device, memory=max(device.memory, least)) for device in problem.devices)
    return replace(problem, devices=devices)


def _with_limit(name: str, value: object) -> Callable[[ChainProblem], ChainProblem]:
    return lambda problem: replace(problem, limits=replace(problem.limits, **{name: value}))


def _all_linked(problem: ChainProblem) -> ChainProblem:
    return replace(problem, links=NO_COST)


def _all_able(problem: ChainProblem) -> ChainProblem:
    able = tuple(replace(device, seconds=np.zeros(problem.number_of_blocks)) for device in problem.devices)
    return replace(problem, devices=able)


def _any_number(problem: ChainProblem) -> ChainProblem:
    """With as many more of the device with the most memory as can be of use, each of them used or not."""
    return _with_at_most(problem, min(int(allowed_cuts(problem).sum()) + 1, _MOST_DEVICES))


def _with_at_most(problem: ChainProblem, number: int) -> ChainProblem:
    """At most so many stages, on the devices that there are and more of the one with the most memory."""
    most = max(range(len(problem.devices)), key=lambda device: problem.devices[device].memory)
    devices = list(problem.devices)
    devices[most] = replace(devices[most], count=max(number, devices[most].count))
    links = problem.links
    if isinstance(links, Mapping):
        links = {(most, most): NO_COST, **links}
    elif problem.chain_links:
        links = NO_COST
    limits = replace(problem.limits, most_stages=number)
    return replace(problem, devices=tuple(devices), links=links, leave_out=True, limits=limits)


def _enough(name: str, problem: ChainProblem) -> float | None:
    """The least that makes a plan possible; `None` where that is not a number."""
    if name == "memory":
        most = prepare(_without_memory(problem)).memory.needed(np.array([0]), np.array([problem.number_of_blocks]))
        top = int(2 * np.ceil(most[0] + problem.buffers.sum()))  # type: ignore[union-attr]
        return _least(0, top, lambda least: _possible(_with_memory(problem, least)))
    if name == "largest_crossing":
        sizes = np.unique(problem.crossing)
        index = _least(0, len(sizes) - 1, lambda index: _possible(_with_crossing(problem, float(sizes[index]))))
        return float(sizes[index])
    if name == "devices":
        return _least(1, _MOST_DEVICES, lambda number: _possible(_with_at_most(problem, number)))
    return None


def _with_crossing(problem: ChainProblem, size: float) -> ChainProblem:
    return _with_limit("largest_crossing", size)(problem)


def _least(low: int, high: int, possible: Callable[[int], bool]) -> int:
    """The least whole number that will do, if `high` will."""
    while low < high:
        middle = (low + high) // 2
        if possible(middle):
            high = middle
        else:
            low = middle + 1
    return high


def _in_force(problem: ChainProblem) -> dict[str, Callable[[ChainProblem], ChainProblem]]:
    """For each limit that the problem has, how to lift it."""
    limits = problem.limits
    lifts: dict[str, tuple[bool, Callable[[ChainProblem], ChainProblem]]] = {
        "memory": (any(device.memory < np.inf for device in problem.devices), _without_memory),
        "largest_crossing": (limits.largest_crossing < np.inf, _with_limit("largest_crossing", np.inf)),
        "devices": (number_of_states(_any_number(problem)) <= _MOST_STATES, _any_number),
        "must_cut": (bool(limits.must_cut), _with_limit("must_cut", ())),
        "must_not_cut": (bool(limits.must_not_cut), _with_limit("must_not_cut", ())),
        "first_to": (limits.first_to > 0, _with_limit("first_to", 0)),
        "last_from": (limits.last_from is not None, _with_limit("last_from", None)),
        "fewest_stages": (limits.fewest_stages > 1, _with_limit("fewest_stages", 1)),
        "most_stages": (limits.most_stages is not None, _with_limit("most_stages", None)),
        "links": (isinstance(problem.links, Mapping), _all_linked),
        "seconds": (any(np.isinf(device.seconds).any() for device in problem.devices), _all_able),
    }
    return {name: lift for name, (here, lift) in lifts.items() if here}


def _asked(problem: ChainProblem) -> str:
    blocks, devices = problem.number_of_blocks, problem.number_of_devices
    return f"{blocks} block{'s' * (blocks != 1)} on {devices} device{'s' * (devices != 1)}"


def _way_out(name: str, problem: ChainProblem, enough: float | None) -> str:
    """What to do about a limit, as a clause."""
    limits = problem.limits
    if name == "memory":
        given = min(device.memory for device in problem.devices)
        return f"each device needs a memory of {_size(enough)} or more (the smallest has {_size(given)})"
    if name == "largest_crossing":
        return f"the largest crossing has to be {_size(enough)} or more (it is {_size(limits.largest_crossing)})"
    if name == "devices":
        assert enough is not None
        if enough < problem.number_of_devices:
            stages = f"{int(enough)} stage{'s' * (enough != 1)}"
            return f"{stages} can be made, so take fewer devices or allow to leave some out"
        return f"{int(enough)} devices would be enough (there are {problem.number_of_devices})"
    if name in ("must_cut", "must_not_cut"):
        cuts = getattr(limits, name)
        what = "require" if name == "must_cut" else "forbid"
        names = ", ".join(map(problem.name_of, cuts))
        return f"do not {what} {'all of the cuts' if len(cuts) > 1 else 'the cut'} {names}"
    if name == "first_to":
        return f"let the first stage end before cut {problem.name_of(limits.first_to)}"
    if name == "last_from":
        assert limits.last_from is not None
        return f"let the last stage begin behind cut {problem.name_of(limits.last_from)}"
    return {
        "fewest_stages": f"ask for fewer than {limits.fewest_stages} stages",
        "most_stages": f"allow more than {limits.most_stages} stages",
        "links": "link more pairs of devices",
        "seconds": "let more blocks run on more devices (some seconds are infinite)",
    }[name]


def _size(count: float | None) -> str:
    """Bytes to the last one, and as people read them."""
    if count is None or np.isinf(count):
        return "no limit"
    whole = int(np.ceil(count))
    return f"{whole} bytes ({format_bytes(whole)})" if whole >= 1024 else f"{whole} bytes"
