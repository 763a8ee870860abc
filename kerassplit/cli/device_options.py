"""Options that describe the target of a plan: devices, links, and numbers with units."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kerassplit.cli import option
from kerassplit.cli.option import COUNT, gathered
from kerassplit.display.units import parse_flops_per_second
from kerassplit.errors import SplitError
from kerassplit.files.sizes import parse_bytes
from kerassplit.text import listed

if TYPE_CHECKING:
    from kerassplit.planning.devices import Device, Link

_DEVICE = "NAME: SPEED[, MEMORY][, xCOUNT]"
_LINK = "BANDWIDTH[, LATENCY][, down BANDWIDTH]"


@dataclass(frozen=True)
class Devices:
    """Values of the options in `device_options`.

    Attributes:
        count: Number of identical devices, or `None`.
        described: Device descriptions.
        links: Link descriptions.
    """

    count: int | None
    described: tuple[str, ...]
    links: tuple[str, ...]

    def files(self) -> list[Path]:
        """Returns the profile files given instead of speeds."""
        parts = [part.strip() for text in self.described for part in text.partition(":")[2].split(",")]
        return [Path(part) for part in parts if part.endswith(".json")]

    def read(self) -> "int | list[Device]":
        """Returns the number of identical devices, or the parsed devices.

        Raises:
            SplitError: There are none, or a description is invalid.
        """
        if (self.count is None) == (not self.described):
            raise SplitError(
                f"Say what to plan for: identical devices with --devices N, or each with --device '{_DEVICE}'."
            )
        return self.count if self.count is not None else [_device(text) for text in self.described]

    def read_links(self) -> "Link | list[Link] | None":
        """Returns one link for all, or one between each pair of consecutive devices; `None` if none were given."""
        links = [_link(text) for text in self.links]
        return None if not links else links[0] if len(links) == 1 else links


device_options = gathered(
    Devices,
    "devices",
    click.option(
        "--link",
        "links",
        multiple=True,
        metavar=f"'{_LINK}'",
        help="Connection between devices, such as '20 Mbit/s, 10 ms': one for all, or one per step. After "
        "'down', the bandwidth back to earlier devices, for --any-order.",
    ),
    click.option(
        "--device",
        "described",
        multiple=True,
        metavar=f"'{_DEVICE}'",
        help="A device: 'phone: 20 GFLOPS, 2 GiB' or 'gpu: 10 TFLOPS, x4' (repeatable, in order). Instead of the "
        "speed: a file written there by `profile --measure --json`. Also '2 ms overhead' per call of a stage, and the "
        "power: '2 W', and '1 W sending'.",
    ),
    click.option("--devices", "count", type=COUNT, metavar="N", help="Plan for N identical devices."),
)
"""Adds `--devices`, `--device` and `--link`, gathered in a `Devices`."""


def _device(text: str) -> "Device":
    from kerassplit.costs.profile import Profile
    from kerassplit.planning.devices import Device

    name, colon, rest = text.partition(":")
    parts = [part.strip() for part in rest.split(",")]
    if not colon and " " not in text.strip():
        parts = []  # a name alone
    elif not all(parts):
        raise SplitError(f"The device '{text}' is not valid. Expected '{_DEVICE}', such as 'phone: 20 GFLOPS, 2 GiB'.")
    values: dict[str, Any] = {}
    for part in parts:
        if part[:1] in ("x", "×") and part[1:].isdecimal():
            key, value = "count", int(part[1:])
        elif part.endswith(".json"):
            key, value = "seconds", Profile.load(part)
        elif part.endswith(" overhead"):
            key, value = "overhead", part.removesuffix("overhead").strip()
        elif part.endswith(" sending"):
            key, value = "sending_watts", part.removesuffix("sending").strip()
        elif part.endswith("W"):
            key, value = "watts", part
        else:
            key, value = _speed_or_memory(part, name)
        if key in values:
            raise SplitError(
                f"The device '{text}' has two values of the same kind. Expected one of each: a speed (20 GFLOPS) or a "
                "profile (a .json file), a memory (2 GiB), a count (x4), an overhead (2 ms overhead), a power (2 W), "
                "and a power for sending (1 W sending)."
            )
        values[key] = value
    return Device(name.strip(), **values)


def _speed_or_memory(text: str, device: str) -> tuple[str, float]:
    with contextlib.suppress(SplitError):
        return "flops_per_second", parse_flops_per_second(text, "speed")
    with contextlib.suppress(SplitError):
        return "memory", parse_bytes(text, "memory")
    raise SplitError(
        f"'{text}' of device '{device}' is not a speed such as '20 GFLOPS', a memory such as '2 GiB', a count such as "
        "'x4', an overhead such as '2 ms overhead', a power such as '2 W' or '1 W sending', or a profile (a .json "
        "file)."
    )


def _link(text: str) -> "Link":
    from kerassplit.planning.devices import Link

    parts = [part.strip() for part in text.split(",")]
    first, *back = [part for part in parts if part.startswith("down ")] or [None]
    forward = [part for part in parts if part != first]
    if back or not 1 <= len(forward) <= 2:
        raise SplitError(f"The link '{text}' is not valid. Expected '{_LINK}', such as '20 Mbit/s, 10 ms'.")
    return Link(*forward, down=first and first.removeprefix("down "))


def max_crossing_option(text: str, default: str | None = None) -> Callable[..., Any]:
    """Adds `--max-crossing`."""
    return click.option(
        "--max-crossing", callback=option.parsed(_number_or_any), default=default, metavar="N|any", help=text
    )


def _number_or_any(text: str) -> int | str:
    if text == "any":
        return text
    number = int(text) if text.isdecimal() else text
    if not isinstance(number, int) or number < 1:
        raise SplitError(f"how many tensors may cross a cut: 1 or more, or 'any'; got {number!r}.")
    return number


def factor_or_dtype(text: str) -> float | str:
    """Reads `--compression`."""
    from kerassplit.planning.compression import check_compression  # imports NumPy

    try:
        given = float(text)
    except ValueError:
        given = text
    check_compression(given)
    return given


def of_inputs(_context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> Any:
    """Reads `--input-bytes` and `--input-seconds`: a text for the model's input, or one for each of some by name."""
    named = {name.strip(): text.strip() for name, colon, text in (value.rpartition(":") for value in values) if colon}
    if not named and len(values) < 2:
        return values[0] if values else None
    if len(named) < len(values):
        option = parameter.opts[0]
        raise click.BadParameter(
            f"got {listed(values)}. Expected one value for the model's only input, or one for each input by its name: "
            f"{option} '{parameter.metavar}'."
        )
    return named
