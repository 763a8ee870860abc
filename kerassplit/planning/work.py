"""Costs of a model's calls and blocks on each device: the numbers that a plan balances."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kerassplit.costs.profile import Profile
from kerassplit.errors import SplitError
from kerassplit.planning.devices import Device
from kerassplit.planning.results import Unit
from kerassplit.text import listed

Balance = Literal["flops", "params", "memory", "time"]
Array = NDArray[np.float64]

_UNITS: dict[Balance, Unit] = {"flops": "FLOPs", "params": "parameters", "memory": "bytes", "time": "seconds"}
_REMEDY_FLOPS = "Balance something else: {time}balance='params' (--balance params) counts weights."
_REMEDY_TIME = "balance='time' (--balance time) measures here, "


@dataclass(frozen=True, eq=False)
class Work:
    """Costs of calls and blocks on each device.

    Attributes:
        unit: Unit of all numbers.
        blocks: Cost of each block of the profile on each device, shape (devices, blocks).
        calls: Cost of each call on each device, shape (devices, calls). Seconds are measured for blocks only, and
            divided among their calls in proportion to FLOPs.
        overheads: Cost of calling a stage on each device, shape (devices,).
    """

    unit: Unit
    blocks: Array
    calls: Array
    overheads: Array


def needs_measuring(devices: Sequence[Device], balance: Balance) -> bool:
    """Checks if the model has to be measured on this machine."""
    return balance == "time" and any(device.flops_per_second is None and device.seconds is None for device in devices)


def work_of(profile: Profile, devices: Sequence[Device], balance: Balance) -> Work:
    """Computes the costs of calls and blocks on each device.

    Raises:
        SplitError: Some of them are unknown, or in different units.
    """
    if not isinstance(balance, str) or balance not in _UNITS:
        raise SplitError(f"`balance` must be one of {listed(_UNITS)}; got {balance!r}.")
    own = [device for device in devices if device.flops_per_second is not None or device.seconds is not None]
    without = [device.name for device in devices if device not in own]
    if own and without and balance != "time":
        raise SplitError(
            f"The speed of {listed(device.name for device in own)} is known, but not that of {listed(without)}. Give "
            f"{'it' if len(without) == 1 else 'them'} `flops_per_second` or `seconds`; or use balance='time' "
            "(--balance time), which assumes the speed of this machine."
        )
    blocks, calls = zip(*(_on_device(profile, device, balance) for device in devices), strict=True)
    unit: Unit = "seconds" if own else _UNITS[balance]
    return Work(unit, np.array(blocks), np.array(calls), _overheads(profile, devices, unit))


def _overheads(profile: Profile, devices: Sequence[Device], unit: Unit) -> Array:
    """Returns the seconds of calling a stage on each device: given, or measured where its seconds were."""
    found = []
    for device in devices:
        if device.overhead is not None and unit != "seconds":
            raise SplitError(
                f"The overhead of device '{device.name}' takes seconds, but the work of devices is in {unit}: the two "
                "cannot be added. Give each Device `flops_per_second` or `seconds`, or measure here with "
                "balance='time' (--balance time)."
            )
        here = unit == "seconds" and device.flops_per_second is None and device.seconds is None
        measured = profile if here else device.seconds
        timing = measured.overhead if isinstance(measured, Profile) else None
        found.append(float(device.overhead if device.overhead is not None else timing.median if timing else 0.0))
    return np.array(found)


def _on_device(profile: Profile, device: Device, balance: Balance) -> tuple[Array, Array]:
    if device.flops_per_second is not None:
        calls = _flops(profile) / float(device.flops_per_second)
    elif device.seconds is not None or balance == "time":
        given = device.seconds
        seconds = measured_seconds(profile) if given is None else _given_seconds(profile, device, given)
        return seconds, _shared_out(profile, seconds)
    elif balance == "flops":
        calls = _flops(profile)
    else:
        calls = _weights(profile, in_bytes=balance == "memory")
    return _summed(profile, calls), calls


def _summed(profile: Profile, calls: Array) -> Array:
    block_of = [call.block for call in profile.calls]
    return np.bincount(block_of, calls, minlength=len(profile.blocks)).astype(np.float64)


def _flops(profile: Profile) -> Array:
    if profile.unknown:
        strings = any(profile.tensors[one].dtype == "string" for one in profile.inputs)  # these cannot be measured
        remedy = _REMEDY_FLOPS.format(time="" if strings else _REMEDY_TIME)
        names, opening = _uncounted(profile)
        said = " Set the size to assume with open_sides=128 (--open-sides 128)." if strings else ""
        sides = f"The output of {listed(opening)} has open sides, on which later FLOPs depend.{said} "
        raise SplitError(
            f"The FLOPs of {listed(names or opening)} in '{profile.model}' are unknown, so they cannot be balanced. "
            f"{sides if opening else ''}{remedy}"
        )
    return np.array([call.flops for call in profile.calls], dtype=np.float64)


def _uncounted(profile: Profile) -> tuple[list[str], list[str]]:
    """Returns calls with known shapes and unknown FLOPs, and calls whose outputs but not inputs have open sides."""

    def is_open(tensors: Sequence[int]) -> bool:
        return any(None in profile.tensors[tensor].shape for tensor in tensors)

    unknown = [call for call in profile.calls if call.flops is None]
    closed = [call.name for call in unknown if not is_open((*call.inputs, *call.outputs))]
    return closed, [call.name for call in unknown if is_open(call.outputs) and not is_open(call.inputs)]


def _weights(profile: Profile, in_bytes: bool) -> Array:
    """Returns parameters, or bytes of weights and outputs, of each call; shared weights count at their first call."""
    counted: set[int] = set()
    found = []
    for call in profile.calls:
        own = [profile.variables[variable] for variable in call.variables if variable not in counted]
        counted.update(call.variables)
        if in_bytes and call.activation_bytes is None:
            raise SplitError(f"The size of the output of '{call.name}' in bytes is unknown. {OPEN_SIDES}")
        made = call.activation_bytes or 0
        found.append(sum(weight.bytes for weight in own) + made if in_bytes else sum(w.parameters for w in own))
    return np.array(found, dtype=np.float64)


OPEN_SIDES = "Set the size of open sides with open_sides=128 (--open-sides 128), or with a shape for each input."


def _given_seconds(profile: Profile, device: Device, given: Profile | Mapping[str, float]) -> Array:
    """Reads the seconds of each block from a profile or a table; the names must be those of the model's blocks."""
    names = [block.name for block in profile.blocks]
    if isinstance(given, Profile):
        if given.batch_size != profile.batch_size:
            raise SplitError(
                f"The profile of device '{device.name}' is for batches of {given.batch_size}, the plan for "
                f"{profile.batch_size}. Measure it for these, or plan with batch_size={given.batch_size} "
                f"(--batch-size {given.batch_size})."
            )
        if [(one.shape, one.dtype) for one in given.tensors] != [(one.shape, one.dtype) for one in profile.tensors]:
            raise SplitError(
                f"The profile of device '{device.name}' is of another model, or of '{profile.model}' with other "
                "shapes: their tensors differ. Profile this model there, with the same input shape."
            )
        table = dict(zip(names, measured_seconds(given).tolist(), strict=True))
    else:
        table = dict(given)
    missing = [name for name in names if name not in table]
    unknown = [str(name) for name in table if name not in names]
    if missing or unknown:
        what = f"no seconds for {listed(missing[:3])}" if missing else f"seconds for {listed(unknown[:3])}"
        raise SplitError(
            f"Device '{device.name}' has {what}. Expected seconds for the {len(names)} blocks of '{profile.model}', by "
            "their names in `profile(model)`."
        )
    wrong = [name for name in names if not _is_time(table[name])]
    if wrong:
        raise SplitError(f"Device '{device.name}' takes {table[wrong[0]]!r} s for '{wrong[0]}'. Expected 0 or more.")
    return np.array([table[name] for name in names], dtype=np.float64)


def measured_seconds(profile: Profile) -> Array:
    """Returns the seconds of each block of a measured profile, scaled so that their sum is the whole model's time.

    A stage is closer to that than to the sum of its separate blocks: a compiler optimizes across blocks, and errors in
    the overhead of a call, which is never known exactly, add up over the blocks.
    """
    seconds = np.array([block.seconds for block in profile.blocks], dtype=np.float64)
    total, whole = seconds.sum(), profile.whole_seconds
    return seconds * (whole / total) if whole and total else seconds


def _is_time(value: object) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool) and float(value) >= 0


def _shared_out(profile: Profile, seconds: Array) -> Array:
    """Divides the seconds of blocks among their calls."""
    shares = np.array([float(call.flops or 0) for call in profile.calls])
    totals = _summed(profile, shares)
    block_of = np.array([call.block for call in profile.calls])
    numbers = np.bincount(block_of, minlength=len(seconds))
    empty = totals[block_of] == 0
    shares = np.where(empty, 1 / numbers[block_of], shares / np.where(empty, 1.0, totals[block_of]))
    known = np.where(np.isinf(seconds), 0.0, seconds)
    return np.where(np.isinf(seconds)[block_of], np.inf, known[block_of] * shares)
