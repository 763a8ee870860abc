"""Devices and the links between them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from numbers import Integral
from typing import Any

from kerassplit.costs.profile import Profile
from kerassplit.display.units import parse_bandwidth, parse_flops_per_second, parse_seconds, parse_watts
from kerassplit.errors import SplitError
from kerassplit.files.sizes import parse_bytes
from kerassplit.text import listed, with_short_repr


@with_short_repr
@dataclass(frozen=True)
class Device:
    """A device that a stage can run on, or several identical ones.

    Attributes:
        name: Its name.
        flops_per_second: Its speed: FLOPs per second, or a text such as `"50 GFLOPS"`.
        memory: Its memory in bytes, or a text such as `"2 GiB"`. `None`: no limit.
        seconds: Time of each block on it, instead of `flops_per_second`: a profile that was measured there
            (`profile(model, measure=True).save(...)`, then `Profile.load`), or seconds for each block of
            `profile(model)` by name; `float("inf")` for a block that cannot run there.
        count: Number of identical devices.
        overhead: Time of calling a stage on it, which each stage takes once per batch: seconds, or a text such as
            `"2 ms"`. `None`: as it was measured together with its seconds; 0 if they were not measured.
        watts: Its power while it computes: watts, or a text such as `"2.5 W"`.
        sending_watts: Its power while it sends.

    Raises:
        SplitError: A value is invalid.

    Example:

    >>> Device("phone", flops_per_second="50 GFLOPS", memory="2 GiB").memory
    2147483648.0
    """

    name: str
    flops_per_second: float | str | None = None
    memory: float | str | None = None
    seconds: Profile | Mapping[str, float] | None = None
    count: int = 1
    overhead: float | str | None = None
    watts: float | str | None = None
    sending_watts: float | str | None = None

    def __post_init__(self):
        if not isinstance(self.name, str) or not self.name:
            raise SplitError(f"A device needs a name; got {self.name!r}.")
        of_device = f"of device '{self.name}'"
        if self.flops_per_second is not None and self.seconds is not None:
            raise SplitError(
                f"Device '{self.name}' has `flops_per_second` and `seconds`: both say how fast it is. Give one."
            )
        for name, what, parse in (
            ("flops_per_second", "speed", parse_flops_per_second),
            ("memory", "memory", parse_bytes),
            ("overhead", "overhead", parse_seconds),
            ("watts", "power", parse_watts),
            ("sending_watts", "power for sending", parse_watts),
        ):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, parse(getattr(self, name), f"{what} {of_device}"))
        if isinstance(self.count, bool) or not isinstance(self.count, Integral) or self.count < 1:
            raise SplitError(f"The count {of_device} is {self.count!r}. It must be a whole number, 1 or more.")
        if isinstance(self.seconds, Profile):
            if self.seconds.seconds is None:
                raise SplitError(
                    f"The profile {of_device} holds no seconds. Measure it there: "
                    "`profile(model, measure=True)` (`kerassplit profile MODEL --measure --json`)."
                )
        elif self.seconds is not None and not isinstance(self.seconds, Mapping):
            raise SplitError(
                f"The seconds {of_device} are a {type(self.seconds).__name__}. Expected a measured Profile, or the "
                "seconds of each block by its name."
            )


@dataclass(frozen=True)
class Link:
    """A link from one device to another: a transfer takes `latency` + bytes / `bandwidth`.

    Attributes:
        bandwidth: Bytes per second, or a text such as `"20 Mbit/s"` or `"1 GB/s"`.
        latency: Additional seconds for every transfer, or a text such as `"10 ms"`.
        down: Bandwidth from a device to one listed before it, for one link between all devices; `bandwidth` is then
            that from a device to one listed after it. Stages go back only with `any_order=True`. `None`: the same.

    Raises:
        SplitError: A value is invalid.

    Example:

    >>> Link("20 Mbit/s", "10 ms", down="100 Mbit/s")
    Link(bandwidth=2500000.0, latency=0.01, down=12500000.0)
    """

    bandwidth: float | str
    latency: float | str = 0.0
    _: KW_ONLY
    down: float | str | None = None

    def __post_init__(self):
        object.__setattr__(self, "bandwidth", parse_bandwidth(self.bandwidth, "bandwidth of a link"))
        object.__setattr__(self, "latency", parse_seconds(self.latency, "latency of a link"))
        if self.down is not None:
            object.__setattr__(self, "down", parse_bandwidth(self.down, "bandwidth down of a link"))


Links = Link | Sequence[Link] | Mapping[tuple[str, str], Link]


def read_devices(devices: int | Device | Sequence[Device]) -> tuple[Device, ...]:
    """Normalizes the devices that a user passed: a number of identical ones, one, or several.

    Raises:
        SplitError: There are none, or two have the same name.
    """
    if isinstance(devices, Integral) and not isinstance(devices, bool):
        if devices < 1:
            raise SplitError(f"A plan needs at least one device; got {devices}.")
        return (Device("device", count=int(devices)),)
    several: tuple[Any, ...] = (devices,) if isinstance(devices, Device) else _tuple(devices)
    if not several or not all(isinstance(device, Device) for device in several):
        raise SplitError(f"`devices` must be a number of identical devices, a Device or a list; got {devices!r}.")
    names = [device.name for device in several]
    twice = [name for name in names if names.count(name) > 1]
    if not twice:
        singles = device_names(several)
        twice = [name for name in singles if singles.count(name) > 1]
    if twice:
        raise SplitError(
            f"Two devices are called '{twice[0]}'. Give each its own name, or pass identical ones as one Device with a "
            "`count`."
        )
    return several


def _tuple(values: Any) -> tuple[Any, ...]:
    try:
        return tuple(values)
    except TypeError:
        return ()


def read_links(links: Links | None, devices: Sequence[Device]) -> Links | None:
    """Checks the links that a user passed against the devices.

    Raises:
        SplitError: The links do not fit the devices.
    """
    if links is None or isinstance(links, Link):
        return links
    if isinstance(links, Mapping):
        names = [device.name for device in devices]
        for pair, link in links.items():
            if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(link, Link)):
                raise SplitError(f"`links` maps (from, to), two names of devices, to a Link; got {pair!r}: {link!r}.")
            for name in pair:
                if name not in names:
                    raise SplitError(f"`links` names device {name!r}. The devices are {listed(names)}.")
        _require_one_way(links.values(), "Give the pair in the other order a link of its own")
        return dict(links)
    several = _tuple(links)
    if (not several and links != []) or not all(isinstance(link, Link) for link in several):
        raise SplitError(f"`links` is a Link, a list of them, or a mapping of pairs of names to them; got {links!r}.")
    count = sum(device.count for device in devices)
    if len(several) != count - 1:
        raise SplitError(
            f"`links` has {len(several)} links for {count} devices. Expected {count - 1}: one between each device and "
            "the next."
        )
    _require_one_way(several, "Leave it out: nothing goes back over it")
    return list(several)


def _require_one_way(links: Iterable[Link], remedy: str) -> None:
    if any(link.down is not None for link in links):
        raise SplitError(
            f"A link of several has `down`, but each of them goes one way, from one device to another. {remedy}."
        )


def device_names(devices: Sequence[Device]) -> list[str]:
    """Returns a name for each single device, numbered for a `count` above 1."""
    return [
        device.name if device.count == 1 else f"{device.name} {number}"
        for device in devices
        for number in range(1, device.count + 1)
    ]
