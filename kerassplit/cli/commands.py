"""Commands that cut, verify and draw: each calls the library, shows a table, and returns the same as plain values.

The names of `ks` import their modules, and so Keras, when they are used.
"""

import webbrowser
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
from rich.text import Text

import kerassplit as ks
from kerassplit.cli import completion, option
from kerassplit.cli.device_options import max_crossing_option
from kerassplit.cli.framework import Command, Show, command, note, start_keras, working
from kerassplit.cli.option import COUNT, PATH, ModelOptions, check_cuts, check_input, check_written, cut
from kerassplit.cli.tables import crossing_data, crossings_table, points_table, split_data
from kerassplit.cli.versions import show_versions
from kerassplit.cutting.stage_names import stage_names
from kerassplit.display.file_formats import PICTURE_FORMATS, check_format
from kerassplit.errors import SplitError
from kerassplit.files.atomic_file import refuse_same
from kerassplit.storage.manifest import MANIFEST, check_target, read_manifest
from kerassplit.text import listed

if TYPE_CHECKING:
    import keras

_DEMO = Path("kerassplit-demo")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100, "show_default": True})
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=show_versions,
    help="Show the versions of kerassplit, Keras and the backends.",
)
def main() -> None:
    """Cut Keras models into runnable sub-models that compute the same numbers.

    MODEL is a file (.keras, .h5) or the name of an architecture in keras.applications, such as ResNet50.

    Exit codes: 0 success, 1 verification failed, 2 usage or input error.
    """


main.command_class = Command


@main.command(short_help="List where MODEL can be cut.")
@click.argument("model", shell_complete=completion.models)
@click.option("--max-tensors", type=COUNT, default=1, metavar="N", help="List cuts where up to N tensors cross.")
@option.of_model
@command
def points(show: Show, model: str, max_tensors: int, options: ModelOptions) -> dict[str, Any]:
    """List the tensors where MODEL can be cut with nothing else crossing; with --max-tensors, cuts that carry a few.

    FLOPs before: the share of the model's FLOPs before the cut; '?' if a dimension is unknown or a layer has no
    formula (`kerassplit profile` counts more).

    EfficientNets have one more layer with ImageNet weights: to cut by number, list the points with the same --weights.
    """
    options.check(model)
    built = options.load(model, structure_only=True)
    if max_tensors > 1:
        few = ks.crossings(built, max_tensors)
        show(crossings_table(built.name, few, max_tensors))
        return {"model": built.name, "crossings": [crossing_data(crossing) for crossing in few]}
    found = ks.split_points(built)
    show(points_table(built.name, found))
    from kerassplit.cutting.largest_layer import closed_layer
    from kerassplit.graph.reading import read_graph

    name, advice = closed_layer(read_graph(built)) or (None, None)
    if advice:
        show(Text(advice))
    return {"model": built.name, "points": [point.to_dict() for point in found], "closed_layer": name}


@main.command(short_help="Explain why a tensor is a split point, or not.")
@click.argument("model", shell_complete=completion.models)
@click.argument("name", shell_complete=completion.cuts)
@option.of_model
@command
def explain(show: Show, model: str, name: str, options: ModelOptions) -> dict[str, Any]:
    """Say whether MODEL can be cut at the tensor NAME, what crosses there and why."""
    options.check(model, tensors=[name], globs=False)
    built = options.load(model, structure_only=True, check=lambda structure: ks.explain(structure, name))
    explanation = ks.explain(built, name)
    show(Text(str(explanation)))
    return {"model": built.name, **asdict(explanation)}


@main.command(short_help="Cut MODEL, verify the stages and save them.")
@click.argument("model", shell_complete=completion.models)
@option.at
@click.option("--plan", "plan_file", type=PATH, metavar="FILE", help="Cut as in this plan, written by `plan -o`.")
@click.option("--stages", type=click.IntRange(min=2), metavar="N", help="Cut into N stages of even FLOPs.")
@max_crossing_option("With --stages: how many tensors may cross a cut. Default: 1.")
@option.open_sides
@option.input_file()
@option.exif
@click.option("-o", "--output", "directory", type=PATH, required=True, metavar="DIR", help="Folder for the stages.")
@option.overwrite_split
@option.names
@option.allow_crossing
@option.of_model
@command
def split(
    show: Show,
    model: str,
    at: tuple[str, ...],
    plan_file: Path | None,
    stages: int | None,
    max_crossing: int | str | None,
    open_sides: int | None,
    input_file: Path | None,
    exif: bool,
    directory: Path,
    overwrite: bool,
    names: list[str] | None,
    allow_crossing: bool,
    options: ModelOptions,
) -> dict[str, Any]:
    """Cut MODEL into stages, verify them on an input, and save them in DIR.

    A model with string inputs is compared only on FILE: there are no random strings.
    """
    _check_way_to_cut(at, plan_file, stages, max_crossing)
    if stages is None and input_file is not None and open_sides is not None:
        raise SplitError("--open-sides applies only to --stages and to random input. Leave it out with --input.")
    _check_stage_names(names, at)
    options.check(model, at)
    check_input(input_file)
    if check_target(directory, overwrite):
        replaced = [MANIFEST, *(entry["file"] for entry in read_manifest(directory)["stages"])]
        refuse_same([directory / name for name in replaced], [plan_file, input_file, *options.files(model)])
    planned = None if plan_file is None else ks.Plan.load(plan_file)

    def check(structure: "keras.Model") -> None:
        if planned is not None:
            ks.split(structure, planned, names=names)
        check_cuts(structure, at, allow_crossing=allow_crossing)

    built = options.load(model, check=None if stages else check)
    from kerassplit.graph.reading import read_graph
    from kerassplit.graph.strings import string_inputs

    if stages is not None:
        from kerassplit.planning.planner import even_stages

        most = 1 if max_crossing is None else max_crossing
        planned = even_stages(built, stages, open_sides=open_sides, max_crossing=most)
    cuts = planned if planned is not None else [cut(one, built) for one in at]
    made = ks.split(built, cuts, allow_crossing=allow_crossing, names=names)
    show(made.__rich__())
    for hint in () if planned is None else planned.hints:
        note(hint)
    data = {**split_data(made), "directory": None, "input": None if input_file is None else str(input_file)}
    strings = [] if input_file is not None else string_inputs(read_graph(built))
    if strings:
        verdict = (
            f"The stages were not compared with '{built.name}': {listed(strings)} {'take' if strings[1:] else 'takes'} "
            "strings, and random input has none. Provide some with --input FILE, here or in `kerassplit verify DIR "
            "--model MODEL`."
        )
        show(Text(verdict))
        data |= {"verdict": verdict, "receipt": None, "ok": True}
    else:
        x = input_from(input_file, built, model, exif=exif)
        receipt = ks.verify(built, made, x, seed=options.seed, open_sides=open_sides)
        show(receipt.__rich__())
        data |= _receipt_data(receipt)
        if not receipt.ok:
            why = "the stages differ from the model" if receipt.compared else "nothing was compared"
            note(f"Error: {why}, so they were not saved.")
            return data
    with working(f"Writing {directory}"):
        made.save(directory, overwrite=overwrite)
    show(Text(f"Saved {len(made)} stages in {directory}."))
    return {**data, "directory": str(directory)}


@main.command(short_help="Check a saved split, alone or against a model.")
@click.argument("directory", type=PATH, metavar="DIR", shell_complete=completion.folders)
@click.option("--model", metavar="MODEL", shell_complete=completion.models, help="The model to compare with.")
@option.input_file()
@option.exif
@click.option("--tolerance", type=click.FloatRange(min=0), default=0.0, help="Largest difference to allow.")
@option.open_sides
@option.of_model
@command
def verify(
    show: Show,
    directory: Path,
    model: str | None,
    input_file: Path | None,
    exif: bool,
    tolerance: float,
    open_sides: int | None,
    options: ModelOptions,
) -> dict[str, Any]:
    """Check that the stages of the split in DIR are intact and load and, with --model, compute the same numbers."""
    of_model = options.weights or options.input_shape or options.open or input_file or tolerance or open_sides
    if model is None and of_model:
        raise SplitError(
            "--weights, --input-shape, --open, --input, --tolerance and --open-sides need a model to compare with: "
            "name it with --model."
        )
    if input_file is not None and open_sides is not None:
        raise SplitError("--open-sides applies only to random input. Leave it out with --input.")
    read_manifest(directory)
    check_input(input_file)
    if model is not None:
        options.check(model)
    stages = load_split(directory, unsafe=options.unsafe)
    data = {**split_data(stages), "directory": str(directory), "compared_with": model}
    data["input"] = None if input_file is None else str(input_file)
    if model is None:
        show(stages.__rich__())
        verdict = "Files intact, stages load; not compared with the original."
        show(Text(f"{verdict} To compare them, name the original with --model."))
        return {**data, "verdict": verdict, "receipt": None, "ok": True}
    compared = options.load(model)
    x = input_from(input_file, compared, model, exif=exif)
    receipt = ks.verify(compared, stages, x, tolerance=tolerance, seed=options.seed, open_sides=open_sides)
    show(receipt.__rich__())
    return {**data, **_receipt_data(receipt)}


@main.command(short_help="Draw a model or a split.")
@click.argument("model", metavar="MODEL|DIR", shell_complete=completion.models)
@option.at
@click.option(
    *("-o", "--output"),
    type=PATH,
    required=True,
    metavar="FILE",
    help="A .svg, .png, .pdf, .dot, .mmd or .txt file; or .html, a page to explore the cuts.",
)
@option.choice("--detail", ["blocks", "layers"], "One box per block between split points, or per layer.")
@click.option("--browser", is_flag=True, help="Open the page in a browser.")
@option.overwrite
@option.names
@option.allow_crossing
@option.open_sides
@option.of_model
@command
def plot(
    show: Show,
    model: str,
    at: tuple[str, ...],
    output: Path,
    detail: Literal["blocks", "layers"],
    browser: bool,
    overwrite: bool,
    names: list[str] | None,
    allow_crossing: bool,
    open_sides: int | None,
    options: ModelOptions,
) -> dict[str, Any]:
    """Draw MODEL, MODEL cut at the given tensors, or the saved split in DIR."""
    if names and not at:
        raise SplitError("--names needs cuts: say where to cut with --at NAME.")
    if output.suffix.lower() != ".html":
        if open_sides is not None:
            raise SplitError("--open-sides applies only to pages (.html): pictures show no costs.")
        if browser:
            raise SplitError("--browser applies only to pages (.html).")
    drawn: Any
    check_format(output, PICTURE_FORMATS, "Pictures")
    check_written([output], [Path(model), *options.files(model)], overwrite=overwrite)
    if (Path(model) / MANIFEST).is_file():
        if at or options.open:
            raise SplitError(f"'{model}' is already split; {'--at' if at else '--open'} applies only to a model.")
        read_manifest(Path(model))
        drawn = load_split(Path(model), unsafe=options.unsafe)
    else:
        _check_stage_names(names, at)
        options.check(model, at)
        drawn = options.load(
            model, structure_only=True, check=lambda structure: check_cuts(structure, at, allow_crossing=allow_crossing)
        )
        if at:
            cuts = [cut(one, drawn) for one in at]
            drawn = ks.split(drawn, cuts, allow_crossing=allow_crossing, names=names)
    with working(f"Drawing {output}"):
        ks.plot(drawn, output, detail=detail, open_sides=open_sides)
    show(Text(f"Wrote {output}."))
    if browser and not webbrowser.open(output.resolve().as_uri()):
        note(f"There is no browser to open it: open '{output}' yourself.")
    return {"model": drawn.name, "file": str(output)}


@main.command(short_help="Cut ResNet50 into three stages; verify, save and draw them.")
@click.option(
    *("-o", "--output", "directory"),
    type=PATH,
    default=_DEMO,
    metavar="DIR",
    help="Folder for the stages and the picture. An earlier demo in the default folder is replaced.",
)
@option.overwrite_split
@command
def demo(show: Show, directory: Path, overwrite: bool) -> dict[str, Any]:
    """Cut ResNet50 into three stages, verify them on a photo, save, load in a fresh process, and draw them."""
    overwrite = overwrite or directory == _DEMO
    check_target(directory, overwrite)
    start_keras()
    from kerassplit.cli.demo import run_demo

    return run_demo(directory, show, overwrite=overwrite)


def _check_way_to_cut(
    at: tuple[str, ...], plan_file: Path | None, stages: int | None, max_crossing: int | str | None
) -> None:
    if [bool(at), plan_file is not None, stages is not None].count(True) != 1:
        raise SplitError(
            "Say where to cut in exactly one way: --at NAME (`kerassplit points MODEL` lists the names), --plan FILE "
            "(`kerassplit plan MODEL -o FILE` writes one), or --stages N."
        )
    if stages is None and max_crossing is not None:
        raise SplitError("--max-crossing applies only when cuts are chosen automatically: use it with --stages.")


def _check_stage_names(names: list[str] | None, at: tuple[str, ...]) -> None:
    """Refuses names of stages if there are not as many as the cuts make; globs can stand for any number of cuts."""
    if names and at and not any(set("*?[") & set(one) for one in at):
        stage_names(names, len(at) + 1)


def _receipt_data(receipt: "ks.Receipt") -> dict[str, Any]:
    return {"verdict": receipt.verdict(), "receipt": receipt.to_dict(), "ok": receipt.ok}


def load_split(directory: Path, *, unsafe: bool) -> "ks.Split":
    """Loads a saved split, and Keras before it."""
    start_keras()
    with working(f"Loading {directory}"):
        return ks.load(directory, safe_mode=not unsafe)


def input_from(path: Path | None, model: "keras.Model", name: str | None, *, exif: bool = True) -> Any:
    """Reads `--input`, if given; `name` is the model as named by the user, possibly an architecture."""
    if path is None:
        return None
    from kerassplit.engines.inputs import load_input
    from kerassplit.zoo.names import find_architecture

    architecture = find_architecture(name) if name else None
    architecture = architecture or find_architecture(model.name)
    if architecture is None and path.suffix not in (".npy", ".npz"):
        note(f"Note: the preprocessing of '{model.name}' is unknown; it gets pixels from 0 to 255.")
    return load_input(path, model, architecture, note=lambda text: note(f"Note: {text}"), exif=exif)
