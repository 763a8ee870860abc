"""The command that runs saved stages."""

import importlib.util
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.text import Text

from kerassplit.cli import completion, option
from kerassplit.cli.commands import main
from kerassplit.cli.framework import Show, command, note, start_keras
from kerassplit.cli.option import COUNT, PATH
from kerassplit.display.units import format_shape
from kerassplit.errors import SplitError
from kerassplit.files.atomic_file import status_of
from kerassplit.storage.manifest import read_manifest
from kerassplit.storage.structure import leaves
from kerassplit.text import listed

_OF_ENGINES = ["devices", "replicas", "num_cpus", "num_gpus", "max_restarts", "max_retries", "in_flight", "address"]


def _numbers_of_stages(texts: Sequence[str]) -> float | dict[str, float] | None:
    """Reads `2`, for every stage, or `stage_1=2`, which may be given several times."""
    numbers: dict[str, float] = {}
    for text in texts:
        stage, _, number = text.rpartition("=")
        try:
            numbers[stage] = float(number)
        except ValueError:
            numbers[stage] = math.nan
        if not 0 <= numbers[stage] < math.inf:
            raise SplitError(f"{text!r} is neither a number nor STAGE=NUMBER.")
    if "" in numbers and len(texts) > 1:
        raise SplitError("An option given several times needs a stage and a number, such as stage_1=2.")
    return numbers.get("", numbers or None)


def _ray_option(name: str, text: str, metavar: str = "[STAGE=]N") -> Any:
    return click.option(
        name, multiple=True, callback=option.parsed(_numbers_of_stages), metavar=metavar, help=f"Ray: {text}"
    )


@main.command(short_help="Run saved stages on images or arrays.")
@click.argument("directory", type=PATH, metavar="DIR", shell_complete=completion.folders)
@click.option(
    "--input",
    "input_path",
    type=PATH,
    required=True,
    metavar="PATH",
    help="A folder of images, an image, a .npy file, or a .npz file with one array per input.",
)
@click.option("-o", "--output", type=PATH, required=True, metavar="FILE", help="The .npy file for the results.")
@click.option("--batch-size", type=COUNT, default=32, metavar="N")
@click.option(
    "--preprocess",
    shell_complete=completion.preprocessing,
    metavar="NAME|none",
    help="Preprocess images for this architecture; `none`: pixels from 0 to 255, or input that has already been "
    "preprocessed. Default: the architecture with the model's name.",
)
@option.exif
@click.option("--resume", is_flag=True, help="Continue an interrupted run into FILE.")
@click.option("--overwrite", is_flag=True, help="Replace FILE, or restart an unfinished run.")
@click.option("--quiet", is_flag=True, help="Do not show progress.")
@option.unsafe
@option.import_code
@option.choice("--engine", ["local", "ray"], "Run in this process, or on Ray with one process per stage.")
@click.option(
    "--device", "devices", multiple=True, metavar="NAME", help="Local: the device of each stage, in order (repeatable)."
)
@_ray_option("--replicas", "number of processes for a stage.", "STAGE=N")
@click.option("--plan", "plan_file", type=PATH, metavar="FILE", help="Ray: replicas as in this plan of the stages.")
@_ray_option("--num-cpus", "CPUs per process.")
@_ray_option("--num-gpus", "GPUs per process.")
@click.option("--max-restarts", type=click.IntRange(min=0), help="Ray: how often to restart a process that dies.")
@click.option("--max-retries", type=click.IntRange(min=0), help="Ray: how often to retry a batch that fails.")
@click.option("--in-flight", type=COUNT, help="Ray: batches in flight at a time.")
@click.option("--address", help="Ray: address of the cluster, such as `auto` or ray://HOST:10001.")
@command
def run(
    show: Show,
    directory: Path,
    input_path: Path,
    output: Path,
    quiet: bool,
    unsafe: bool,
    engine: str,
    plan_file: Path | None,
    **given: Any,
) -> dict[str, Any]:
    """Run the saved stages in DIR on images or arrays, and write the results.

    Memory use does not grow with the number of rows. FILE.json records the run and, for images, the file of
    each row. An interrupted run leaves FILE.unfinished: continue it with --resume.
    """
    options = {name: given.pop(name) for name in _OF_ENGINES}
    options["devices"] = list(options["devices"])
    replicas = {} if options["replicas"] is None else options["replicas"]
    if not isinstance(replicas, dict) or any(number != int(number) for number in replicas.values()):
        raise SplitError("--replicas needs a stage and a whole number, such as stage_1=2.")
    manifest = read_manifest(directory)
    if plan_file is not None and engine != "ray":
        raise SplitError("--plan says how many processes run each stage, which only Ray does. Add --engine ray.")
    planned = {} if plan_file is None else _planned_replicas(plan_file, manifest)
    options["replicas"] = planned | {name: int(number) for name, number in replicas.items()}
    _check_run(manifest, input_path, output, engine, given)
    start_keras()
    from kerassplit.engines.running import run_stages

    ran = run_stages(
        directory,
        input_path,
        output,
        verbose=False if quiet else None,
        engine=engine,
        options={name: value for name, value in options.items() if value not in (None, [], {})},
        safe_mode=not unsafe,
        note=lambda text: note(f"Note: {text}"),
        **given,
    )
    kept = ran.rows - ran.computed
    before = f", {kept:,} of them from the earlier run" if kept else ""
    show(Text(f"{ran.rows:,} rows{before}, {ran.computed / max(ran.seconds, 1e-9):,.1f} rows/s."))
    for name, path in ran.files.items():
        show(Text(f"Wrote {path}: {name}, {format_shape((None, *ran.shapes[name][1:]))} per row."))
    return {
        "directory": str(directory),
        "input": str(input_path),
        "rows": ran.rows,
        "computed": ran.computed,
        "seconds": ran.seconds,
        "engine": engine,
        "outputs": {name: {"file": str(path), "shape": list(ran.shapes[name])} for name, path in ran.files.items()},
    }


def _check_run(
    manifest: Mapping[str, Any], input_path: Path, output: Path, engine: str, given: Mapping[str, Any]
) -> None:
    """Refuses what running would refuse, as far as can be checked without Keras."""
    if status_of(input_path) is None:
        raise SplitError(f"There is no file or folder '{input_path}' to take input from.")
    if engine == "ray" and importlib.util.find_spec("ray") is None:
        raise SplitError('Running on Ray needs the package ray, which is not installed: pip install "kerassplit[ray]".')
    from kerassplit.engines.output_paths import check_free, output_paths  # imports NumPy

    places = output_paths(output, leaves(manifest["outputs"]), {})
    if not given["resume"] or given["overwrite"]:
        check_free(places, resume=given["resume"], overwrite=given["overwrite"])


def _planned_replicas(plan_file: Path, manifest: Mapping[str, Any]) -> dict[str, int]:
    """Returns the number of devices of each stage in a plan, by the names of the saved stages."""
    from kerassplit.planning.plan import Plan

    plan, stages = Plan.load(plan_file), manifest["stages"]
    if len(plan.stages) != len(stages):
        raise SplitError(
            f"The plan in '{plan_file}' is for another split: stages in the plan: {len(plan.stages)}, in the "
            f"folder: {len(stages)}."
        )
    for stage, planned in zip(stages, plan.stages, strict=True):
        made = {output["tensor"] for output in stage["outputs"]}
        if not made.issuperset(planned.crossing):
            raise SplitError(
                f"The plan in '{plan_file}' is for another split: it cuts at {listed(planned.crossing)}, and "
                f"'{stage['name']}' in the folder ends at {listed(made)}."
            )
    return {stage["name"]: count for stage, count in zip(stages, plan.replicas, strict=True)}
