"""The command that finds where two models part."""

from pathlib import Path
from typing import Any

import click

import kerassplit as ks
from kerassplit.cli import completion, option
from kerassplit.cli.commands import input_from, load_split, main
from kerassplit.cli.framework import Show, command, start_keras, working
from kerassplit.cli.option import ModelOptions, check_input
from kerassplit.errors import SplitError
from kerassplit.storage.manifest import MANIFEST, read_manifest


@main.command(short_help="Find where two models part: the first tensor that differs.")
@click.argument("model", metavar="MODEL|DIR", shell_complete=completion.models)
@click.argument("other", metavar="MODEL|DIR", shell_complete=completion.models)
@option.input_file()
@option.exif
@click.option("--tolerance", type=click.FloatRange(min=0), default=0.0, help="Largest difference to allow.")
@click.option("--same", multiple=True, metavar="NAME=OTHER", help="A tensor with another name in the second model.")
@option.open_sides
@option.of_model
@command
def compare(
    show: Show,
    model: str,
    other: str,
    input_file: Path | None,
    exif: bool,
    tolerance: float,
    same: tuple[str, ...],
    open_sides: int | None,
    options: ModelOptions,
) -> dict[str, Any]:
    """Run two models (files, architectures or saved splits) on one input, and compare their outputs and tensors.

    Tells the first tensor that differs by more than the tolerance, and what differs in its layer. The exit code is 1
    if one does, or if the outputs are other ones.
    """
    if input_file is not None and open_sides is not None:
        raise SplitError("--open-sides applies only to random input. Leave it out with --input.")
    if wrong := [one for one in same if not all(one.partition("="))]:
        raise SplitError(f"--same is '{wrong[0]}'. Expected two names, such as --same conv1=stem/conv.")
    check_input(input_file)
    folders = [(Path(one) / MANIFEST).is_file() for one in (model, other)]
    for one, is_split in zip((model, other), folders, strict=True):
        if is_split:
            read_manifest(Path(one))
        else:
            options.check(one)
    start_keras()
    one, two = (
        load_split(Path(name), unsafe=options.unsafe).join() if is_split else options.load(name)
        for name, is_split in zip((model, other), folders, strict=True)
    )
    x = input_from(input_file, one, None if folders[0] else model, exif=exif)
    names = dict(pair.split("=", 1) for pair in same)
    with working("Comparing"):
        found = ks.compare(one, two, x, tolerance=tolerance, names=names, seed=options.seed, open_sides=open_sides)
    show(found.__rich__())
    return {"verdict": found.verdict(), **found.to_dict()}
