"""The commands that say what a model costs, and where to cut it for some devices."""

from pathlib import Path
from typing import Any

import click
from rich.text import Text

import kerassplit as ks
from kerassplit.cli import completion
from kerassplit.cli.commands import main
from kerassplit.cli.device_options import Devices, device_options, factor_or_dtype, number_or_any, read_profile, size
from kerassplit.cli.framework import Show, command
from kerassplit.cli.options import (
    PATH,
    ModelOptions,
    check_written,
    cut,
    model_options,
    open_sides_option,
    overwrite_option,
)
from kerassplit.costs.tables import profile_tables
from kerassplit.display.chart import check_chart

_batch_option = click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    metavar="N",
    help="Samples in a batch; by default as many as MODEL is built for, 1 where it takes any number.",
)


@main.command(short_help="Say what MODEL costs, block by block.")
@click.argument("model", shell_complete=completion.models)
@_batch_option
@open_sides_option
@click.option("--measure", is_flag=True, help="Run each block on this device, too: seconds.")
@click.option("--calls", is_flag=True, help="Show each call, not each block.")
@click.option("--plot", "chart", type=PATH, metavar="FILE", help="Draw it, too: a .png, .svg or .pdf file.")
@overwrite_option
@model_options
@command
def profile(
    show: Show,
    model: str,
    batch_size: int | None,
    open_sides: int | None,
    measure: bool,
    calls: bool,
    chart: Path | None,
    overwrite: bool,
    options: ModelOptions,
) -> dict[str, Any]:
    """Say what MODEL costs between its split points: parameters, bytes, FLOPs and, with --measure, seconds.

    A multiply-add is two FLOPs. Weights do not matter for what a model costs, so none are downloaded.
    """
    _check_chart(chart)
    check_written([chart] if chart else [], options.files(model), overwrite=overwrite)
    options.check(model)
    built = options.load(model, structure_only=True)
    costs = ks.profile(built, batch_size, open_sides=open_sides, measure=measure, seed=options.seed)
    if chart is not None:
        costs.plot(chart)
    show(profile_tables(costs, "calls" if calls else "blocks"))
    if chart is not None:
        show(Text(f"Wrote {chart}."))
    return costs.to_dict()


@main.command(short_help="Say where to cut MODEL for some devices.")
@click.argument("model", shell_complete=completion.models)
@device_options
@click.option(
    "--objective",
    type=click.Choice(["throughput", "latency"]),
    default="throughput",
    show_default=True,
    help="Make the slowest stage fast, or one batch through all of them.",
)
@click.option(
    "--balance",
    type=click.Choice(["flops", "params", "memory", "time"]),
    default="flops",
    show_default=True,
    help="What a call takes on a device of unknown speed; time is measured here.",
)
@click.option(
    "--max-crossing",
    callback=number_or_any,
    default="1",
    show_default=True,
    metavar="N|any",
    help="How many tensors may cross a cut.",
)
@_batch_option
@click.option("--any-order", is_flag=True, help="Devices may be used in any order.")
@click.option(
    "--leave-out/--use-all", default=None, help="Whether devices may stay without a stage; by default for latency."
)
@click.option("--overlap", is_flag=True, help="Transfers run in parallel with computing.")
@click.option(
    "--compression", callback=factor_or_dtype, metavar="X", help="A factor, or the dtype that floats are sent as."
)
@click.option(
    "--largest-crossing", callback=size, metavar="SIZE", help="The most that may cross a cut, such as '512 KiB'."
)
@click.option(
    "--must-cut",
    shell_complete=completion.cuts,
    multiple=True,
    metavar="NAME",
    help="A cut that must be made, as --at of `split`.",
)
@click.option(
    "--must-not-cut",
    shell_complete=completion.cuts,
    multiple=True,
    metavar="NAME",
    help="A cut, or by a glob cuts, that must not be made.",
)
@click.option(
    "--first-to", shell_complete=completion.cuts, metavar="NAME", help="The first stage makes at least this tensor."
)
@click.option(
    "--last-from",
    shell_complete=completion.cuts,
    metavar="NAME",
    help="All that uses this tensor is in the last stage.",
)
@open_sides_option
@click.option(
    "--time-limit",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="For the search where cuts are too many to try them all.",
)
@click.option("--profile", "profile_file", type=PATH, metavar="FILE", help="What `profile --json` printed for MODEL.")
@click.option("-o", "--output", type=PATH, metavar="FILE", help="Write the plan, as JSON for `split --plan`.")
@click.option("--plot", "chart", type=PATH, metavar="FILE", help="Draw it, too: a .png, .svg or .pdf file.")
@overwrite_option
@model_options
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
    """Say where to cut MODEL for some devices, so that the slowest stage is as fast as can be, or one batch is.

    Weights do not matter for what a model costs, so none are downloaded.

    \b
    kerassplit plan ResNet50 --devices 4 -o plan.json
    kerassplit plan ResNet50 --device "phone: 20 GFLOPS, 2 GiB" --device "server: 5 TFLOPS" \\
        --link "20 Mbit/s, 10 ms" --objective latency
    """
    _check_chart(chart)
    written = [path for path in (chart, output) if path is not None]
    check_written(written, [profile_file, *devices.files(), *options.files(model)], overwrite=overwrite)
    described, links = devices.read(), devices.read_links()
    measured = None if profile_file is None else read_profile(profile_file)
    options.check(model, [*must_cut, *must_not_cut, *(one for one in (first_to, last_from) if one)])
    built = options.load(model, structure_only=True)
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
        found.plot(chart)
    if output is not None:
        found.save(output)
    for path in written:
        show(Text(f"Wrote {path}."))
    return found.to_dict()


def _check_chart(chart: Path | None) -> None:
    if chart is not None:
        check_chart(chart)
