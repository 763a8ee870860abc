"""The commands that report the costs of a model, and plan where to cut it for given devices."""

import contextlib
from pathlib import Path
from typing import Any

import click
from rich.text import Text

import kerassplit as ks
from kerassplit.cli import completion, option
from kerassplit.cli.commands import input_from, main
from kerassplit.cli.device_options import Devices, device_options, factor_or_dtype, max_crossing_option, of_inputs
from kerassplit.cli.framework import Show, command, working
from kerassplit.cli.option import COUNT, PATH, ModelOptions, check_cuts, check_input, check_written, cut
from kerassplit.costs.tables import profile_tables
from kerassplit.display.chart import check_chart
from kerassplit.errors import SplitError
from kerassplit.files.sizes import parse_bytes

_batch_option = click.option(
    "--batch-size", type=COUNT, metavar="N", help="Samples per batch. Default: the batch size MODEL is built for, or 1."
)

_CHART = "Also draw a chart: a .png, .svg or .pdf file"
_chart_option = click.option("--plot", "chart", type=PATH, metavar="FILE", help=f"{_CHART}.")
_plan_option = click.option(
    "--plot",
    "chart",
    type=PATH,
    metavar="FILE",
    help=f"{_CHART}; or, as an .html file, a page to explore MODEL with these cuts.",
)


def _name_option(name: str, text: str, *, multiple: bool = False) -> Any:
    return click.option(name, multiple=multiple, shell_complete=completion.cuts, metavar="NAME", help=text)


@main.command(short_help="Show what MODEL costs, block by block.")
@click.argument("model", shell_complete=completion.models)
@_batch_option
@option.open_sides
@click.option("--measure", is_flag=True, help="Also run each block on this device, and time it.")
@option.input_file("for --wire", "")
@option.exif
@click.option(
    "--wire",
    metavar="FORM",
    help="Also pack what crosses when --input runs, such as int8+zlib: bytes, seconds, and the error of the outputs.",
)
@click.option("--calls", is_flag=True, help="List calls instead of blocks.")
@_chart_option
@option.overwrite
@option.of_model
@command
def profile(
    show: Show,
    model: str,
    batch_size: int | None,
    open_sides: int | None,
    measure: bool,
    input_file: Path | None,
    exif: bool,
    wire: Any,
    calls: bool,
    chart: Path | None,
    overwrite: bool,
    options: ModelOptions,
) -> dict[str, Any]:
    """Show what MODEL costs between its split points: parameters, bytes, FLOPs and, with --measure, seconds.

    A multiply-add is two FLOPs. No weights are downloaded, unless for --wire: other costs do not depend on them.
    """
    _check_chart(chart)
    check_input(input_file)
    _check_wire(input_file, wire)
    check_written([chart] if chart else [], [input_file, *options.files(model)], overwrite=overwrite)
    options.check(model)
    built = options.load(model, structure_only=wire is None)
    sample = input_from(input_file, built, model, exif=exif)
    bar = measure or wire is not None
    with contextlib.nullcontext() if bar else working(f"Counting what {built.name} costs"):
        costs = ks.profile(
            built, batch_size, open_sides=open_sides, measure=measure, seed=options.seed, sample=sample, wire=wire
        )
    if chart is not None:
        costs.plot(chart)
    show(profile_tables(costs, "calls" if calls else "blocks"))
    if chart is not None:
        show(Text(f"Wrote {chart}."))
    return costs.to_dict()


@main.command(short_help="Find where to cut MODEL for given devices.")
@click.argument("model", shell_complete=completion.models)
@device_options
@option.choice(
    "--objective",
    ["throughput", "latency", "energy"],
    "Minimize the slowest stage, the time of one batch through all stages, or the joules for it.",
)
@option.choice(
    "--balance",
    ["flops", "params", "memory", "time"],
    "Cost of a call on devices of unknown speed; time is measured on this machine.",
)
@max_crossing_option("How many tensors may cross a cut.", default="1")
@_batch_option
@click.option("--any-order", is_flag=True, help="Devices may be used in any order.")
@click.option("--leave-out/--use-all", default=None, help="Allow unused devices. Default: use all for throughput.")
@click.option("--overlap", is_flag=True, help="Transfers overlap with computation.")
@click.option(
    "--compression",
    callback=option.parsed(factor_or_dtype),
    metavar="X",
    help="How tensors are sent: a form of the wire such as int8, or a compression factor.",
)
@click.option(
    "--input-bytes",
    callback=of_inputs,
    multiple=True,
    metavar="[NAME: ]SIZE",
    help="Bytes per sample sent in place of an input, such as '30 KB' for a JPEG file (repeatable, by input).",
)
@click.option(
    "--input-seconds",
    callback=of_inputs,
    multiple=True,
    metavar="[NAME: ]TIME",
    help="Time to decode a batch of an input where it arrives, such as '5 ms' (repeatable, by input).",
)
@click.option(
    "--largest-crossing",
    callback=option.parsed(lambda text: parse_bytes(text, "largest crossing")),
    metavar="SIZE",
    help="Most bytes that may cross a cut, such as '512 KiB'.",
)
@_name_option("--must-cut", "Always cut here (as --at of `split`; repeatable).", multiple=True)
@_name_option("--must-not-cut", "Never cut here (name or glob; repeatable).", multiple=True)
@_name_option("--first-to", "The first stage computes at least this tensor.")
@_name_option("--last-from", "The last stage contains everything that uses this tensor.")
@click.option("--largest-latency", metavar="TIME", help="For energy: the most time of one batch, such as '50 ms'.")
@click.option("--largest-energy", metavar="ENERGY", help="For latency: the most energy for one batch, such as '0.5 J'.")
@click.option("--replicas", is_flag=True, help="Stages may have several identical devices, which take turns.")
@option.open_sides
@click.option(
    "--time-limit",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    metavar="SECONDS",
    help="Time limit for the search if there are too many cuts to try all.",
)
@click.option("--profile", "profile_file", type=PATH, metavar="FILE", help="Output of `profile --json` for MODEL.")
@click.option("-o", "--output", type=PATH, metavar="FILE", help="Write the plan as JSON, for `split --plan`.")
@_plan_option
@option.overwrite
@option.of_model
@command
def plan(
    show: Show,
    model: str,
    devices: Devices,
    profile_file: Path | None,
    output: Path | None,
    chart: Path | None,
    overwrite: bool,
    must_cut: tuple[str, ...],
    must_not_cut: tuple[str, ...],
    first_to: str | None,
    last_from: str | None,
    options: ModelOptions,
    **limits: Any,
) -> dict[str, Any]:
    """Find the cuts of MODEL for given devices that minimize the slowest stage, or the latency or energy of one batch.

    No weights are downloaded: costs do not depend on them.

    \b
    kerassplit plan ResNet50 --devices 4 -o plan.json
    kerassplit plan MobileNetV2 --objective latency \\
        --device "phone: 20 GFLOPS, 2 GiB" --device "server: 5 TFLOPS" \\
        --link "100 Mbit/s, 5 ms"
    """
    _check_chart(chart, or_page=True)
    written = [path for path in (chart, output) if path is not None]
    check_written(written, [profile_file, *devices.files(), *options.files(model)], overwrite=overwrite)
    described, links = devices.read(), devices.read_links()
    measured = None if profile_file is None else ks.Profile.load(profile_file)
    options.check(model, [*must_cut, *must_not_cut], [one for one in (first_to, last_from) if one])
    named = [name for name in (*must_not_cut, first_to, last_from) if name]
    built = options.load(
        model, structure_only=True, check=lambda structure: check_cuts(structure, must_cut, named, allow_crossing=True)
    )
    found = ks.plan(
        built,
        described,
        links=links,
        must_cut=[cut(one, built) for one in must_cut],
        must_not_cut=[cut(one, built) for one in must_not_cut],
        first_to=first_to or (),
        last_from=last_from or (),
        profile=measured,
        **limits,
    )
    show(found.__rich__())
    if chart is not None:
        found.plot(chart, **({"open_sides": limits["open_sides"]} if chart.suffix.lower() == ".html" else {}))
    if output is not None:
        found.save(output)
    for path in written:
        show(Text(f"Wrote {path}."))
    return found.to_dict()


def _check_chart(chart: Path | None, *, or_page: bool = False) -> None:
    if chart is not None:
        check_chart(chart, or_page=or_page)


def _check_wire(input_file: Path | None, wire: str | None) -> None:
    from kerassplit.wire.forms import check_form

    if wire is not None:
        check_form(wire)
    if (input_file is None) != (wire is None):
        raise SplitError("--wire packs what crosses when a sample runs: pass --input FILE and --wire FORM together.")
