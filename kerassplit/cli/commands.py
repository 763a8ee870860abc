"""The commands: each reads its arguments, calls the library, shows a table and returns the same as plain values.

The names of `ks` import their modules, and so Keras, when they are used.
"""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
from rich.text import Text

import kerassplit as ks
from kerassplit.cli.devices import Devices, device_options, factor_or_dtype, number_or_any, read_profile
from kerassplit.cli.options import (
    ModelOptions,
    allow_crossing_option,
    at_option,
    cut,
    model_options,
    names_option,
    open_sides_option,
)
from kerassplit.cli.running import Show, command, note, working
from kerassplit.cli.tables import crossing_data, crossings_table, point_data, points_table, split_data
from kerassplit.errors import SplitError

if TYPE_CHECKING:
    import keras

_path = click.Path(path_type=Path)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(ks.__version__, prog_name="kerassplit")
def main() -> None:
    """Cut Keras models into runnable sub-models that compute the same numbers.

    MODEL is a file (.keras, .h5) or the name of an architecture in keras.applications, such as ResNet50.

    Exit status: 0; 1 when a verification failed; 2 for a mistake, told in one message.
    """


@main.command(short_help="List where MODEL can be cut.")
@click.argument("model")
@click.option(
    "--max-tensors",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="List the cuts where up to N tensors cross.",
)
@model_options
@command
def points(show: Show, model: str, max_tensors: int, options: ModelOptions) -> dict[str, Any]:
    """List the tensors of MODEL where one cut carries one tensor; with --max-tensors, cuts that carry a few.

    EfficientNets have one layer more with ImageNet weights: to cut by number, list them with the same --weights.
    """
    built = options.load(model, structure_only=True)
    if max_tensors > 1:
        few = ks.crossings(built, max_tensors)
        show(crossings_table(built.name, few, max_tensors))
        return {"model": built.name, "crossings": [crossing_data(crossing) for crossing in few]}
    found = ks.split_points(built)
    show(points_table(built.name, found))
    return {"model": built.name, "points": [point_data(point) for point in found]}


@main.command(short_help="Say why a tensor is a split point, or not.")
@click.argument("model")
@click.argument("name")
@model_options
@command
def explain(show: Show, model: str, name: str, options: ModelOptions) -> dict[str, Any]:
    """Say whether MODEL can be cut at the tensor NAME, what crosses there and why."""
    built = options.load(model, structure_only=True)
    explanation = ks.explain(built, name)
    show(Text(str(explanation)))
    return {"model": built.name, **asdict(explanation)}


@main.command(short_help="Say what MODEL costs, block by block.")
@click.argument("model")
@click.option("--batch-size", type=click.IntRange(min=1), default=1, show_default=True, metavar="N")
@open_sides_option
@click.option("--measure", is_flag=True, help="Run each block on this device, too: seconds.")
@click.option("--calls", is_flag=True, help="Show each call, not each block.")
@click.option("--plot", "chart", type=_path, metavar="FILE", help="Draw it, too: a .png, .svg or .pdf file.")
@model_options
@command
def profile(
    show: Show,
    model: str,
    batch_size: int,
    open_sides: int | None,
    measure: bool,
    calls: bool,
    chart: Path | None,
    options: ModelOptions,
) -> dict[str, Any]:
    """Say what MODEL costs between its split points: parameters, bytes, FLOPs and, with --measure, seconds.

    A multiply-add is two FLOPs. Weights do not matter for what a model costs, so none are downloaded.
    """
    from kerassplit.costs.tables import profile_tables

    _check_chart(chart)
    built = options.load(model, structure_only=True)
    costs = ks.profile(built, batch_size, open_sides=open_sides, measure=measure, seed=options.seed)
    if chart is not None:
        costs.plot(chart)
    show(profile_tables(costs, "calls" if calls else "blocks"))
    if chart is not None:
        show(Text(f"Wrote {chart}."))
    return costs.to_dict()


@main.command(short_help="Say where to cut MODEL for some devices.")
@click.argument("model")
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
@click.option("--batch-size", type=click.IntRange(min=1), default=1, show_default=True, metavar="N")
@click.option("--any-order", is_flag=True, help="Devices may be used in any order.")
@click.option(
    "--leave-out/--use-all", default=None, help="Whether devices may stay without a stage; by default for latency."
)
@click.option("--overlap", is_flag=True, help="Transfers run in parallel with computing.")
@click.option(
    "--compression", callback=factor_or_dtype, metavar="X", help="A factor, or the dtype that floats are sent as."
)
@click.option("--largest-crossing", metavar="SIZE", help="The most that may cross a cut, such as '512 KiB'.")
@click.option("--must-cut", multiple=True, metavar="NAME", help="A cut that must be made, as --at of `split`.")
@click.option("--must-not-cut", multiple=True, metavar="NAME", help="A cut, or by a glob cuts, that must not be made.")
@click.option("--first-to", metavar="NAME", help="The first stage makes at least this tensor.")
@click.option("--last-from", metavar="NAME", help="All that uses this tensor is in the last stage.")
@open_sides_option
@click.option(
    "--time-limit",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="For the search where cuts are too many to try them all.",
)
@click.option("--profile", "profile_file", type=_path, metavar="FILE", help="What `profile --json` printed for MODEL.")
@click.option("-o", "--output", type=_path, metavar="FILE", help="Write the plan, as JSON for `split --plan`.")
@click.option("--plot", "chart", type=_path, metavar="FILE", help="Draw it, too: a .png, .svg or .pdf file.")
@model_options
@command
def plan(
    show: Show,
    model: str,
    devices: Devices,
    profile_file: Path | None,
    output: Path | None,
    chart: Path | None,
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
    found = ks.plan(
        options.load(model, structure_only=True),
        devices.read(),
        links=devices.read_links(),
        must_cut=[cut(one) for one in must_cut],
        must_not_cut=[cut(one) for one in must_not_cut],
        first_to=first_to or (),
        last_from=last_from or (),
        profile=None if profile_file is None else read_profile(profile_file),
        **limits,
    )
    show(found.__rich__())
    if chart is not None:
        found.plot(chart)
    if output is not None:
        found.save(output)
    for written in (chart, output):
        if written is not None:
            show(Text(f"Wrote {written}."))
    return found.to_dict()


@main.command(short_help="Cut MODEL, verify the stages and save them.")
@click.argument("model")
@at_option
@click.option(
    "--plan", "plan_file", type=_path, metavar="FILE", help="Cut where this plan says, which `plan -o` wrote."
)
@click.option("--stages", type=click.IntRange(min=2), metavar="N", help="Cut into so many stages of even FLOPs.")
@open_sides_option
@click.option("-o", "--output", "directory", type=_path, required=True, metavar="DIR", help="Folder for the stages.")
@click.option("--overwrite", is_flag=True, help="Replace the split that DIR holds; no other folder is ever replaced.")
@names_option
@allow_crossing_option
@model_options
@command
def split(
    show: Show,
    model: str,
    at: tuple[str, ...],
    plan_file: Path | None,
    stages: int | None,
    open_sides: int | None,
    directory: Path,
    overwrite: bool,
    names: list[str] | None,
    allow_crossing: bool,
    options: ModelOptions,
) -> dict[str, Any]:
    """Cut MODEL into stages, verify them on random input, and save them in DIR."""
    if [bool(at), plan_file is not None, stages is not None].count(True) != 1:
        raise SplitError(
            "Say where to cut, in one way: with --at NAME (`kerassplit points MODEL` lists the names), with --plan "
            "FILE (`kerassplit plan MODEL -o FILE` writes one), or with --stages N."
        )
    if open_sides is not None and stages is None:
        raise SplitError("--open-sides is for counting FLOPs: it belongs to --stages.")
    from kerassplit.store import check_target

    check_target(directory, overwrite)
    planned = None if plan_file is None else ks.Plan.load(plan_file)
    built = options.load(model)
    if stages is not None:
        try:
            planned = ks.plan(built, stages, open_sides=open_sides)
        except ks.PlanError as error:
            first, _, _ = str(error).partition(". ")
            raise SplitError(f"{first}. `kerassplit plan` knows more ways: pass what it writes with --plan.") from error
    cuts = planned if planned is not None else [cut(one) for one in at]
    made = ks.split(built, cuts, allow_crossing=allow_crossing, names=names)
    show(made.__rich__())
    with working("Comparing the stages with the model"):
        receipt = ks.verify(built, made, seed=options.seed)
    show(receipt.__rich__())
    data = {**split_data(made), "directory": None, "receipt": receipt.to_dict(), "ok": receipt.ok}
    if not receipt.ok:
        note("Error: the stages differ from the model, so they were not saved.")
        return data
    with working(f"Writing {directory}"):
        made.save(directory, overwrite=overwrite)
    show(Text(f"Saved {len(made)} stages in {directory}."))
    return {**data, "directory": str(directory)}


@main.command(short_help="Check a saved split, alone or against a model.")
@click.argument("directory", type=_path, metavar="DIR")
@click.option("--model", metavar="MODEL", help="The model to compare with. By default the stages joined into one.")
@click.option(
    "--input",
    "input_file",
    type=_path,
    metavar="FILE",
    help="Input to compare on: a photo, a .npy file, or a .npz file with an array for each input. By default random.",
)
@click.option(
    "--tolerance", type=click.FloatRange(min=0), default=0.0, show_default=True, help="Largest difference to allow."
)
@model_options
@command
def verify(
    show: Show, directory: Path, model: str | None, input_file: Path | None, tolerance: float, options: ModelOptions
) -> dict[str, Any]:
    """Check the saved split in DIR: its files, that they load, and the numbers that they compute."""
    if model is None and (options.weights or options.input_shape):
        raise SplitError("--weights and --input-shape belong to a model to compare with: name it with --model.")
    with working(f"Loading {directory}"):
        stages = ks.load(directory, safe_mode=not options.unsafe)
    compared = stages.model if model is None else options.load(model)
    x = None if input_file is None else _input(input_file, compared, model)
    with working("Comparing the stages with the model"):
        receipt = ks.verify(compared, stages, x, tolerance=tolerance, seed=options.seed)
    show(receipt.__rich__())
    if model is None:
        show(
            Text("Compared with the saved stages joined into one. To compare with the original, name it with --model.")
        )
    return {
        **split_data(stages),
        "directory": str(directory),
        "compared_with": model or "the stages joined",
        "input": None if input_file is None else str(input_file),
        "receipt": receipt.to_dict(),
        "ok": receipt.ok,
    }


@main.command(short_help="Draw a model or a split.")
@click.argument("model", metavar="MODEL|DIR")
@at_option
@click.option(
    "-o", "--output", type=_path, required=True, metavar="FILE", help="A .svg, .png, .pdf, .dot, .mmd or .txt file."
)
@click.option(
    "--detail",
    type=click.Choice(["blocks", "layers"]),
    default="blocks",
    show_default=True,
    help="One box for each block between split points, or for each layer.",
)
@names_option
@allow_crossing_option
@model_options
@command
def plot(
    show: Show,
    model: str,
    at: tuple[str, ...],
    output: Path,
    detail: Literal["blocks", "layers"],
    names: list[str] | None,
    allow_crossing: bool,
    options: ModelOptions,
) -> dict[str, Any]:
    """Draw MODEL, MODEL cut at the given tensors, or the saved split in DIR."""
    if names and not at:
        raise SplitError("--names belongs to cuts: say where to cut, with --at NAME.")
    from kerassplit.manifest import MANIFEST

    drawn: Any
    if (Path(model) / MANIFEST).is_file():
        if at:
            raise SplitError(f"'{model}' is already split; --at is for a model.")
        drawn = ks.load(model, safe_mode=not options.unsafe)
    else:
        drawn = options.load(model, structure_only=True)
        if at:
            drawn = ks.split(drawn, [cut(one) for one in at], allow_crossing=allow_crossing, names=names)
    with working(f"Drawing {output}"):
        ks.plot(drawn, output, detail=detail)
    show(Text(f"Wrote {output}."))
    return {"model": drawn.name, "file": str(output)}


@main.command(short_help="Cut ResNet50 in three, prove it, save it, draw it.")
@click.option(
    "-o",
    "--output",
    "directory",
    type=_path,
    default=Path("kerassplit-demo"),
    show_default=True,
    metavar="DIR",
    help="Folder for the stages and pictures.",
)
@command
def demo(show: Show, directory: Path) -> dict[str, Any]:
    """Cut ResNet50 in three, prove it on a photograph, save it, load it in a fresh process, and draw it."""
    from kerassplit.demo import run_demo

    return run_demo(directory, show)


def _check_chart(chart: Path | None) -> None:
    if chart is not None:
        from kerassplit.pictures.chart import check_chart

        check_chart(chart)


def _input(path: Path, model: "keras.Model", name: str | None) -> Any:
    from kerassplit.photo import load_input
    from kerassplit.zoo import find_architecture

    architecture = find_architecture(name) if name else None
    architecture = architecture or find_architecture(model.name)
    if architecture is None and path.suffix not in (".npy", ".npz"):
        note(f"Note: how '{model.name}' wants its images is not known; it gets pixels from 0 to 255.")
    return load_input(path, model, architecture)
